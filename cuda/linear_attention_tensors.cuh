// The caller's tensors as the kernels of linear attention see them: element types, strides, heads,
// and whether rows can be moved 16 bytes at a time. Host code.
#pragma once

#include <cstdint>

#include "linear_attention_decay.cuh"
#include "linear_attention_sweep.cuh"
#include "primitives/platform.cuh"
#include "rankone/linear_attention.h"

namespace rankone::cuda {

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
SweepOperand make_operand(const ConstTokens& tensor, std::int64_t columns, bool per_query_head,
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

template <typename T>
SweepOperand query_operand(const LinearAttentionInputs& inputs) {
  return make_operand<T>(inputs.q, inputs.shape.key_dim, true);
}

template <typename T>
SweepOperand key_operand(const LinearAttentionInputs& inputs) {
  return make_operand<T>(inputs.k, inputs.shape.key_dim, false);
}

/// v with its ones column.
template <typename T>
SweepOperand value_operand(const LinearAttentionInputs& inputs) {
  return make_operand<T>(inputs.v, inputs.shape.value_dim, false, inputs.shape.ones_column);
}

/// The first `columns` columns of dO, which with a ones column is float.
template <typename T>
SweepOperand output_grad_operand(const LinearAttentionBackward& problem, std::int64_t columns) {
  const LinearAttentionShape& shape = problem.inputs.shape;
  const std::int64_t stored = shape.value_columns();
  const ConstTokens tensor{problem.output_grad, shape.time * shape.heads * stored,
                           shape.heads * stored, stored};
  SweepOperand operand = make_operand<T>(tensor, columns, true);
  if (shape.ones_column && !std::is_same_v<T, float>) {
    operand.is_float = true;
    operand.aligned = false;  // a copy does not convert
  }
  return operand;
}

/// A contiguous (batch, time, heads, columns) tensor of T, or of float.
template <typename T>
SweepOutput contiguous_output(void* data, const LinearAttentionShape& shape, std::int64_t heads,
                              std::int64_t columns, bool is_float) {
  const std::int64_t batch_stride = shape.time * heads * columns;
  const bool stores_float = is_float || std::is_same_v<T, float>;
  return {data,
          batch_stride,
          heads * columns,
          columns,
          stores_float,
          rows_are_aligned(data, columns, batch_stride, heads * columns, columns,
                           stores_float ? sizeof(float) : sizeof(T))};
}

inline DecaySource decay_source(const LinearAttentionInputs& inputs) {
  const ConstTokens& tensor = inputs.log_decay;
  return {static_cast<const float*>(tensor.data), tensor.batch_stride, tensor.time_stride,
          tensor.head_stride, inputs.decay_form};
}

}  // namespace rankone::cuda
