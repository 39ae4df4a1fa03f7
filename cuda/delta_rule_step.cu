// One token of the delta rule per sequence: S~ = d S, u = beta (v - S~^T k), S' = S~ + k u^T,
// o = scale S'^T q.
//
// The work is to read and write the state once. A block owns kStepColumns value columns of one
// (sequence, value head): a thread keeps its rows' elements of the state in registers for both
// passes, and the sums over key channels go through shuffles and shared memory in a fixed order.
// Columns are split over blocks so that one sequence fills the device. Called once a token in
// decoding, from delta_rule_step.
#include "decay_products.cuh"
#include "delta_rule_chunk.cuh"
#include "primitives/convert.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/delta_rule.h"
#include "token_tiles.cuh"

namespace rankone::cuda {
namespace {

constexpr int kStepThreads = 256;
constexpr int kStepWarps = kStepThreads / kWarpSize;
/// Columns of a block: rows of 128 bytes, whole memory transactions.
constexpr int kStepColumns = 32;

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
  float partial[2][kStepWarps][kStepColumns];
};

/// The sum of `values` over the rows of a block for each of its columns, in every thread.
template <int kVector>
__device__ __forceinline__ void sum_over_rows(float (&values)[kVector],
                                              float (&partial)[kStepWarps][kStepColumns]) {
  constexpr int kLanesPerRow = kStepColumns / kVector;
  const int column = threadIdx.x % kLanesPerRow * kVector;
  // Lanes kLanesPerRow apart have the same columns; then the warps in their order.
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
#pragma unroll
    for (int distance = kLanesPerRow; distance < kWarpSize; distance *= 2) {
      values[i] += shuffle_xor(values[i], distance);
    }
    if (lane_id() < kLanesPerRow) partial[warp_id()][column + i] = values[i];
  }
  block_sync();
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    values[i] = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kStepWarps; ++warp) values[i] += partial[warp][column + i];
  }
}

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

/// kVector columns a thread, 4 where the state's rows are float4 and 1 elsewhere.
template <typename T, int kVector>
__global__ void __launch_bounds__(kStepThreads)
    step_kernel(__grid_constant__ const StepArguments arguments) {
  constexpr int kLanesPerRow = kStepColumns / kVector;
  constexpr int kRowsAtOnce = kStepThreads / kLanesPerRow;
  constexpr int kRows = static_cast<int>(kMaxHeadDim) / kRowsAtOnce;  // of a thread, at most
  StepShared& shared = shared_memory<StepShared>();
  const int key_dim = arguments.key.columns;
  const int columns = arguments.value.columns;
  const int column_blocks = (columns + kStepColumns - 1) / kStepColumns;
  std::int64_t index = blockIdx.x;
  const int first_column = static_cast<int>(index % column_blocks) * kStepColumns;
  index /= column_blocks;
  const std::int64_t head = index % arguments.value_heads;
  const std::int64_t batch = index / arguments.value_heads;
  const std::int64_t key_head = head / arguments.group;
  const int row = threadIdx.x / kLanesPerRow;
  const int column = first_column + threadIdx.x % kLanesPerRow * kVector;
  const std::int64_t base = (batch * arguments.value_heads + head) * key_dim * columns + column;

  // The state is on its way while q and k are made ready.
  float state[kRows][kVector];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int channel = row + r * kRowsAtOnce;
#pragma unroll
    for (int i = 0; i < kVector; ++i) state[r][i] = 0.0f;
    if (channel < key_dim && column < columns && arguments.state_in != nullptr) {
      const float* source =
          arguments.state_in + base + static_cast<std::int64_t>(channel) * columns;
      if constexpr (kVector == 4) {
        const float4 four = *reinterpret_cast<const float4*>(source);
        state[r][0] = four.x;
        state[r][1] = four.y;
        state[r][2] = four.z;
        state[r][3] = four.w;
      } else {
        state[r][0] = *source;
      }
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
  for (int r = 0; r < kRows; ++r) {
    const int channel = row + r * kRowsAtOnce;
    if (channel >= key_dim) continue;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      state[r][i] *= shared.decay[channel];
      predicted[i] = fmaf(shared.key[channel], state[r][i], predicted[i]);
    }
  }
  sum_over_rows(predicted, shared.partial[0]);
  float update[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) update[i] = beta * (target[i] - predicted[i]);

  float output[kVector] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int channel = row + r * kRowsAtOnce;
    if (channel >= key_dim) continue;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      state[r][i] = fmaf(shared.key[channel], update[i], state[r][i]);
      output[i] = fmaf(shared.query[channel], state[r][i], output[i]);
    }
    if (column >= columns) continue;
    float* destination = arguments.state_out + base + static_cast<std::int64_t>(channel) * columns;
    if constexpr (kVector == 4) {
      *reinterpret_cast<float4*>(destination) =
          make_float4(state[r][0], state[r][1], state[r][2], state[r][3]);
    } else {
      *destination = state[r][0];
    }
  }
  sum_over_rows(output, shared.partial[1]);
  if (threadIdx.x < kLanesPerRow) {
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
  const auto states_aligned = [&shape](const void* data) {
    return rows_are_aligned(data, shape.value_dim, 0, 0, 0, sizeof(float));
  };
  const std::int64_t blocks =
      shape.batch * shape.value_heads * ((shape.value_dim + kStepColumns - 1) / kStepColumns);
  const LaunchConfig config{grid_of(blocks), dim3(kStepThreads), sizeof(StepShared), stream,
                            "delta_rule_step"};
  if (states_aligned(arguments.state_in) && states_aligned(arguments.state_out)) {
    launch(step_kernel<T, 4>, config, arguments);
  } else {
    launch(step_kernel<T, 1>, config, arguments);
  }
}

}  // namespace

void delta_rule_step(const DeltaRuleStep& problem, void* stream) {
  const DeltaRuleShape& shape = problem.inputs.shape;
  if (shape.batch == 0 || shape.value_heads == 0) return;
  with_element_type(problem.inputs.dtype,
                    [&]<typename T>() { step<T>(problem, static_cast<cudaStream_t>(stream)); });
}

}  // namespace rankone::cuda
