// Entry points of the CPU 2D selective scan: checks the arguments, cuts the channels of each batch
// entry into blocks of vector lanes, and runs them with the kernels of the machine's instruction
// set. How channels are cut depends on the shape alone, never on the number of threads.
#include "rankone/selective_scan_2d.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "parallel.h"
#include "selective_scan_2d_arguments.h"
#include "selective_scan_2d_tasks.h"

namespace rankone::cpu {
namespace {

const SelectiveScan2dKernels& kernels() {
#if defined(__x86_64__)
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return avx512::kSelectiveScan2d;
    case InstructionSet::kAvx2:
      return avx2::kSelectiveScan2d;
    case InstructionSet::kGeneric:
      break;
  }
#endif
  return generic::kSelectiveScan2d;
}

/// The lane blocks of one batch entry. Blocks keep to one group of B and C each, unless groups are
/// so narrow that more than half the lanes would idle.
std::vector<ScanLanes> lane_blocks(const SelectiveScan2dShape& shape, int lanes) {
  const std::int64_t groups = std::max<std::int64_t>(
      {1, shape.B1_groups, shape.B2_groups, shape.C1_groups, shape.C2_groups});
  std::int64_t span = shape.channels / groups;
  if (2 * span < lanes) span = shape.channels;
  const std::int64_t per_span = (span + lanes - 1) / lanes;
  std::vector<ScanLanes> blocks;
  for (std::int64_t begin = 0; begin < shape.channels; begin += span) {
    for (std::int64_t i = 0; i < per_span; ++i) {
      const std::int64_t first = i * span / per_span, end = (i + 1) * span / per_span;
      blocks.push_back({0, begin + first, static_cast<int>(end - first)});
    }
  }
  return blocks;
}

void check_states(const SelectiveScan2dInputs& inputs, bool h2, bool rows) {
  const char* alone = "expected null with single_axis";
  require(!inputs.single_axis || !h2, "column_h2", alone);
  require(!inputs.single_axis || !rows, "row_h1, row_h2", alone);
}

template <typename Pointer>
void check_states(const SelectiveScan2dInputs& inputs, const ScanStates<Pointer>& states) {
  check_states(inputs, states.column_h2 != nullptr,
               states.row_h1 != nullptr || states.row_h2 != nullptr);
}

// ---- backward ----

/// Tasks a backward is cut into, where the lane blocks allow it: enough to share out among threads,
/// and each costs one partial sum of the gradients that channels share.
constexpr std::int64_t kBackwardTasks = 32;

/// A tensor over cells that several channels read.
struct SharedTensor {
  std::int64_t heads = 0;  // or groups; 0: its gradient needs no sum over tasks
  std::int64_t states = 1;
  MutableCells grad;
};

std::vector<SharedTensor> shared_tensors(const SelectiveScan2dBackward& problem) {
  const SelectiveScan2dShape& shape = problem.inputs.shape;
  const auto dt_heads = [&](std::int64_t heads) { return heads == shape.channels ? 0 : heads; };
  std::vector<SharedTensor> tensors(kSharedTensors);
  tensors[kSharedB1] = {shape.B1_groups, shape.states, problem.B1_grad};
  tensors[kSharedB2] = {shape.B2_groups, shape.states, problem.B2_grad};
  tensors[kSharedC1] = {shape.C1_groups, shape.states, problem.C1_grad};
  tensors[kSharedC2] = {shape.C2_groups, shape.states, problem.C2_grad};
  tensors[kSharedDt1] = {dt_heads(shape.dt1_heads), 1, problem.dt1_grad};
  tensors[kSharedDt2] = {dt_heads(shape.dt2_heads), 1, problem.dt2_grad};
  for (SharedTensor& tensor : tensors) {
    if (tensor.grad.data == nullptr) tensor.heads = 0;
  }
  return tensors;
}

/// The tasks of a backward, batch entry by batch entry, and the memory of their partial sums.
class BackwardPlan {
 public:
  BackwardPlan(const SelectiveScan2dBackward& problem, int lanes)
      : problem_(problem),
        shape_(problem.inputs.shape),
        tensors_(shared_tensors(problem)),
        type_(state_type(problem.inputs.dtype)),
        element_(element_size(type_)) {
    const std::vector<ScanLanes> blocks = lane_blocks(shape_, lanes);
    const std::int64_t per_batch = static_cast<std::int64_t>(blocks.size());
    for (std::int64_t b = 0; b < shape_.batch; ++b) {
      for (ScanLanes block : blocks) {
        block.batch = b;
        blocks_.push_back(block);
      }
    }
    tasks_per_batch_ = std::clamp<std::int64_t>(
        (kBackwardTasks + shape_.batch - 1) / std::max<std::int64_t>(shape_.batch, 1), 1,
        per_batch);
    static_assert(kBackwardTasks <= ScanSumTask::kMaxParts);
    slots_.resize(static_cast<std::size_t>(shape_.batch * slots_per_batch() * element_));

    std::int64_t partial_bytes = 0;
    for (std::int64_t index = 0; index < shape_.batch * tasks_per_batch_; ++index) {
      const std::int64_t b = index / tasks_per_batch_, part = index % tasks_per_batch_;
      const std::int64_t begin = part * per_batch / tasks_per_batch_;
      const std::int64_t end = (part + 1) * per_batch / tasks_per_batch_;
      Part entry;
      entry.task.problem = &problem;
      entry.task.blocks = blocks_.data() + b * per_batch + begin;
      entry.task.num_blocks = static_cast<int>(end - begin);
      entry.task.slots = slots_.data() + b * slots_per_batch() * element_;
      const ScanLanes& last = entry.task.blocks[entry.task.num_blocks - 1];
      for (int k = 0; k < kSharedTensors; ++k) {
        const SharedTensor& tensor = tensors_[static_cast<std::size_t>(k)];
        if (tensor.heads == 0) continue;
        const std::int64_t per_head = shape_.channels / tensor.heads;
        entry.task.first_shared[k] = entry.task.blocks[0].first / per_head;
        entry.last_shared[k] = (last.first + last.count - 1) / per_head;
        entry.offset[k] = partial_bytes;
        partial_bytes += (entry.last_shared[k] - entry.task.first_shared[k] + 1) * tensor.states *
                         shape_.rows * shape_.columns * element_;
      }
      parts_.push_back(entry);
    }
    partial_.resize(static_cast<std::size_t>(partial_bytes));
    for (Part& part : parts_) {
      for (int k = 0; k < kSharedTensors; ++k) {
        if (tensors_[static_cast<std::size_t>(k)].heads == 0) continue;
        part.task.shared[k] = partial_.data() + part.offset[k];
      }
    }
  }

