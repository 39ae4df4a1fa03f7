// Causal linear attention on CUDA: which sweeps make the forward and the backward pass, the split
// of time where heads are few, and the gradient of the decay.
//
// Forward is one sweep. Backward is three, none of which stores a state per token or chunk: dq
// along time, then dk and dv against it, in one launch where they share a kernel, so that they read
// q, k, v and dO from memory about once. The sweeps are in linear_attention_sweep.cuh.
//
// With too few (sequence, head, value block) to fill the device time is split (time_split.cuh).
//
// Decay gradient: dg_t = sum_{s>=t} (q_s . dq_s - k_s . dk_s) + <S_T, dS_T>, per channel, from the
// sweeps' fp32 values; `sum_decay_gradient` does the sum over s.
#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "linear_attention_sweep.cuh"
#include "linear_attention_tensors.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/linear_attention.h"
#include "time_split.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {
namespace {

// ---- joining the segments of a sequence ----

struct JoinArguments {
  float* states;         // (heads, segments, key_dim, columns): ends from zero in, starts out
  const float* initial;  // (heads, key_dim, columns) or null
  const float* decays;   // (heads, segments[, key_dim])
  std::int64_t heads;    // sequences * kv_heads
  std::int64_t key_dim;
  std::int64_t columns;
  int segments;
  bool per_channel;
};

constexpr int kJoinThreads = 256;

/// One thread an element of a head's state.
__global__ void __launch_bounds__(kJoinThreads)
    join_segments_kernel(__grid_constant__ const JoinArguments arguments) {
  const std::int64_t elements = arguments.key_dim * arguments.columns;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kJoinThreads + threadIdx.x;
  if (index >= arguments.heads * elements) return;
  const std::int64_t head = index / elements;
  const std::int64_t element = index % elements;
  const std::int64_t channels = arguments.per_channel ? arguments.key_dim : 1;
  const std::int64_t channel = arguments.per_channel ? element / arguments.columns : 0;
  float state = arguments.initial == nullptr ? 0.0f : arguments.initial[index];
  for (int segment = 0; segment < arguments.segments; ++segment) {
    const std::int64_t place = head * arguments.segments + segment;
    float& stored = arguments.states[place * elements + element];
    const float end = stored;
    stored = state;
    state = fmaf(arguments.decays[place * channels + channel], state, end);
  }
}

// ---- the gradient of the decay ----

struct DecayGradientArguments {
  float* gradient;       // (batch, time, kv_heads[, key_dim]); kPerHead (sequences, kv_heads)
  const float* energy;   // (parts, batch, time, kv_heads[, key_dim]); may be `gradient` itself
  const float* pairing;  // (sequences, kv_heads, key_dim): <S_T, dS_T> by channel, or null
  DecaySource decay;
  const std::int64_t* cu_seqlens;
  std::int64_t time;
  std::int64_t kv_heads;
  std::int64_t key_dim;
  std::int64_t part_stride;
  int parts;
};

constexpr int kGradientThreads = 512;
constexpr int kGradientTokens = 8;  // of one thread, so many loads under way at a time

/// Sum from the end of the sequence for kChannels channels of one head: one thread a channel and
/// kGradientTokens tokens, the threads' sums by a scan in shared memory, tile after tile. kChannels
/// is 1 for the scalar forms.
template <int kChannels>
struct DecayGradientShared {
  static constexpr int kRows = kGradientThreads / kChannels;
  float sums[2][kRows][kChannels];
};

template <int kChannels>
__global__ void __launch_bounds__(kGradientThreads, 1)
    decay_gradient_kernel(__grid_constant__ const DecayGradientArguments arguments) {
  using Shared = DecayGradientShared<kChannels>;
  constexpr int kRows = Shared::kRows;
  Shared& shared = shared_memory<Shared>();
  const bool per_channel = arguments.decay.form == DecayForm::kPerChannel;
  const bool per_head = arguments.decay.form == DecayForm::kPerHead;
  const std::int64_t channels = per_channel ? arguments.key_dim : 1;
  const std::int64_t channel_blocks = (channels + kChannels - 1) / kChannels;

  std::int64_t index = blockIdx.x;
  const int column = threadIdx.x % kChannels;
  const int row = threadIdx.x / kChannels;
  const std::int64_t channel = index % channel_blocks * kChannels + column;
  index /= channel_blocks;
  const std::int64_t head = index % arguments.kv_heads;
  const std::int64_t sequence = index / arguments.kv_heads;
  const bool packed = arguments.cu_seqlens != nullptr;
  const std::int64_t batch = packed ? 0 : sequence;
  const std::int64_t begin = packed ? arguments.cu_seqlens[sequence] : 0;
  const std::int64_t end = packed ? arguments.cu_seqlens[sequence + 1] : arguments.time;
  const bool active = channel < channels;

  float carry = 0.0f;
  if (arguments.pairing != nullptr && active) {
    const float* pairing =
        arguments.pairing + (sequence * arguments.kv_heads + head) * arguments.key_dim;
    if (per_channel) {
      carry = pairing[channel];
    } else {
      for (std::int64_t c = 0; c < arguments.key_dim; ++c) carry += pairing[c];
    }
  }

  float head_sum = 0.0f;
  for (std::int64_t tile_end = end; tile_end > begin; tile_end -= kRows * kGradientTokens) {
    const std::int64_t last = tile_end - 1 - row * kGradientTokens;
    float suffix[kGradientTokens];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kGradientTokens; ++i) {
      suffix[i] = 0.0f;
      if (active && last - i >= begin) {
        const std::int64_t place =
            ((batch * arguments.time + last - i) * arguments.kv_heads + head) * channels + channel;
        for (int part = 0; part < arguments.parts; ++part) {
          suffix[i] += arguments.energy[part * arguments.part_stride + place];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kGradientTokens; ++i) {
      sum += suffix[i];
      suffix[i] = sum;
    }
    int source = 0;
    shared.sums[0][row][column] = sum;
    block_sync();
    for (int distance = 1; distance < kRows; distance *= 2) {
      float total = shared.sums[source][row][column];
      if (row >= distance) total += shared.sums[source][row - distance][column];
      shared.sums[1 - source][row][column] = total;
      source = 1 - source;
      block_sync();
    }
    const float before = row > 0 ? shared.sums[source][row - 1][column] : 0.0f;
    const float tile_sum = shared.sums[source][kRows - 1][column];
#pragma unroll
    for (int i = 0; i < kGradientTokens; ++i) {
      if (!active || last - i < begin) continue;
      const float log_decay = per_head ? arguments.decay.data[head]
                                       : arguments.decay.at(batch, last - i, head)[channel];
      // The gradient is a multiple of the decay, which the difference of two sums cannot see.
      const float value = expf(log_decay) == 0.0f ? 0.0f : carry + before + suffix[i];
      if (per_head) {
        head_sum += value;
      } else {
        arguments
            .gradient[((batch * arguments.time + last - i) * arguments.kv_heads + head) * channels +
                      channel] = value;
      }
    }
    carry += tile_sum;
    block_sync();
  }
  if (per_head) {
    shared.sums[0][row][column] = head_sum;
    block_sync();
    for (int distance = kRows / 2; distance > 0; distance /= 2) {
      if (row < distance) shared.sums[0][row][column] += shared.sums[0][row + distance][column];
      block_sync();
    }
    if (row == 0 && active) {
      arguments.gradient[sequence * arguments.kv_heads + head] = shared.sums[0][0][column];
    }
  }
}

void sum_decay_gradient(const DecayGradientArguments& arguments, std::int64_t sequences,
                        cudaStream_t stream) {
  constexpr int kChannels = kWarpSize;
  const std::int64_t heads = sequences * arguments.kv_heads;
  if (arguments.decay.form == DecayForm::kPerChannel) {
    const std::int64_t blocks = heads * ((arguments.key_dim + kChannels - 1) / kChannels);
    launch(decay_gradient_kernel<kChannels>,
           {grid_of(blocks), dim3(kGradientThreads), sizeof(DecayGradientShared<kChannels>), stream,
            "linear_attention_decay_gradient"},
           arguments);
  } else {
    launch(decay_gradient_kernel<1>,
           {grid_of(heads), dim3(kGradientThreads), sizeof(DecayGradientShared<1>), stream,
            "linear_attention_decay_gradient"},
           arguments);
  }
}

// ---- the time split ----

// By counting, not by measurement. A split run reads k' and v' twice and does the state's update
// twice; the join only goes over the states. A segment shorter than a few stages is all start-up:
// filling the pipeline, reading and writing states, two more launches.
constexpr SplitCost kSplitCost{1.6, 0.0, 512};

int segments_for(const LinearAttentionShape& shape, std::int64_t blocks) {
  if (shape.num_sequences == 0) return 1;
  return choose_segments(blocks, shape.batch * shape.time / shape.num_sequences, kSplitCost);
}

struct SegmentBuffers {
  int segments = 1;
  float* states = nullptr;  // (sequences, kv_heads, segments, key_dim, value_columns)
  float* decays = nullptr;  // (sequences, kv_heads, segments[, key_dim])
};

std::int64_t decay_channels(const LinearAttentionInputs& inputs) {
  return inputs.decay_form == DecayForm::kPerChannel ? inputs.shape.key_dim : 1;
}

SegmentBuffers take_segments(Workspace& workspace, const LinearAttentionInputs& inputs,
                             int segments) {
  SegmentBuffers buffers;
  buffers.segments = segments;
  if (segments == 1) return buffers;
  const LinearAttentionShape& shape = inputs.shape;
  const std::int64_t count = shape.num_sequences * shape.kv_heads * segments;
  buffers.states = workspace.floats(count * shape.key_dim * shape.value_columns());
  buffers.decays = workspace.floats(count * decay_channels(inputs));
  return buffers;
}

/// Element (key channel c, value column v) of the states with c as key' and v as value'.
SweepState along_keys(const void* data, const LinearAttentionShape& shape, int segments = 0) {
  const std::int64_t columns = shape.value_columns();
  const std::int64_t elements = shape.key_dim * columns;
  const std::int64_t head = elements * std::max(segments, 1);
  return {static_cast<float*>(const_cast<void*>(data)),
          shape.kv_heads * head,
          head,
          segments > 0 ? elements : 0,
          columns,
          1};
}

/// The same with v as key' and c as value'.
SweepState along_values(const void* data, const LinearAttentionShape& shape, int segments = 0) {
  SweepState state = along_keys(data, shape, segments);
  std::swap(state.key_stride, state.value_stride);
  return state;
}

/// First pass and join: afterwards the buffers hold the state each segment of `role` starts from.
template <typename T>
void start_segments(SweepDecay decay, SweepArguments arguments, const SegmentBuffers& buffers,
                    const LinearAttentionInputs& inputs, const void* initial_state,
                    bool value_is_key, cudaStream_t stream) {
  const LinearAttentionShape& shape = inputs.shape;
  SweepRole& role = arguments.roles[0];
  role.output.data = nullptr;
  role.initial.data = nullptr;
  role.final = value_is_key ? along_values(buffers.states, shape, buffers.segments)
                            : along_keys(buffers.states, shape, buffers.segments);
  role.final_of_every_segment = true;
  role.decay_final = false;
  role.pairing = nullptr;
  role.energy.data = nullptr;
  role.segment_decay = buffers.decays;
  arguments.role_count = 1;
  launch_sweep<T>(decay, arguments, stream);

  JoinArguments join{};
  join.states = buffers.states;
  join.initial = static_cast<const float*>(initial_state);
  join.decays = buffers.decays;
  join.heads = shape.num_sequences * shape.kv_heads;
  join.key_dim = shape.key_dim;
  join.columns = shape.value_columns();
  join.segments = buffers.segments;
  join.per_channel = inputs.decay_form == DecayForm::kPerChannel;
  const std::int64_t elements = join.heads * join.key_dim * join.columns;
  launch(join_segments_kernel,
         {grid_of((elements + kJoinThreads - 1) / kJoinThreads), dim3(kJoinThreads), 0, stream,
          "linear_attention_join_segments"},
         join);
}

// ---- forward ----

SweepArguments common_arguments(const LinearAttentionInputs& inputs) {
  const LinearAttentionShape& shape = inputs.shape;
  SweepArguments arguments{};
  arguments.decay = decay_source(inputs);
  arguments.cu_seqlens = shape.cu_seqlens;
  arguments.time = checked_count(shape.time, "time");
  arguments.sequences = checked_count(shape.num_sequences, "num_sequences");
  arguments.kv_heads = checked_count(shape.kv_heads, "kv_heads");
  arguments.group = static_cast<int>(shape.group_size());
  arguments.role_count = 1;
  arguments.segments = 1;
  return arguments;
}

bool is_empty(const LinearAttentionShape& shape) {
  return shape.num_sequences == 0 || shape.kv_heads == 0;
}

SweepDecay decay_on_keys(const LinearAttentionInputs& inputs) {
  return inputs.decay_form == DecayForm::kPerChannel ? SweepDecay::kKeyChannel
                                                     : SweepDecay::kScalar;
}

SweepDecay decay_on_values(const LinearAttentionInputs& inputs) {
  return inputs.decay_form == DecayForm::kPerChannel ? SweepDecay::kValueChannel
                                                     : SweepDecay::kScalar;
}

/// Blocks of a sweep for every segment, that is what the time split decides on.
template <typename T>
std::int64_t count_blocks(const LinearAttentionShape& shape, SweepDecay decay,
                          std::int64_t key_columns, std::int64_t value_columns) {
  const SweepPlan plan =
      plan_sweep<T>(decay, static_cast<int>(key_columns), static_cast<int>(value_columns));
  return shape.num_sequences * shape.kv_heads * value_blocks(plan, static_cast<int>(value_columns));
}

template <typename T>
SegmentBuffers plan_forward(const LinearAttentionForward& problem, Workspace& workspace) {
  const LinearAttentionShape& shape = problem.inputs.shape;
  const std::int64_t blocks =
      count_blocks<T>(shape, decay_on_keys(problem.inputs), shape.key_dim, shape.value_columns());
  return take_segments(workspace, problem.inputs, segments_for(shape, blocks));
}

template <typename T>
void forward(const LinearAttentionForward& problem, void* workspace_start, cudaStream_t stream) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  Workspace workspace(workspace_start);
  const SegmentBuffers buffers = plan_forward<T>(problem, workspace);
  const auto scale = static_cast<float>(inputs.scale);

  SweepArguments arguments = common_arguments(inputs);
  SweepRole& role = arguments.roles[0];
  role.query = query_operand<T>(inputs);
  role.key = key_operand<T>(inputs);
  role.value = value_operand<T>(inputs);
  role.output =
      output_of<T>(problem.output, shape, shape.heads, shape.value_columns(), shape.ones_column);
  role.initial = along_keys(inputs.initial_state, shape);
  role.final = along_keys(problem.final_state, shape);
  role.read_scale = scale;
  role.pair_scale = scale;
  role.add_scale = 1.0f;
  const SweepDecay decay = decay_on_keys(inputs);
  if (buffers.segments > 1) {
    arguments.segments = buffers.segments;
    start_segments<T>(decay, arguments, buffers, inputs, inputs.initial_state, false, stream);
    role.initial = along_keys(buffers.states, shape, buffers.segments);
  }
  launch_sweep<T>(decay, arguments, stream);
}

// ---- backward ----

struct BackwardPlan {
  SegmentBuffers query;  // the sweep along time
  SegmentBuffers key;    // the sweeps against time
  bool joint = false;    // dk and dv in one launch
  int query_blocks = 0;  // value blocks of dq and of dk, each with its part of the energies
  int key_blocks = 0;
  float* energy = nullptr;
  float* pairing = nullptr;
};

template <typename T>
BackwardPlan plan_backward(const LinearAttentionBackward& problem, Workspace& workspace) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  const int key_dim = static_cast<int>(shape.key_dim);
  const int value_dim = static_cast<int>(shape.value_dim);
  const int columns = static_cast<int>(shape.value_columns());
  const SweepDecay on_values = decay_on_values(inputs);
  const SweepDecay on_keys = decay_on_keys(inputs);
  BackwardPlan plan;
  SweepPlan query_plan = plan_sweep<T>(on_values, columns, key_dim);
  SweepPlan key_plan = query_plan;
  SweepPlan value_plan = plan_sweep<T>(on_keys, key_dim, value_dim);
  plan.joint = on_values == on_keys && key_plan.key_columns == value_plan.key_columns;
  if (plan.joint) {
    key_plan = plan_sweep<T>(on_keys, std::max(columns, key_dim), std::max(key_dim, value_dim));
    value_plan = key_plan;
  }
  plan.query_blocks = value_blocks(query_plan, key_dim);
  plan.key_blocks = value_blocks(key_plan, key_dim);
  const std::int64_t heads = shape.num_sequences * shape.kv_heads;
  const int reverse_blocks = plan.joint
                                 ? plan.key_blocks + value_blocks(value_plan, value_dim)
                                 : std::max(plan.key_blocks, value_blocks(value_plan, value_dim));
  if (problem.log_decay_grad != nullptr) {
    if (inputs.decay_form != DecayForm::kPerChannel) {
      plan.energy = workspace.floats((plan.query_blocks + plan.key_blocks) * shape.batch *
                                     shape.time * shape.kv_heads);
    }
    if (problem.final_state_grad != nullptr) plan.pairing = workspace.floats(heads * key_dim);
  }
  plan.query = take_segments(workspace, inputs, segments_for(shape, heads * plan.query_blocks));
  plan.key = take_segments(workspace, inputs, segments_for(shape, heads * reverse_blocks));
  return plan;
}

