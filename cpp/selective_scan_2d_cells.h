// Blocks of cells between memory (any strides, any storage type) and the kernels' working arrays,
// where cell c of a block is one vector, a channel a lane.
#pragma once

#include "rankone/selective_scan_2d.h"
#include "simd.h"

namespace rankone::cpu::RANKONE_ISA {

/// A rectangle of the grid; its cells are numbered row by row.
struct CellBlock {
  std::int64_t row = 0, column = 0;
  int rows = 0, columns = 0;

  RANKONE_INLINE int cells() const { return rows * columns; }
};

/// Channels [first, first + count) of one batch entry, read through heads of `per_head` channels.
struct LaneChannels {
  std::int64_t batch = 0;
  std::int64_t first = 0;
  int count = 0;
  std::int64_t per_head = 1;

  RANKONE_INLINE std::int64_t head(int lane) const { return (first + lane) / per_head; }
  RANKONE_INLINE bool one_head() const { return head(0) == head(count - 1); }
};

template <typename T, typename Storage>
RANKONE_INLINE T load_one(const Storage* source) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    return *source;
  } else {
    return load_partial<T>(source, 1)[0];
  }
}

template <typename T, typename Storage>
RANKONE_INLINE void store_one(Storage* target, T value) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    *target = value;
  } else {
    store_partial<T>(target, broadcast<T>(value), 1);
  }
}

/// matrix[i * stride + lane] = source[lane * lane_stride + i] for i < length; lanes past `count`
/// are zero.
template <typename T, typename Storage>
void load_transposed(const Storage* source, std::int64_t lane_stride, int count, int length,
                     T* matrix, std::int64_t stride) {
  constexpr int L = kLanes<T>;
  for (int i = 0; i < length; i += L) {
    const int left = smaller(L, length - i);
    Vec<T> block[L];
    for (int lane = 0; lane < L; ++lane) {
      block[lane] = lane >= count ? zero<T>()
                    : left == L   ? load_storage<T>(source + lane * lane_stride + i)
                                  : load_partial<T>(source + lane * lane_stride + i, left);
    }
    transpose_block<T>(block);
    for (int j = 0; j < left; ++j) store<T>(matrix + (i + j) * stride, block[j]);
  }
}

template <typename T, typename Storage>
void store_transposed(Storage* target, std::int64_t lane_stride, int count, int length,
                      const T* matrix, std::int64_t stride) {
  constexpr int L = kLanes<T>;
  for (int i = 0; i < length; i += L) {
    const int left = smaller(L, length - i);
    Vec<T> block[L];
    for (int j = 0; j < L; ++j) {
      block[j] = j < left ? load<T>(matrix + (i + j) * stride) : zero<T>();
    }
    transpose_block<T>(block);
    for (int lane = 0; lane < count; ++lane) {
      Storage* row = target + lane * lane_stride + i;
      left == L ? store_storage<T>(row, block[lane]) : store_partial<T>(row, block[lane], left);
    }
  }
}

/// cells[c] = the block's values, a channel a lane. Lanes past the last channel hold zeros, or the
/// head's value where all share one.
template <typename T>
void load_cells(const ConstCells& tensor, DataType dtype, const LaneChannels& lanes,
                const CellBlock& block, T* cells) {
  constexpr int L = kLanes<T>;
  with_storage<T>(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::Type;
    const Storage* data = static_cast<const Storage*>(tensor.data) +
                          lanes.batch * tensor.batch_stride + block.row * tensor.row_stride +
                          block.column * tensor.column_stride;
    for (int r = 0; r < block.rows; ++r, data += tensor.row_stride, cells += block.columns * L) {
      const std::int64_t step = tensor.column_stride;
      if (lanes.one_head() && lanes.per_head > 1) {
        const Storage* source = data + lanes.head(0) * tensor.channel_stride;
        for (int t = 0; t < block.columns; ++t, source += step) {
          store<T>(cells + t * L, broadcast<T>(load_one<T>(source)));
        }
      } else if (lanes.per_head == 1 && tensor.channel_stride == 1) {
        const Storage* source = data + lanes.first;
        for (int t = 0; t < block.columns; ++t, source += step) {
          store<T>(cells + t * L, lanes.count == L ? load_storage<T>(source)
                                                   : load_partial<T>(source, lanes.count));
        }
      } else if (lanes.per_head == 1 && step == 1) {
        load_transposed<T>(data + lanes.first * tensor.channel_stride, tensor.channel_stride,
                           lanes.count, block.columns, cells, L);
      } else {
        for (int t = 0; t < block.columns; ++t) {
          const Storage* source = data + t * step;
          for (int lane = 0; lane < L; ++lane) {
            cells[t * L + lane] =
                lane < lanes.count ? load_one<T>(source + lanes.head(lane) * tensor.channel_stride)
                                   : T(0);
          }
        }
      }
    }
  });
}

/// Writes one value a channel.
template <typename T>
void store_cells(const MutableCells& tensor, DataType dtype, const LaneChannels& lanes,
                 const CellBlock& block, const T* cells) {
  constexpr int L = kLanes<T>;
  with_storage<T>(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::Type;
    Storage* data = static_cast<Storage*>(tensor.data) + lanes.batch * tensor.batch_stride +
                    block.row * tensor.row_stride + block.column * tensor.column_stride +
                    lanes.first * tensor.channel_stride;
    for (int r = 0; r < block.rows; ++r, data += tensor.row_stride, cells += block.columns * L) {
      const std::int64_t step = tensor.column_stride;
      if (tensor.channel_stride == 1) {
        for (int t = 0; t < block.columns; ++t) {
          const Vec<T> value = load<T>(cells + t * L);
          lanes.count == L ? store_storage<T>(data + t * step, value)
                           : store_partial<T>(data + t * step, value, lanes.count);
        }
      } else if (step == 1) {
        store_transposed<T>(data, tensor.channel_stride, lanes.count, block.columns, cells, L);
      } else {
        for (int t = 0; t < block.columns; ++t) {
          for (int lane = 0; lane < lanes.count; ++lane) {
            store_one<T>(data + t * step + lane * tensor.channel_stride, cells[t * L + lane]);
          }
        }
      }
    }
  });
}

/// states[n * stride] = the lanes' values of a (channels, states) matrix at its first channel;
/// null: zeros. A state stride of 0 repeats one value.
template <typename T>
void load_channel_states(const T* source, std::int64_t channel_stride, std::int64_t state_stride,
                         int count, int num_states, T* states, std::int64_t stride) {
  constexpr int L = kLanes<T>;
  if (source != nullptr && state_stride == 1) {
    load_transposed<T>(source, channel_stride, count, num_states, states, stride);
    return;
  }
  for (int n = 0; n < num_states; ++n) {
    for (int lane = 0; lane < L; ++lane) {
      states[n * stride + lane] = source != nullptr && lane < count
                                      ? source[lane * channel_stride + n * state_stride]
                                      : T(0);
    }
  }
}

}  // namespace rankone::cpu::RANKONE_ISA
