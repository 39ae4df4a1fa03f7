// The delta rule on CUDA: which kernels make the forward and the backward pass.
//
// Forward is one sweep along time, which with too few heads to fill the device is split in time
// (delta_rule_segments.cuh). So are the sweeps of the backward pass.
//
// Backward, for a range of positions at a time, the last range first: a sweep along time that keeps
// each token's prediction error and the state before every group of tokens, a sweep against time
// that makes dv, dbeta and the gradients of the states, and a kernel over all groups at once for
// dq, dk and the gradient of the decay. With several ranges, sweeps first make the state each of
// them starts from. So the states of groups take no more memory than it needs to fill the device,
// whatever the length of the sequences.
//
// dq and dk of grouped value heads are summed in their order, from fp32 parts, in the kernel that
// also goes through the normalisation of q and k.
#include <algorithm>
#include <cstddef>

#include "delta_rule_gradients.cuh"
#include "delta_rule_segments.cuh"
#include "delta_rule_sweep.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/delta_rule.h"
#include "token_tiles.cuh"

namespace rankone::cuda {
namespace {

// ---- parts of gradients ----

struct RowGradientArguments {
  TokenOperand rows[2];   // q and k
  const float* parts[2];  // (batch, time, value_heads, columns)
  void* gradients[2];     // (batch, time, heads, columns) of T
  std::int64_t tokens;    // batch * time
  std::int64_t time;
  std::int64_t heads;
  int group;
  float l2norm_eps;
  bool l2norm;
};

constexpr int kRowThreads = 256;
constexpr int kRowsPerBlock = kRowThreads / kWarpSize;

/// dx = sum over the group of the parts, or with x^ = rho x, rho = (|x|^2 + eps)^-1/2,
/// dx = rho (dx^ - rho^2 x (x . dx^)). One warp a row.
template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    row_gradient_kernel(__grid_constant__ const RowGradientArguments arguments) {
  constexpr int kPerLane = static_cast<int>(kMaxHeadDim) / kWarpSize;
  std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + warp_id();
  if (index >= 2 * arguments.tokens * arguments.heads) return;
  const bool is_key = index >= arguments.tokens * arguments.heads;
  if (is_key) index -= arguments.tokens * arguments.heads;
  const std::int64_t head = index % arguments.heads;
  const std::int64_t token = index / arguments.heads;
  const TokenOperand& rows = arguments.rows[is_key];
  const int columns = rows.columns;
  const T* row = static_cast<const T*>(rows.data) +
                 rows.offset(token / arguments.time, token % arguments.time, head);
  const float* parts = arguments.parts[is_key] + index * arguments.group * columns;
  float gradient[kPerLane], x[kPerLane];
  float square = 0.0f, product = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int column = lane_id() + i * kWarpSize;
    gradient[i] = 0.0f;
    x[i] = 0.0f;
    if (column >= columns) continue;
    for (int member = 0; member < arguments.group; ++member) {
      gradient[i] += parts[member * columns + column];
    }
    if (!arguments.l2norm) continue;
    x[i] = to_float(row[column]);
    square = fmaf(x[i], x[i], square);
    product = fmaf(x[i], gradient[i], product);
  }
  float norm = 1.0f, along = 0.0f;
  if (arguments.l2norm) {
    norm = 1.0f / sqrtf(warp_sum(square) + arguments.l2norm_eps);
    along = norm * norm * warp_sum(product);
  }
  T* destination = static_cast<T*>(arguments.gradients[is_key]) + index * columns;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int column = lane_id() + i * kWarpSize;
    if (column < columns) destination[column] = from_float<T>(norm * (gradient[i] - along * x[i]));
  }
}

struct SumPartsArguments {
  float* sums;
  const float* parts;  // (count, elements)
  std::int64_t elements;
  int count;
};

constexpr int kSumThreads = 256;

__global__ void __launch_bounds__(kSumThreads)
    sum_parts_kernel(__grid_constant__ const SumPartsArguments arguments) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (index >= arguments.elements) return;
  float sum = 0.0f;
  for (int part = 0; part < arguments.count; ++part) {
    sum += arguments.parts[part * arguments.elements + index];
  }
  arguments.sums[index] = sum;
}

void sum_parts(void* sums, const float* parts, std::int64_t elements, int count,
               cudaStream_t stream) {
  if (parts == sums || elements == 0) return;
  launch(sum_parts_kernel,
         {grid_of((elements + kSumThreads - 1) / kSumThreads), dim3(kSumThreads), 0, stream,
          "delta_rule_sum_parts"},
         {static_cast<float*>(sums), parts, elements, count});
}

// ---- what both passes hand to the sweeps ----

