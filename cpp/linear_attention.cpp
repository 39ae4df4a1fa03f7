// Entry points of CPU linear attention: checks the arguments, cuts the work into sweeps (one per
// sequence, kv head, gradient and, when threads would idle, tile of output columns) and runs them
// with the kernels of the machine's instruction set.
#include "rankone/linear_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "linear_attention_tasks.h"
#include "parallel.h"

namespace rankone::cpu {
namespace {

constexpr std::size_t kWorkspaceAlignment = 64;

/// State bytes below which one thread steps faster than several wake up (about 50 us of copying).
constexpr std::int64_t kStepBytesPerThread = 1 << 19;

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

void require(bool condition, const char* argument, const std::string& message) {
  if (!condition) throw ArgumentError(argument, message);
}

std::string got(std::int64_t value) { return ", got " + std::to_string(value); }

std::int64_t element_size(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat64:
      return 8;
    case DataType::kFloat32:
      return 4;
    case DataType::kFloat16:
    case DataType::kBFloat16:
      return 2;
  }
  throw ArgumentError("dtype", "expected float32, float64, float16 or bfloat16" +
                                   got(static_cast<std::int64_t>(dtype)));
}

DataType state_type(DataType dtype) {
  return dtype == DataType::kFloat64 ? DataType::kFloat64 : DataType::kFloat32;
}

bool is_float64(DataType dtype) { return dtype == DataType::kFloat64; }

void check(const LinearAttentionInputs& inputs) {
  const LinearAttentionShape& shape = inputs.shape;
  element_size(inputs.dtype);
  require(shape.batch >= 0, "batch", "expected at least 0" + got(shape.batch));
  require(shape.time >= 0, "time", "expected at least 0" + got(shape.time));
  require(shape.kv_heads >= 1, "kv_heads", "expected at least 1" + got(shape.kv_heads));
  require(shape.heads >= 1 && shape.heads % shape.kv_heads == 0, "heads",
          "expected a positive multiple of kv_heads = " + std::to_string(shape.kv_heads) +
              got(shape.heads));
  const std::string dims = "expected 1 to " + std::to_string(kMaxHeadDim);
  require(shape.key_dim >= 1 && shape.key_dim <= kMaxHeadDim, "key_dim", dims + got(shape.key_dim));
  require(shape.value_dim >= 1 && shape.value_dim <= kMaxHeadDim, "value_dim",
          dims + got(shape.value_dim));
  require(std::isfinite(inputs.scale), "scale", "expected a finite number");
  const int chunk = inputs.chunk_size;
  require(chunk == 0 || chunk == 16 || chunk == 32 || chunk == 64 || chunk == 128, "chunk_size",
          "expected 0 (automatic), 16, 32, 64 or 128" + got(chunk));
  if (shape.cu_seqlens != nullptr) {
    require(shape.batch == 1, "batch", "expected 1 when cu_seqlens is given" + got(shape.batch));
    require(shape.num_sequences >= 0, "num_sequences",
            "expected at least 0" + got(shape.num_sequences));
    require(shape.cu_seqlens[0] == 0, "cu_seqlens",
            "expected to start at 0" + got(shape.cu_seqlens[0]));
    for (std::int64_t n = 0; n < shape.num_sequences; ++n) {
      require(shape.cu_seqlens[n] <= shape.cu_seqlens[n + 1], "cu_seqlens",
              "expected non-decreasing offsets, got " + std::to_string(shape.cu_seqlens[n]) +
                  " before " + std::to_string(shape.cu_seqlens[n + 1]));
    }
    require(shape.cu_seqlens[shape.num_sequences] == shape.time, "cu_seqlens",
            "expected to end at time = " + std::to_string(shape.time) +
                got(shape.cu_seqlens[shape.num_sequences]));
  } else {
    require(shape.num_sequences == shape.batch, "num_sequences",
            "expected batch = " + std::to_string(shape.batch) + got(shape.num_sequences));
  }
  if (shape.batch > 0 && shape.time > 0) {
    require(inputs.q.data != nullptr, "q", "expected data, got null");
    require(inputs.k.data != nullptr, "k", "expected data, got null");
    require(inputs.v.data != nullptr, "v", "expected data, got null");
    require(inputs.decay_form == DecayForm::kNone || inputs.log_decay.data != nullptr, "log_decay",
            "expected data for this decay form, got null");
  }
}

/// Where one sequence lies.
struct Sequence {
  std::int64_t batch;
  std::int64_t begin;  // first token in the batch entry
  std::int64_t length;
};

Sequence sequence_at(const LinearAttentionShape& shape, std::int64_t n) {
  if (shape.cu_seqlens == nullptr) return {n, 0, shape.time};
  return {0, shape.cu_seqlens[n], shape.cu_seqlens[n + 1] - shape.cu_seqlens[n]};
}

const void* advance(const void* data, std::int64_t elements, DataType dtype) {
  return data == nullptr ? nullptr
                         : static_cast<const char*>(data) + elements * element_size(dtype);
}

void* advance(void* data, std::int64_t elements, DataType dtype) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + elements * element_size(dtype);
}

