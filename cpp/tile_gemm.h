// Matrix products on packed tiles, held in registers: the shared inner loops of the CPU kernels.
//
// The right operand and the accumulated state lie in panels of kPanelVectors vectors: element
// (k, n) of a matrix with `depth` rows is at [n / kPanel][k][n % kPanel]. The left operand is read
// one scalar at a time with any row and depth stride, so it needs no packing beyond being dense.
// A register tile holds R rows by V vectors of the result. Each of its elements is one chain of
// fused multiply-adds in ascending depth, whatever the tile's shape, so results do not depend on
// where a matrix is cut; ragged columns are padded with zeros and ragged rows take smaller tiles.
#pragma once

#include "simd.h"

namespace rankone::cpu::RANKONE_ISA {

inline constexpr int kPanelVectors = 2;

template <typename T>
inline constexpr int kPanel = kPanelVectors * kLanes<T>;

/// Where a vector of columns of one row lies in panels of `depth` rows.
template <typename T>
constexpr std::int64_t panel_offset(int depth, int row, int vector) {
  return (static_cast<std::int64_t>(vector / kPanelVectors) * depth + row) * kPanel<T> +
         (vector % kPanelVectors) * kLanes<T>;
}

/// Rows of a full register tile: with two vectors a row, its accumulators fill half the registers
/// of AVX-512 (16 chains cover the latency of two multiply-add units) and 12 of 16 elsewhere.
inline constexpr int kTileRows = kVectorRegisters == 32 ? 8 : 6;

/// Hands out 64-byte aligned arrays of one block; without a block it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(std::int64_t count) {
    T* result = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return result;
  }

  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

template <int N>
struct Count {
  static constexpr int value = N;
};

/// Covers [0, rows) by blocks: body(Count<R>, first_row).
template <typename Body>
RANKONE_INLINE void for_each_row_block(int rows, Body&& body) {
  int row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) body(Count<kTileRows>{}, row);
  if (row + 4 <= rows) {
    body(Count<4>{}, row);
    row += 4;
  }
  if (row + 2 <= rows) {
    body(Count<2>{}, row);
    row += 2;
  }
  if (row < rows) body(Count<1>{}, row);
}

/// Covers [0, vectors) by panels, the last perhaps half full: body(Count<V>, panel).
template <typename Body>
RANKONE_INLINE void for_each_panel(int vectors, Body&& body) {
  int panel = 0;
  for (; (panel + 1) * kPanelVectors <= vectors; ++panel) body(Count<kPanelVectors>{}, panel);
  if (panel * kPanelVectors < vectors) body(Count<1>{}, panel);
}

template <typename T, int R, int V>
struct RegisterTile {
  Vec<T> acc[R][V];

  RANKONE_INLINE void clear() {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = zero<T>();
    }
  }

  RANKONE_INLINE void load(const T* source, std::int64_t row_stride) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        acc[r][v] = RANKONE_ISA::load<T>(source + r * row_stride + v * kLanes<T>);
      }
    }
  }

  RANKONE_INLINE void store(T* target, std::int64_t row_stride) const {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        RANKONE_ISA::store<T>(target + r * row_stride + v * kLanes<T>, acc[r][v]);
      }
    }
  }

  /// acc[r][:] += sum over k of left[r * row_stride + k * depth_stride] * panel[k][:].
  RANKONE_INLINE void multiply_add(const T* left, std::int64_t row_stride,
                                   std::int64_t depth_stride, const T* panel, int depth) {
    for (int k = 0; k < depth; ++k) {
      Vec<T> right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) right[v] = RANKONE_ISA::load<T>(panel + v * kLanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec<T> scalar = broadcast<T>(left[r * row_stride]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = fma(scalar, right[v], acc[r][v]);
      }
      left += depth_stride;
      panel += kPanel<T>;
    }
  }

  /// Row r times factors[r].
  RANKONE_INLINE void scale_rows(const T* factors) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<T> factor = broadcast<T>(factors[r]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] *= factor;
    }
  }

  /// Elementwise times a matrix; row_stride 0 repeats one row.
  RANKONE_INLINE void scale_elements(const T* factors, std::int64_t row_stride) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        acc[r][v] *= RANKONE_ISA::load<T>(factors + r * row_stride + v * kLanes<T>);
      }
    }
  }
};

/// Packs the transpose of a row-major matrix (rows x columns, row stride `stride`, both dimensions
/// padded to whole vectors in memory's columns) into panels of depth `columns`. Rows past `rows` in
/// the last vector become zeros.
template <typename T>
RANKONE_INLINE void pack_transpose(const T* source, std::int64_t stride, int rows, int columns,
                                   T* panels) {
  constexpr int L = kLanes<T>;
  for (int row = 0; row < rows; row += L) {
    T* panel =
        panels + static_cast<std::int64_t>(row / kPanel<T>) * columns * kPanel<T> + row % kPanel<T>;
    for (int column = 0; column < columns; column += L) {
      Vec<T> block[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        block[i] = row + i < rows ? load<T>(source + (row + i) * stride + column) : zero<T>();
      }
      transpose_block<T>(block);
      const int valid = smaller(L, columns - column);
      if (valid == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store<T>(panel + (column + i) * kPanel<T>, block[i]);
      } else {
        for (int i = 0; i < valid; ++i) store<T>(panel + (column + i) * kPanel<T>, block[i]);
      }
    }
  }
}

}  // namespace rankone::cpu::RANKONE_ISA