bool is_empty(const DeltaRuleShape& shape) {
  return shape.num_sequences == 0 || shape.value_heads == 0;
}

DeltaDecay decay_of(const DeltaRuleInputs& inputs) {
  return inputs.decay_form == DecayForm::kPerChannel ? DeltaDecay::kChannel : DeltaDecay::kScalar;
}

template <typename T>
DeltaSweepArguments sweep_arguments(const DeltaRuleInputs& inputs) {
  const DeltaRuleShape& shape = inputs.shape;
  DeltaSweepArguments arguments{};
  arguments.query = make_operand<T>(inputs.q, shape.key_dim, true);
  arguments.key = make_operand<T>(inputs.k, shape.key_dim, true);
  arguments.value = make_operand<T>(inputs.v, shape.value_dim, false);
  arguments.beta = token_scalars(inputs.beta);
  arguments.decay = decay_source(inputs.log_decay, inputs.decay_form);
  arguments.channel_decay = make_operand<float>(inputs.log_decay, shape.key_dim, false);
  arguments.cu_seqlens = shape.cu_seqlens;
  arguments.time = checked_count(shape.time, "time");
  arguments.sequences = checked_count(shape.num_sequences, "num_sequences");
  arguments.value_heads = checked_count(shape.value_heads, "value_heads");
  arguments.group = static_cast<int>(shape.group_size());
  arguments.last = arguments.time;
  arguments.segments = 1;
  arguments.scale = static_cast<float>(inputs.scale);
  arguments.l2norm = inputs.use_qk_l2norm;
  arguments.l2norm_eps = static_cast<float>(inputs.l2norm_eps);
  return arguments;
}

// ---- the time split ----

/// Segments of ranges of `range_tokens` positions, or of the whole sequences where those are
/// shorter.
DeltaSegments take_segments(Workspace& workspace, const DeltaRuleShape& shape,
                            std::int64_t range_tokens) {
  const std::int64_t tokens = shape.batch * shape.time / shape.num_sequences;
  return plan_delta_segments(workspace, shape.num_sequences * shape.value_heads,
                             std::min(tokens, range_tokens), shape.key_dim, shape.value_dim);
}

DeltaJoinArguments join_arguments(const DeltaSegments& segments, const DeltaRuleShape& shape,
                                  const float* initial) {
  return {segments.states,
          segments.transitions,
          initial,
          nullptr,
          shape.num_sequences * shape.value_heads,
          segments.count,
          static_cast<int>(shape.key_dim),
          static_cast<int>(shape.value_dim)};
}

/// The state after the range of `along`, which starts from along.initial, where `final` is not
/// null, and what its segments start from.
template <typename T>
void make_states(DeltaDecay decay, DeltaSweepArguments along, const DeltaSegments& segments,
                 const DeltaRuleShape& shape, float* final, cudaStream_t stream) {
  along.query.data = nullptr;
  along.output.data = nullptr;
  along.errors.data = nullptr;
  along.snapshots.data = nullptr;
  if (segments.count == 1) {
    if (final == nullptr) return;
    along.final = final;
    launch_delta_sweep<T>(decay, false, along, stream);
    return;
  }
  DeltaJoinArguments join = join_arguments(segments, shape, along.initial);
  join.final = final;
  along.segments = segments.count;
  along.initial = nullptr;
  along.final = segments.states;
  along.final_of_every_segment = true;
  along.transitions = segments.transitions;
  launch_delta_sweep<T>(decay, false, along, stream);
  join_delta_segments(join, false, stream);
}

/// The gradients that the segments of the range of `against` start from.
template <typename T>
void make_state_grads(DeltaDecay decay, DeltaSweepArguments against, const DeltaSegments& segments,
                      const DeltaRuleShape& shape, cudaStream_t stream) {
  if (segments.count == 1) return;
  const DeltaJoinArguments join = join_arguments(segments, shape, against.initial);
  against.output.data = nullptr;
  against.errors.data = nullptr;
  against.residual_grad.data = nullptr;
  against.beta_grad = nullptr;
  against.snapshots.data = nullptr;
  against.segments = segments.count;
  against.initial = nullptr;
  against.final = segments.states;
  against.final_of_every_segment = true;
  launch_delta_sweep<T>(decay, true, against, stream);
  join_delta_segments(join, true, stream);
}

/// Has the sweep run all segments at once, from the states that have been made for them.
void split_in_time(DeltaSweepArguments& sweep, const DeltaSegments& segments) {
  if (segments.count == 1) return;
  sweep.segments = segments.count;
  sweep.initial = segments.states;
  sweep.initial_of_every_segment = true;
}

