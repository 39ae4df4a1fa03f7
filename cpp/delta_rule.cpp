// Entry points of the CPU delta rule: checks the arguments, cuts the work into tasks (one per
// sequence and head; while threads would idle, fewer of the value heads that share it, and in the
// forward fewer value columns) and runs them with the kernels of the machine's instruction set.
#include "rankone/delta_rule.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "delta_rule_tasks.h"
#include "parallel.h"
#include "sequence_arguments.h"

namespace rankone::cpu {
namespace {

/// Half the triangle's work of 64, and register tiles still full.
constexpr int kDefaultChunk = 32;
/// Per-channel decays: the products inside a chunk cost one multiplication a pair and channel,
/// those with the state the same at any size.
constexpr int kChannelChunk = 16;
/// Tokens whose gradients one task sums over value heads.
constexpr std::int64_t kSumTokens = 256;
/// The kernels take any dims; past this a state alone would fill a machine.
constexpr std::int64_t kLargestDim = 1 << 16;

const DeltaRuleKernels& kernels() {
#if defined(__x86_64__)
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return avx512::kDeltaRule;
    case InstructionSet::kAvx2:
      return avx2::kDeltaRule;
    case InstructionSet::kGeneric:
      break;
  }
#endif
  return generic::kDeltaRule;
}

void check(const DeltaRuleInputs& inputs) {
  const DeltaRuleShape& shape = inputs.shape;
  element_size(inputs.dtype);
  check_sequences(shape);
  check_dims(shape, kLargestDim);
  require(shape.heads >= 1, "heads", "expected at least 1" + got(shape.heads));
  require(shape.value_heads >= 1 && shape.value_heads % shape.heads == 0, "value_heads",
          "expected a positive multiple of heads = " + std::to_string(shape.heads) +
              got(shape.value_heads));
  require(inputs.decay_form != DecayForm::kPerHead, "decay_form",
          "expected kNone, kPerToken or kPerChannel, got kPerHead");
  require(std::isfinite(inputs.scale), "scale", "expected a finite number");
  require(!inputs.use_qk_l2norm || (std::isfinite(inputs.l2norm_eps) && inputs.l2norm_eps > 0),
          "l2norm_eps", "expected a positive finite number");
  const int chunk = inputs.chunk_size;
  require(chunk == 0 || chunk == 16 || chunk == 32 || chunk == 64, "chunk_size",
          "expected 0 (automatic), 16, 32 or 64" + got(chunk));
  if (shape.batch == 0 || shape.time == 0) return;
  require(inputs.q.data != nullptr, "q", "expected data, got null");
  require(inputs.k.data != nullptr, "k", "expected data, got null");
  require(inputs.v.data != nullptr, "v", "expected data, got null");
  require(inputs.beta.data != nullptr, "beta", "expected data, got null");
  require(inputs.decay_form == DecayForm::kNone || inputs.log_decay.data != nullptr, "log_decay",
          "expected data for this decay form, got null");
}

// ---- tasks ----

/// Value heads [first, first + count) of one sequence, all of one head.
struct Part {
  std::int64_t sequence;
  std::int64_t first;
  std::int64_t count;
};

/// How the value heads of each head are divided among tasks.
class Parts {
 public:
  Parts(const DeltaRuleShape& shape, int num_threads) : shape_(shape) {
    const std::int64_t heads = shape.num_sequences * shape.heads;
    const std::int64_t wanted = heads == 0 ? 1 : (num_threads + heads - 1) / heads;
    parts_ = std::clamp<std::int64_t>(wanted, 1, shape.group_size());
  }

  std::int64_t per_head() const { return parts_; }
  std::int64_t count() const { return shape_.num_sequences * shape_.heads * parts_; }

  Part operator[](std::int64_t index) const {
    const std::int64_t group = shape_.group_size();
    const std::int64_t part = index % parts_, head = index / parts_ % shape_.heads;
    const std::int64_t begin = part * group / parts_, end = (part + 1) * group / parts_;
    return {index / parts_ / shape_.heads, head * group + begin, end - begin};
  }

