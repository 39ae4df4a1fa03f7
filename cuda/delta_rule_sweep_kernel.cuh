// The kernel of the sweeps described in delta_rule_sweep.cuh, its shared memory, and its launch.
// Included by one source file per element type, which instantiates it.
#pragma once

#include <algorithm>
#include <string>

#include "delta_rule_sweep.cuh"
#include "delta_rule_sweep_block.cuh"
#include "delta_rule_sweep_state.cuh"
#include "delta_rule_sweep_tables.cuh"
#include "delta_rule_sweep_work.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"

namespace rankone::cuda {

inline constexpr int kMaxDeltaSteps = 2;

template <typename T, int kKey, DeltaDecay kDecay>
DeltaSweepLayout make_delta_layout(int warps, int steps, bool pipelined, bool states_alone) {
  using Shape = DeltaSweepShape<T, kKey>;
  constexpr bool kChannel = kDecay == DeltaDecay::kChannel;
  constexpr int kElement = sizeof(T);
  constexpr int kFloat = sizeof(float);
  const int rows = steps * kDeltaChunk;
  const int key_tile = rows * Shape::kKeyLd * kElement;
  DeltaSweepLayout layout{};
  layout.value_ld = warps * kDeltaChannelsPerWarp + 8;
  // Pipelined, three stages are alive at a time: one worked on, one being prepared, one on its way.
  // With channel decays q and k are done with when they are prepared.
  layout.value_slots = pipelined ? 3 : 1;
  layout.slots = pipelined ? (kChannel ? 2 : 3) : 1;
  const int prepared = pipelined ? 2 : 1;
  const auto take = [&layout](int size) {
    const int start = layout.bytes;
    layout.bytes += (size + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
    return start;
  };
  take(sizeof(DeltaSweepShared));
  layout.query = take(layout.slots * key_tile);
  layout.key = take(layout.slots * key_tile);
  layout.value = take(layout.value_slots * rows * layout.value_ld * kElement);
  layout.decay = take(kChannel ? layout.slots * rows * Shape::kDecayLd * kFloat : 0);
  // In place where nothing else needs q.
  layout.decayed_query = kChannel && pipelined ? take(prepared * key_tile) : layout.query;
  layout.decayed_key = take(kChannel ? prepared * key_tile : 0);
  layout.decayed_key_low = take(kChannel && kElement == 2 ? prepared * key_tile : 0);
  layout.written_key = take(kChannel ? prepared * key_tile : 0);
  layout.written_key_low =
      take(kChannel && kElement == 2 && states_alone ? prepared * key_tile : 0);
  layout.key_decay = take(kChannel ? prepared * steps * kKey * kFloat : 0);
  layout.tables = take(prepared * steps * static_cast<int>(sizeof(DeltaChunkTable)));
  layout.output = take(warps * 16 * Shape::kFloatLd * kFloat);
  layout.row_sums = take(prepared * warps * rows * kFloat);
  return layout;
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__global__ void __launch_bounds__(kMaxDeltaWarps* kWarpSize, 1)
    delta_sweep_kernel(__grid_constant__ const DeltaSweepArguments arguments) {
  DeltaSweepShared& shared = shared_memory<DeltaSweepShared>();
  if (threadIdx.x == 0) shared.place = find_place(arguments, static_cast<int>(blockIdx.x));
  block_sync();
  DeltaSweep<T, kKey, kDecay, kReversed>(arguments, shared.place,
                                         reinterpret_cast<unsigned char*>(&shared))
      .run();
}

struct DeltaSweepPlan {
  int warps;
  int value_blocks;
  int steps;
  bool pipelined;
};

/// As many warps a block as fill the device: fewer warps share less of q, k and the tables, but
/// make more blocks. Then the longest pipelined stage that fits into shared memory.
template <typename T, int kKey, DeltaDecay kDecay>
DeltaSweepPlan plan_delta_sweep(std::int64_t heads, int value_dim, bool states_alone) {
  constexpr int kMinWarps = 2;
  const DeviceLimits limits = device_limits();
  const int tiles = (value_dim + kDeltaChannelsPerWarp - 1) / kDeltaChannelsPerWarp;
  int warps = kMaxDeltaWarps;
  const auto blocks = [&] { return (tiles + warps - 1) / warps; };
  while (warps > kMinWarps && heads * blocks() < limits.multiprocessors) warps /= 2;
  for (;; warps /= 2) {
    const int used = (tiles + blocks() - 1) / blocks();
    for (const bool pipelined : {true, false}) {
      for (int steps = kMaxDeltaSteps; steps > 0; steps /= 2) {
        const int bytes =
            make_delta_layout<T, kKey, kDecay>(used, steps, pipelined, states_alone).bytes;
        if (bytes <= limits.shared_bytes_per_block) return {used, blocks(), steps, pipelined};
      }
    }
    if (warps == 1) {
      throw ArgumentError("q", "key_dim " + std::to_string(kKey) +
                                   " with this dtype and decay needs more shared memory than the "
                                   "device's " +
                                   std::to_string(limits.shared_bytes_per_block) + " bytes");
    }
  }
}

/// Calls `call.template operator()<kKey, kDecay>()` for the kernel that takes these key columns.
template <typename Call>
auto with_delta_kernel(DeltaDecay decay, int key_dim, Call call) {
  const auto with_key = [&]<DeltaDecay kDecay>() {
    if (key_dim <= 64) return call.template operator()<64, kDecay>();
    if (key_dim <= 128) return call.template operator()<128, kDecay>();
    return call.template operator()<256, kDecay>();
  };
  return decay == DeltaDecay::kChannel ? with_key.template operator()<DeltaDecay::kChannel>()
                                       : with_key.template operator()<DeltaDecay::kScalar>();
}

template <typename T>
int delta_value_blocks(DeltaDecay decay, std::int64_t heads, int key_dim, int value_dim) {
  return with_delta_kernel(decay, key_dim, [&]<int kKey, DeltaDecay kDecay>() {
    return plan_delta_sweep<T, kKey, kDecay>(heads, value_dim, false).value_blocks;
  });
}

template <typename T>
void launch_delta_sweep(DeltaDecay decay, bool reversed, DeltaSweepArguments arguments,
                        cudaStream_t stream) {
  with_delta_kernel(decay, arguments.key.columns, [&]<int kKey, DeltaDecay kDecay>() {
    const std::int64_t heads =
        std::int64_t{1} * arguments.sequences * arguments.value_heads * arguments.segments;
    const bool states_alone =
        !reversed && arguments.query.data == nullptr && arguments.errors.data == nullptr;
    const int value_dim = arguments.value.columns;
    const int transition_dim = arguments.transitions == nullptr ? 0 : arguments.key.columns;
    const DeltaSweepPlan plan =
        plan_delta_sweep<T, kKey, kDecay>(heads, std::max(value_dim, transition_dim), states_alone);
    const int block_channels = plan.warps * kDeltaChannelsPerWarp;
    arguments.layout =
        make_delta_layout<T, kKey, kDecay>(plan.warps, plan.steps, plan.pipelined, states_alone);
    arguments.value_blocks = (value_dim + block_channels - 1) / block_channels;
    arguments.transition_blocks = (transition_dim + block_channels - 1) / block_channels;
    arguments.steps = plan.steps;
    arguments.pipelined = plan.pipelined;
    arguments.query.unit_shift = unit_shift<T>(arguments.query, arguments.query.columns);
    arguments.key.unit_shift = unit_shift<T>(arguments.key, arguments.key.columns);
    arguments.channel_decay.unit_shift =
        unit_shift<float>(arguments.channel_decay, arguments.key.columns);
    arguments.value.unit_shift =
        unit_shift<T>(arguments.value, std::min(value_dim, block_channels));
    const std::int64_t blocks = heads * (arguments.value_blocks + arguments.transition_blocks);
    const LaunchConfig config{grid_of(blocks), dim3(plan.warps * kWarpSize),
                              static_cast<std::size_t>(arguments.layout.bytes), stream,
                              "delta_rule_sweep"};
    if (reversed) {
      launch(delta_sweep_kernel<T, kKey, kDecay, true>, config, arguments);
    } else {
      launch(delta_sweep_kernel<T, kKey, kDecay, false>, config, arguments);
    }
  });
}

}  // namespace rankone::cuda
