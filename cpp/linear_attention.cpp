// Entry points of CPU linear attention: checks the arguments, cuts the work into sweeps (one per
// sequence, kv head, gradient and, when threads would idle, tile of output columns) and runs them
// with the kernels of the machine's instruction set.
#include "rankone/linear_attention.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "linear_attention_tasks.h"
#include "parallel.h"
#include "sequence_arguments.h"

namespace rankone::cpu {
namespace {

/// Workspace of one thread's sweeps that run in step: about what a second-level cache keeps.
constexpr std::int64_t kCacheBytes = 1 << 20;

const LinearAttentionKernels& kernels() {
#if defined(__x86_64__)
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return avx512::kLinearAttention;
    case InstructionSet::kAvx2:
      return avx2::kLinearAttention;
    case InstructionSet::kGeneric:
      break;
  }
#endif
  return generic::kLinearAttention;
}

// ---- arguments ----

void check(const LinearAttentionInputs& inputs) {
  const LinearAttentionShape& shape = inputs.shape;
  element_size(inputs.dtype);
  check_sequences(shape);
  require(shape.kv_heads >= 1, "kv_heads", "expected at least 1" + got(shape.kv_heads));
  require(shape.heads >= 1 && shape.heads % shape.kv_heads == 0, "heads",
          "expected a positive multiple of kv_heads = " + std::to_string(shape.kv_heads) +
              got(shape.heads));
  check_dims(shape, kMaxHeadDim);
  require(std::isfinite(inputs.scale), "scale", "expected a finite number");
  const int chunk = inputs.chunk_size;
  require(chunk == 0 || chunk == 16 || chunk == 32 || chunk == 64 || chunk == 128, "chunk_size",
          "expected 0 (automatic), 16, 32, 64 or 128" + got(chunk));
  if (shape.batch > 0 && shape.time > 0) {
    require(inputs.q.data != nullptr, "q", "expected data, got null");
    require(inputs.k.data != nullptr, "k", "expected data, got null");
    require(inputs.v.data != nullptr, "v", "expected data, got null");
    require(inputs.decay_form == DecayForm::kNone || inputs.log_decay.data != nullptr, "log_decay",
            "expected data for this decay form, got null");
  }
}

// ---- what sweeps read and write ----

struct Operands {
  SweepRows q, k, v;  // q carries the scale, v the ones column
};

Operands operands_of(const LinearAttentionInputs& inputs, const Sequence& sequence,
                     std::int64_t kv_head) {
  const LinearAttentionShape& shape = inputs.shape;
  Operands operands;
  operands.q =
      rows_of(inputs.q, inputs.dtype, sequence, kv_head * shape.group_size(), shape.key_dim);
  operands.q.factor = inputs.scale;
  operands.k = rows_of(inputs.k, inputs.dtype, sequence, kv_head, shape.key_dim);
  operands.v = rows_of(inputs.v, inputs.dtype, sequence, kv_head, shape.value_dim);
  operands.v.ones_column = shape.ones_column;
  return operands;
}

DataType output_type(const LinearAttentionInputs& inputs) {
  return inputs.shape.ones_column ? state_type(inputs.dtype) : inputs.dtype;
}

/// The parts of a task that every sweep over this sequence and head shares. `channels` says where
/// per-channel decays lie in the sweep.
SweepTask base_task(const LinearAttentionInputs& inputs, const Sequence& sequence,
                    std::int64_t kv_head, DecayAxis channels) {
  // Half the triangle's work of 64, and register tiles still full: measured fastest or close to it
  // for head dims 32 to 256.
  constexpr int kDefaultChunk = 32;
  SweepTask task;
  task.length = sequence.length;
  task.chunk_size = inputs.chunk_size == 0 ? kDefaultChunk : inputs.chunk_size;
  const ConstTokens& log_decay = inputs.log_decay;
  const std::int64_t offset = sequence.batch * log_decay.batch_stride +
                              sequence.begin * log_decay.time_stride +
                              kv_head * log_decay.head_stride;
  const DataType type = state_type(inputs.dtype);
  switch (inputs.decay_form) {
    case DecayForm::kNone:
      break;
    case DecayForm::kPerHead:
      task.decay = DecayAxis::kScalar;
      task.log_decay = advance(log_decay.data, kv_head, type);
      task.log_decay_stride = 0;
      break;
    case DecayForm::kPerToken:
      task.decay = DecayAxis::kScalar;
      task.log_decay = advance(log_decay.data, offset, type);
      task.log_decay_stride = log_decay.time_stride;
      break;
    case DecayForm::kPerChannel:
      task.decay = channels;
      task.log_decay = advance(log_decay.data, offset, type);
      task.log_decay_stride = log_decay.time_stride;
      break;
  }
  return task;
}

SweepTask forward_task(const LinearAttentionForward& problem, std::int64_t n, std::int64_t head) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  const Sequence sequence = sequence_at(shape, n);
  const Operands operands = operands_of(inputs, sequence, head);
  SweepTask task = base_task(inputs, sequence, head, DecayAxis::kContraction);
  task.x = operands.q;
  task.y = operands.k;
  task.z = operands.v;
  task.x_heads = static_cast<int>(shape.group_size());
  task.output = output_of(problem.output, output_type(inputs), sequence, head * shape.group_size(),
                          shape.time, shape.heads, shape.value_columns());
  const DataType type = state_type(inputs.dtype);
  const std::int64_t state = (n * shape.kv_heads + head) * shape.key_dim * shape.value_columns();
  task.state_in = advance(inputs.initial_state, state, type);
  task.state_out = advance(problem.final_state, state, type);
  task.state_row_stride = shape.value_columns();
  task.state_column_stride = 1;
  return task;
}

