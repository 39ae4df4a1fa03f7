// The kernel of the sweep described in linear_attention_sweep.cuh, its shared memory, and its
// launch. Included by one source file per element type, which instantiates it.
#pragma once

#include <algorithm>

#include "linear_attention_sweep.cuh"
#include "linear_attention_sweep_block.cuh"
#include "linear_attention_sweep_channel.cuh"
#include "linear_attention_sweep_output.cuh"
#include "linear_attention_sweep_scalar.cuh"
#include "linear_attention_sweep_state.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"

namespace rankone::cuda {

/// Warps of a block. Two on each of a multiprocessor's four schedulers may have all 255 registers;
/// a third one would leave 168 for the state and spill it.
inline constexpr int kMaxSweepWarps = 8;

template <typename T, int kKey, SweepDecay kDecay>
SweepLayout make_layout(int warps, int stages) {
  using Shape = SweepShape<T, kKey, kDecay>;
  constexpr bool kKeyChannel = kDecay == SweepDecay::kKeyChannel;
  constexpr int kElement = sizeof(T);
  constexpr int kFloat = sizeof(float);
  constexpr int kKeyTile = Shape::kStage * Shape::kKeyLd * kElement;
  SweepLayout layout{};
  layout.value_ld = warps * kChannelsPerWarp + 8;
  layout.decay_ld = Shape::kScalar ? 0 : kKeyChannel ? kKey + 4 : warps * kChannelsPerWarp;
  const auto take = [&layout](int size) {
    const int start = layout.bytes;
    layout.bytes += (size + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
    return start;
  };
  take(sizeof(SweepShared));
  layout.query = take(stages * kKeyTile);
  layout.key = take(stages * kKeyTile);
  layout.value = take(stages * Shape::kStage * layout.value_ld * kElement);
  layout.decay = take(stages * Shape::kStage * layout.decay_ld * kFloat);
  layout.pairs = take(Shape::kScalar ? Shape::kStage * Shape::kPairLd * kElement
                                     : Shape::kStage * Shape::kFloatLd * kFloat);
  layout.pair_scale = take(Shape::kBlocks * Shape::kBlocks * kFloat);
  layout.table = take(Shape::kScalar ? 2 * static_cast<int>(sizeof(typename Shape::Table)) : 0);
  layout.decayed_query = take(kKeyChannel ? kKeyTile : 0);
  layout.decayed_key = take(kKeyChannel ? kKeyTile : 0);
  layout.key_decay = take(kKeyChannel ? Shape::kMaxSteps * kKey * kFloat : 0);
  layout.segment_decay = take((Shape::kScalar ? 1
                               : kKeyChannel  ? kKey
                                              : warps * kChannelsPerWarp) *
                              kFloat);
  layout.tail =
      take(Shape::kTail > 0 ? 2 * warps * kWarpSize * static_cast<int>(sizeof(Accumulator)) : 0);
  layout.output = take(warps * 16 * Shape::kFloatLd * kFloat);
  layout.value_rest = take(kDecay == SweepDecay::kValueChannel && sizeof(T) == 2
                               ? warps * 16 * Shape::kRestLd * kElement
                               : 0);
  layout.row_sums = take(warps * Shape::kStage * kFloat);
  return layout;
}

template <typename T, int kKey, SweepDecay kDecay>
__global__ void __launch_bounds__(kMaxSweepWarps* kWarpSize, 1)
    sweep_kernel(__grid_constant__ const SweepArguments arguments) {
  SweepShared& shared = shared_memory<SweepShared>();
  if (threadIdx.x == 0) {
    shared.place = find_place(arguments, blockIdx.x);
  }
  block_sync();
  Sweep<T, kKey, kDecay>(arguments, arguments.roles[shared.place.role], shared.place,
                         reinterpret_cast<unsigned char*>(&shared))
      .run();
}

template <typename T, int kKey, SweepDecay kDecay>
bool fits(int warps, int stages, const DeviceLimits& limits) {
  return make_layout<T, kKey, kDecay>(warps, stages).bytes <= limits.shared_bytes_per_block;
}

/// As many warps a block as v' has use for, evenly over the blocks; two stages where shared memory
/// has room for them. Fewer warps only where not even one stage fits.
template <typename T, int kKey, SweepDecay kDecay>
SweepPlan plan_blocks(int value_columns) {
  const DeviceLimits limits = device_limits();
  const int tiles = (value_columns + kChannelsPerWarp - 1) / kChannelsPerWarp;
  int blocks = (tiles + kMaxSweepWarps - 1) / kMaxSweepWarps;
  int warps = (tiles + blocks - 1) / blocks;
  while (warps > 1 && !fits<T, kKey, kDecay>(warps, 1, limits)) {
    ++blocks;
    warps = (tiles + blocks - 1) / blocks;
  }
  return {kKey, warps, fits<T, kKey, kDecay>(warps, 2, limits) ? 2 : 1};
}

/// Calls `call.template operator()<kKey, kDecay>()` for the kernel that takes these key' columns.
template <SweepDecay kDecay, typename Call>
auto with_key_columns(int key_columns, Call call) {
  if (key_columns <= 64 + sweep_tail_columns(kDecay)) return call.template operator()<64, kDecay>();
  if (key_columns <= 128 + sweep_tail_columns(kDecay)) {
    return call.template operator()<128, kDecay>();
  }
  return call.template operator()<256, kDecay>();
}

template <typename Call>
auto with_kernel(SweepDecay decay, int key_columns, Call call) {
  switch (decay) {
    case SweepDecay::kKeyChannel:
      return with_key_columns<SweepDecay::kKeyChannel>(key_columns, call);
    case SweepDecay::kValueChannel:
      return with_key_columns<SweepDecay::kValueChannel>(key_columns, call);
    default:
      return with_key_columns<SweepDecay::kScalar>(key_columns, call);
  }
}

template <typename T>
SweepPlan plan_sweep(SweepDecay decay, int key_columns, int value_columns) {
  return with_kernel(decay, key_columns, [&]<int kKey, SweepDecay kDecay>() {
    return plan_blocks<T, kKey, kDecay>(value_columns);
  });
}

template <typename T>
void launch_sweep(SweepDecay decay, SweepArguments arguments, cudaStream_t stream) {
  int key_columns = 0, value_columns = 0;
  for (int i = 0; i < arguments.role_count; ++i) {
    key_columns = std::max(key_columns, arguments.roles[i].key.total_columns());
    value_columns = std::max(value_columns, arguments.roles[i].value.total_columns());
  }
  with_kernel(decay, key_columns, [&]<int kKey, SweepDecay kDecay>() {
    using Shape = SweepShape<T, kKey, kDecay>;
    const SweepPlan plan = plan_blocks<T, kKey, kDecay>(value_columns);
    for (int i = 0; i < kMaxRoles; ++i) {
      SweepRole& role = arguments.roles[i];
      role.value_blocks =
          i < arguments.role_count ? value_blocks(plan, role.value.total_columns()) : 0;
      role.query.unit_shift = unit_shift<T>(role.query, role.query.columns);
      role.key.unit_shift = unit_shift<T>(role.key, role.key.columns);
      role.value.unit_shift =
          unit_shift<T>(role.value, std::min(role.value.columns, plan.warps * kChannelsPerWarp));
    }
    arguments.layout = make_layout<T, kKey, kDecay>(plan.warps, plan.stages);
    arguments.stages = plan.stages;
    // With several heads on one state, a stage is one step: the steps of a chunk depend on each
    // other through the state, to which all heads add first.
    arguments.steps = arguments.group == 1 ? Shape::kMaxSteps : 1;
    arguments.chunk_tokens = arguments.steps * Shape::kStep;
    const std::int64_t blocks = std::int64_t{1} * arguments.sequences * arguments.kv_heads *
                                arguments.segments *
                                (arguments.roles[0].value_blocks + arguments.roles[1].value_blocks);
    launch(sweep_kernel<T, kKey, kDecay>,
           {grid_of(blocks), dim3(plan.warps * kWarpSize),
            static_cast<std::size_t>(arguments.layout.bytes), stream, "linear_attention_sweep"},
           arguments);
  });
}

}  // namespace rankone::cuda
