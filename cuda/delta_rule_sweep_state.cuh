// The state of a warp in the sweeps of the delta rule: from memory into its accumulators and back,
// read by keys and queries, updated by a chunk.
#pragma once

#include "delta_rule_sweep_block.cuh"

namespace rankone::cuda {

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::load_state() {
  if (place_.is_transition) {
    // Row * columns + column with row == column.
    for_each_state([&](float& element, int place) {
      element = place % (key_columns() + 1) == 0 ? 1.0f : 0.0f;
    });
    return;
  }
  if (arguments_.initial == nullptr) return;
  const float* source = arguments_.initial + state_place(arguments_.initial_of_every_segment);
  for_each_state([&](float& element, int place) { element = source[place]; });
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::store_state() {
  const bool of_every_segment = place_.is_transition || arguments_.final_of_every_segment;
  const bool is_end = place_.segment == (kReversed ? 0 : arguments_.segments - 1);
  float* final = place_.is_transition ? arguments_.transitions : arguments_.final;
  if (final == nullptr || !(is_end || of_every_segment)) return;
  float* destination = final + state_place(of_every_segment);
  for_each_state([&](float& element, int place) { destination[place] = element; });
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::store_snapshot(int token) {
  const DeltaSnapshots& snapshots = arguments_.snapshots;
  if (snapshots.data == nullptr) return;
  const int position = token - place_.begin - arguments_.first;
  const bool due = kReversed ? (position + kDeltaChunk) % snapshots.tokens == 0 ||
                                   token + kDeltaChunk >= place_.last
                             : position % snapshots.tokens == 0;
  if (!due) return;
  const std::int64_t slot =
      snapshots.slot(place_.sequence, place_.begin, position / snapshots.tokens);
  auto* state = static_cast<DeltaStored<T>*>(snapshots.data) +
                (slot * arguments_.value_heads + place_.head) *
                    DeltaSnapshots::elements(key_columns(), value_columns());
  const int value_tile = place_.value_block * warps() + warp_id();
  if (value_tile >= DeltaSnapshots::tiles(value_columns())) return;
#pragma unroll
  for (int key_step = 0; key_step < kKeySteps; ++key_step) {
    if (key_step >= DeltaSnapshots::tiles(key_columns())) break;
    store_accumulator_trans_pair(output_tile(), Shape::kFloatLd, state_[2 * key_step],
                                 state_[2 * key_step + 1]);
    warp_sync();
    float turned[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      turned[e] =
          output_tile()[Accumulator::row(e % 4) * Shape::kFloatLd + pair_column(e / 4, e % 4)];
    }
    store_eight(DeltaSnapshots::tile(state, key_columns(), value_tile, key_step), turned, 8, true);
    warp_sync();
  }
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
template <bool kPredicts>
__device__ __forceinline__ StateProducts DeltaSweep<T, kKey, kDecay, kReversed>::read_state(
    const T* key, const T* key_low, const T* other) const {
  constexpr bool kSplit = kPredicts && !std::is_same_v<T, float>;
  StateProducts products;
  // The small terms on their own make two short chains of one long one, where registers allow.
  AccumulatorPair own_low;
  AccumulatorPair& low = kKey <= 128 ? own_low : products.predicted;
  const BinaryScale scale = operand_scale<T>(state_);
#pragma unroll
  for (int key_step = 0; key_step < kKeySteps; ++key_step) {
    const SplitA<T> state = split_a<T>(state_[2 * key_step], state_[2 * key_step + 1], scale.down);
    if constexpr (kPredicts) {
      const FragmentBPair<T> keys = load_b_pair(key + 16 * key_step, Shape::kKeyLd);
      mma_pair(products.predicted, state.high, keys);
      if constexpr (kSplit) mma_pair(low, state.low, keys);
    }
    if constexpr (kSplit && kChannel) {
      mma_pair(low, state.high, load_b_pair(key_low + 16 * key_step, Shape::kKeyLd));
    }
    if (other != nullptr) {
      mma_pair(products.read, state.high, load_b_pair(other + 16 * key_step, Shape::kKeyLd));
    }
  }
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      products.predicted[side].x[e] =
          (products.predicted[side].x[e] + own_low[side].x[e]) * scale.up;
      products.read[side].x[e] *= scale.up;
    }
  }
  return products;
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
template <int kTerms>
__device__ __forceinline__ void DeltaSweep<T, kKey, kDecay, kReversed>::update_state(
    const RoundedTile<T> (&terms)[kTerms], const T* const (&tiles)[kTerms], bool exact,
    const T* tile_low, float decay, const float* channel_decay) {
#pragma unroll
  for (int key_step = 0; key_step < kKeySteps; ++key_step) {
    const auto add_to_state = [&](const AccumulatorPair& sum, float up, bool decays) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& element = state_[2 * key_step + side].x[e];
          const float factor = !decays    ? 1.0f
                               : kChannel ? channel_decay[16 * key_step + pair_column(side, e)]
                                          : decay;
          element = fmaf(factor, element, up * sum[side].x[e]);
        }
      }
    };
    if constexpr (kHalf && kTerms > 1) {
      // Each term has a scale of its own. Summed up first, the terms spill beside channel decays of
      // 256 columns on sm_80; added to the state one by one, beside scalar decays on sm_90.
      AccumulatorPair total;
#pragma unroll
      for (int term = 0; term < kTerms; ++term) {
        AccumulatorPair sum;
        add_term(sum, terms[term], tiles[term] + 16 * key_step, false);
        if constexpr (kChannel) {
          add_to_state(sum, terms[term].up, term == 0);
        } else {
#pragma unroll
          for (int side = 0; side < 2; ++side) {
#pragma unroll
            for (int e = 0; e < 4; ++e) total[side].x[e] += terms[term].up * sum[side].x[e];
          }
        }
      }
      if constexpr (!kChannel) add_to_state(total, 1.0f, true);
    } else {
      AccumulatorPair sum;
#pragma unroll
      for (int term = 0; term < kTerms; ++term) {
        add_term(sum, terms[term], tiles[term] + 16 * key_step, exact);
      }
      if (kChannel && exact) {
        mma_pair(sum, terms[0].values.high,
                 load_b_trans_pair(tile_low + 16 * key_step, Shape::kKeyLd));
      }
      add_to_state(sum, kTerms > 1 ? 1.0f : terms[0].up, true);
    }
  }
}

}  // namespace rankone::cuda