template <typename T>
void backward(const LinearAttentionBackward& problem, void* workspace_start, cudaStream_t stream) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  Workspace workspace(workspace_start);
  const BackwardPlan plan = plan_backward<T>(problem, workspace);
  const auto scale = static_cast<float>(inputs.scale);
  const std::int64_t tokens = shape.batch * shape.time * shape.kv_heads;
  const bool per_channel = inputs.decay_form == DecayForm::kPerChannel;
  const bool wants_decay_grad = problem.log_decay_grad != nullptr;
  auto* const channel_energy = per_channel ? static_cast<float*>(problem.log_decay_grad) : nullptr;
  const bool energy_aligned =
      rows_are_aligned(channel_energy, shape.key_dim, 0, 0, 0, sizeof(float));

  SweepArguments arguments = common_arguments(inputs);
  SweepRole dq{};
  dq.query = output_grad_operand<T>(problem, shape.value_columns());
  dq.key = value_operand<T>(inputs);
  dq.value = key_operand<T>(inputs);
  dq.output = output_of<T>(problem.q_grad, shape, shape.heads, shape.key_dim, false);
  dq.initial = along_values(inputs.initial_state, shape);
  dq.read_scale = scale;
  dq.pair_scale = scale;
  dq.add_scale = 1.0f;
  if (wants_decay_grad) {
    dq.energy = {per_channel ? channel_energy : plan.energy,
                 query_operand<T>(inputs),
                 tokens,
                 1.0f,
                 false,
                 energy_aligned};
    if (problem.final_state_grad != nullptr) {
      dq.pairing_with = along_values(problem.final_state_grad, shape);
      dq.pairing = plan.pairing;
    }
  }
  arguments.roles[0] = dq;
  if (plan.query.segments > 1) {
    arguments.segments = plan.query.segments;
    start_segments<T>(decay_on_values(inputs), arguments, plan.query, inputs, inputs.initial_state,
                      true, stream);
    arguments.roles[0].initial = along_values(plan.query.states, shape, plan.query.segments);
  }
  launch_sweep<T>(decay_on_values(inputs), arguments, stream);

  SweepRole dk{};
  dk.query = value_operand<T>(inputs);
  dk.key = output_grad_operand<T>(problem, shape.value_columns());
  dk.value = query_operand<T>(inputs);
  dk.output = output_of<T>(problem.k_grad, shape, shape.kv_heads, shape.key_dim, false);
  dk.initial = along_values(problem.final_state_grad, shape);
  dk.final = along_values(problem.initial_state_grad, shape);
  dk.decay_final = true;
  dk.read_scale = 1.0f;
  dk.pair_scale = scale;
  dk.add_scale = scale;
  dk.reversed = true;
  if (wants_decay_grad) {
    dk.energy = {per_channel ? channel_energy : plan.energy + plan.query_blocks * tokens,
                 key_operand<T>(inputs),
                 tokens,
                 -1.0f,
                 per_channel,
                 energy_aligned};
  }
  SweepRole dv{};
  dv.query = key_operand<T>(inputs);
  dv.key = query_operand<T>(inputs);
  dv.value = output_grad_operand<T>(problem, shape.value_dim);
  dv.output = output_of<T>(problem.v_grad, shape, shape.kv_heads, shape.value_dim, false);
  dv.initial = along_keys(problem.final_state_grad, shape);
  dv.read_scale = 1.0f;
  dv.pair_scale = scale;
  dv.add_scale = scale;
  dv.reversed = true;

  arguments.segments = plan.key.segments;
  if (plan.key.segments > 1) {
    arguments.roles[0] = dk;
    start_segments<T>(decay_on_values(inputs), arguments, plan.key, inputs,
                      problem.final_state_grad, true, stream);
    dk.initial = along_values(plan.key.states, shape, plan.key.segments);
    dv.initial = along_keys(plan.key.states, shape, plan.key.segments);
  }
  arguments.roles[0] = dk;
  arguments.roles[1] = dv;
  arguments.role_count = plan.joint ? 2 : 1;
  launch_sweep<T>(decay_on_values(inputs), arguments, stream);
  if (!plan.joint) {
    arguments.roles[0] = dv;
    launch_sweep<T>(decay_on_keys(inputs), arguments, stream);
  }

  if (wants_decay_grad) {
    DecayGradientArguments gradient{};
    gradient.gradient = static_cast<float*>(problem.log_decay_grad);
    gradient.energy = per_channel ? channel_energy : plan.energy;
    gradient.pairing = plan.pairing;
    gradient.decay = decay_source(inputs);
    gradient.cu_seqlens = shape.cu_seqlens;
    gradient.time = shape.time;
    gradient.kv_heads = shape.kv_heads;
    gradient.key_dim = shape.key_dim;
    gradient.part_stride = tokens;
    gradient.parts = per_channel ? 1 : plan.query_blocks + plan.key_blocks;
    sum_decay_gradient(gradient, shape.num_sequences, stream);
  }
}

}  // namespace

