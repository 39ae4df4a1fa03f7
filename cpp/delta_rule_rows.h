// Rows of tokens as the delta rule's kernels read and write them: normalised queries and keys,
// results on their way to any storage type, states in panels.
#pragma once

#include "delta_rule_tasks.h"
#include "linear_attention_rows.h"
#include "tile_gemm.h"

namespace rankone::cpu::RANKONE_ISA {

/// The chunk's rows of one head: sink(row, vector, value) for the vectors of `columns` columns.
template <typename T, typename Sink>
void read_chunk(const SweepRows& rows, const Chunk& chunk, int head, int begin, int columns,
                Sink&& sink) {
  const std::int64_t offset = chunk.first * rows.time_stride + head * rows.head_stride;
  read_rows<T>(rows, static_cast<const char*>(rows.data) + offset * storage_bytes(rows.dtype),
               rows.time_stride, chunk.size, begin, vectors_for<T>(columns), sink);
}

/// Writes columns [begin, begin + columns) of the chunk's rows of one head from a matrix.
template <typename T>
void write_chunk(const SweepOutput& output, const Chunk& chunk, int head, int begin, int columns,
                 const T* values, std::int64_t value_stride) {
  if (output.data == nullptr) return;
  const Vec<T> factor = broadcast<T>(static_cast<T>(output.factor));
  const bool scaled = output.factor != 1.0;
  with_storage<T>(output.dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::Type;
    Storage* target = static_cast<Storage*>(output.data) + chunk.first * output.time_stride +
                      head * output.head_stride + begin;
    for (int row = 0; row < chunk.size; ++row, target += output.time_stride) {
      const T* source = values + row * value_stride;
      for (int column = 0; column < columns; column += kLanes<T>) {
        Vec<T> value = load<T>(source + column);
        if (scaled) value *= factor;
        if (column + kLanes<T> <= columns) {
          store_storage<T>(target + column, value);
        } else {
          store_partial<T>(target + column, value, columns - column);
        }
      }
    }
  });
}

/// sums[row] = the lanes' sum of the row's vector, for `rows` rows and up to kLanes - 1 after them:
/// both arrays hold that many.
template <typename T>
void sum_rows(const T* vectors, int rows, T* sums) {
  constexpr int L = kLanes<T>;
  for (int row = 0; row < rows; row += L) {
    Vec<T> block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = load<T>(vectors + (row + i) * L);
    transpose_block<T>(block);
#pragma GCC unroll 4
    for (int half = L / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < half; ++i) block[i] += block[i + half];
    }
    store<T>(sums + row, block[0]);
  }
}

/// Scratch of row_products: a vector and a sum a row, in whole blocks of kLanes rows.
template <typename T>
constexpr std::int64_t row_products_scratch(int rows) {
  return static_cast<std::int64_t>(round_to_lanes<T>(rows)) * (kLanes<T> + 1);
}

/// Row by row, the product of two matrices whose columns are padded with zeros to `stride`, whole
/// vectors; the result lies in the scratch.
template <typename T>
const T* row_products(const T* a, const T* b, int rows, std::int64_t stride, T* scratch) {
  for (int row = 0; row < rows; ++row) {
    Vec<T> sum = zero<T>();
    for (std::int64_t c = row * stride; c < (row + 1) * stride; c += kLanes<T>) {
      sum = fma(load<T>(a + c), load<T>(b + c), sum);
    }
    store<T>(scratch + row * kLanes<T>, sum);
  }
  T* sums = scratch + static_cast<std::int64_t>(round_to_lanes<T>(rows)) * kLanes<T>;
  sum_rows<T>(scratch, rows, sums);
  return sums;
}

/// Divides rows by sqrt(sum of squares + eps); `inverses` takes what each was multiplied by.
template <typename T>
void normalize_rows(T* matrix, int rows, std::int64_t stride, double eps, T* inverses, T* scratch) {
  const T* squares = row_products<T>(matrix, matrix, rows, stride, scratch);
  for (int row = 0; row < rows; ++row) {
    inverses[row] = static_cast<T>(1.0 / __builtin_sqrt(static_cast<double>(squares[row]) + eps));
  }
  for (int row = 0; row < rows; ++row) {
    const Vec<T> inverse = broadcast<T>(inverses[row]);
    for (std::int64_t c = row * stride; c < (row + 1) * stride; c += kLanes<T>) {
      store<T>(matrix + c, load<T>(matrix + c) * inverse);
    }
  }
}

