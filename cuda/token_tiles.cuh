// Tensors of tokens as the sequence kernels read and write them: where rows lie, copies of rows
// into tiles in shared memory, and rows of outputs. Device code, and the host code that
// describes the caller's tensors.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <string>

#include "primitives/async_copy.cuh"
#include "primitives/convert.cuh"
#include "primitives/platform.cuh"
#include "rankone/core.h"

namespace rankone::cuda {

/// A (batch, time, heads, columns) tensor that kernels read rows of.
struct TokenOperand {
  const void* data;
  std::int64_t batch_stride;
  std::int64_t time_stride;
  std::int64_t head_stride;
  int columns;          // stored in memory
  int unit_shift;       // 1 << unit_shift copies take a row
  bool ones_column;     // one more column, of ones, follows the stored ones
  bool is_float;        // float elements, whatever T is
  bool aligned;         // rows are whole 16-byte units on 16-byte boundaries
  bool per_query_head;  // else one head a kv head

  __host__ __device__ __forceinline__ int total_columns() const {
    return columns + (ones_column ? 1 : 0);
  }
  __device__ __forceinline__ std::int64_t offset(std::int64_t batch, std::int64_t token,
                                                 std::int64_t head) const {
    return batch * batch_stride + token * time_stride + head * head_stride;
  }
};

/// A tensor that kernels write rows of.
struct TokenOutput {
  void* data;  // null: not wanted
  std::int64_t batch_stride;
  std::int64_t time_stride;
  std::int64_t head_stride;
  bool is_float;
  bool aligned;
};

// ---- device code ----

/// Where the tokens of a sequence lie in its batch entry.
struct SequencePlace {
  int begin;
  int length;
};

/// Of packed sequences with `cu_seqlens`, else of a batch entry of `time` tokens.
__device__ __forceinline__ SequencePlace find_sequence(const std::int64_t* cu_seqlens, int sequence,
                                                       int time) {
  if (cu_seqlens == nullptr) return {0, time};
  const int begin = static_cast<int>(cu_seqlens[sequence]);
  return {begin, static_cast<int>(cu_seqlens[sequence + 1]) - begin};
}

/// The smallest shift with 1 << shift >= count.
__device__ __forceinline__ int ceil_log2(int count) {
  int shift = 0;
  while ((1 << shift) < count) ++shift;
  return shift;
}

template <typename T>
__device__ __forceinline__ float load_element(const void* data, std::int64_t offset,
                                              bool is_float) {
  return is_float ? static_cast<const float*>(data)[offset]
                  : to_float(static_cast<const T*>(data)[offset]);
}

/// Four neighbouring elements, on a boundary of four elements.
template <typename T>
__device__ __forceinline__ float4 load_four(const T* source) {
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const float4*>(source);
  } else {
    const uint2 bits = *reinterpret_cast<const uint2*>(source);
    const float2 low = unpack<T>(bits.x);
    const float2 high = unpack<T>(bits.y);
    return make_float4(low.x, low.y, high.x, high.y);
  }
}

/// Eight neighbouring elements, on a boundary of four elements.
template <typename T>
__device__ __forceinline__ void read_eight(float (&values)[8], const T* source) {
  const float4 low = load_four(source);
  const float4 high = load_four(source + 4);
  values[0] = low.x;
  values[1] = low.y;
  values[2] = low.z;
  values[3] = low.w;
  values[4] = high.x;
  values[5] = high.y;
  values[6] = high.z;
  values[7] = high.w;
}

/// Zeros in columns `first`.. of a tile's rows, by the whole block.
template <typename Element>
__device__ __forceinline__ void clear_columns(Element* tile, int rows, int ld, int first) {
  const int width = ld - first;
  for (int i = threadIdx.x; i < rows * width; i += blockDim.x) {
    tile[i / width * ld + first + i % width] = from_float<Element>(0.0f);
  }
}

/// Starts the copy of `rows` rows of `columns` columns into a tile, by the whole block: row r from
/// element start + r * step on, zeros from row `valid` on. A float tile takes rows of __half too.
template <typename T>
__device__ __forceinline__ void load_rows(T* tile, int ld, const TokenOperand& operand,
                                          std::int64_t start, std::int64_t step, int rows,
                                          int valid, int columns) {
  using Narrow = std::conditional_t<std::is_same_v<T, float>, __half, T>;
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const int units = rows << operand.unit_shift;
  const int mask = (1 << operand.unit_shift) - 1;
  if (operand.aligned) {
    const T* source = static_cast<const T*>(operand.data);
#pragma unroll 2
    for (int i = threadIdx.x; i < units; i += blockDim.x) {
      const int row = i >> operand.unit_shift;
      const int column = (i & mask) * kVector;
      if (column < columns) {
        const bool inside = row < valid;
        copy_async_16(tile + row * ld + column,
                      inside ? source + start + row * step + column : source, inside);
      }
    }
  } else {
#pragma unroll 2
    for (int i = threadIdx.x; i < units; i += blockDim.x) {
      const int row = i >> operand.unit_shift;
      const int column = i & mask;
      if (column < columns) {
        tile[row * ld + column] =
            row < valid ? from_float<T>(load_element<Narrow>(
                              operand.data, start + row * step + column, operand.is_float))
                        : from_float<T>(0.0f);
      }
    }
  }
}

