// What the sweeps of the delta rule do with a chunk, along time and against it, and what leaves
// them token by token.
#pragma once

#include "delta_rule_sweep_block.cuh"

namespace rankone::cuda {

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::work(int i) {
  const int chunks = (valid_rows(i) + kDeltaChunk - 1) / kDeltaChunk;
#pragma unroll 1
  for (int n = 0; n < chunks; ++n) {
    const int step = kReversed ? chunks - 1 - n : n;
    store_snapshot(first_of(i) + step * kDeltaChunk);
    if constexpr (kReversed) {
      work_against_time(i, step);
    } else {
      work_along_time(i, step);
    }
  }
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::work_along_time(int i,
                                                                                        int step) {
  const DeltaChunkTable& chunk = table(i, step);
  const StateProducts products =
      read_state<true>(read_key_rows(i, step), read_key_low_rows(i, step),
                       reads() ? read_query_rows(i, step) : nullptr);
  AccumulatorPair residual = unpack_a<T>(load_values(i, step));
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      residual[side].x[e] = fmaf(-chunk.read_key[pair_column(side, e)],
                                 products.predicted[side].x[e], residual[side].x[e]);
    }
  }
  AccumulatorPair errors;
  mma_wide<T>(errors, wide_a<T>(residual),
              load_wide_b<T, false>(&chunk.inverse[0][0], kDeltaTableLd));
  const AccumulatorPair updates = scaled_columns(errors, chunk.beta);
  const RoundedTile<T> written[1] = {round_tile<T>(scaled_columns(updates, chunk.write_key))};
  const T* const written_tiles[1] = {written_key_rows(i, step)};
  const bool exact = !std::is_same_v<T, float> && makes_states_alone();
  const auto emit_results = [&] {
    const int row = step * kDeltaChunk;
    if (reads()) {
      AccumulatorPair outputs = scaled_columns(products.read, chunk.read_query);
      mma_wide<T>(outputs, wide_a<T>(updates),
                  load_wide_b<T, false>(&chunk.pairs[0][0], kDeltaTableLd));
      emit<T>(i, row, outputs, arguments_.output);
    }
    if (arguments_.errors.data != nullptr) {
      emit<DeltaStored<T>>(i, row, errors, arguments_.errors);
    }
  };
  if constexpr (kEmitsFirst) emit_results();
  update_state(written, written_tiles, exact,
               chunk_rows(prepared_tile(arguments_.layout.written_key_low, i), step), chunk.decay,
               key_decay(i, step));
  if constexpr (!kEmitsFirst) emit_results();
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::work_against_time(
    int i, int step) {
  const DeltaChunkTable& chunk = table(i, step);
  const Row own = row_of(i, step * kDeltaChunk);
  float errors[8] = {};
  const auto load_errors = [&] {
    if (own.inside && arguments_.output.data != nullptr) load_eight(errors, arguments_.errors, own);
  };
  if constexpr (!kEmitsFirst) load_errors();

  const StateProducts products = read_state<false>(nullptr, nullptr, written_key_rows(i, step));
  const AccumulatorPair output_grad = unpack_a<T>(load_values(i, step));
  AccumulatorPair update_grad = scaled_columns(products.read, chunk.write_key);
  mma_wide<T>(update_grad, wide_a<T>(output_grad),
              load_wide_b<T, true>(&chunk.pairs[0][0], kDeltaTableLd));
  AccumulatorPair error_grad;  // Y
  mma_wide<T>(error_grad, wide_a<T>(update_grad),
              load_wide_b<T, true>(&chunk.inverse[0][0], kDeltaTableLd));
  const auto emit_results = [&] {
    if (arguments_.output.data == nullptr) return;
    float values[8];
    transpose_tile(values, error_grad);
    float sum = 0.0f;
    float grads[8];
    const float beta = chunk.beta[lane_id() / 2];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      sum = fmaf(errors[c], values[c], sum);
      grads[c] = beta * values[c];
    }
    sum += shuffle_xor(sum, 1);
    if (lane_id() % 2 == 0) {
      row_sums(i)[warp_id() * rows() + step * kDeltaChunk + lane_id() / 2] = sum;
    }
    if (own.inside) {
      store_row<T>(arguments_.output, own, grads);
      if (arguments_.residual_grad.data != nullptr) {
        store_row<DeltaStored<T>>(arguments_.residual_grad, own, grads);
      }
    }
    warp_sync();  // the tile is free again
  };
  if constexpr (kEmitsFirst) {
    load_errors();
    emit_results();
  }
  const AccumulatorPair residual_grad = scaled_columns(error_grad, chunk.beta);
  const RoundedTile<T> terms[2] = {
      round_tile<T>(scaled_columns(output_grad, chunk.read_query)),
      round_tile<T>(scaled_columns(residual_grad, chunk.read_key, -1.0f))};
  const T* const term_tiles[2] = {read_query_rows(i, step), read_key_rows(i, step)};
  update_state(terms, term_tiles, false, nullptr, chunk.decay, key_decay(i, step));
  if constexpr (!kEmitsFirst) emit_results();
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::transpose_tile(
    float (&values)[8], const AccumulatorPair& tile) const {
  store_accumulator_trans_pair(output_tile(), Shape::kFloatLd, tile.left, tile.right);
  warp_sync();
  read_eight(values, output_tile() + lane_id() / 2 * Shape::kFloatLd + 8 * (lane_id() % 2));
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
template <typename Element>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::emit(
    int i, int row, const AccumulatorPair& tile, const TokenOutput& output) const {
  float values[8];
  transpose_tile(values, tile);
  const Row own = row_of(i, row);
  if (own.inside) store_row<Element>(output, own, values);
  warp_sync();
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::flush_beta_grad(
    int i) const {
  if (i < 0 || arguments_.beta_grad == nullptr) return;
  const int valid = valid_rows(i);
  for (int row = threadIdx.x; row < valid; row += blockDim.x) {
    float sum = 0.0f;
    for (int warp = 0; warp < warps(); ++warp) sum += row_sums(i)[warp * rows() + row];
    arguments_.beta_grad[place_.value_block * arguments_.beta_grad_stride +
                         token_index(first_of(i) + row)] = sum;
  }
}

}  // namespace rankone::cuda