enum class Gradient : int { kQuery, kKey, kValue };

/// What the sweeps that make the decay's gradient pass on, by sequence and kv head.
struct DecayGradientBuffers {
  std::vector<double> terminal;      // key_dim each
  std::vector<double> weighted_sum;  // one each
};

SweepTask backward_task(const LinearAttentionBackward& problem, DecayGradientBuffers& buffers,
                        Gradient gradient, std::int64_t n, std::int64_t head) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  const std::int64_t first_query = head * shape.group_size();
  const int group = static_cast<int>(shape.group_size());
  const Sequence sequence = sequence_at(shape, n);
  const Operands operands = operands_of(inputs, sequence, head);
  const SweepRows output_grad =
      rows_of(contiguous(problem.output_grad, shape.time, shape.heads, shape.value_columns()),
              output_type(inputs), sequence, first_query, shape.value_columns());
  const DataType type = state_type(inputs.dtype);
  const std::int64_t state_index = n * shape.kv_heads + head;
  const std::int64_t state = state_index * shape.key_dim * shape.value_columns();
  const void* final_state_grad = advance(problem.final_state_grad, state, type);
  const bool decays = problem.log_decay_grad != nullptr;

  SweepTask task =
      base_task(inputs, sequence, head,
                gradient == Gradient::kValue ? DecayAxis::kContraction : DecayAxis::kOutput);
  switch (gradient) {
    case Gradient::kQuery:
      task.x = output_grad;
      task.y = operands.v;
      task.z = operands.k;
      task.x_heads = group;
      task.output = output_of(problem.q_grad, inputs.dtype, sequence, first_query, shape.time,
                              shape.heads, shape.key_dim);
      task.output.factor = inputs.scale;
      task.state_in = advance(inputs.initial_state, state, type);
      task.gradient = decays ? DecayGradient::kRecord : DecayGradient::kNone;
      task.partner = operands.q;
      task.partner.factor = 1.0;
      task.final_state_grad = final_state_grad;
      break;
    case Gradient::kKey:
      task.reverse = true;
      task.x = operands.v;
      task.y = output_grad;
      task.z = operands.q;
      task.y_heads = group;
      task.output = output_of(problem.k_grad, inputs.dtype, sequence, head, shape.time,
                              shape.kv_heads, shape.key_dim);
      task.state_in = final_state_grad;
      task.gradient = decays ? DecayGradient::kFinish : DecayGradient::kNone;
      task.partner = operands.k;
      break;
    case Gradient::kValue:
      task.reverse = true;
      task.x = operands.k;
      task.y = operands.q;
      task.z = output_grad;
      task.y_heads = group;
      task.output = output_of(problem.v_grad, inputs.dtype, sequence, head, shape.time,
                              shape.kv_heads, shape.value_dim);
      task.state_in = final_state_grad;
      task.state_out = advance(problem.initial_state_grad, state, type);
      break;
  }
  const bool transposed = gradient != Gradient::kValue;
  task.state_row_stride = transposed ? 1 : shape.value_columns();
  task.state_column_stride = transposed ? shape.value_columns() : 1;
  if (task.gradient == DecayGradient::kNone) return task;

  task.terminal = buffers.terminal.data() + state_index * shape.key_dim;
  task.weighted_sum = buffers.weighted_sum.data() + state_index;
  if (inputs.decay_form == DecayForm::kPerHead) {
    task.shared_decay_grad = advance(problem.log_decay_grad, state_index, type);
    return task;
  }
  const std::int64_t width = inputs.decay_form == DecayForm::kPerChannel ? shape.key_dim : 1;
  task.log_decay_grad = advance(
      problem.log_decay_grad,
      ((sequence.batch * shape.time + sequence.begin) * shape.kv_heads + head) * width, type);
  task.log_decay_grad_stride = shape.kv_heads * width;
  return task;
}

