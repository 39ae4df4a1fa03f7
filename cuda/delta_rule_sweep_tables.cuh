// What the sweeps of the delta rule prepare of a stage before its state is known: the tables of its
// chunks and, with channel decays, decayed tiles of q and k.
#pragma once

#include "decay_products.cuh"
#include "delta_rule_sweep_block.cuh"

namespace rankone::cuda {

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::exponentiate_decays(
    int i) const {
  float* tile = decay_tile(i);
  for (int row = warp_id(); row < rows(); row += warps()) {
    for (int column = lane_id(); column < key_columns(); column += kWarpSize) {
      float& element = tile[row * Shape::kDecayLd + column];
      element = expf(element);
    }
  }
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::prepare(int i) {
  if constexpr (kChannel) {
    exponentiate_decays(i);
    for (int step = warp_id(); step < arguments_.steps; step += warps()) {
      fill_factors(i, step);
    }
    block_sync();
    weigh_pairs(i);
    decay_tiles(i);
    block_sync();
  }
  // Another warp every time, so that all have the same share.
  for (int step = 0; step < arguments_.steps; ++step) {
    if ((i * arguments_.steps + step) % warps() != warp_id()) continue;
    if constexpr (!kChannel) {
      fill_factors(i, step);
      warp_sync();
      weigh_products(i, step);
      warp_sync();
    }
    invert_unit_lower(table(i, step).inverse);
  }
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::fill_factors(
    int i, int step) const {
  DeltaChunkTable& chunk = table(i, step);
  const int lane = lane_id() % kDeltaChunk;
  const int row = step * kDeltaChunk + lane;
  const bool inside = row < valid_rows(i);
  const int token = first_of(i) + row;
  const float beta = inside ? arguments_.beta.at(batch(), token, place_.head) : 0.0f;
  if (arguments_.l2norm) {
    const int start = step * kDeltaChunk * Shape::kKeyLd;
    normalise_rows(chunk.query_norm, query_tile(i) + start, Shape::kKeyLd, kKey,
                   arguments_.l2norm_eps);
    normalise_rows(chunk.key_norm, key_tile(i) + start, Shape::kKeyLd, kKey, arguments_.l2norm_eps);
    warp_sync();
  } else if (lane_id() < kDeltaChunk) {
    chunk.query_norm[lane] = 1.0f;
    chunk.key_norm[lane] = 1.0f;
  }
  double decay = 1.0;
  if (!kChannel && inside && arguments_.decay.form != DecayForm::kNone) {
    decay = exp(static_cast<double>(*arguments_.decay.at(batch(), token, place_.head)));
  }
  float prefix = 1.0f, suffix = 1.0f;
  if constexpr (!kChannel) {
    const BlockProducts products = multiply_block(decay, [&](int row, float weight) {
      if (lane_id() < kDeltaChunk) chunk.inverse[row][lane] = weight;
    });
    prefix = static_cast<float>(products.prefix);
    suffix = static_cast<float>(products.suffix);
    if (lane_id() == kDeltaChunk - 1) chunk.decay = prefix;
  }
  if (lane_id() < kDeltaChunk) {
    chunk.beta[lane] = beta;
    chunk.read_query[lane] = arguments_.scale * (kChannel ? 1.0f : chunk.query_norm[lane] * prefix);
    chunk.read_key[lane] = kChannel ? 1.0f : chunk.key_norm[lane] * prefix;
    chunk.write_key[lane] = kChannel ? 1.0f : chunk.key_norm[lane] * suffix;
  }
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::weigh_products(
    int i, int step) const {
  DeltaChunkTable& chunk = table(i, step);
  const T* query = query_tile(i) + step * kDeltaChunk * Shape::kKeyLd;
  const T* key = key_tile(i) + step * kDeltaChunk * Shape::kKeyLd;
  AccumulatorPair query_key, key_key;
  if (reads()) multiply_rows<row_steps(kKey)>(query_key, query, key, Shape::kKeyLd, kKey);
  multiply_rows<row_steps(kKey)>(key_key, key, key, Shape::kKeyLd, kKey);
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = Accumulator::row(e);
      const int column = pair_column(side, e);
      const float weight = chunk.inverse[row][column] * chunk.key_norm[column];
      chunk.pairs[row][column] =
          arguments_.scale * chunk.query_norm[row] * weight * query_key[side].x[e];
      chunk.inverse[row][column] =
          system(chunk, row, column, chunk.key_norm[row] * weight * key_key[side].x[e]);
    }
  }
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::weigh_pairs(int i) const {
  constexpr int kJobs = kDeltaChunk / kKeysPerJob;
  for (int job = warp_id(); job < arguments_.steps * kJobs; job += warps()) {
    const int step = job / kJobs;
    const int start = step * kDeltaChunk;
    const T* key = key_tile(i) + start * Shape::kKeyLd;
    const T* const rows[2] = {query_tile(i) + start * Shape::kKeyLd, key};
    DeltaChunkTable& chunk = table(i, step);
    multiply_decayed_rows<kKey>(
        rows, key, Shape::kKeyLd, decay_tile(i) + start * Shape::kDecayLd, Shape::kDecayLd,
        job % kJobs * kKeysPerJob, [&](int row, int own, const float (&sums)[2]) {
          const float norm = chunk.key_norm[own];
          chunk.pairs[row][own] =
              row < own ? 0.0f : arguments_.scale * chunk.query_norm[row] * norm * sums[0];
          chunk.inverse[row][own] = system(chunk, row, own, chunk.key_norm[row] * norm * sums[1]);
        });
  }
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::decay_tiles(int i) const {
  const DeltaSweepLayout& layout = arguments_.layout;
  T* decayed_query = prepared_tile(layout.decayed_query, i);
  T* decayed_key = prepared_tile(layout.decayed_key, i);
  T* decayed_key_low = prepared_tile(layout.decayed_key_low, i);
  T* written_key = prepared_tile(layout.written_key, i);
  T* written_key_low = prepared_tile(layout.written_key_low, i);
  for (int job = threadIdx.x; job < arguments_.steps * kKey; job += blockDim.x) {
    const int step = job / kKey;
    const DeltaChunkTable& chunk = table(i, step);
    const float* decay = decay_tile(i) + step * kDeltaChunk * Shape::kDecayLd + job % kKey;
    const int start = step * kDeltaChunk * Shape::kKeyLd + job % kKey;
    float product = 1.0f;
#pragma unroll
    for (int row = 0; row < kDeltaChunk; ++row) {
      const int place = start + row * Shape::kKeyLd;
      product *= decay[row * Shape::kDecayLd];
      decayed_query[place] =
          from_float<T>(to_float(query_tile(i)[place]) * chunk.query_norm[row] * product);
      const float value = to_float(key_tile(i)[place]) * chunk.key_norm[row] * product;
      decayed_key[place] = from_float<T>(value);
      if constexpr (sizeof(T) == 2) {
        decayed_key_low[place] = from_float<T>(value - to_float(decayed_key[place]));
      }
    }
    key_decay(i, step)[job % kKey] = product;
    product = 1.0f;
#pragma unroll
    for (int row = kDeltaChunk - 1; row >= 0; --row) {
      const int place = start + row * Shape::kKeyLd;
      const float value = to_float(key_tile(i)[place]) * chunk.key_norm[row] * product;
      written_key[place] = from_float<T>(value);
      if (sizeof(T) == 2 && makes_states_alone()) {
        written_key_low[place] = from_float<T>(value - to_float(written_key[place]));
      }
      product *= decay[row * Shape::kDecayLd];
    }
  }
}

}  // namespace rankone::cuda