 private:
  const DeltaRuleShape& shape_;
  std::int64_t parts_;
};

TokenNumbers<const void*> numbers_of(const ConstTokens& tensor, DataType type,
                                     const Sequence& sequence, std::int64_t head) {
  const SweepRows rows = rows_of(tensor, type, sequence, head, 0);
  return {rows.data, rows.time_stride, rows.head_stride};
}

DecayAxis axis_of(DecayForm form) {
  switch (form) {
    case DecayForm::kPerToken:
      return DecayAxis::kScalar;
    case DecayForm::kPerChannel:
      return DecayAxis::kContraction;
    case DecayForm::kNone:
    case DecayForm::kPerHead:
      break;
  }
  return DecayAxis::kNone;
}

int chunk_size_of(const DeltaRuleInputs& inputs) {
  if (inputs.decay_form == DecayForm::kPerChannel) return kChannelChunk;
  return inputs.chunk_size == 0 ? kDefaultChunk : inputs.chunk_size;
}

std::int64_t state_at(const DeltaRuleShape& shape, std::int64_t sequence, std::int64_t value_head) {
  return (sequence * shape.value_heads + value_head) * shape.key_dim * shape.value_dim;
}

/// What forward and backward read.
DeltaRuleTask base_task(const DeltaRuleInputs& inputs, const Part& part) {
  const DeltaRuleShape& shape = inputs.shape;
  const Sequence sequence = sequence_at(shape, part.sequence);
  const std::int64_t head = part.first / shape.group_size();
  const DataType type = state_type(inputs.dtype);
  DeltaRuleTask task;
  task.length = sequence.length;
  task.chunk_size = chunk_size_of(inputs);
  task.value_heads = static_cast<int>(part.count);
  task.q = rows_of(inputs.q, inputs.dtype, sequence, head, shape.key_dim);
  task.k = rows_of(inputs.k, inputs.dtype, sequence, head, shape.key_dim);
  task.v = rows_of(inputs.v, inputs.dtype, sequence, part.first, shape.value_dim);
  task.beta = numbers_of(inputs.beta, type, sequence, part.first);
  task.decay = axis_of(inputs.decay_form);
  if (task.decay != DecayAxis::kNone) {
    task.log_decay = numbers_of(inputs.log_decay, type, sequence, part.first);
  }
  task.normalizes = inputs.use_qk_l2norm;
  task.norm_eps = inputs.l2norm_eps;
  task.initial_state =
      advance(inputs.initial_state, state_at(shape, part.sequence, part.first), type);
  return task;
}

DeltaRuleTask forward_task(const DeltaRuleForward& problem, const Part& part) {
  const DeltaRuleInputs& inputs = problem.inputs;
  const DeltaRuleShape& shape = inputs.shape;
  const Sequence sequence = sequence_at(shape, part.sequence);
  DeltaRuleTask task = base_task(inputs, part);
  task.output = output_of(problem.output, inputs.dtype, sequence, part.first, shape.time,
                          shape.value_heads, shape.value_dim);
  task.output.factor = inputs.scale;
  task.final_state = advance(problem.final_state, state_at(shape, part.sequence, part.first),
                             state_type(inputs.dtype));
  return task;
}

/// The gradients of queries and keys before they are summed over value heads.
struct PartialGradients {
  void* q = nullptr;
  void* k = nullptr;
};

TokenNumbers<void*> gradients_of(void* data, DataType type, const Sequence& sequence,
                                 std::int64_t head, const DeltaRuleShape& shape,
                                 std::int64_t width) {
  const SweepOutput rows =
      output_of(data, type, sequence, head, shape.time, shape.value_heads, width);
  return {rows.data, rows.time_stride, rows.head_stride};
}

DeltaRuleTask backward_task(const DeltaRuleBackward& problem, const PartialGradients& partial,
                            const Part& part) {
  const DeltaRuleInputs& inputs = problem.inputs;
  const DeltaRuleShape& shape = inputs.shape;
  const Sequence sequence = sequence_at(shape, part.sequence);
  const DataType type = state_type(inputs.dtype);
  const std::int64_t state = state_at(shape, part.sequence, part.first);
  DeltaRuleTask task = base_task(inputs, part);
  task.output_grad =
      rows_of(contiguous(problem.output_grad, shape.time, shape.value_heads, shape.value_dim),
              inputs.dtype, sequence, part.first, shape.value_dim);
  task.output_grad.factor = inputs.scale;
  task.final_state_grad = advance(problem.final_state_grad, state, type);
  task.initial_state_grad = advance(problem.initial_state_grad, state, type);

  task.partial_grads = partial.q != nullptr;
  const auto key_side = [&](void* whole, void* parts) {
    return task.partial_grads
               ? output_of(parts, type, sequence, part.first, shape.time, shape.value_heads,
                           shape.key_dim)
               : output_of(whole, inputs.dtype, sequence, part.first / shape.group_size(),
                           shape.time, shape.heads, shape.key_dim);
  };
  task.q_grad = key_side(problem.q_grad, partial.q);
  task.k_grad = key_side(problem.k_grad, partial.k);
  task.v_grad = output_of(problem.v_grad, inputs.dtype, sequence, part.first, shape.time,
                          shape.value_heads, shape.value_dim);
  task.beta_grad = gradients_of(problem.beta_grad, type, sequence, part.first, shape, 1);
  task.log_decay_grad =
      gradients_of(problem.log_decay_grad, type, sequence, part.first, shape,
                   inputs.decay_form == DecayForm::kPerChannel ? shape.key_dim : 1);
  return task;
}

std::int64_t longest_sequence(const DeltaRuleShape& shape) {
  std::int64_t longest = 0;
  for (std::int64_t n = 0; n < shape.num_sequences; ++n) {
    longest = std::max(longest, sequence_at(shape, n).length);
  }
  return longest;
}

/// Sums the partial gradients of queries and keys over the value heads that share them.
void sum_partial_gradients(const DeltaRuleBackward& problem, const PartialGradients& partial,
                           int num_threads) {
  const DeltaRuleInputs& inputs = problem.inputs;
  const DeltaRuleShape& shape = inputs.shape;
  const std::int64_t blocks = (shape.time + kSumTokens - 1) / kSumTokens;
  const std::int64_t num_tasks = 2 * shape.batch * blocks * shape.heads;
  if (num_tasks == 0) return;
  const auto task_of = [&](std::int64_t index) {
    const bool keys = index % 2 == 1;
    const std::int64_t head = index / 2 % shape.heads, block = index / 2 / shape.heads;
    const std::int64_t begin = block % blocks * kSumTokens;
    const Sequence tokens{block / blocks, begin, std::min(kSumTokens, shape.time - begin)};
    DeltaRuleSum sum;
    sum.length = tokens.length;
    sum.value_heads = static_cast<int>(shape.group_size());
    sum.partial = rows_of(
        contiguous(keys ? partial.k : partial.q, shape.time, shape.value_heads, shape.key_dim),
        state_type(inputs.dtype), tokens, head * shape.group_size(), shape.key_dim);
    sum.rows = rows_of(keys ? inputs.k : inputs.q, inputs.dtype, tokens, head, shape.key_dim);
    sum.normalizes = inputs.use_qk_l2norm;
    sum.norm_eps = inputs.l2norm_eps;
    sum.grad = output_of(keys ? problem.k_grad : problem.q_grad, inputs.dtype, tokens, head,
                         shape.time, shape.heads, shape.key_dim);
    return sum;
  };
  const bool float64 = is_float64(inputs.dtype);
  const int workers = static_cast<int>(std::min<std::int64_t>(num_threads, num_tasks));
  const Workspaces workspaces(workers, kernels().sum_workspace(task_of(0), float64));
  parallel_for(num_tasks, workers, [&](std::int64_t index, int worker) {
    kernels().sum(task_of(index), float64, workspaces.of(worker));
  });
}

}  // namespace

