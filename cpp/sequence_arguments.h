// What the entry points of the CPU sequence ops share: checks of their arguments, where sequences
// and heads lie in memory, and the threads' workspaces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>

#include "linear_attention_tasks.h"

namespace rankone::cpu {

/// State bytes below which one thread steps faster than several wake up (about 50 us of copying).
inline constexpr std::int64_t kStepBytesPerThread = 1 << 19;

// ---- arguments ----

inline void require(bool condition, const char* argument, const std::string& message) {
  if (!condition) throw ArgumentError(argument, message);
}

inline std::string got(std::int64_t value) { return ", got " + std::to_string(value); }

inline std::int64_t element_size(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat64:
      return 8;
    case DataType::kFloat32:
      return 4;
    case DataType::kFloat16:
    case DataType::kBFloat16:
      return 2;
  }
  throw ArgumentError("dtype", "expected float32, float64, float16 or bfloat16" +
                                   got(static_cast<std::int64_t>(dtype)));
}

inline DataType state_type(DataType dtype) {
  return dtype == DataType::kFloat64 ? DataType::kFloat64 : DataType::kFloat32;
}

inline bool is_float64(DataType dtype) { return dtype == DataType::kFloat64; }

/// Of a shape with key_dim and value_dim.
template <typename Shape>
void check_dims(const Shape& shape, std::int64_t largest) {
  const std::string dims = "expected 1 to " + std::to_string(largest);
  require(shape.key_dim >= 1 && shape.key_dim <= largest, "key_dim", dims + got(shape.key_dim));
  require(shape.value_dim >= 1 && shape.value_dim <= largest, "value_dim",
          dims + got(shape.value_dim));
}

/// Of a shape with batch, time, cu_seqlens and num_sequences.
template <typename Shape>
void check_sequences(const Shape& shape) {
  require(shape.batch >= 0, "batch", "expected at least 0" + got(shape.batch));
  require(shape.time >= 0, "time", "expected at least 0" + got(shape.time));
  if (shape.cu_seqlens == nullptr) {
    require(shape.num_sequences == shape.batch, "num_sequences",
            "expected batch = " + std::to_string(shape.batch) + got(shape.num_sequences));
    return;
  }
  require(shape.batch == 1, "batch", "expected 1 when cu_seqlens is given" + got(shape.batch));
  require(shape.num_sequences >= 0, "num_sequences",
          "expected at least 0" + got(shape.num_sequences));
  require(shape.cu_seqlens[0] == 0, "cu_seqlens",
          "expected to start at 0" + got(shape.cu_seqlens[0]));
  for (std::int64_t n = 0; n < shape.num_sequences; ++n) {
    require(shape.cu_seqlens[n] <= shape.cu_seqlens[n + 1], "cu_seqlens",
            "expected non-decreasing offsets, got " + std::to_string(shape.cu_seqlens[n]) +
                " before " + std::to_string(shape.cu_seqlens[n + 1]));
  }
  require(shape.cu_seqlens[shape.num_sequences] == shape.time, "cu_seqlens",
          "expected to end at time = " + std::to_string(shape.time) +
              got(shape.cu_seqlens[shape.num_sequences]));
}

// ---- memory ----

/// Where one sequence lies.
struct Sequence {
  std::int64_t batch;
  std::int64_t begin;  // first token in the batch entry
  std::int64_t length;
};

template <typename Shape>
Sequence sequence_at(const Shape& shape, std::int64_t n) {
  if (shape.cu_seqlens == nullptr) return {n, 0, shape.time};
  return {0, shape.cu_seqlens[n], shape.cu_seqlens[n + 1] - shape.cu_seqlens[n]};
}

inline const void* advance(const void* data, std::int64_t elements, DataType dtype) {
  return data == nullptr ? nullptr
                         : static_cast<const char*>(data) + elements * element_size(dtype);
}

inline void* advance(void* data, std::int64_t elements, DataType dtype) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + elements * element_size(dtype);
}

/// A tensor's rows from one sequence's first token and one head on.
inline SweepRows rows_of(const ConstTokens& tensor, DataType dtype, const Sequence& sequence,
                         std::int64_t head, std::int64_t columns) {
  SweepRows rows;
  rows.data = advance(tensor.data,
                      sequence.batch * tensor.batch_stride + sequence.begin * tensor.time_stride +
                          head * tensor.head_stride,
                      dtype);
  rows.time_stride = tensor.time_stride;
  rows.head_stride = tensor.head_stride;
  rows.dtype = dtype;
  rows.columns = static_cast<int>(columns);
  return rows;
}

inline ConstTokens contiguous(const void* data, std::int64_t time, std::int64_t heads,
                              std::int64_t columns) {
  return {data, time * heads * columns, heads * columns, columns};
}

/// Writes to a contiguous (batch, time, heads, columns) tensor.
inline SweepOutput output_of(void* data, DataType dtype, const Sequence& sequence,
                             std::int64_t head, std::int64_t time, std::int64_t heads,
                             std::int64_t columns) {
  SweepOutput output;
  output.data =
      advance(data, ((sequence.batch * time + sequence.begin) * heads + head) * columns, dtype);
  output.time_stride = heads * columns;
  output.head_stride = columns;
  output.dtype = dtype;
  output.columns = static_cast<int>(columns);
  return output;
}

/// Memory for `count` workers, each of whose parts is aligned to a cache line.
class Workspaces {
 public:
  Workspaces(int count, std::size_t bytes)
      : bytes_((bytes + kAlignment - 1) / kAlignment * kAlignment),
        memory_(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(count) * bytes_,
                                                       std::align_val_t{kAlignment}))) {}

  void* of(int worker) const { return memory_.get() + static_cast<std::size_t>(worker) * bytes_; }

 private:
  static constexpr std::size_t kAlignment = 64;
  struct Delete {
    void operator()(std::byte* bytes) const {
      ::operator delete(bytes, std::align_val_t{kAlignment});
    }
  };

  std::size_t bytes_;
  std::unique_ptr<std::byte, Delete> memory_;
};

}  // namespace rankone::cpu