  std::int64_t num_tasks() const { return static_cast<std::int64_t>(parts_.size()); }
  const ScanBackwardTask& task(std::int64_t index) const { return at(index).task; }

  /// One for each batch entry, row and shared tensor; heads 0: nothing to do.
  std::int64_t num_sums() const { return shape_.batch * shape_.rows * kSharedTensors; }
  ScanSumTask sum(std::int64_t index) const {
    const int k = static_cast<int>(index % kSharedTensors);
    const std::int64_t row = index / kSharedTensors % shape_.rows;
    const std::int64_t b = index / kSharedTensors / shape_.rows;
    const SharedTensor& tensor = tensors_[static_cast<std::size_t>(k)];
    ScanSumTask sum;
    sum.heads = tensor.heads;
    if (tensor.heads == 0) return sum;
    sum.states = static_cast<int>(tensor.states);
    sum.columns = shape_.columns;
    sum.state_step = shape_.rows * shape_.columns;
    sum.dtype = problem_.inputs.dtype;
    sum.grad = tensor.grad;
    sum.grad.data = advance(tensor.grad.data,
                            b * tensor.grad.batch_stride + row * tensor.grad.row_stride, sum.dtype);
    sum.num_parts = static_cast<int>(tasks_per_batch_);
    for (int i = 0; i < sum.num_parts; ++i) {
      const Part& part = at(b * tasks_per_batch_ + i);
      sum.parts[i] =
          advance(static_cast<const void*>(part.task.shared[k]), row * shape_.columns, type_);
      sum.first_shared[i] = part.task.first_shared[k];
      sum.last_shared[i] = part.last_shared[k];
    }
    return sum;
  }

  /// Sums the parameters' gradients over the batch and writes them.
  void write_parameters() const {
    type_ == DataType::kFloat64 ? write_parameters_as<double>() : write_parameters_as<float>();
  }

 private:
  struct Part {
    ScanBackwardTask task;
    std::int64_t last_shared[kSharedTensors] = {};
    std::int64_t offset[kSharedTensors] = {};
  };