/// Turns the gradients of normalised rows into those of the rows: inverse (g - unit (unit . g)).
template <typename T>
void normalize_rows_gradient(T* grads, const T* units, const T* inverses, int rows,
                             std::int64_t stride, T* scratch) {
  const T* along = row_products<T>(units, grads, rows, stride, scratch);
  for (int row = 0; row < rows; ++row) {
    const Vec<T> minus_along = broadcast<T>(-along[row]), inverse = broadcast<T>(inverses[row]);
    for (std::int64_t c = row * stride; c < (row + 1) * stride; c += kLanes<T>) {
      store<T>(grads + c, fma(minus_along, load<T>(units + c), load<T>(grads + c)) * inverse);
    }
  }
}

/// A value head's state in panels of its value columns. In memory it is dense with `stride`
/// columns, of which those from `begin` on are meant.
template <typename T>
void load_state(const void* source, int key_dim, int stride, int begin, int columns, T* state) {
  for (int r = 0; r < key_dim; ++r) {
    for (int v = 0; v < vectors_for<T>(columns); ++v) {
      Vec<T> value = zero<T>();
      if (source != nullptr) {
        const int column = v * kLanes<T>;
        const T* row =
            static_cast<const T*>(source) + static_cast<std::int64_t>(r) * stride + begin;
        value = LeadingLanes<T>(columns - column).load(row + column);
      }
      store<T>(state + panel_offset<T>(key_dim, r, v), value);
    }
  }
}

template <typename T>
void store_state(const T* state, int key_dim, int stride, int begin, int columns, void* target) {
  T* row = static_cast<T*>(target) + begin;
  for (int r = 0; r < key_dim; ++r, row += stride) {
    for (int v = 0; v < vectors_for<T>(columns); ++v) {
      const int column = v * kLanes<T>;
      LeadingLanes<T>(columns - column)
          .store(row + column, load<T>(state + panel_offset<T>(key_dim, r, v)));
    }
  }
}

/// The transpose of a matrix in panels (of `depth` rows, the first `rows` meant), in panels of its
/// rows.
template <typename T>
void transpose_panels(const T* source, int depth, int rows, int columns, T* target) {
  for (int column = 0; column < columns; column += kPanel<T>) {
    const T* panel = source + static_cast<std::int64_t>(column) * depth;
    for (int row = 0; row < rows; row += kPanel<T>) {
      pack_transpose<T>(panel + row * kPanel<T>, kPanel<T>, smaller(kPanel<T>, rows - row),
                        smaller(kPanel<T>, columns - column),
                        target + static_cast<std::int64_t>(row) * columns + column * kPanel<T>);
    }
  }
}

/// tile += left right, the left operand in panels of its columns too: rows from `row` on.
template <typename T, int R, int V>
RANKONE_INLINE void multiply_add_panels(RegisterTile<T, R, V>& tile, const T* left, int left_depth,
                                        int row, const T* right, int depth) {
  for (int k = 0; k < depth; k += kPanel<T>) {
    tile.multiply_add(left + static_cast<std::int64_t>(k) * left_depth + row * kPanel<T>, kPanel<T>,
                      1, right + k * kPanel<T>, smaller(kPanel<T>, depth - k));
  }
}

/// As for_each_row_block, the same blocks from the last to the first.
template <typename Body>
RANKONE_INLINE void for_each_row_block_reversed(int rows, Body&& body) {
  int row = rows;
  const int ragged = rows % kTileRows;
  if (ragged & 1) body(Count<1>{}, row -= 1);
  if (ragged & 2) body(Count<2>{}, row -= 2);
  if (ragged & 4) body(Count<4>{}, row -= 4);
  while (row > 0) body(Count<kTileRows>{}, row -= kTileRows);
}

}  // namespace rankone::cpu::RANKONE_ISA
