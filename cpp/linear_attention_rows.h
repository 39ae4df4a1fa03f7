// How the kernels of linear attention read rows of any storage type into vectors, in which order,
// and how they ask for them ahead of time.
#pragma once

#include "linear_attention_tasks.h"
#include "simd.h"

namespace rankone::cpu::RANKONE_ISA {

/// Tokens of a sequence taken together, in the sweep's order: row 0 is the last one if reversed.
struct Chunk {
  std::int64_t first = 0;  // in time
  int size = 0;
  bool reverse = false;

  std::int64_t time_of(int row) const { return reverse ? first + size - 1 - row : first + row; }
  std::int64_t direction() const { return reverse ? -1 : 1; }
};

RANKONE_INLINE std::int64_t storage_bytes(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat64:
      return 8;
    case DataType::kFloat32:
      return 4;
    default:
      return 2;
  }
}

/// `count` elements of a row from `column` on, in a full vector: past the stored columns come the
/// column of ones, if there is one, and zeros.
template <typename T, typename Storage>
RANKONE_INLINE Vec<T> load_columns(const Storage* row, int column, int columns, bool ones) {
  if (column + kLanes<T> <= columns) return load_storage<T>(row + column);
  Vec<T> value = column < columns ? load_partial<T>(row + column, columns - column) : zero<T>();
  if (ones && columns - column >= 0) value[columns - column] = T(1);
  return value;
}

/// Calls sink(row, vector, value) for the vectors of columns [begin, begin + vectors * lanes) of
/// `count` rows, scaled by rows.factor. `data` is the first row's, the next is `stride` further.
template <typename T, typename Sink>
void read_rows(const SweepRows& rows, const void* data, std::int64_t stride, int count, int begin,
               int vectors, Sink&& sink) {
  const Vec<T> factor = broadcast<T>(static_cast<T>(rows.factor));
  const bool scaled = rows.factor != 1.0;
  with_storage<T>(rows.dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::Type;
    const Storage* row = static_cast<const Storage*>(data);
    const int whole = smaller(vectors, larger(0, (rows.columns - begin) / kLanes<T>));
    for (int r = 0; r < count; ++r, row += stride) {
      for (int v = 0; v < whole; ++v) {
        const Vec<T> value = load_storage<T>(row + begin + v * kLanes<T>);
        sink(r, v, scaled ? value * factor : value);
      }
      for (int v = whole; v < vectors; ++v) {
        const Vec<T> value =
            load_columns<T>(row, begin + v * kLanes<T>, rows.columns, rows.ones_column);
        sink(r, v, scaled ? value * factor : value);
      }
    }
  });
}

/// Rows that will be read or written next. They lie far apart, each a few cache lines, where the
/// hardware's own prefetching helps little: every register tile asks for some of them while it
/// computes.
class UpcomingRows {
 public:
  void clear() { count_ = index_ = row_ = 0; }

  /// Columns [begin, begin + width) of `count` rows from `time` on.
  void add(const SweepRows& rows, std::int64_t time, std::int64_t direction, int head, int begin,
           int width, int count) {
    const int columns = smaller(width, rows.columns - begin);
    if (columns <= 0 || count <= 0) return;
    const std::int64_t element = storage_bytes(rows.dtype);
    ranges_[count_++] = {static_cast<const char*>(rows.data) +
                             (time * rows.time_stride + head * rows.head_stride + begin) * element,
                         direction * rows.time_stride * element,
                         static_cast<int>(columns * element), count};
  }

  /// Spreads the rows over that many calls of prefetch.
  void spread(int calls) {
    int rows = 0;
    for (int i = 0; i < count_; ++i) rows += ranges_[i].rows;
    per_call_ = (rows + calls - 1) / calls;
  }

  RANKONE_INLINE void prefetch() {
    constexpr int kCacheLine = 64;
    constexpr int kSecondLevelCache = 2;
    for (int i = 0; i < per_call_ && index_ < count_; ++i) {
      const Range& range = ranges_[index_];
      const char* row = range.data + row_ * range.stride;
      for (int byte = 0; byte < range.bytes; byte += kCacheLine) {
        __builtin_prefetch(row + byte, 0, kSecondLevelCache);
      }
      if (++row_ == range.rows) {
        row_ = 0;
        ++index_;
      }
    }
  }

 private:
  struct Range {
    const char* data;
    std::int64_t stride;
    int bytes;
    int rows;
  };
  static constexpr int kRanges = 6;  // x, y, z, the output, its partner and the decays

  Range ranges_[kRanges];
  int count_ = 0, per_call_ = 0;
  int index_ = 0, row_ = 0;
};

}  // namespace rankone::cpu::RANKONE_ISA
