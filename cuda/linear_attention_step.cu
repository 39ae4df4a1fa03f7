// One token of linear attention per sequence: S' = d S + k v^T, o = scale q S'.
//
// The work is to read and write the state once. A block owns kStepColumns value columns of one
// (sequence, kv head): a thread keeps its rows' elements of the new state in registers, so that all
// query heads of the group read them there, and the sum over key channels goes through shuffles and
// shared memory in a fixed order. Columns are split over blocks so that one sequence fills the
// device. Called once a token in decoding, from linear_attention_step.
#include "linear_attention_tensors.cuh"
#include "primitives/convert.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/linear_attention.h"

namespace rankone::cuda {
namespace {

constexpr int kStepThreads = 256;
constexpr int kStepWarps = kStepThreads / kWarpSize;
/// Columns of a block: rows of 128 bytes, whole memory transactions.
constexpr int kStepColumns = 32;

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
  float partial[2][kStepWarps][kStepColumns];
};

/// kVector columns a thread, 4 where the state's rows are float4 and 1 elsewhere.
template <typename T, int kVector>
__global__ void __launch_bounds__(kStepThreads)
    step_kernel(__grid_constant__ const StepArguments arguments) {
  constexpr int kLanesPerRow = kStepColumns / kVector;
  constexpr int kRowsAtOnce = kStepThreads / kLanesPerRow;
  constexpr int kRows = static_cast<int>(kMaxHeadDim) / kRowsAtOnce;  // of a thread, at most
  StepShared& shared = shared_memory<StepShared>();
  const int key_dim = arguments.key.columns;
  const int columns = arguments.value.total_columns();
  const int column_blocks = (columns + kStepColumns - 1) / kStepColumns;
  std::int64_t index = blockIdx.x;
  const int first_column = static_cast<int>(index % column_blocks) * kStepColumns;
  index /= column_blocks;
  const std::int64_t head = index % arguments.kv_heads;
  const std::int64_t batch = index / arguments.kv_heads;
  const int row = threadIdx.x / kLanesPerRow;
  const int column = first_column + threadIdx.x % kLanesPerRow * kVector;
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
  const float* log_decay = form == DecayForm::kNone ? nullptr
                           : form == DecayForm::kPerHead
                               ? arguments.decay.data + head
                               : arguments.decay.at(batch, 0, head);

  float state[kRows][kVector];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int channel = row + r * kRowsAtOnce;
    const bool inside = channel < key_dim && column < columns;
#pragma unroll
    for (int i = 0; i < kVector; ++i) state[r][i] = 0.0f;
    if (inside && arguments.state_in != nullptr) {
      const float* source = arguments.state_in + base + static_cast<std::int64_t>(channel) * columns;
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
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int channel = row + r * kRowsAtOnce;
    if (channel >= key_dim || column >= columns) continue;
    const float decay =
        form == DecayForm::kNone ? 1.0f
                                 : expf(log_decay[form == DecayForm::kPerChannel ? channel : 0]);
    const float own_key = to_float(key[channel]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) state[r][i] = fmaf(decay, state[r][i], own_key * value[i]);
    float* destination = arguments.state_out + base + static_cast<std::int64_t>(channel) * columns;
    if constexpr (kVector == 4) {
      *reinterpret_cast<float4*>(destination) =
          make_float4(state[r][0], state[r][1], state[r][2], state[r][3]);
    } else {
      *destination = state[r][0];
    }
  }

  for (int member = 0; member < arguments.group; ++member) {
    const std::int64_t query_head = head * arguments.group + member;
    const T* query = static_cast<const T*>(arguments.query.data) +
                     arguments.query.offset(batch, 0, query_head);
    float sums[kVector] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int channel = row + r * kRowsAtOnce;
      const float own_query = channel < key_dim ? to_float(query[channel]) : 0.0f;
#pragma unroll
      for (int i = 0; i < kVector; ++i) sums[i] = fmaf(own_query, state[r][i], sums[i]);
    }
    // Lanes kLanesPerRow apart have the same columns; then the warps in their order.
    auto& partial = shared.partial[member % 2];
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
#pragma unroll
      for (int distance = kWarpSize / 2; distance >= kLanesPerRow; distance /= 2) {
        sums[i] += shuffle_xor(sums[i], distance);
      }
      if (lane_id() < kLanesPerRow) partial[warp_id()][lane_id() * kVector + i] = sums[i];
    }
    block_sync();  // the other half of `partial` is read until the next one
    const int c = first_column + static_cast<int>(threadIdx.x);
    if (threadIdx.x < kStepColumns && c < columns) {
      float sum = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kStepWarps; ++warp) sum += partial[warp][threadIdx.x];
      const std::int64_t place =
          (batch * arguments.kv_heads * arguments.group + query_head) * columns + c;
      if (arguments.output_is_float) {
        static_cast<float*>(arguments.output)[place] = arguments.scale * sum;
      } else {
        static_cast<T*>(arguments.output)[place] = from_float<T>(arguments.scale * sum);
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
  const auto states_aligned = [columns](const void* data) {
    return rows_are_aligned(data, columns, 0, 0, 0, sizeof(float));
  };
  const std::int64_t blocks =
      shape.batch * shape.kv_heads * ((columns + kStepColumns - 1) / kStepColumns);
  const LaunchConfig config{grid_of(blocks), dim3(kStepThreads), sizeof(StepShared), stream,
                            "linear_attention_step"};
  if (states_aligned(arguments.state_in) && states_aligned(arguments.state_out)) {
    launch(step_kernel<T, 4>, config, arguments);
  } else {
    launch(step_kernel<T, 1>, config, arguments);
  }
}

}  // namespace

void linear_attention_step(const LinearAttentionStep& problem, void* stream) {
  const LinearAttentionShape& shape = problem.inputs.shape;
  if (shape.batch == 0 || shape.kv_heads == 0) return;
  with_element_type(problem.inputs.dtype, [&]<typename T>() {
    step<T>(problem, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace rankone::cuda