  const Part& at(std::int64_t index) const { return parts_[static_cast<std::size_t>(index)]; }
  std::int64_t slots_per_batch() const {
    return slot_offset(kSlotEnd, shape_.states) * shape_.channels;
  }

  template <typename T>
  void write_parameters_as() const {
    const auto total = [&](int slot, std::int64_t n, std::int64_t channel) {
      const T* value = reinterpret_cast<const T*>(slots_.data()) +
                       (slot_offset(slot, shape_.states) + n) * shape_.channels + channel;
      double sum = 0;
      for (std::int64_t b = 0; b < shape_.batch; ++b) sum += value[b * slots_per_batch()];
      return sum;
    };
    const auto write_matrix = [&](int slot, void* target, std::int64_t channel_stride,
                                  std::int64_t state_stride) {
      if (target == nullptr) return;
      for (std::int64_t n = 0; n < shape_.states; ++n) {
        for (std::int64_t d = 0; d < shape_.channels; ++d) {
          static_cast<T*>(target)[d * channel_stride + n * state_stride] =
              static_cast<T>(total(slot, n, d));
        }
      }
    };
    const auto write_static = [&](int slot, const MutableCells& grad, std::int64_t groups) {
      if (groups == 0) write_matrix(slot, grad.data, grad.channel_stride, grad.state_stride);
    };
    const auto write_vector = [&](int slot, void* target, std::int64_t heads) {
      if (target == nullptr || heads == 0) return;
      const std::int64_t per_head = shape_.channels / heads;
      for (std::int64_t head = 0; head < heads; ++head) {
        double sum = 0;
        for (std::int64_t i = 0; i < per_head; ++i) sum += total(slot, 0, head * per_head + i);
        static_cast<T*>(target)[head] = static_cast<T>(sum);
      }
    };
    write_matrix(kSlotA1, problem_.A1_grad, shape_.states, 1);
    write_matrix(kSlotA2, problem_.A2_grad, shape_.states, 1);
    write_matrix(kSlotA3, problem_.A3_grad, shape_.states, 1);
    write_matrix(kSlotA4, problem_.A4_grad, shape_.states, 1);
    write_static(kSlotB1, problem_.B1_grad, shape_.B1_groups);
    write_static(kSlotB2, problem_.B2_grad, shape_.B2_groups);
    write_static(kSlotC1, problem_.C1_grad, shape_.C1_groups);
    write_static(kSlotC2, problem_.C2_grad, shape_.C2_groups);
    write_vector(kSlotD, problem_.D_grad, shape_.channels);
    write_vector(kSlotDt1Bias, problem_.dt1_bias_grad, shape_.dt1_heads);
    write_vector(kSlotDt2Bias, problem_.dt2_bias_grad, shape_.dt2_heads);
    write_vector(kSlotGamma, problem_.gamma_grad, shape_.channels);
  }

  const SelectiveScan2dBackward& problem_;
  const SelectiveScan2dShape& shape_;
  std::vector<SharedTensor> tensors_;
  DataType type_;
  std::int64_t element_;
  std::vector<ScanLanes> blocks_;
  std::int64_t tasks_per_batch_ = 1;
  std::vector<Part> parts_;
  std::vector<std::byte> slots_, partial_;
};

/// The problem with every tensor over cells in scan order.
SelectiveScan2dBackward in_scan_order(const SelectiveScan2dBackward& problem) {
  using rankone::in_scan_order;
  const SelectiveScan2dInputs& inputs = problem.inputs;
  const SelectiveScan2dShape& shape = inputs.shape;
  SelectiveScan2dBackward turned = problem;
  turned.inputs = in_scan_order(inputs);
  turned.y_grad = in_scan_order(problem.y_grad, inputs);
  turned.x_grad = in_scan_order(problem.x_grad, inputs);
  turned.dt1_grad = in_scan_order(problem.dt1_grad, inputs);
  turned.dt2_grad = in_scan_order(problem.dt2_grad, inputs);
  turned.z_grad = in_scan_order(problem.z_grad, inputs);
  if (shape.B1_groups > 0) turned.B1_grad = in_scan_order(problem.B1_grad, inputs);
  if (shape.B2_groups > 0) turned.B2_grad = in_scan_order(problem.B2_grad, inputs);
  if (shape.C1_groups > 0) turned.C1_grad = in_scan_order(problem.C1_grad, inputs);
  if (shape.C2_groups > 0) turned.C2_grad = in_scan_order(problem.C2_grad, inputs);
  return turned;
}

int workers_for(std::int64_t num_tasks, int num_threads) {
  return static_cast<int>(std::clamp<std::int64_t>(num_tasks, 1, std::max(num_threads, 1)));
}

}  // namespace

