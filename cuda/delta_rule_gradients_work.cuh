// The gradients of a chunk from the state before it, along time, and from the gradient of the state
// after it, against time.
#pragma once

#include "delta_rule_gradients_block.cuh"

namespace rankone::cuda {

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::read_along_time(int chunk,
                                                                                   int part) {
  const DeltaGradientLayout& layout = arguments_.layout;
  const DeltaGradientTable& entry = table(chunk);
  const T* key = key_rows(layout.key, chunk);
  AccumulatorPair query_grad =
      scaled_columns(read_state(value_rows(layout.output_grad, chunk, part)), entry.read_query);
  AccumulatorPair key_grad = scaled_columns(
      read_state(value_rows(layout.residual_grad, chunk, part)), entry.minus_read_key);
  FragmentA<T> written[1];
  float decay[2] = {entry.decay, entry.decay};
  if constexpr (kChannel) {
    store_accumulator_trans_pair(tile(0), kGradientTileLd, query_grad.left, query_grad.right);
    store_accumulator_trans_pair(tile(1), kGradientTileLd, key_grad.left, key_grad.right);
    warp_sync();
    const float product = read_channel(chunk, part, key);
    warp_sync();
    written[0] = load_a_trans(scratch(0), kGradientScratchLd);
    spread(decay, product);
  } else {
    written[0] = load_a_trans(key, layout.key_ld);
    if (part == 0) {
      add_pairs<false>(query_grad, written[0], entry.pairs, entry.key_norm);
      add_pairs<false>(key_grad, written[0], entry.systems, entry.key_norm);
    }
    scale_columns(written[0], entry.state_key);
    store_accumulator_trans_pair(tile(0), kGradientTileLd, query_grad.left, query_grad.right);
    store_accumulator_trans_pair(tile(1), kGradientTileLd, key_grad.left, key_grad.right);
    warp_sync();
  }
  const T* const errors[1] = {value_rows(layout.errors, chunk, part)};
  update_state(written, errors, decay);
  emit_along_time(chunk, part);
  warp_sync();
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ float DeltaGradients<T, kValue, kDecay>::read_channel(
    int chunk, int part, const T* key) const {
  const DeltaGradientLayout& layout = arguments_.layout;
  const DeltaGradientTable& entry = table(chunk);
  const int channel = lane_id() % 16;
  const int first_key = lane_id() / 16 * 8;
  const float* decay = channel_decay(chunk) + channel;
  float product = 1.0f;
  float weighted[8] = {};
#pragma unroll 2
  for (int i = 0; i < kDeltaChunk; ++i) {
    const float d = decay[i * layout.decay_ld];
    product *= d;
    const float own = entry.key_norm[i] * to_float(key[i * layout.key_ld + channel]);
    float query_sum = 0.0f, key_sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) weighted[j] = first_key + j == i ? own : weighted[j] * d;
    if (part == 0) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        query_sum = fmaf(entry.pairs[i][first_key + j], weighted[j], query_sum);
        key_sum = fmaf(entry.systems[i][first_key + j], weighted[j], key_sum);
      }
      query_sum += shuffle_xor(query_sum, 16);
      key_sum += shuffle_xor(key_sum, 16);
    }
    if (lane_id() < 16) {
      float& query_grad = tile(0)[i * kGradientTileLd + channel];
      float& key_grad = tile(1)[i * kGradientTileLd + channel];
      query_grad = fmaf(product, query_grad, query_sum);
      key_grad = fmaf(product, key_grad, key_sum);
    }
  }
  // `weighted` is now each key with the decays after it.
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    scratch(0)[(first_key + j) * kGradientScratchLd + channel] =
        from_float<T>(entry.beta[first_key + j] * weighted[j]);
  }
  return product;
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::emit_along_time(int chunk,
                                                                                   int part) const {
  const Row own = row_of(chunk);
  float query_grad[8], key_grad[8];
  read_tile(query_grad, 0);
  read_tile(key_grad, 1);
  float energies[8];
  products_with_tiles(energies, chunk, query_grad, key_grad);
  const bool adds = part > 0;
  if (own.inside) {
    store_floats(arguments_.query_grad, own, query_grad, adds);
    store_floats(arguments_.key_grad, own, key_grad, adds);
  }
  if (arguments_.decay_grad == nullptr) return;
  if constexpr (kChannel) {
    if (own.inside) store_floats(arguments_.decay_grad, own, energies, adds);
  } else {
    const float sum = sum_of_row(energies);
    float& stored = row_sums(warp_id())[own.row];
    if (lane_id() % 2 == 0) stored = adds ? stored + sum : sum;
  }
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::write_against_time(int chunk,
                                                                                      int part) {
  const DeltaGradientLayout& layout = arguments_.layout;
  const DeltaGradientTable& entry = table(chunk);
  const T* query = key_rows(layout.query, chunk);
  const T* key = key_rows(layout.key, chunk);
  AccumulatorPair key_grad =
      scaled_columns(read_state(value_rows(layout.errors, chunk, part)), entry.write);
  FragmentA<T> terms[2];
  float decay[2] = {entry.decay, entry.decay};
  if constexpr (kChannel) {
    store_accumulator_trans_pair(tile(0), kGradientTileLd, key_grad.left, key_grad.right);
    warp_sync();
    const float product = write_channel(chunk, part, query, key);
    warp_sync();
    terms[0] = load_a_trans(scratch(0), kGradientScratchLd);
    terms[1] = load_a_trans(scratch(1), kGradientScratchLd);
    spread(decay, product);
  } else {
    if (part == 0) {
      add_pairs<true>(key_grad, load_a_trans(query, layout.key_ld), entry.pairs, entry.query_norm);
      add_pairs<true>(key_grad, load_a_trans(key, layout.key_ld), entry.systems, entry.key_norm);
    }
    store_accumulator_trans_pair(tile(0), kGradientTileLd, key_grad.left, key_grad.right);
    terms[0] = load_a_trans(query, layout.key_ld);
    terms[1] = load_a_trans(key, layout.key_ld);
    scale_columns(terms[0], entry.state_query);
    scale_columns(terms[1], entry.minus_state_key);
    warp_sync();
  }
  const T* const rows[2] = {value_rows(layout.output_grad, chunk, part),
                            value_rows(layout.residual_grad, chunk, part)};
  update_state(terms, rows, decay);
  emit_against_time(chunk, part);
  warp_sync();
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ float DeltaGradients<T, kValue, kDecay>::write_channel(
    int chunk, int part, const T* query, const T* key) const {
  const DeltaGradientLayout& layout = arguments_.layout;
  const DeltaGradientTable& entry = table(chunk);
  const int channel = lane_id() % 16;
  const int first_row = lane_id() / 16 * 8;
  const float* decay = channel_decay(chunk) + channel;
  float suffix = 1.0f;
  float queries[8] = {}, keys[8] = {};
#pragma unroll 2
  for (int j = kDeltaChunk - 1; j >= 0; --j) {
    const float own_query = entry.query_norm[j] * to_float(query[j * layout.key_ld + channel]);
    const float own_key = entry.key_norm[j] * to_float(key[j * layout.key_ld + channel]);
    const float d = j + 1 < kDeltaChunk ? decay[(j + 1) * layout.decay_ld] : 1.0f;
    suffix *= d;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const bool is_own = first_row + i == j;
      queries[i] = is_own ? own_query : queries[i] * d;
      keys[i] = is_own ? own_key : keys[i] * d;
    }
    if (part == 0) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sum = fmaf(entry.pairs[first_row + i][j], queries[i], sum);
        sum = fmaf(entry.systems[first_row + i][j], keys[i], sum);
      }
      sum += shuffle_xor(sum, 16);
    }
    if (lane_id() < 16) {
      float& key_grad = tile(0)[j * kGradientTileLd + channel];
      key_grad = fmaf(suffix, key_grad, sum);
    }
  }
  // One decay more, the first token's own, makes of W_i0 the a of row i.
  const float first = decay[0];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    scratch(0)[(first_row + i) * kGradientScratchLd + channel] =
        from_float<T>(arguments_.scale * first * queries[i]);
    scratch(1)[(first_row + i) * kGradientScratchLd + channel] = from_float<T>(-first * keys[i]);
  }
  return first * suffix;
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::emit_against_time(int chunk,
                                                                                     int part) {
  const Row own = row_of(chunk);
  float key_grad[8], energies[8];
  read_tile(key_grad, 0);
  const float zeros[8] = {};
  products_with_tiles(energies, chunk, zeros, key_grad);
  if (own.inside) store_floats(arguments_.key_grad, own, key_grad, true);
  if (arguments_.decay_grad == nullptr) return;
  if constexpr (kChannel) {
#pragma unroll
    for (int c = 0; c < 8; ++c) energies[c] = -energies[c];
    if (own.inside) store_floats(arguments_.decay_grad, own, energies, true);
    if (part + 1 == arguments_.value_parts) sum_channel_decay_grad(chunk);
  } else {
    const float sum = sum_of_row(energies);
    if (lane_id() % 2 == 0) row_sums(warp_id())[own.row] -= sum;
  }
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::sum_channel_decay_grad(
    int chunk) {
  warp_sync();
  const int channel = lane_id();
  if (channel >= kDeltaChannelsPerWarp || own_channel() + channel >= key_columns()) return;
  const float* decay = channel_decay(chunk) + channel;
  for (int j = kDeltaChunk - 1; j >= 0; --j) {
    const int row = chunk * kDeltaChunk + j;
    if (row >= place_.valid) continue;
    float& stored =
        arguments_.decay_grad[token_index(row) * key_columns() + own_channel() + channel];
    pairing_ += stored;
    stored = decay[j * arguments_.layout.decay_ld] == 0.0f ? 0.0f : pairing_;
  }
}

template <typename T, int kValue, DeltaDecay kDecay>
__device__ __forceinline__ void DeltaGradients<T, kValue, kDecay>::sum_decay_grad() const {
  const float pairing = warp_sum(pairing_, 16);
  if (lane_id() == 0) pairings()[warp_id()] = pairing;
  block_sync();
  float* totals = row_sums(warps());
  for (int row = threadIdx.x; row < place_.valid; row += blockDim.x) {
    float sum = 0.0f;
    for (int warp = 0; warp < warps(); ++warp) sum += row_sums(warp)[row];
    totals[row] = sum;
  }
  block_sync();
  for (int row = threadIdx.x; row < place_.valid; row += blockDim.x) {
    float sum = 0.0f;
    for (int warp = 0; warp < warps(); ++warp) sum += pairings()[warp];
    for (int later = place_.valid - 1; later >= row; --later) sum += totals[later];
    // The gradient is a multiple of the decay, which a difference of sums cannot see.
    const float decay = expf(*arguments_.decay.at(batch(), place_.first + row, place_.head));
    arguments_.decay_grad[place_.key_block * arguments_.decay_grad_stride + token_index(row)] =
        decay == 0.0f ? 0.0f : sum;
  }
}

}  // namespace rankone::cuda
