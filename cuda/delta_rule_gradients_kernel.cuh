// The kernel described in delta_rule_gradients.cuh, its shared memory, and its launch. Included by
// one source file per element type, which instantiates it.
#pragma once

#include <algorithm>
#include <string>

#include "delta_rule_gradients.cuh"
#include "delta_rule_gradients_block.cuh"
#include "delta_rule_gradients_tables.cuh"
#include "delta_rule_gradients_work.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"

namespace rankone::cuda {

inline constexpr int kMaxGradientWarps = 8;
inline constexpr int kMaxGroupChunks = 4;

template <typename T, int kValue, DeltaDecay kDecay>
DeltaGradientLayout make_gradient_layout(int warps, int tokens, int value_parts) {
  constexpr bool kChannel = kDecay == DeltaDecay::kChannel;
  constexpr int kElement = sizeof(T);
  constexpr int kFloat = sizeof(float);
  DeltaGradientLayout layout{};
  layout.key_ld = warps * kDeltaChannelsPerWarp + 8;
  layout.value_ld = value_parts * kValue + 8;  // an odd multiple of 8
  layout.decay_ld = warps * kDeltaChannelsPerWarp;
  const auto take = [&layout](int size) {
    const int start = layout.bytes;
    layout.bytes += (size + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
    return start;
  };
  take(sizeof(DeltaGradientShared));
  layout.query = take(tokens * layout.key_ld * kElement);
  layout.key = take(tokens * layout.key_ld * kElement);
  layout.output_grad = take(tokens * layout.value_ld * kElement);
  layout.errors = take(tokens * layout.value_ld * kElement);
  layout.residual_grad = take(tokens * layout.value_ld * kElement);
  layout.decay = take(kChannel ? tokens * layout.decay_ld * kFloat : 0);
  layout.tables = take(tokens / kDeltaChunk * static_cast<int>(sizeof(DeltaGradientTable)));
  layout.tiles = take(2 * warps * 16 * kGradientTileLd * kFloat);
  layout.scratch = take(kChannel ? 2 * warps * 16 * kGradientScratchLd * kElement : 0);
  // By warp and token, one more row for their sums, and the pairings by warp.
  layout.row_sums = take(((warps + 1) * tokens + warps) * kFloat);
  return layout;
}

template <typename T, int kValue, DeltaDecay kDecay>
__global__ void __launch_bounds__(kMaxGradientWarps* kWarpSize, 1)
    delta_gradients_kernel(__grid_constant__ const DeltaGradientArguments arguments) {
  DeltaGradientShared& shared = shared_memory<DeltaGradientShared>();
  if (threadIdx.x == 0) shared.place = find_place(arguments, static_cast<int>(blockIdx.x));
  block_sync();
  DeltaGradients<T, kValue, kDecay>(arguments, shared.place,
                                    reinterpret_cast<unsigned char*>(&shared))
      .run();
}

template <typename Call>
auto with_gradient_kernel(DeltaDecay decay, int value_dim, Call call) {
  const auto with_value = [&]<DeltaDecay kDecay>() {
    if (value_dim <= 64) return call.template operator()<64, kDecay>();
    return call.template operator()<128, kDecay>();
  };
  return decay == DeltaDecay::kChannel ? with_value.template operator()<DeltaDecay::kChannel>()
                                       : with_value.template operator()<DeltaDecay::kScalar>();
}

/// The longest groups that fit into shared memory: states in memory are fewer and the sums over a
/// group still short.
template <typename T>
DeltaGradientPlan plan_delta_gradients(DeltaDecay decay, int key_dim, int value_dim) {
  return with_gradient_kernel(decay, value_dim, [&]<int kValue, DeltaDecay kDecay>() {
    const int limit = device_limits().shared_bytes_per_block;
    const int parts = (value_dim + kValue - 1) / kValue;
    const int tiles = (key_dim + kDeltaChannelsPerWarp - 1) / kDeltaChannelsPerWarp;
    for (int tokens = kMaxGroupChunks * kDeltaChunk;; tokens /= 2) {
      for (int warps = kMaxGradientWarps; warps > 0; warps /= 2) {
        const int blocks = (tiles + warps - 1) / warps;
        const int used = (tiles + blocks - 1) / blocks;
        if (make_gradient_layout<T, kValue, kDecay>(used, tokens, parts).bytes <= limit) {
          return DeltaGradientPlan{tokens, blocks, used, parts};
        }
        // Shorter groups cost less than blocks that repeat each other's work.
        if (warps <= kMaxGradientWarps / 2 && tokens > kDeltaChunk) break;
      }
      if (tokens == kDeltaChunk) {
        throw ArgumentError("v",
                            "value_dim " + std::to_string(value_dim) +
                                " with this dtype needs more shared memory than the device's " +
                                std::to_string(limit) + " bytes");
      }
    }
  });
}

template <typename T>
void launch_delta_gradients(DeltaDecay decay, DeltaGradientArguments arguments,
                            cudaStream_t stream) {
  const int value_dim = arguments.output_grad.columns;
  const int key_dim = arguments.key.columns;
  const DeltaGradientPlan plan = plan_delta_gradients<T>(decay, key_dim, value_dim);
  with_gradient_kernel(decay, value_dim, [&]<int kValue, DeltaDecay kDecay>() {
    arguments.layout =
        make_gradient_layout<T, kValue, kDecay>(plan.warps, plan.group_tokens, plan.value_parts);
    arguments.value_parts = plan.value_parts;
    arguments.key_blocks = plan.key_blocks;
    const int block_columns = std::min(key_dim, plan.warps * kDeltaChannelsPerWarp);
    for (TokenOperand* operand : {&arguments.query, &arguments.key}) {
      operand->unit_shift = unit_shift<T>(*operand, block_columns);
    }
    for (TokenOperand* operand :
         {&arguments.output_grad, &arguments.errors, &arguments.residual_grad}) {
      operand->unit_shift = unit_shift<T>(*operand, value_dim);
    }
    const std::int64_t blocks = std::int64_t{1} * arguments.sequences * arguments.value_heads *
                                arguments.groups * plan.key_blocks;
    launch(delta_gradients_kernel<T, kValue, kDecay>,
           {grid_of(blocks), dim3(plan.warps * kWarpSize),
            static_cast<std::size_t>(arguments.layout.bytes), stream, "delta_rule_gradients"},
           arguments);
  });
}

}  // namespace rankone::cuda