void selective_scan_2d_forward(const SelectiveScan2dForward& problem, int num_threads) {
  check_selective_scan_2d(problem.inputs);
  check_states(problem.inputs, problem.final_states);
  const SelectiveScan2dShape& shape = problem.inputs.shape;
  if (shape.batch == 0 || shape.channels == 0) return;
  require(problem.y.data != nullptr, "y", "expected data, got null");

  SelectiveScan2dForward turned = problem;
  turned.inputs = in_scan_order(problem.inputs);
  turned.y = in_scan_order(problem.y, problem.inputs);
  const bool float64 = is_float64(problem.inputs.dtype);
  const SelectiveScan2dKernels& table = kernels();
  const std::vector<ScanLanes> blocks = lane_blocks(shape, table.lanes(float64));
  const std::int64_t per_batch = static_cast<std::int64_t>(blocks.size());
  const std::int64_t num_tasks = shape.batch * per_batch;
  const auto task_of = [&](std::int64_t index) {
    ScanForwardTask task{&turned, blocks[static_cast<std::size_t>(index % per_batch)]};
    task.lanes.batch = index / per_batch;
    return task;
  };
  const int workers = workers_for(num_tasks, num_threads);
  const Workspaces workspaces(workers, table.forward_workspace(task_of(0), float64));
  parallel_for(num_tasks, workers, [&](std::int64_t index, int worker) {
    table.forward(task_of(index), float64, workspaces.of(worker));
  });
}

void selective_scan_2d_backward(const SelectiveScan2dBackward& problem, int num_threads) {
  check_selective_scan_2d(problem.inputs);
  check_states(problem.inputs, problem.final_states_grad);
  check_states(problem.inputs, problem.initial_states_grad);
  const SelectiveScan2dShape& shape = problem.inputs.shape;
  const bool empty = shape.batch == 0 || shape.channels == 0;
  require(problem.y_grad.data != nullptr || empty, "y_grad", "expected data, got null");
  if (shape.channels == 0) return;

  const SelectiveScan2dBackward turned = in_scan_order(problem);
  const bool float64 = is_float64(problem.inputs.dtype);
  const SelectiveScan2dKernels& table = kernels();
  const BackwardPlan plan(turned, table.lanes(float64));
  if (shape.batch > 0) {
    const int workers = workers_for(plan.num_tasks(), num_threads);
    const Workspaces workspaces(workers, table.backward_workspace(plan.task(0), float64));
    parallel_for(plan.num_tasks(), workers, [&](std::int64_t index, int worker) {
      table.backward(plan.task(index), float64, workspaces.of(worker));
    });
    parallel_for(plan.num_sums(), workers, [&](std::int64_t index, int) {
      const ScanSumTask sum = plan.sum(index);
      if (sum.heads > 0) table.sum(sum, float64);
    });
  }
  plan.write_parameters();
}

void selective_scan_2d_step(const SelectiveScan2dStep& problem, int num_threads) {
  const SelectiveScan2dInputs& inputs = problem.inputs;
  require(inputs.shape.columns == 1, "columns", "expected 1 in a step" + got(inputs.shape.columns));
  require(inputs.initial_states.row_h1 == nullptr, "row_h1", "expected null in a step");
  require(inputs.initial_states.row_h2 == nullptr, "row_h2", "expected null in a step");
  const bool empty = inputs.shape.batch == 0 || inputs.shape.channels == 0;
  require(problem.column_h1 != nullptr || empty, "column_h1", "expected data, got null");
  require(problem.column_h2 != nullptr || inputs.single_axis || empty, "column_h2",
          "expected data, got null");
  SelectiveScan2dForward forward;
  forward.inputs = inputs;
  forward.y = problem.y;
  forward.final_states.column_h1 = problem.column_h1;
  forward.final_states.column_h2 = problem.column_h2;
  const std::int64_t bytes = inputs.shape.batch * inputs.shape.rows * inputs.shape.channels *
                             inputs.shape.states * (inputs.single_axis ? 1 : 2) *
                             element_size(state_type(inputs.dtype));
  selective_scan_2d_forward(forward, workers_for(bytes / kStepBytesPerThread, num_threads));
}

}  // namespace rankone::cpu
