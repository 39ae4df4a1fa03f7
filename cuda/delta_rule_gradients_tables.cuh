// What the gradients of the delta rule need of a group before its states: rows of tokens in shared
// memory and the tables of its chunks.
#pragma once

#include "decay_products.cuh"
#include "delta_rule_gradients_block.cuh"

namespace rankone::cuda {

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::load_tiles() const {
  const DeltaGradientLayout& layout = arguments_.layout;
  // Rows past the last token of the last chunk are never read.
  const int rows = chunks() * kDeltaChunk;
#pragma unroll 1
  for (int which = 0; which < 5; ++which) {
    const bool is_key = which < 2;
    const TokenOperand& operand = which == 0   ? arguments_.query
                                  : which == 1 ? arguments_.key
                                  : which == 2 ? arguments_.output_grad
                                  : which == 3 ? arguments_.errors
                                               : arguments_.residual_grad;
    T* destination = at<T>(which == 0   ? layout.query
                           : which == 1 ? layout.key
                           : which == 2 ? layout.output_grad
                           : which == 3 ? layout.errors
                                        : layout.residual_grad);
    const int ld = is_key ? layout.key_ld : value_ld();
    const int columns = is_key ? block_columns() : value_columns();
    clear_columns(destination, rows, ld, columns);
    load_rows(destination, ld, operand,
              operand.offset(batch(), place_.first, is_key ? key_head() : place_.head) +
                  (is_key ? first_channel() : 0),
              operand.time_stride, rows, place_.valid, columns);
  }
  if constexpr (kChannel) {
    for (int row = warp_id(); row < rows; row += warps()) {
      for (int column = lane_id(); column < layout.decay_ld; column += kWarpSize) {
        at<float>(layout.decay)[row * layout.decay_ld + column] =
            row < place_.valid && column < block_columns()
                ? arguments_.decay.at(batch(), place_.first + row,
                                      place_.head)[first_channel() + column]
                : 0.0f;
      }
    }
  }
  commit_async();
  wait_async<0>();
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::exponentiate_decays() const {
  const int count = chunks() * kDeltaChunk * arguments_.layout.decay_ld;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    float& element = at<float>(arguments_.layout.decay)[i];
    element = expf(element);
  }
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::fill_norms(int chunk) const {
  DeltaGradientTable& entry = table(chunk);
#pragma unroll 1
  for (int i = 0; i < 2 * kDeltaChunk; ++i) {
    const bool is_key = i % 2 != 0;
    const int row = chunk * kDeltaChunk + i / 2;
    float norm = 1.0f;
    if (arguments_.l2norm && row < place_.valid) {
      norm = 1.0f / sqrtf(sum_of_squares(is_key ? arguments_.key : arguments_.query, row) +
                          arguments_.l2norm_eps);
    }
    float* const norms = is_key ? entry.key_norm : entry.query_norm;
    if (lane_id() == 0) norms[i / 2] = norm;
  }
  warp_sync();
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ float DeltaGradients<T, kValue, kDecay>::sum_of_squares(
    const TokenOperand& operand, int row) const {
  using Narrow = std::conditional_t<std::is_same_v<T, float>, __half, T>;
  const std::int64_t start = operand.offset(batch(), place_.first + row, key_head());
  float sum = 0.0f;
  for (int column = lane_id(); column < key_columns(); column += kWarpSize) {
    const float x = load_element<Narrow>(operand.data, start + column, operand.is_float);
    sum = fmaf(x, x, sum);
  }
  return warp_sum(sum);
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::fill_table(int chunk) const {
  fill_norms(chunk);
  DeltaGradientTable& entry = table(chunk);
  const int lane = lane_id() % kDeltaChunk;
  const int row = chunk * kDeltaChunk + lane;
  const bool inside = row < place_.valid;
  const int token = place_.first + row;
  const float beta = inside ? arguments_.beta.at(batch(), token, place_.head) : 0.0f;
  double decay = 1.0;
  if (!kChannel && inside && arguments_.decay.form != DecayForm::kNone) {
    decay = exp(static_cast<double>(*arguments_.decay.at(batch(), token, place_.head)));
  }
  float prefix = 1.0f, suffix = 1.0f;
  if constexpr (!kChannel) {
    const BlockProducts products = multiply_block(decay, [&](int i, float weight) {
      if (lane_id() < kDeltaChunk) entry.pairs[i][lane] = weight;
    });
    prefix = static_cast<float>(products.prefix);
    suffix = static_cast<float>(products.suffix);
    if (lane_id() == kDeltaChunk - 1) entry.decay = prefix;
  }
  if (lane_id() < kDeltaChunk) {
    entry.beta[lane] = beta;
    entry.read_query[lane] = arguments_.scale * prefix;
    entry.minus_read_key[lane] = -prefix;
    entry.write[lane] = suffix * beta;
    entry.state_key[lane] = suffix * beta * entry.key_norm[lane];
    entry.state_query[lane] = arguments_.scale * prefix * entry.query_norm[lane];
    entry.minus_state_key[lane] = -prefix * entry.key_norm[lane];
  }
  warp_sync();
  const DeltaGradientLayout& layout = arguments_.layout;
  const T* errors = value_rows(layout.errors, chunk, 0);
  const int columns = arguments_.value_parts * kValue;
  AccumulatorPair output_products, residual_products;
  multiply_rows<row_steps(kValue)>(output_products, value_rows(layout.output_grad, chunk, 0),
                                   errors, value_ld(), columns);
  multiply_rows<row_steps(kValue)>(residual_products, value_rows(layout.residual_grad, chunk, 0),
                                   errors, value_ld(), columns);
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = Accumulator::row(e);
      const int j = pair_column(side, e);
      const float weight = entry.beta[j] * (kChannel ? 1.0f : entry.pairs[i][j]);
      entry.pairs[i][j] = j <= i ? arguments_.scale * weight * output_products[side].x[e] : 0.0f;
      entry.systems[i][j] = j < i ? -weight * residual_products[side].x[e] : 0.0f;
    }
  }
}

}  // namespace rankone::cuda