void delta_rule_forward(const DeltaRuleForward& problem, int num_threads) {
  const DeltaRuleInputs& inputs = problem.inputs;
  const DeltaRuleShape& shape = inputs.shape;
  check(inputs);
  require(problem.output != nullptr || shape.batch * shape.time == 0, "output",
          "expected data, got null");
  const int threads = std::max(num_threads, 1);
  const Parts parts(shape, threads);
  if (parts.count() == 0) return;

  // Tiles of columns repeat the products of keys and queries.
  const bool float64 = is_float64(inputs.dtype);
  const DeltaRuleKernels& table = kernels();
  const std::int64_t panel = table.panel_columns(float64);
  const std::int64_t panels = (shape.value_dim + panel - 1) / panel;
  const std::int64_t tiles = std::min((threads + parts.count() - 1) / parts.count(), panels);
  const auto task_of = [&](const Part& part, std::int64_t tile) {
    DeltaRuleTask task = forward_task(problem, part);
    task.column_begin = static_cast<int>(tile * panels / tiles * panel);
    task.column_end =
        static_cast<int>(std::min((tile + 1) * panels / tiles * panel, shape.value_dim));
    return task;
  };
  // A last tile is at least as wide as any other, but for its ragged panel.
  DeltaRuleTask largest = task_of(parts[parts.per_head() - 1], tiles - 1);
  largest.column_end = static_cast<int>(panels * panel);
  const std::int64_t num_tasks = parts.count() * tiles;
  const int workers = static_cast<int>(std::min<std::int64_t>(threads, num_tasks));
  const Workspaces workspaces(workers, table.forward_workspace(largest, float64));
  parallel_for(num_tasks, workers, [&](std::int64_t index, int worker) {
    const DeltaRuleTask task = task_of(parts[index / tiles], index % tiles);
    table.forward(task, float64, workspaces.of(worker));
  });
}

