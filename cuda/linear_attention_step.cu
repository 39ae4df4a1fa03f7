// One token of linear attention per sequence: S' = d S + k v^T, o = scale q S'.
//
// The new state stays in registers (step_tiles.cuh), so that all query heads of the group read it
// there. Called once a token in decoding, from linear_attention_step.
#include "linear_attention_tensors.cuh"
#include "primitives/convert.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/linear_attention.h"
#include "step_tiles.cuh"

namespace rankone::cuda {
namespace {

struct StepArguments {
  TokenOperand query;
  TokenOperand key;
  TokenOperand value;  // with its ones column
  DecaySource decay;
  const float* state_in;  // or null
  float* state_out;
  void* output;  // (batch, heads, value_columns)
  std::int64_t kv_heads;
  int group;
  bool output_is_float;
  float scale;
};

struct StepShared {
  StepPartials partials[2];
};

template <typename T, int kVector>
__global__ void __launch_bounds__(kStepThreads)
    step_kernel(__grid_constant__ const StepArguments arguments) {
  using Tile = StepTile<kVector>;
  StepShared& shared = shared_memory<StepShared>();
  const int key_dim = arguments.key.columns;
  const int columns = arguments.value.total_columns();
  const Tile tile(blockIdx.x, arguments.kv_heads, columns);
  const std::int64_t batch = tile.batch;
  const std::int64_t head = tile.head;
  const int column = tile.column;
  const std::int64_t base = (batch * arguments.kv_heads + head) * key_dim * columns + column;

  float value[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const int c = column + i;
    value[i] = c < arguments.value.columns
                   ? to_float(static_cast<const T*>(
                         arguments.value.data)[arguments.value.offset(batch, 0, head) + c])
                   : 1.0f;
  }
  const T* key = static_cast<const T*>(arguments.key.data) + arguments.key.offset(batch, 0, head);
  const DecayForm form = arguments.decay.form;
  const float* log_decay = form == DecayForm::kNone      ? nullptr
                           : form == DecayForm::kPerHead ? arguments.decay.data + head
                                                         : arguments.decay.at(batch, 0, head);

  float state[Tile::kRows][kVector];
#pragma unroll
  for (int r = 0; r < Tile::kRows; ++r) {
    const int channel = tile.channel(r);
    const bool inside = channel < key_dim && column < columns;
#pragma unroll
    for (int i = 0; i < kVector; ++i) state[r][i] = 0.0f;
    if (inside && arguments.state_in != nullptr) {
      Tile::load(state[r],
                 arguments.state_in + base + static_cast<std::int64_t>(channel) * columns);
    }
  }
#pragma unroll
  for (int r = 0; r < Tile::kRows; ++r) {
    const int channel = tile.channel(r);
    if (channel >= key_dim || column >= columns) continue;
    const float decay = form == DecayForm::kNone
                            ? 1.0f
                            : expf(log_decay[form == DecayForm::kPerChannel ? channel : 0]);
    const float own_key = to_float(key[channel]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) state[r][i] = fmaf(decay, state[r][i], own_key * value[i]);
    Tile::store(arguments.state_out + base + static_cast<std::int64_t>(channel) * columns,
                state[r]);
  }

  for (int member = 0; member < arguments.group; ++member) {
    const std::int64_t query_head = head * arguments.group + member;
    const T* query =
        static_cast<const T*>(arguments.query.data) + arguments.query.offset(batch, 0, query_head);
    float sums[kVector] = {};
#pragma unroll
    for (int r = 0; r < Tile::kRows; ++r) {
      const int channel = tile.channel(r);
      const float own_query = channel < key_dim ? to_float(query[channel]) : 0.0f;
#pragma unroll
      for (int i = 0; i < kVector; ++i) sums[i] = fmaf(own_query, state[r][i], sums[i]);
    }
    // The other half of `partials` is read until the next barrier.
    Tile::sum_over_rows(sums, shared.partials[member % 2]);
    if (threadIdx.x >= Tile::kLanesPerRow) continue;
    const std::int64_t place =
        (batch * arguments.kv_heads * arguments.group + query_head) * columns + column;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if (column + i >= columns) break;
      if (arguments.output_is_float) {
        static_cast<float*>(arguments.output)[place + i] = arguments.scale * sums[i];
      } else {
        static_cast<T*>(arguments.output)[place + i] = from_float<T>(arguments.scale * sums[i]);
      }
    }
  }
}

template <typename T>
void step(const LinearAttentionStep& problem, cudaStream_t stream) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  StepArguments arguments{};
  arguments.query = query_operand<T>(inputs);
  arguments.key = key_operand<T>(inputs);
  arguments.value = value_operand<T>(inputs);
  arguments.decay = decay_source(inputs);
  arguments.state_in = static_cast<const float*>(inputs.initial_state);
  arguments.state_out = static_cast<float*>(problem.state_out);
  arguments.output = problem.output;
  arguments.kv_heads = shape.kv_heads;
  arguments.group = static_cast<int>(shape.group_size());
  arguments.output_is_float = shape.ones_column || std::is_same_v<T, float>;
  arguments.scale = static_cast<float>(inputs.scale);
  const std::int64_t columns = shape.value_columns();
  const std::int64_t blocks = step_blocks(shape.batch, shape.kv_heads, columns);
  const LaunchConfig config{grid_of(blocks), dim3(kStepThreads), sizeof(StepShared), stream,
                            "linear_attention_step"};
  launch_step(step_kernel<T, 4>, step_kernel<T, 1>, columns, config, arguments);
}

}  // namespace

void linear_attention_step(const LinearAttentionStep& problem, void* stream) {
  const LinearAttentionShape& shape = problem.inputs.shape;
  if (shape.batch == 0 || shape.kv_heads == 0) return;
  with_element_type(problem.inputs.dtype,
                    [&]<typename T>() { step<T>(problem, static_cast<cudaStream_t>(stream)); });
}

}  // namespace rankone::cuda
