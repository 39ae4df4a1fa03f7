// The sweep's chunk with channel decays: steps of 16 tokens, whose pairs and channels get their
// decay by running products, on k' (kKeyChannel) or on v' (kValueChannel).
#pragma once

#include "linear_attention_sweep_block.cuh"

namespace rankone::cuda {

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::channel_item(int chunk, int member) {
  T* query = query_tile(chunk, member);
  T* key = key_tile(chunk, member);
  if constexpr (kDecay == SweepDecay::kKeyChannel) {
    if (reads()) key_channel_pairs(query, key, decay_tile(chunk));
    decay_keys(query, key, decay_tile(chunk), opens_output(member),
               member == 0 || role_.key.per_query_head);
    query = at<T>(arguments_.layout.decayed_query);
    key = at<T>(arguments_.layout.decayed_key);
  } else if (reads()) {
    value_channel_pairs(query, key);
  }
  block_sync();  // pairs and decayed tiles are complete
  if constexpr (kDecay == SweepDecay::kKeyChannel) {
    if (member == 0) decay_segment();
  }
  T* value = value_tile(chunk, member) + warp_id() * kChannelsPerWarp;
  for (int step = 0; step < arguments_.steps; ++step) {
    const int row = step * Shape::kStep;
    if constexpr (kDecay == SweepDecay::kKeyChannel) {
      key_channel_step(chunk, member, step, query + row * Shape::kKeyLd, key + row * Shape::kKeyLd,
                       value + row * arguments_.layout.value_ld);
    } else {
      value_channel_step(chunk, member, step, query + row * Shape::kKeyLd,
                         key + row * Shape::kKeyLd, value + row * arguments_.layout.value_ld);
    }
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::key_channel_pairs(
    const T* query, const T* key, const float* decay) const {
  constexpr int kJobs = 16 / kKeysPerJob;
  for (int job = warp_id(); job < arguments_.steps * kJobs; job += warps()) {
    const int row = job / kJobs * Shape::kStep;
    float* pairs = at<float>(arguments_.layout.pairs) + row * Shape::kFloatLd;
    const T* const rows[1] = {query + row * Shape::kKeyLd};
    multiply_decayed_rows<kKey>(
        rows, key + row * Shape::kKeyLd, Shape::kKeyLd, decay + row * arguments_.layout.decay_ld,
        arguments_.layout.decay_ld, job % kJobs * kKeysPerJob,
        [&](int i, int j, const float (&sums)[1]) {
          pairs[i * Shape::kFloatLd + j] = i < j ? 0.0f : role_.pair_scale * sums[0];
        });
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::decay_keys(const T* query, const T* key,
                                                                   const float* decay,
                                                                   bool with_query,
                                                                   bool with_key) const {
  T* decayed_query = at<T>(arguments_.layout.decayed_query);
  T* decayed_key = at<T>(arguments_.layout.decayed_key);
  for (int i = threadIdx.x; i < arguments_.steps * kKey; i += blockDim.x) {
    const int channel = i % kKey;
    const int row = i / kKey * Shape::kStep;
    const float* d = decay + row * arguments_.layout.decay_ld + channel;
    const int start = row * Shape::kKeyLd + channel;
    if (with_query) {
      float product = 1.0f;
#pragma unroll
      for (int u = 0; u < Shape::kStep; ++u) {
        product *= d[u * arguments_.layout.decay_ld];
        decayed_query[start + u * Shape::kKeyLd] =
            from_float<T>(to_float(query[start + u * Shape::kKeyLd]) * product);
      }
    }
    if (with_key) {
      float product = 1.0f;
#pragma unroll
      for (int u = Shape::kStep - 1; u >= 0; --u) {
        decayed_key[start + u * Shape::kKeyLd] =
            from_float<T>(to_float(key[start + u * Shape::kKeyLd]) * product);
        product *= d[u * arguments_.layout.decay_ld];
      }
      at<float>(arguments_.layout.key_decay)[i] = product;
    }
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::decay_segment() const {
  if (role_.segment_decay == nullptr) return;
  for (int channel = threadIdx.x; channel < decay_columns(); channel += blockDim.x) {
    for (int step = 0; step < arguments_.steps; ++step) {
      segment_decay()[channel] *= at<float>(arguments_.layout.key_decay)[step * kKey + channel];
    }
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::key_channel_step(int chunk, int member,
                                                                         int step, const T* query,
                                                                         const T* key,
                                                                         const T* value) {
  const FragmentA<T> values[1] = {load_a_trans(value, arguments_.layout.value_ld)};
  if (reads()) {
    if (opens_output(member)) {
      outputs_[0] = Accumulator{};
      outputs_[1] = Accumulator{};
      const float scale = role_.read_scale * read_state(outputs_, query);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        outputs_[0].x[i] *= scale;
        outputs_[1].x[i] *= scale;
      }
    }
    float up;
    const FragmentBPair<T> pairs = load_pairs(step, up);
    add_products(outputs_[0], outputs_[1], values[0], pairs, up);
    if (closes_output(member)) {
      store_accumulator_trans_pair(output_tile(), Shape::kFloatLd, outputs_[0], outputs_[1]);
      warp_sync();
      emit(chunk, member, step * Shape::kStep);
      warp_sync();
    }
  }
  if (adds_to_state(member)) {
    const float* decay = at<float>(arguments_.layout.key_decay) + step * kKey;
    const bool decays = decays_state(member);
    update_state(values, key, [&](int tile, int i) {
      return decays ? decay[tile * kFragmentCols + Accumulator::col(i)] : 1.0f;
    });
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ FragmentBPair<T> Sweep<T, kKey, kDecay>::load_pairs(int step,
                                                                               float& up) const {
  const float* pairs = at<float>(arguments_.layout.pairs) + step * Shape::kStep * Shape::kFloatLd;
  AccumulatorPair values;
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[side].x[i] = pairs[Accumulator::row(i) * Shape::kFloatLd + pair_column(side, i)];
    }
  }
  const BinaryScale scale = operand_scale<T>(values);
  up = scale.up;
  return transpose_to_b(scaled_to_a<T>(values.left, values.right, scale.down));
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::value_channel_pairs(const T* query,
                                                                            const T* key) const {
  for (int step = warp_id(); step < arguments_.steps; step += warps()) {
    const int row = step * Shape::kStep;
    AccumulatorPair products =
        multiply_pairs(query + row * Shape::kKeyLd, key + row * Shape::kKeyLd);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool lower = pair_column(side, i) <= Accumulator::row(i);
        products[side].x[i] = lower ? role_.pair_scale * products[side].x[i] : 0.0f;
      }
    }
    store_accumulator_pair(at<float>(arguments_.layout.pairs) + row * Shape::kFloatLd,
                           Shape::kFloatLd, products[0], products[1]);
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::value_channel_step(int chunk, int member,
                                                                           int step, const T* query,
                                                                           const T* key, T* value) {
  const int channel = lane_id() % 16;
  const int first_key = lane_id() / 16 * 8;
  const float* decay = decay_tile(chunk) + step * Shape::kStep * arguments_.layout.decay_ld +
                       warp_id() * kChannelsPerWarp + channel;
  float product = 1.0f;
  if (reads()) {
    float* tile = output_tile();
    float read = role_.read_scale;
    const bool opens = opens_output(member);
    if (opens) {
      outputs_[0] = Accumulator{};
      outputs_[1] = Accumulator{};
      read *= read_state(outputs_, query);
      store_accumulator_trans_pair(tile, Shape::kFloatLd, outputs_[0], outputs_[1]);
    }
    warp_sync();
    const float* pairs = at<float>(arguments_.layout.pairs) + step * Shape::kStep * Shape::kFloatLd;
    float weighted[8] = {};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float d = decay[i * arguments_.layout.decay_ld];
      product *= d;
      const float4 low = load_four(pairs + i * Shape::kFloatLd + first_key);
      const float4 high = load_four(pairs + i * Shape::kFloatLd + first_key + 4);
      const float weight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      const float own = to_float(value[i * arguments_.layout.value_ld + channel]);
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        weighted[j] = first_key + j == i ? own : weighted[j] * d;
        sum += weight[j] * weighted[j];
      }
      sum += shuffle_xor(sum, 16);
      if (lane_id() < 16) {
        float& output = tile[i * Shape::kFloatLd + channel];
        output = opens ? fmaf(read * product, output, sum) : output + sum;
      }
    }
    warp_sync();
    if (closes_output(member)) {
      emit(chunk, member, step * Shape::kStep);
      warp_sync();
    }
  } else {
#pragma unroll
    for (int i = 0; i < 16; ++i) product *= decay[i * arguments_.layout.decay_ld];
  }
  if (adds_to_state(member)) {
    // v' R in place: no other warp reads these columns, and nothing reads them raw after this.
    T* rest = at<T>(arguments_.layout.value_rest) + warp_id() * 16 * Shape::kRestLd;
    float suffix = 1.0f;
#pragma unroll
    for (int j = 15; j >= 0; --j) {
      if (j / 8 == lane_id() / 16) {
        T& element = value[j * arguments_.layout.value_ld + channel];
        const float weighted = to_float(element) * suffix;
        element = from_float<T>(weighted);
        if (parts() == 2) rest[j * Shape::kRestLd + channel] = from_float<T>(residue<T>(weighted));
      }
      suffix *= decay[j * arguments_.layout.decay_ld];
    }
    warp_sync();
    if (!decays_state(member)) product = 1.0f;
    if (lane_id() < kChannelsPerWarp) {
      segment_decay()[warp_id() * kChannelsPerWarp + lane_id()] *= product;
    }
    float row_decay[2] = {shuffle_idx(product, lane_id() / 4),
                          shuffle_idx(product, lane_id() / 4 + 8)};
#pragma unroll 1
    for (int part = 0; part < parts(); ++part) {
      const FragmentA<T> values[1] = {part == 0 ? load_a_trans(value, arguments_.layout.value_ld)
                                                : load_a_trans(rest, Shape::kRestLd)};
      update_state(values, key, [&](int, int i) { return row_decay[i / 2]; });
      row_decay[0] = row_decay[1] = 1.0f;
    }
    warp_sync();
  }
}

}  // namespace rankone::cuda
