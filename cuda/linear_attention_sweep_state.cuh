// The sweep's state: from memory into the accumulators of a warp and back, read by queries, updated
// by keys and values.
#pragma once

#include "linear_attention_sweep_block.cuh"

namespace rankone::cuda {

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ int Sweep<T, kKey, kDecay>::state_channel(int i) const {
  return first_channel() + warp_id() * kChannelsPerWarp + Accumulator::row(i);
}

template <typename T, int kKey, SweepDecay kDecay>
template <typename Visit>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::for_each_state(const SweepState& in,
                                                                       Visit visit) {
  const int first_key = Accumulator::col(0);
  std::int64_t places[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    places[half] = state_channel(2 * half) * in.value_stride + first_key * in.key_stride;
  }
  int keys_left = key_columns() - first_key;
  const auto visit_tile = [&](Accumulator& tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i % 2 < keys_left && state_channel(i) < value_columns()) {
        visit(tile.x[i], places[i / 2] + i % 2 * in.key_stride, i);
      }
    }
    keys_left -= kFragmentCols;
    places[0] += kFragmentCols * in.key_stride;
    places[1] += kFragmentCols * in.key_stride;
  };
#pragma unroll
  for (Accumulator& tile : state_) visit_tile(tile);
  if (has_tail()) {
    visit_tile(tail(0));
    visit_tile(tail(1));
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::load_state() {
  if (has_tail()) tail(0) = tail(1) = Accumulator{};
  if (role_.initial.data == nullptr) return;
  const float* source = role_.initial.slice(place_.sequence, place_.head, place_.segment);
  for_each_state(role_.initial,
                 [&](float& element, std::int64_t place, int) { element = source[place]; });
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::store_state() {
  const bool last_segment = place_.segment + 1 == arguments_.segments;
  if (last_segment && role_.pairing != nullptr) store_pairing();
  if (role_.final.data == nullptr || !(last_segment || role_.final_of_every_segment)) return;
  float factor[2] = {1.0f, 1.0f};
  if (role_.decay_final && place_.length > 0 && arguments_.decay.form != DecayForm::kNone) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int channel = state_channel(2 * half);
      if (channel < value_columns()) {
        const float* log_decay = arguments_.decay.form == DecayForm::kPerHead
                                     ? arguments_.decay.data + place_.head
                                     : arguments_.decay.at(batch(), place_.begin, place_.head) +
                                           (Shape::kScalar ? 0 : channel);
        factor[half] = expf(*log_decay);
      }
    }
  }
  float* destination = role_.final.slice(place_.sequence, place_.head, place_.segment);
  for_each_state(role_.final, [&](float& element, std::int64_t place, int i) {
    destination[place] = element * factor[i / 2];
  });
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::store_pairing() {
  const float* other = role_.pairing_with.slice(place_.sequence, place_.head, 0);
  float sums[2] = {0.0f, 0.0f};
  for_each_state(role_.pairing_with, [&](float& element, std::int64_t place, int i) {
    sums[i / 2] += element * other[place];
  });
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = warp_sum(sums[half], 4);
    const int channel = state_channel(2 * half);
    if (lane_id() % 4 == 0 && channel < value_columns()) {
      role_.pairing[head_index() * value_columns() + channel] = sum;
    }
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ float* Sweep<T, kKey, kDecay>::segment_decay() const {
  return at<float>(arguments_.layout.segment_decay);
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ int Sweep<T, kKey, kDecay>::segment_decay_channels() const {
  return Shape::kScalar ? 1 : decay_columns();
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::clear_segment_decay() const {
  const int channels =
      kDecay == SweepDecay::kValueChannel ? warps() * kChannelsPerWarp : segment_decay_channels();
  for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
    segment_decay()[channel] = 1.0f;
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::store_segment_decay() const {
  if (role_.segment_decay == nullptr) return;
  // Decays of k' are the same in every value block.
  if (kDecay != SweepDecay::kValueChannel && place_.value_block > 0) return;
  const int all_channels = kDecay == SweepDecay::kScalar       ? 1
                           : kDecay == SweepDecay::kKeyChannel ? role_.key.columns
                                                               : role_.value.columns;
  float* destination = role_.segment_decay +
                       (head_index() * arguments_.segments + place_.segment) * all_channels +
                       (Shape::kScalar ? 0 : decay_first_channel());
  for (int channel = threadIdx.x; channel < segment_decay_channels(); channel += blockDim.x) {
    destination[channel] = segment_decay()[channel];
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ BinaryScale Sweep<T, kKey, kDecay>::state_scale() const {
  const bool with_tail = kHalf && has_tail();
  return operand_scale<T>(state_,
                          with_tail ? largest_in(tail(0), largest_in(tail(1), 0.0f)) : 0.0f);
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ SplitA<T> Sweep<T, kKey, kDecay>::state_operand(int key_step,
                                                                           float down) const {
  return key_step == Shape::kKeySteps
             ? split_a<T>(tail(0), tail(1), down)
             : split_a<T>(state_[2 * key_step], state_[2 * key_step + 1], down);
}

template <typename T, int kKey, SweepDecay kDecay>
template <int kTiles>
__device__ __forceinline__ float Sweep<T, kKey, kDecay>::read_state(Accumulator (&outputs)[kTiles],
                                                                    const T* query) const {
  const BinaryScale scale = state_scale();
  const bool with_rest = parts() == 2;
#pragma unroll
  for (int key_step = 0; key_step < Shape::kAllKeySteps; ++key_step) {
    if (key_step == Shape::kKeySteps && !has_tail()) break;
    const SplitA<T> state = state_operand(key_step, scale.down);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      const FragmentBPair<T> queries =
          load_b_pair(query + tile * kFragmentCols * Shape::kKeyLd + 16 * key_step, Shape::kKeyLd);
      if (with_rest) {
        mma(outputs[tile], state.low, queries.left);
        mma(outputs[tile + 1], state.low, queries.right);
      }
      mma(outputs[tile], state.high, queries.left);
      mma(outputs[tile + 1], state.high, queries.right);
    }
  }
  return scale.up;
}

template <typename T, int kKey, SweepDecay kDecay>
template <int kDepth, typename Decay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::update_state(
    const FragmentA<T> (&values)[kDepth], const T* key, Decay decay) {
#pragma unroll
  for (int key_step = 0; key_step < Shape::kAllKeySteps; ++key_step) {
    if (key_step == Shape::kKeySteps && !has_tail()) break;
    Accumulator fresh[2];
#pragma unroll
    for (int depth = 0; depth < kDepth; ++depth) {
      const FragmentBPair<T> keys =
          load_b_trans_pair(key + 16 * depth * Shape::kKeyLd + 16 * key_step, Shape::kKeyLd);
      mma(fresh[0], values[depth], keys.left);
      mma(fresh[1], values[depth], keys.right);
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      Accumulator& state = key_step == Shape::kKeySteps ? tail(side) : state_[2 * key_step + side];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        state.x[i] =
            fmaf(decay(2 * key_step + side, i), state.x[i], role_.add_scale * fresh[side].x[i]);
      }
    }
  }
}

}  // namespace rankone::cuda
