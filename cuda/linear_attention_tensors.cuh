// The caller's tensors as the kernels of linear attention see them: element types, strides, heads,
// and whether rows can be moved 16 bytes at a time. Host code.
#pragma once

#include <cstdint>

#include "decay_products.cuh"
#include "rankone/linear_attention.h"
#include "token_tiles.cuh"

namespace rankone::cuda {

template <typename T>
TokenOperand query_operand(const LinearAttentionInputs& inputs) {
  return make_operand<T>(inputs.q, inputs.shape.key_dim, true);
}

template <typename T>
TokenOperand key_operand(const LinearAttentionInputs& inputs) {
  return make_operand<T>(inputs.k, inputs.shape.key_dim, false);
}

/// v with its ones column.
template <typename T>
TokenOperand value_operand(const LinearAttentionInputs& inputs) {
  return make_operand<T>(inputs.v, inputs.shape.value_dim, false, inputs.shape.ones_column);
}

/// The first `columns` columns of dO, which with a ones column is float.
template <typename T>
TokenOperand output_grad_operand(const LinearAttentionBackward& problem, std::int64_t columns) {
  const LinearAttentionShape& shape = problem.inputs.shape;
  const std::int64_t stored = shape.value_columns();
  const ConstTokens tensor{problem.output_grad, shape.time * shape.heads * stored,
                           shape.heads * stored, stored};
  TokenOperand operand = make_operand<T>(tensor, columns, true);
  if (shape.ones_column && !std::is_same_v<T, float>) {
    operand.is_float = true;
    operand.aligned = false;  // a copy does not convert
  }
  return operand;
}

/// A contiguous (batch, time, heads, columns) tensor of T, or of float.
template <typename T>
TokenOutput output_of(void* data, const LinearAttentionShape& shape, std::int64_t heads,
                      std::int64_t columns, bool is_float) {
  return contiguous_output<T>(data, shape.time, heads, columns, is_float);
}

inline DecaySource decay_source(const LinearAttentionInputs& inputs) {
  return decay_source(inputs.log_decay, inputs.decay_form);
}

}  // namespace rankone::cuda