// ---- running them ----

/// One kind of sweep over all sequences and heads, its output columns cut into tiles.
struct SweepKind {
  Gradient gradient;  // of a backward problem
  std::int64_t columns;
  bool divisible;  // a token's decay gradient sums over the columns: one tile then
  std::int64_t tiles = 1;
};

/// Kinds whose sweeps of a head go through a sequence in step: they read the same rows, which the
/// second finds in the cache.
using SweepKinds = std::vector<SweepKind>;

/// Runs sweeps of the given kinds. Tiles repeat the work inside the chunk (up to half of a sweep),
/// so columns are cut only while there are fewer sweeps than threads; while there are more, one
/// thread takes several heads of a sequence in step, and all kinds of each.
template <typename MakeTask>
void run_sweeps(SweepKinds kinds, const LinearAttentionShape& shape, bool float64, int num_threads,
                const MakeTask& make_task) {
  const std::int64_t heads = shape.num_sequences * shape.kv_heads;
  if (heads == 0 || kinds.empty()) return;
  const LinearAttentionKernels& table = kernels();
  const std::int64_t panel = table.panel_columns(float64);
  const auto panels_of = [&](const SweepKind& kind) { return (kind.columns + panel - 1) / panel; };
  const std::int64_t sweeps = heads * static_cast<std::int64_t>(kinds.size());
  const std::int64_t wanted = (std::max(num_threads, 1) + sweeps - 1) / sweeps;
  const std::int64_t in_step = heads >= num_threads ? static_cast<std::int64_t>(kinds.size()) : 1;

  std::int64_t tiles = 0;
  std::size_t bytes = 0;
  for (SweepKind& kind : kinds) {
    kind.tiles = kind.divisible ? std::min(wanted, panels_of(kind)) : 1;
    tiles += kind.tiles;
    SweepTask widest = make_task(kind.gradient, 0, 0);
    widest.column_end = static_cast<int>(
        std::min(kind.columns, (panels_of(kind) + kind.tiles - 1) / kind.tiles * panel));
    bytes = std::max(bytes, table.sweep_workspace(widest, float64));
  }
  const std::int64_t threads = std::max(num_threads, 1);
  // With all kinds in step there are heads enough for the threads, hence one tile a kind.
  const std::int64_t parts = tiles / in_step;
  const std::int64_t fitting = kCacheBytes / static_cast<std::int64_t>(bytes) / in_step;
  const std::int64_t most = std::min<std::int64_t>(
      {kMaxSweeps / in_step, shape.kv_heads, std::max<std::int64_t>(1, fitting)});
  const std::int64_t together = std::clamp<std::int64_t>(heads * parts / threads, 1, most);
  const std::int64_t groups = (shape.kv_heads + together - 1) / together;
  const std::int64_t num_tasks = shape.num_sequences * groups * parts;
  const int workers = static_cast<int>(std::min(threads, num_tasks));
  const Workspaces workspaces(workers, bytes * static_cast<std::size_t>(together * in_step));
  parallel_for(num_tasks, workers, [&](std::int64_t index, int worker) {
    std::int64_t tile = index % parts;
    const SweepKind* first = kinds.data();
    while (tile >= first->tiles) tile -= (first++)->tiles;
    const std::int64_t n = index / parts / groups, group = index / parts % groups;
    const std::int64_t begin = group * shape.kv_heads / groups;
    const std::int64_t end = (group + 1) * shape.kv_heads / groups;
    SweepTask tasks[kMaxSweeps];
    int count = 0;
    for (std::int64_t head = begin; head < end; ++head) {
      for (const SweepKind* kind = first; kind < first + in_step; ++kind) {
        const std::int64_t panels = panels_of(*kind);
        SweepTask& task = tasks[count++];
        task = make_task(kind->gradient, n, head);
        task.column_begin = static_cast<int>(tile * panels / kind->tiles * panel);
        task.column_end =
            static_cast<int>(std::min(kind->columns, (tile + 1) * panels / kind->tiles * panel));
      }
    }
    table.sweeps(tasks, count, float64, workspaces.of(worker));
  });
}

}  // namespace

