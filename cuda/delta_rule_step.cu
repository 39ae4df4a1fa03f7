// One token of the delta rule per sequence: S~ = d S, u = beta (v - S~^T k), S' = S~ + k u^T,
// o = scale S'^T q.
//
// The state stays in registers for both passes (step_tiles.cuh). Called once a token in decoding,
// from delta_rule_step.
#include "decay_products.cuh"
#include "delta_rule_chunk.cuh"
#include "primitives/convert.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/delta_rule.h"
#include "step_tiles.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {
namespace {

struct StepArguments {
  TokenOperand query;
  TokenOperand key;
  TokenOperand value;
  TokenScalars beta;
  DecaySource decay;
  const float* state_in;  // or null
  float* state_out;
  void* output;  // (batch, value_heads, value_dim) of T
  std::int64_t value_heads;
  int group;
  float scale;
  float l2norm_eps;
  bool l2norm;
};

struct StepShared {
  float query[kMaxHeadDim];  // normalised, as the key
  float key[kMaxHeadDim];
  float decay[kMaxHeadDim];
  StepPartials partials[2];
};

/// One warp copies a row to shared memory, divided by its norm where that is wanted.
template <typename T>
__device__ __forceinline__ void load_row(float* row, const T* source, int columns, bool l2norm,
                                         float eps) {
  float square = 0.0f;
  for (int column = lane_id(); column < columns; column += kWarpSize) {
    const float x = to_float(source[column]);
    row[column] = x;
    square = fmaf(x, x, square);
  }
  if (!l2norm) return;
  const float norm = 1.0f / sqrtf(warp_sum(square) + eps);
  for (int column = lane_id(); column < columns; column += kWarpSize) row[column] *= norm;
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kStepThreads)
    step_kernel(__grid_constant__ const StepArguments arguments) {
  using Tile = StepTile<kVector>;
  StepShared& shared = shared_memory<StepShared>();
  const int key_dim = arguments.key.columns;
  const int columns = arguments.value.columns;
  const Tile tile(blockIdx.x, arguments.value_heads, columns);
  const std::int64_t batch = tile.batch;
  const std::int64_t head = tile.head;
  const int column = tile.column;
  const std::int64_t key_head = head / arguments.group;
  const std::int64_t base = (batch * arguments.value_heads + head) * key_dim * columns + column;

  // The state is on its way while q and k are made ready.
  float state[Tile::kRows][kVector];
#pragma unroll
  for (int r = 0; r < Tile::kRows; ++r) {
    const int channel = tile.channel(r);
#pragma unroll
    for (int i = 0; i < kVector; ++i) state[r][i] = 0.0f;
    if (channel < key_dim && column < columns && arguments.state_in != nullptr) {
      Tile::load(state[r],
                 arguments.state_in + base + static_cast<std::int64_t>(channel) * columns);
    }
  }
  float target[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    target[i] =
        column + i < columns
            ? to_float(static_cast<const T*>(
                  arguments.value.data)[arguments.value.offset(batch, 0, head) + column + i])
            : 0.0f;
  }
  const float beta = arguments.beta.at(batch, 0, head);
  if (warp_id() < 2) {
    const TokenOperand& operand = warp_id() == 0 ? arguments.query : arguments.key;
    load_row(warp_id() == 0 ? shared.query : shared.key,
             static_cast<const T*>(operand.data) + operand.offset(batch, 0, key_head), key_dim,
             arguments.l2norm, arguments.l2norm_eps);
  } else if (warp_id() == 2) {
    const DecayForm form = arguments.decay.form;
    for (int channel = lane_id(); channel < key_dim; channel += kWarpSize) {
      shared.decay[channel] =
          form == DecayForm::kNone
              ? 1.0f
              : expf(arguments.decay.at(batch, 0,
                                        head)[form == DecayForm::kPerChannel ? channel : 0]);
    }
  }
  block_sync();

  float predicted[kVector] = {};
#pragma unroll
  for (int r = 0; r < Tile::kRows; ++r) {
    const int channel = tile.channel(r);
    if (channel >= key_dim) continue;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      state[r][i] *= shared.decay[channel];
      predicted[i] = fmaf(shared.key[channel], state[r][i], predicted[i]);
    }
  }
  Tile::sum_over_rows(predicted, shared.partials[0]);
  float update[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) update[i] = beta * (target[i] - predicted[i]);

  float output[kVector] = {};
#pragma unroll
  for (int r = 0; r < Tile::kRows; ++r) {
    const int channel = tile.channel(r);
    if (channel >= key_dim) continue;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      state[r][i] = fmaf(shared.key[channel], update[i], state[r][i]);
      output[i] = fmaf(shared.query[channel], state[r][i], output[i]);
    }
    if (column >= columns) continue;
    Tile::store(arguments.state_out + base + static_cast<std::int64_t>(channel) * columns,
                state[r]);
  }
  Tile::sum_over_rows(output, shared.partials[1]);
  if (threadIdx.x < Tile::kLanesPerRow) {
    T* destination =
        static_cast<T*>(arguments.output) + (batch * arguments.value_heads + head) * columns;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if (column + i < columns) {
        destination[column + i] = from_float<T>(arguments.scale * output[i]);
      }
    }
  }
}

template <typename T>
void step(const DeltaRuleStep& problem, cudaStream_t stream) {
  const DeltaRuleInputs& inputs = problem.inputs;
  const DeltaRuleShape& shape = inputs.shape;
  StepArguments arguments{};
  arguments.query = make_operand<T>(inputs.q, shape.key_dim, true);
  arguments.key = make_operand<T>(inputs.k, shape.key_dim, true);
  arguments.value = make_operand<T>(inputs.v, shape.value_dim, false);
  arguments.beta = token_scalars(inputs.beta);
  arguments.decay = decay_source(inputs.log_decay, inputs.decay_form);
  arguments.state_in = static_cast<const float*>(inputs.initial_state);
  arguments.state_out = static_cast<float*>(problem.state_out);
  arguments.output = problem.output;
  arguments.value_heads = shape.value_heads;
  arguments.group = static_cast<int>(shape.group_size());
  arguments.scale = static_cast<float>(inputs.scale);
  arguments.l2norm = inputs.use_qk_l2norm;
  arguments.l2norm_eps = static_cast<float>(inputs.l2norm_eps);
  const std::int64_t blocks = step_blocks(shape.batch, shape.value_heads, shape.value_dim);
  const LaunchConfig config{grid_of(blocks), dim3(kStepThreads), sizeof(StepShared), stream,
                            "delta_rule_step"};
  launch_step(step_kernel<T, 4>, step_kernel<T, 1>, shape.value_dim, config, arguments);
}

}  // namespace

void delta_rule_step(const DeltaRuleStep& problem, void* stream) {
  const DeltaRuleShape& shape = problem.inputs.shape;
  if (shape.batch == 0 || shape.value_heads == 0) return;
  with_element_type(problem.inputs.dtype,
                    [&]<typename T>() { step<T>(problem, static_cast<cudaStream_t>(stream)); });
}

}  // namespace rankone::cuda
