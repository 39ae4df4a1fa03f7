// What leaves the sweep token by token: outputs, rounded once, and the energies that the gradient
// of the decay is summed from.
#pragma once

#include "linear_attention_sweep_block.cuh"

namespace rankone::cuda {

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::emit(int chunk, int member, int row) {
  const int local = row + lane_id() / 2;
  const int channel = first_channel() + warp_id() * kChannelsPerWarp + 8 * (lane_id() % 2);
  const bool inside = local < valid_tokens(chunk);
  const int at_token = token(first_of(chunk) + local);
  float values[8];
  read_eight(values, output_tile() + lane_id() / 2 * Shape::kFloatLd + 8 * (lane_id() % 2));
  const int output_head =
      role_.query.per_query_head ? place_.head * arguments_.group + member : place_.head;
  if (inside && channel < value_columns()) {
    const TokenOutput& output = role_.output;
    store_eight<T>(output,
                   batch() * output.batch_stride + at_token * output.time_stride +
                       output_head * output.head_stride + channel,
                   values, value_columns() - channel);
  }
  if (role_.energy.data != nullptr) {
    emit_energy(values, local, at_token, channel, inside, member);
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::emit_energy(const float (&values)[8],
                                                                    int local, int at_token,
                                                                    int channel, bool inside,
                                                                    int member) const {
  const SweepEnergy& energy = role_.energy;
  float products[8] = {};
  const int columns = inside ? value_columns() - channel : 0;
  if (columns > 0) {
    const std::int64_t offset =
        energy.factor.offset(batch(), at_token, head_of(energy.factor, member)) + channel;
    if (energy.factor.aligned && columns >= 8) {
      float factor[8];
      read_eight(factor, static_cast<const T*>(energy.factor.data) + offset);
#pragma unroll
      for (int i = 0; i < 8; ++i) products[i] = factor[i] * values[i];
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (i < columns) {
          products[i] =
              load_element<T>(energy.factor.data, offset + i, energy.factor.is_float) * values[i];
        }
      }
    }
  }
  if constexpr (kDecay == SweepDecay::kScalar) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += products[i];
    sum += shuffle_xor(sum, 1);
    if (lane_id() % 2 == 0) {
      at<float>(arguments_.layout.row_sums)[warp_id() * Shape::kStage + local] = sum;
    }
  } else if (columns > 0) {
    float* destination = energy.data + energy_index(at_token) * value_columns() + channel;
    if (energy.aligned && columns >= 8) {
      auto* vectors = reinterpret_cast<float4*>(destination);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (adds_energy(member)) four = vectors[half];
        four.x += energy.sign * products[4 * half];
        four.y += energy.sign * products[4 * half + 1];
        four.z += energy.sign * products[4 * half + 2];
        four.w += energy.sign * products[4 * half + 3];
        vectors[half] = four;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (i < columns) add_energy(destination[i], products[i], member);
      }
    }
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ std::int64_t Sweep<T, kKey, kDecay>::energy_index(int at_token) const {
  return (static_cast<std::int64_t>(batch()) * arguments_.time + at_token) * arguments_.kv_heads +
         place_.head;
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ bool Sweep<T, kKey, kDecay>::adds_energy(int member) const {
  return role_.energy.adds || (role_.query.per_query_head && member > 0);
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::add_energy(float& destination,
                                                                   float product,
                                                                   int member) const {
  const float energy = role_.energy.sign * product;
  destination = adds_energy(member) ? destination + energy : energy;
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::flush_energy(Item item) {
  const auto [chunk, member] = item;
  if (role_.energy.data == nullptr || chunk < 0 || !closes_output(member)) return;
  const int valid = valid_tokens(chunk);
  for (int local = threadIdx.x; local < valid; local += blockDim.x) {
    float sum = 0.0f;
    for (int warp = 0; warp < warps(); ++warp) {
      sum += at<float>(arguments_.layout.row_sums)[warp * Shape::kStage + local];
    }
    add_energy(role_.energy.data[place_.value_block * role_.energy.block_stride +
                                 energy_index(token(first_of(chunk) + local))],
               sum, member);
  }
}

}  // namespace rankone::cuda