void linear_attention_forward(const LinearAttentionForward& problem, int num_threads) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  check(inputs);
  require(problem.output != nullptr || shape.batch * shape.time == 0, "output",
          "expected data, got null");
  run_sweeps({{Gradient::kQuery, shape.value_columns(), true}}, shape, is_float64(inputs.dtype),
             num_threads, [&](Gradient, std::int64_t n, std::int64_t head) {
               return forward_task(problem, n, head);
             });
}

void linear_attention_backward(const LinearAttentionBackward& problem, int num_threads) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  check(inputs);
  require(problem.output_grad != nullptr || shape.batch * shape.time == 0, "output_grad",
          "expected data, got null");
  const bool decays = problem.log_decay_grad != nullptr;
  require(!decays || inputs.decay_form != DecayForm::kNone, "log_decay_grad",
          "expected null without a log_decay");
  const bool divisible = !decays || inputs.decay_form == DecayForm::kPerChannel;

  DecayGradientBuffers buffers;
  if (decays) {
    const std::size_t states = static_cast<std::size_t>(shape.num_sequences * shape.kv_heads);
    buffers.terminal.resize(states * static_cast<std::size_t>(shape.key_dim));
    buffers.weighted_sum.resize(states);
  }
  // In time order, then against it, both sweeps in step. The decay's gradient needs the query
  // sweep's share before the key sweep starts.
  SweepKinds first, second;
  if (problem.q_grad != nullptr || decays) {
    first.push_back({Gradient::kQuery, shape.key_dim, divisible});
  }
  if (problem.v_grad != nullptr || problem.initial_state_grad != nullptr) {
    second.push_back({Gradient::kValue, shape.value_columns(), true});
  }
  if (problem.k_grad != nullptr || decays) {
    second.push_back({Gradient::kKey, shape.key_dim, divisible});
  }
  const auto make_task = [&](Gradient gradient, std::int64_t n, std::int64_t head) {
    return backward_task(problem, buffers, gradient, n, head);
  };
  const bool float64 = is_float64(inputs.dtype);
  run_sweeps(std::move(first), shape, float64, num_threads, make_task);
  run_sweeps(std::move(second), shape, float64, num_threads, make_task);
}

void linear_attention_step(const LinearAttentionStep& problem, int num_threads) {
  const LinearAttentionInputs& inputs = problem.inputs;
  const LinearAttentionShape& shape = inputs.shape;
  check(inputs);
  require(shape.time == 1, "time", "expected 1" + got(shape.time));
  require(shape.cu_seqlens == nullptr, "cu_seqlens", "expected null in a step");
  require(problem.output != nullptr || shape.batch == 0, "output", "expected data, got null");
  require(problem.state_out != nullptr || shape.batch == 0, "state_out", "expected data, got null");
  require(problem.state_out != inputs.initial_state || problem.state_out == nullptr, "state_out",
          "expected memory of its own, got the initial state's");

  const std::int64_t state_size = shape.key_dim * shape.value_columns();
  const DataType type = state_type(inputs.dtype);
  const std::int64_t num_tasks = shape.batch * shape.kv_heads;
  const std::int64_t bytes = num_tasks * state_size * element_size(type);
  const int threads = static_cast<int>(
      std::clamp<std::int64_t>(bytes / kStepBytesPerThread, 1, std::max(num_threads, 1)));
  const LinearAttentionKernels& table = kernels();
  parallel_for(num_tasks, threads, [&](std::int64_t index, int) {
    const std::int64_t head = index % shape.kv_heads;
    const Sequence sequence = {index / shape.kv_heads, 0, 1};
    const Operands operands = operands_of(inputs, sequence, head);
    const SweepTask base = base_task(inputs, sequence, head, DecayAxis::kContraction);
    StepTask task;
    task.q = operands.q;
    task.k = operands.k;
    task.v = operands.v;
    task.heads = static_cast<int>(shape.group_size());
    task.decay = base.decay;
    task.log_decay = base.log_decay;
    task.state_in = advance(inputs.initial_state, index * state_size, type);
    task.state_out = advance(problem.state_out, index * state_size, type);
    task.output = output_of(problem.output, output_type(inputs), sequence,
                            head * shape.group_size(), 1, shape.heads, shape.value_columns());
    table.step(task, is_float64(inputs.dtype));
  });
}

const char* linear_attention_instruction_set() { return instruction_set_name(instruction_set()); }

}  // namespace rankone::cpu
