// Joins the segments of the delta rule's time split, and decides how many there are.
//
// A block takes 16 value channels of one head through the segments: their slice of the state lies
// in shared memory, transposed, and each warp makes 16 or 32 of its key channels by products in
// fp32 accuracy (3xTF32), so a turn takes as long as a few chunks of the sweep.
#include "delta_rule_segments.cuh"
#include "delta_rule_sweep.cuh"
#include "primitives/fragments.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "state_tiles.cuh"
#include "time_split.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {
namespace {

constexpr int kJoinWarps = 8;
constexpr int kJoinTiles = static_cast<int>(kMaxHeadDim) / 16;
constexpr int kJoinTilesPerWarp = kJoinTiles / kJoinWarps;
constexpr int kJoinValues = kFragmentRows;

struct JoinShared {
  static constexpr int kLd = static_cast<int>(kMaxHeadDim) + 8;  // 8 mod 16
  float state[kJoinValues][kLd];
};

/// What a block works on, with bounds: elements outside count as zero and are not written.
struct JoinPlace {
  int key_dim;
  int value_dim;
  int first_value;

  /// Whether a state has element (key channel, value channel of the block).
  __device__ __forceinline__ bool has(int key, int value) const {
    return key < key_dim && first_value + value < value_dim;
  }
  __device__ __forceinline__ int offset(int key, int value) const {
    return key * value_dim + first_value + value;
  }
};

/// The operand B of S^T A^T, or against time of dS^T A, for 16 key channels `in` and 16 `out`.
template <bool kReversed>
__device__ __forceinline__ WideB<float> load_transition(const float* transition, int key_dim,
                                                        int in, int out) {
  return make_wide_b<float>([&](int k, int n) {
    const int row = kReversed ? in + k : out + n;
    const int column = kReversed ? out + n : in + k;
    return row < key_dim && column < key_dim ? transition[row * key_dim + column] : 0.0f;
  });
}

template <bool kReversed>
__global__ void __launch_bounds__(kJoinWarps* kWarpSize)
    join_segments_kernel(__grid_constant__ const DeltaJoinArguments arguments) {
  JoinShared& shared = shared_memory<JoinShared>();
  const int key_dim = arguments.key_dim;
  const int value_blocks = (arguments.value_dim + kJoinValues - 1) / kJoinValues;
  const JoinPlace place{key_dim, arguments.value_dim,
                        static_cast<int>(blockIdx.x) % value_blocks * kJoinValues};
  const std::int64_t head = blockIdx.x / value_blocks;
  const std::int64_t elements = std::int64_t{key_dim} * arguments.value_dim;
  const int key_tiles = (key_dim + 15) / 16;

  const float* initial =
      arguments.initial == nullptr ? nullptr : arguments.initial + head * elements;
  for (int i = threadIdx.x; i < 16 * key_tiles * kJoinValues; i += blockDim.x) {
    const int key = i / kJoinValues;
    const int value = i % kJoinValues;
    shared.state[value][key] =
        initial != nullptr && place.has(key, value) ? initial[place.offset(key, value)] : 0.0f;
  }
  block_sync();

  for (int turn = 0; turn < arguments.segments; ++turn) {
    const std::int64_t segment =
        head * arguments.segments + (kReversed ? arguments.segments - 1 - turn : turn);
    float* stored = arguments.states + segment * elements;
    const float* transition = arguments.transitions + segment * key_dim * key_dim;
    AccumulatorPair after[kJoinTilesPerWarp];
#pragma unroll
    for (int t = 0; t < kJoinTilesPerWarp; ++t) {
      const int tile = warp_id() + t * kJoinWarps;
      if (tile >= key_tiles) break;
      for (int step = 0; step < key_tiles; ++step) {
        const SplitA<float> state{load_a(&shared.state[0][16 * step], JoinShared::kLd), {}};
        mma_wide<float>(after[t], state,
                        load_transition<kReversed>(transition, key_dim, 16 * step, 16 * tile));
      }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = 16 * tile + pair_column(side, e);
          const int value = Accumulator::row(e);
          if (!place.has(key, value)) continue;
          float& element = stored[place.offset(key, value)];
          after[t][side].x[e] += element;
          element = shared.state[value][key];
        }
      }
    }
    block_sync();
#pragma unroll
    for (int t = 0; t < kJoinTilesPerWarp; ++t) {
      const int tile = warp_id() + t * kJoinWarps;
      if (tile >= key_tiles) break;
      store_accumulator_pair(&shared.state[0][16 * tile], JoinShared::kLd, after[t].left,
                             after[t].right);
    }
    block_sync();
  }
  if (arguments.final == nullptr) return;
  float* final = arguments.final + head * elements;
  for (int i = threadIdx.x; i < 16 * key_tiles * kJoinValues; i += blockDim.x) {
    const int key = i / kJoinValues;
    const int value = i % kJoinValues;
    if (place.has(key, value)) final[place.offset(key, value)] = shared.state[value][key];
  }
}

}  // namespace

DeltaSegments plan_delta_segments(Workspace& workspace, std::int64_t heads, std::int64_t tokens,
                                  std::int64_t key_dim, std::int64_t value_dim) {
  // By counting, not by measurement. The first pass makes a state of value_dim and a transition of
  // key_dim columns, with as many products a column as the main pass. A turn of the join takes as
  // long as about four chunks of 16 tokens, and so does filling a pipeline.
  const SplitCost cost{
      1.0 + static_cast<double>(value_dim + key_dim) / static_cast<double>(value_dim), 64.0, 128};
  DeltaSegments segments;
  segments.count = choose_segments(heads * delta_full_value_blocks(value_dim), tokens, cost);
  if (segments.count == 1) return segments;
  segments.states = workspace.floats(heads * segments.count * key_dim * value_dim);
  segments.transitions = workspace.floats(heads * segments.count * key_dim * key_dim);
  return segments;
}

void join_delta_segments(const DeltaJoinArguments& arguments, bool reversed, cudaStream_t stream) {
  const std::int64_t blocks =
      arguments.heads * ((arguments.value_dim + kJoinValues - 1) / kJoinValues);
  const LaunchConfig config{grid_of(blocks), dim3(kJoinWarps * kWarpSize), sizeof(JoinShared),
                            stream, "delta_rule_join_segments"};
  launch(reversed ? join_segments_kernel<true> : join_segments_kernel<false>, config, arguments);
}

}  // namespace rankone::cuda
