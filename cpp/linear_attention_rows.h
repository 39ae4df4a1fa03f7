// How the kernels of linear attention read rows of any storage type into vectors.
#pragma once

#include "linear_attention_tasks.h"
#include "simd.h"

namespace rankone::cpu::RANKONE_ISA {

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

}  // namespace rankone::cpu::RANKONE_ISA