void delta_rule_backward(const DeltaRuleBackward& problem, int num_threads) {
  const DeltaRuleInputs& inputs = problem.inputs;
  const DeltaRuleShape& shape = inputs.shape;
  check(inputs);
  require(problem.output_grad != nullptr || shape.batch * shape.time == 0, "output_grad",
          "expected data, got null");
  require(problem.log_decay_grad == nullptr || inputs.decay_form != DecayForm::kNone,
          "log_decay_grad", "expected null without a log_decay");
  const int threads = std::max(num_threads, 1);
  const Parts parts(shape, threads);
  if (parts.count() == 0) return;

  const bool float64 = is_float64(inputs.dtype);
  const DeltaRuleKernels& table = kernels();
  std::vector<std::byte> partial_memory;
  PartialGradients partial;
  if (parts.per_head() > 1) {
    const std::int64_t bytes = shape.batch * shape.time * shape.value_heads * shape.key_dim *
                               element_size(state_type(inputs.dtype));
    partial_memory.resize(static_cast<std::size_t>(2 * bytes));
    partial = {partial_memory.data(), partial_memory.data() + bytes};
  }
  // The last part is at least as large as any other.
  DeltaRuleTask largest = backward_task(problem, partial, parts[parts.per_head() - 1]);
  largest.length = longest_sequence(shape);
  const int workers = static_cast<int>(std::min<std::int64_t>(threads, parts.count()));
  const Workspaces workspaces(workers, table.backward_workspace(largest, float64));
  parallel_for(parts.count(), workers, [&](std::int64_t index, int worker) {
    const DeltaRuleTask task = backward_task(problem, partial, parts[index]);
    table.backward(task, float64, workspaces.of(worker));
  });
  if (partial.q != nullptr) sum_partial_gradients(problem, partial, threads);
}

void delta_rule_step(const DeltaRuleStep& problem, int num_threads) {
  const DeltaRuleInputs& inputs = problem.inputs;
  const DeltaRuleShape& shape = inputs.shape;
  check(inputs);
  require(shape.time == 1, "time", "expected 1" + got(shape.time));
  require(shape.cu_seqlens == nullptr, "cu_seqlens", "expected null in a step");
  require(problem.output != nullptr || shape.batch == 0, "output", "expected data, got null");
  require(problem.state_out != nullptr || shape.batch == 0, "state_out", "expected data, got null");

  const std::int64_t num_tasks = shape.batch * shape.value_heads;
  if (num_tasks == 0) return;
  const DataType type = state_type(inputs.dtype);
  const std::int64_t bytes = num_tasks * shape.key_dim * shape.value_dim * element_size(type);
  const int threads = static_cast<int>(
      std::clamp<std::int64_t>(bytes / kStepBytesPerThread, 1, std::max(num_threads, 1)));
  const auto task_of = [&](std::int64_t index) {
    const Part part{index / shape.value_heads, index % shape.value_heads, 1};
    const DeltaRuleTask base = forward_task({inputs, problem.output, problem.state_out}, part);
    DeltaRuleStepTask task;
    task.q = base.q;
    task.k = base.k;
    task.v = base.v;
    task.beta = base.beta.data;
    task.decay = base.decay;
    task.log_decay = base.log_decay.data;
    task.normalizes = base.normalizes;
    task.norm_eps = base.norm_eps;
    task.state_in = base.initial_state;
    task.state_out = base.final_state;
    task.output = base.output;
    return task;
  };
  const bool float64 = is_float64(inputs.dtype);
  const DeltaRuleKernels& table = kernels();
  const Workspaces workspaces(threads, table.step_workspace(task_of(0), float64));
  parallel_for(num_tasks, threads, [&](std::int64_t index, int worker) {
    table.step(task_of(index), float64, workspaces.of(worker));
  });
}

}  // namespace rankone::cpu