// ---- forward ----

template <typename T>
void forward(const DeltaRuleForward& problem, void* workspace_start, cudaStream_t stream) {
  const DeltaRuleShape& shape = problem.inputs.shape;
  const DeltaDecay decay = decay_of(problem.inputs);
  Workspace workspace(workspace_start);
  const DeltaSegments segments = take_segments(workspace, shape, shape.time);
  DeltaSweepArguments arguments = sweep_arguments<T>(problem.inputs);
  arguments.output =
      contiguous_output<T>(problem.output, shape.time, shape.value_heads, shape.value_dim, false);
  arguments.initial = static_cast<const float*>(problem.inputs.initial_state);
  make_states<T>(decay, arguments, segments, shape, nullptr, stream);
  split_in_time(arguments, segments);
  arguments.final = static_cast<float*>(problem.final_state);
  launch_delta_sweep<T>(decay, false, arguments, stream);
}

// ---- backward ----

/// Memory the states of groups may take: 32 groups a multiprocessor at 128 x 128 in 16 bits, enough
/// to fill it many times over.
constexpr std::int64_t kSnapshotBytesPerMultiprocessor = std::int64_t{2} << 20;

/// The ranges of positions the backward pass goes through, and what lies in its workspace.
template <typename T>
struct BackwardPlan {
  using Stored = DeltaStored<T>;

  DeltaGradientPlan gradients;
  int value_blocks;
  int groups;  // of a range
  int ranges;
  DeltaSegments segments;  // of a range
  DeltaSnapshots states{};
  DeltaSnapshots state_grads{};
  std::int64_t state_floats;      // of all (sequence, value head)
  float* starts = nullptr;        // states the ranges but the first start from, one after another
  float* carried_grad = nullptr;  // gradient of the state after a range
  Stored* errors = nullptr;
  Stored* residual_grad = nullptr;  // null: dv itself
  float* query_grad = nullptr;
  float* key_grad = nullptr;
  float* beta_grad = nullptr;
  float* decay_grad = nullptr;
  bool direct = false;  // dq and dk need neither a sum nor a conversion

  BackwardPlan(const DeltaRuleBackward& problem, Workspace& workspace) {
    const DeltaRuleInputs& inputs = problem.inputs;
    const DeltaRuleShape& shape = inputs.shape;
    const DeltaDecay decay = decay_of(inputs);
    const int key_dim = static_cast<int>(shape.key_dim);
    const int value_dim = static_cast<int>(shape.value_dim);
    const std::int64_t heads = shape.num_sequences * shape.value_heads;
    const std::int64_t tokens = shape.batch * shape.time * shape.value_heads;
    state_floats = heads * shape.key_dim * shape.value_dim;
    gradients = plan_delta_gradients<Stored>(decay, key_dim, value_dim);

    // Slots for `n` groups of every sequence, or of as many as the packed tokens can have.
    const std::int64_t all_groups = std::max<std::int64_t>(
        1, (shape.time + gradients.group_tokens - 1) / gradients.group_tokens);
    const std::int64_t packed_slots = all_groups + shape.num_sequences;
    const bool packed = shape.cu_seqlens != nullptr;
    const auto slots = [&](std::int64_t n) {
      const std::int64_t dense = shape.num_sequences * n;
      return packed ? std::min(dense, packed_slots) : dense;
    };
    const std::int64_t slot_elements =
        shape.value_heads * DeltaSnapshots::elements(key_dim, value_dim);
    const std::int64_t slot_bytes = 2 * slot_elements * static_cast<std::int64_t>(sizeof(Stored));
    std::int64_t per_range = all_groups;
    const std::int64_t limit = device_limits().multiprocessors * kSnapshotBytesPerMultiprocessor;
    if (slots(per_range) * slot_bytes > limit) {
      per_range =
          std::clamp<std::int64_t>(limit / (slot_bytes * shape.num_sequences), 1, all_groups);
    }
    groups = static_cast<int>(per_range);
    ranges = static_cast<int>((all_groups + per_range - 1) / per_range);
    segments = take_segments(workspace, shape, range_tokens());
    value_blocks = delta_value_blocks<T>(decay, heads * segments.count, key_dim, value_dim);

    const std::int64_t count = slots(per_range) * slot_elements;
    for (DeltaSnapshots* snapshots : {&states, &state_grads}) {
      snapshots->data = workspace.bytes(count * static_cast<std::int64_t>(sizeof(Stored)));
      snapshots->by_token = slots(per_range) < shape.num_sequences * per_range;
      snapshots->tokens = gradients.group_tokens;
      snapshots->count = groups;
    }
    if (ranges > 1) {
      starts = workspace.floats((ranges - 1) * state_floats);
      carried_grad = workspace.floats(state_floats);
    }
    errors = static_cast<Stored*>(
        workspace.bytes(tokens * shape.value_dim * static_cast<std::int64_t>(sizeof(Stored))));
    if constexpr (!std::is_same_v<T, Stored>) {
      residual_grad = static_cast<Stored*>(
          workspace.bytes(tokens * shape.value_dim * static_cast<std::int64_t>(sizeof(Stored))));
    }
    direct = std::is_same_v<T, float> && shape.group_size() == 1 && !inputs.use_qk_l2norm;
    query_grad =
        direct ? static_cast<float*>(problem.q_grad) : workspace.floats(tokens * shape.key_dim);
    key_grad =
        direct ? static_cast<float*>(problem.k_grad) : workspace.floats(tokens * shape.key_dim);
    beta_grad = value_blocks == 1 ? static_cast<float*>(problem.beta_grad)
                                  : workspace.floats(tokens * value_blocks);
    decay_grad = static_cast<float*>(problem.log_decay_grad);
    if (decay_grad != nullptr && decay == DeltaDecay::kScalar && gradients.key_blocks > 1) {
      decay_grad = workspace.floats(tokens * gradients.key_blocks);
    }
  }