/// Writes the first `columns` of eight neighbouring elements. Aligned rows are whole 16-byte units,
/// which may end in the middle of the eight.
template <typename Element>
__device__ __forceinline__ void store_eight(Element* destination, const float (&values)[8],
                                            int columns, bool aligned) {
  if constexpr (sizeof(Element) == 4) {
    if (aligned) {
      auto* vectors = reinterpret_cast<float4*>(destination);
      vectors[0] = make_float4(values[0], values[1], values[2], values[3]);
      if (columns > 4) vectors[1] = make_float4(values[4], values[5], values[6], values[7]);
      return;
    }
  } else if (aligned) {
    *reinterpret_cast<uint4*>(destination) =
        make_uint4(pack<Element>(values[0], values[1]), pack<Element>(values[2], values[3]),
                   pack<Element>(values[4], values[5]), pack<Element>(values[6], values[7]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < columns) destination[i] = from_float<Element>(values[i]);
  }
}

/// The same at `offset` of an output of T, or of float.
template <typename T>
__device__ __forceinline__ void store_eight(const TokenOutput& output, std::int64_t offset,
                                            const float (&values)[8], int columns) {
  if (output.is_float) {
    store_eight(static_cast<float*>(output.data) + offset, values, columns, output.aligned);
  } else {
    store_eight(static_cast<T*>(output.data) + offset, values, columns, output.aligned);
  }
}

// ---- host code ----

/// Calls `call.template operator()<T>()` with the device type of `dtype`.
template <typename Call>
auto with_element_type(DataType dtype, Call call) {
  switch (dtype) {
    case DataType::kFloat32:
      return call.template operator()<float>();
    case DataType::kFloat16:
      return call.template operator()<__half>();
    case DataType::kBFloat16:
      return call.template operator()<__nv_bfloat16>();
    default:
      throw ArgumentError("dtype", "expected float32, float16 or bfloat16 on CUDA, got float64");
  }
}

/// A grid of `blocks` blocks along x, the axis with the largest limit.
inline dim3 grid_of(std::int64_t blocks) {
  if (blocks > std::numeric_limits<std::int32_t>::max()) {
    throw ArgumentError("q", "batch, heads and head dims need " + std::to_string(blocks) +
                                 " thread blocks, more than a launch can have");
  }
  return dim3(static_cast<unsigned>(blocks));
}

/// A size that kernels hold in an int, with room to round up.
inline int checked_count(std::int64_t size, const char* name) {
  constexpr std::int64_t kLargest = std::int64_t{1} << 30;
  if (size > kLargest) {
    throw ArgumentError(name, "expected at most 2^30 on CUDA, got " + std::to_string(size));
  }
  return static_cast<int>(size);
}

/// Whether rows of `columns` elements at these strides start and end on 16-byte boundaries.
inline bool rows_are_aligned(const void* data, std::int64_t columns, std::int64_t batch_stride,
                             std::int64_t time_stride, std::int64_t head_stride,
                             std::size_t element_size) {
  constexpr std::int64_t kUnit = 16;
  const auto size = static_cast<std::int64_t>(element_size);
  return reinterpret_cast<std::uintptr_t>(data) % kUnit == 0 && columns * size % kUnit == 0 &&
         batch_stride * size % kUnit == 0 && time_stride * size % kUnit == 0 &&
         head_stride * size % kUnit == 0;
}

template <typename T>
TokenOperand make_operand(const ConstTokens& tensor, std::int64_t columns, bool per_query_head,
                          bool ones_column = false) {
  return {tensor.data,
          tensor.batch_stride,
          tensor.time_stride,
          tensor.head_stride,
          static_cast<int>(columns),
          0,
          ones_column,
          std::is_same_v<T, float>,
          rows_are_aligned(tensor.data, columns, tensor.batch_stride, tensor.time_stride,
                           tensor.head_stride, sizeof(T)),
          per_query_head};
}

/// TokenOperand::unit_shift for tiles of T that take `columns` columns of each row.
template <typename T>
int unit_shift(const TokenOperand& operand, int columns) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const unsigned units =
      static_cast<unsigned>(operand.aligned ? (columns + kVector - 1) / kVector : columns);
  return static_cast<int>(std::bit_width(std::bit_ceil(units))) - 1;
}

/// A contiguous (batch, time, heads, columns) tensor of T, or of float.
template <typename T>
TokenOutput contiguous_output(void* data, std::int64_t time, std::int64_t heads,
                              std::int64_t columns, bool is_float) {
  const std::int64_t batch_stride = time * heads * columns;
  const bool stores_float = is_float || std::is_same_v<T, float>;
  return {data,
          batch_stride,
          heads * columns,
          columns,
          stores_float,
          rows_are_aligned(data, columns, batch_stride, heads * columns, columns,
                           stores_float ? sizeof(float) : sizeof(T))};
}

/// Device memory handed out in aligned pieces; with a null start it only counts.
class Workspace {
 public:
  explicit Workspace(void* start) : start_(static_cast<std::byte*>(start)) {}

  /// Null for no bytes.
  void* bytes(std::int64_t count) {
    constexpr std::size_t kAlignment = 256;
    std::byte* piece = start_ == nullptr ? nullptr : start_ + used_;
    used_ += (static_cast<std::size_t>(count) + kAlignment - 1) / kAlignment * kAlignment;
    return count == 0 ? nullptr : piece;
  }
  float* floats(std::int64_t count) {
    return static_cast<float*>(bytes(count * static_cast<std::int64_t>(sizeof(float))));
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* start_;
  std::size_t used_ = 0;
};

}  // namespace rankone::cuda