// ---- what sweeps read and write ----

/// A tensor's rows from one sequence's first token and one head on.
SweepRows rows_of(const ConstTokens& tensor, DataType dtype, const Sequence& sequence,
                  std::int64_t head, std::int64_t columns) {
  SweepRows rows;
  rows.data = advance(tensor.data,
                      sequence.batch * tensor.batch_stride + sequence.begin * tensor.time_stride +
                          head * tensor.head_stride,
                      dtype);
  rows.time_stride = tensor.time_stride;
  rows.head_stride = tensor.head_stride;
  rows.dtype = dtype;
  rows.columns = static_cast<int>(columns);
  return rows;
}

ConstTokens contiguous(const void* data, std::int64_t time, std::int64_t heads,
                       std::int64_t columns) {
  return {data, time * heads * columns, heads * columns, columns};
}

/// Writes to a contiguous (batch, time, heads, columns) tensor.
SweepOutput output_of(void* data, DataType dtype, const Sequence& sequence, std::int64_t head,
                      std::int64_t time, std::int64_t heads, std::int64_t columns) {
  SweepOutput output;
  output.data =
      advance(data, ((sequence.batch * time + sequence.begin) * heads + head) * columns, dtype);
  output.time_stride = heads * columns;
  output.head_stride = columns;
  output.dtype = dtype;
  output.columns = static_cast<int>(columns);
  return output;
}

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

struct AlignedDelete {
  void operator()(std::byte* bytes) const {
    ::operator delete(bytes, std::align_val_t{kWorkspaceAlignment});
  }
};

class Workspaces {
 public:
  Workspaces(int count, std::size_t bytes)
      : bytes_((bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment),
        memory_(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(count) * bytes_,
                                                       std::align_val_t{kWorkspaceAlignment}))) {}

  void* of(int worker) const { return memory_.get() + static_cast<std::size_t>(worker) * bytes_; }

 private:
  std::size_t bytes_;
  std::unique_ptr<std::byte, AlignedDelete> memory_;
};

/// One kind of sweep over all sequences and heads, its output columns cut into tiles.
struct SweepKind {
  Gradient gradient;  // of a backward problem
  std::int64_t columns;
  bool divisible;  // a token's decay gradient sums over the columns: one tile then
  std::int64_t tiles = 1;
};

/// Runs sweeps of the given kinds. Tiles repeat the work inside the chunk (up to half of a sweep),
/// so columns are cut only while there are fewer sweeps than threads.
template <typename MakeTask>
void run_sweeps(std::vector<SweepKind> kinds, const LinearAttentionShape& shape, bool float64,
                int num_threads, const MakeTask& make_task) {
  const std::int64_t heads = shape.num_sequences * shape.kv_heads;
  if (heads == 0 || kinds.empty()) return;
  const LinearAttentionKernels& table = kernels();
  const std::int64_t panel = table.panel_columns(float64);
  const auto panels_of = [&](const SweepKind& kind) { return (kind.columns + panel - 1) / panel; };
  const std::int64_t sweeps = heads * static_cast<std::int64_t>(kinds.size());
  const std::int64_t wanted = (std::max(num_threads, 1) + sweeps - 1) / sweeps;

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
  const std::int64_t num_tasks = heads * tiles;
  const int workers = static_cast<int>(std::min<std::int64_t>(std::max(num_threads, 1), num_tasks));
  const Workspaces workspaces(workers, bytes);
  parallel_for(num_tasks, workers, [&](std::int64_t index, int worker) {
    const std::int64_t sequence_head = index / tiles;
    std::int64_t tile = index % tiles;
    const SweepKind* kind = kinds.data();
    while (tile >= kind->tiles) tile -= (kind++)->tiles;
    SweepTask task =
        make_task(kind->gradient, sequence_head / shape.kv_heads, sequence_head % shape.kv_heads);
    const std::int64_t panels = panels_of(*kind);
    task.column_begin = static_cast<int>(tile * panels / kind->tiles * panel);
    task.column_end =
        static_cast<int>(std::min(kind->columns, (tile + 1) * panels / kind->tiles * panel));
    table.sweep(task, float64, workspaces.of(worker));
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
  // The decay's gradient needs the query sweep's share before the key sweep starts.
  std::vector<SweepKind> first, second;
  if (problem.q_grad != nullptr || decays) {
    first.push_back({Gradient::kQuery, shape.key_dim, divisible});
  }
  if (problem.v_grad != nullptr || problem.initial_state_grad != nullptr) {
    first.push_back({Gradient::kValue, shape.value_columns(), true});
  }
  if (problem.k_grad != nullptr || decays) {
    (decays ? second : first).push_back({Gradient::kKey, shape.key_dim, divisible});
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