  int range_tokens() const { return groups * gradients.group_tokens; }

  /// The state that a range starts from.
  const float* start_of(int range, const DeltaRuleInputs& inputs) const {
    return range == 0 ? static_cast<const float*>(inputs.initial_state)
                      : starts + (range - 1) * state_floats;
  }
};

/// A contiguous tensor in the workspace as the kernels write and read it.
template <typename Stored>
TokenOutput stored_output(Stored* data, const DeltaRuleShape& shape) {
  return contiguous_output<Stored>(data, shape.time, shape.value_heads, shape.value_dim, false);
}
template <typename T>
TokenOperand contiguous_operand(const void* data, const DeltaRuleShape& shape) {
  const std::int64_t row = shape.value_dim;
  return make_operand<T>({data, shape.time * shape.value_heads * row, shape.value_heads * row, row},
                         row, false);
}

/// A T operand as the kernel on Stored reads it: converted where the two differ.
template <typename T, typename Stored>
TokenOperand converted(TokenOperand operand) {
  if constexpr (!std::is_same_v<T, Stored>) operand.aligned = false;
  return operand;
}

template <typename T>
void backward(const DeltaRuleBackward& problem, void* workspace_start, cudaStream_t stream) {
  using Stored = DeltaStored<T>;
  const DeltaRuleInputs& inputs = problem.inputs;
  const DeltaRuleShape& shape = inputs.shape;
  const DeltaDecay decay = decay_of(inputs);
  Workspace workspace(workspace_start);
  const BackwardPlan<T> plan(problem, workspace);
  const std::int64_t tokens = shape.batch * shape.time * shape.value_heads;
  const TokenOutput value_grad =
      contiguous_output<T>(problem.v_grad, shape.time, shape.value_heads, shape.value_dim, false);
  const TokenOperand output_grad = contiguous_operand<T>(problem.output_grad, shape);

  DeltaSweepArguments along = sweep_arguments<T>(inputs);
  along.query.data = nullptr;
  const auto set_range = [&](int range) {
    along.first = range * plan.range_tokens();
    along.last = std::min(along.first + plan.range_tokens(), along.time);
    along.initial = plan.start_of(range, inputs);
  };
  for (int range = 0; range + 1 < plan.ranges; ++range) {
    set_range(range);
    make_states<T>(decay, along, plan.segments, shape, plan.starts + range * plan.state_floats,
                   stream);
  }
  along.errors = stored_output(plan.errors, shape);
  along.snapshots = plan.states;

  DeltaSweepArguments against = sweep_arguments<T>(inputs);
  against.value = output_grad;
  against.output = value_grad;
  against.errors = along.errors;
  if (plan.residual_grad != nullptr) {
    against.residual_grad = stored_output(plan.residual_grad, shape);
  }
  against.beta_grad = plan.beta_grad;
  against.beta_grad_stride = tokens;
  against.snapshots = plan.state_grads;

  DeltaGradientArguments gradients{};
  gradients.query = converted<T, Stored>(along.query);
  gradients.query.data = inputs.q.data;
  gradients.key = converted<T, Stored>(along.key);
  gradients.output_grad = converted<T, Stored>(output_grad);
  gradients.errors = contiguous_operand<Stored>(plan.errors, shape);
  gradients.residual_grad = contiguous_operand<Stored>(
      plan.residual_grad != nullptr ? static_cast<const void*>(plan.residual_grad) : problem.v_grad,
      shape);
  gradients.beta = along.beta;
  gradients.decay = along.decay;
  gradients.states = plan.states;
  gradients.state_grads = plan.state_grads;
  gradients.query_grad = plan.query_grad;
  gradients.key_grad = plan.key_grad;
  gradients.decay_grad = plan.decay_grad;
  gradients.decay_grad_stride = tokens;
  const auto rows_aligned = [&shape](const float* data) {
    return rows_are_aligned(data, shape.key_dim, 0, 0, 0, sizeof(float));
  };
  gradients.aligned =
      rows_aligned(plan.query_grad) && rows_aligned(plan.key_grad) && rows_aligned(plan.decay_grad);
  gradients.cu_seqlens = along.cu_seqlens;
  gradients.time = along.time;
  gradients.sequences = along.sequences;
  gradients.value_heads = along.value_heads;
  gradients.group = along.group;
  gradients.groups = plan.groups;
  gradients.scale = along.scale;
  gradients.l2norm = along.l2norm;
  gradients.l2norm_eps = along.l2norm_eps;

  for (int range = plan.ranges - 1; range >= 0; --range) {
    set_range(range);
    make_states<T>(decay, along, plan.segments, shape, nullptr, stream);
    DeltaSweepArguments main_along = along;
    split_in_time(main_along, plan.segments);
    launch_delta_sweep<T>(decay, false, main_along, stream);

    against.first = gradients.first = along.first;
    against.last = gradients.last = along.last;
    const bool is_last = range + 1 == plan.ranges;
    against.initial =
        is_last ? static_cast<const float*>(problem.final_state_grad) : plan.carried_grad;
    make_state_grads<T>(decay, against, plan.segments, shape, stream);
    DeltaSweepArguments main_against = against;
    split_in_time(main_against, plan.segments);
    main_against.final =
        range == 0 ? static_cast<float*>(problem.initial_state_grad) : plan.carried_grad;
    launch_delta_sweep<T>(decay, true, main_against, stream);
    launch_delta_gradients<Stored>(decay, gradients, stream);
  }

  if (!plan.direct && tokens > 0) {
    RowGradientArguments rows{};
    rows.rows[0] = gradients.query;
    rows.rows[1] = gradients.key;
    rows.parts[0] = plan.query_grad;
    rows.parts[1] = plan.key_grad;
    rows.gradients[0] = problem.q_grad;
    rows.gradients[1] = problem.k_grad;
    rows.tokens = shape.batch * shape.time;
    rows.time = shape.time;
    rows.heads = shape.heads;
    rows.group = along.group;
    rows.l2norm = along.l2norm;
    rows.l2norm_eps = along.l2norm_eps;
    const std::int64_t count = 2 * rows.tokens * rows.heads;
    launch(row_gradient_kernel<T>,
           {grid_of((count + kRowsPerBlock - 1) / kRowsPerBlock), dim3(kRowThreads), 0, stream,
            "delta_rule_row_gradient"},
           rows);
  }
  sum_parts(problem.beta_grad, plan.beta_grad, tokens, plan.value_blocks, stream);
  if (plan.decay_grad != nullptr && decay == DeltaDecay::kScalar) {
    sum_parts(problem.log_decay_grad, plan.decay_grad, tokens, plan.gradients.key_blocks, stream);
  }
}

}  // namespace

std::size_t delta_rule_forward_workspace(const DeltaRuleForward& problem) {
  const DeltaRuleShape& shape = problem.inputs.shape;
  if (is_empty(shape)) return 0;
  Workspace workspace(nullptr);
  take_segments(workspace, shape, shape.time);
  return workspace.used();
}

std::size_t delta_rule_backward_workspace(const DeltaRuleBackward& problem) {
  if (is_empty(problem.inputs.shape)) return 0;
  return with_element_type(problem.inputs.dtype, [&]<typename T>() {
    Workspace workspace(nullptr);
    const BackwardPlan<T> plan(problem, workspace);
    return workspace.used();
  });
}

void delta_rule_forward(const DeltaRuleForward& problem, void* workspace, void* stream) {
  if (is_empty(problem.inputs.shape)) return;
  with_element_type(problem.inputs.dtype, [&]<typename T>() {
    forward<T>(problem, workspace, static_cast<cudaStream_t>(stream));
  });
}

void delta_rule_backward(const DeltaRuleBackward& problem, void* workspace, void* stream) {
  if (is_empty(problem.inputs.shape)) return;
  with_element_type(problem.inputs.dtype, [&]<typename T>() {
    backward<T>(problem, workspace, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace rankone::cuda