std::size_t linear_attention_forward_workspace(const LinearAttentionForward& problem) {
  if (is_empty(problem.inputs.shape)) return 0;
  return with_element_type(problem.inputs.dtype, [&]<typename T>() {
    Workspace workspace(nullptr);
    plan_forward<T>(problem, workspace);
    return workspace.used();
  });
}

std::size_t linear_attention_backward_workspace(const LinearAttentionBackward& problem) {
  if (is_empty(problem.inputs.shape)) return 0;
  return with_element_type(problem.inputs.dtype, [&]<typename T>() {
    Workspace workspace(nullptr);
    plan_backward<T>(problem, workspace);
    return workspace.used();
  });
}

void linear_attention_forward(const LinearAttentionForward& problem, void* workspace,
                              void* stream) {
  if (is_empty(problem.inputs.shape)) return;
  with_element_type(problem.inputs.dtype, [&]<typename T>() {
    forward<T>(problem, workspace, static_cast<cudaStream_t>(stream));
  });
}

void linear_attention_backward(const LinearAttentionBackward& problem, void* workspace,
                               void* stream) {
  if (is_empty(problem.inputs.shape)) return;
  with_element_type(problem.inputs.dtype, [&]<typename T>() {
    backward<T>(problem, workspace, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace rankone::cuda
