// The backward pass of the 2D selective scan on CUDA: one sweep (selective_scan_2d_backward.cuh)
// and the sums that go over its jobs, all in a fixed order:
//   B, C             over the warps of channels that a group meets
//   steps by head    over the channels of the head
//   parameters       over batch entries, and on one axis over rows
#include "selective_scan_2d.cuh"
#include "selective_scan_2d_cell.cuh"
#include "selective_scan_2d_plan.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {
namespace {

constexpr int kSumThreads = 256;
constexpr int kMaxTile = 8;
/// What a step sends up may not be read in the step in which the next tile's first one writes it.
constexpr int kMinTile = 2;

std::size_t shared_bytes(const ScanVariant& variant, const ScanBackwardArguments& arguments,
                         int tile, int warps) {
  return with_scan_form(variant.form, [&]<ScanForm kForm>() {
    return backward_shared_bytes<kForm>(variant, arguments, tile, warps);
  });
}

/// Sets the longest tile whose states fit shared memory beside the blocks meant to be resident, or
/// else in all of it, and fewer warps where not even the shortest does.
void choose_tile(const ScanVariant& variant, std::size_t limit, int resident,
                 ScanBackwardArguments& sweep, int& warps) {
  for (;; warps = (warps + 1) / 2) {
    for (const std::size_t budget : {limit / resident, limit}) {
      for (sweep.tile = kMaxTile; sweep.tile >= kMinTile; --sweep.tile) {
        if (shared_bytes(variant, sweep, sweep.tile, warps) <= budget) return;
      }
    }
    sweep.tile = kMinTile;
    if (warps == 1) return;
  }
}

/// Place of an element of a contiguous (batch, rows, columns, fourth, fifth) range in a tensor.
struct CellIndex {
  int rows;
  int columns;

  template <typename Pointer>
  __device__ __forceinline__ std::int64_t offset(const CellTensor<Pointer>& tensor,
                                                 std::int64_t cell) const {
    const auto column = static_cast<int>(cell % columns);
    const std::int64_t line = cell / columns;
    return cell_offset(tensor, static_cast<int>(line / rows), static_cast<int>(line % rows),
                       column);
  }
};

// ---- B and C ----

struct VectorSumArguments {
  const float* parts;   // (cells, channel blocks, local groups, states)
  MutableCells target;  // (batch, rows, columns, groups, states)
  CellIndex index;
  std::int64_t elements;
  int channels;
  int channel_blocks;
  int warp_channels;
  int groups;
  int channels_per_group;
  int local_groups;
  int states;
  bool wide;
  bool half;
};

__global__ void __launch_bounds__(kSumThreads)
    sum_vectors_kernel(__grid_constant__ const VectorSumArguments arguments) {
  const std::int64_t element = static_cast<std::int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (element >= arguments.elements) return;
  const auto state = static_cast<int>(element % arguments.states);
  const auto group = static_cast<int>(element / arguments.states % arguments.groups);
  const std::int64_t cell = element / arguments.states / arguments.groups;
  const int first = group * arguments.channels_per_group;
  const int last = first + arguments.channels_per_group - 1;
  float sum = 0.0f;
  for (int block = first / arguments.warp_channels; block <= last / arguments.warp_channels;
       ++block) {
    const int local = group - block * arguments.warp_channels / arguments.channels_per_group;
    sum += arguments
               .parts[((cell * arguments.channel_blocks + block) * arguments.local_groups + local) *
                          arguments.states +
                      state];
  }
  store_element(arguments.target.data,
                arguments.index.offset(arguments.target, cell) +
                    group * arguments.target.channel_stride + state * arguments.target.state_stride,
                sum, arguments.wide, arguments.half);
}

// ---- steps by head ----

struct HeadSumArguments {
  const float* parts;   // (cells, channels)
  MutableCells target;  // (batch, rows, columns, heads)
  CellIndex index;
  std::int64_t elements;
  int heads;
  int channels_per_head;
  bool wide;
  bool half;
};

__global__ void __launch_bounds__(kSumThreads)
    sum_heads_kernel(__grid_constant__ const HeadSumArguments arguments) {
  const std::int64_t element = static_cast<std::int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (element >= arguments.elements) return;
  const auto head = static_cast<int>(element % arguments.heads);
  const std::int64_t cell = element / arguments.heads;
  float sum = 0.0f;
  for (int c = 0; c < arguments.channels_per_head; ++c) {
    sum += arguments.parts[element * arguments.channels_per_head + c];
  }
  store_element(
      arguments.target.data,
      arguments.index.offset(arguments.target, cell) + head * arguments.target.channel_stride, sum,
      arguments.wide, arguments.half);
}

// ---- parameters ----

/// One parameter: the sum over jobs of its (warp channels, padded states) parts.
struct ParameterSum {
  const float* parts;           // of job 0
  float* target;                // (channels / channels_per_element, states_out)
  std::int64_t job_pitch;       // from one job's part to the next one's
  std::int64_t channel_stride;  // of the target, in elements
  std::int64_t state_stride;
  int padded_states;  // in the parts
  int states;         // in the parts
  int states_out;     // 1: summed over states; beyond `states`: zero
  int channels_per_element;
};

constexpr int kMaxParameterSums = kStateParameters + kChannelParameters;

struct ParameterSumArguments {
  ParameterSum sums[kMaxParameterSums];
  int count;
  int channels;
  int channel_blocks;
  int warp_channels;
  int lines;  // jobs of a channel block
};

/// One block a parameter and target channel, its threads over states.
__global__ void __launch_bounds__(kWarpSize)
    sum_parameters_kernel(__grid_constant__ const ParameterSumArguments arguments) {
  const ParameterSum& parameter = arguments.sums[blockIdx.y];
  const auto element = static_cast<int>(blockIdx.x);
  if (element >= arguments.channels / parameter.channels_per_element) return;
  for (int out = lane_id(); out < parameter.states_out; out += kWarpSize) {
    float sum = 0.0f;
    const int first = parameter.states_out == 1 ? 0 : out;
    const int last = parameter.states_out == 1 ? parameter.states : min(out + 1, parameter.states);
    for (int c = 0; c < parameter.channels_per_element; ++c) {
      const int channel = element * parameter.channels_per_element + c;
      const float* const parts = parameter.parts +
                                 channel / arguments.warp_channels * parameter.job_pitch +
                                 channel % arguments.warp_channels * parameter.padded_states;
      for (int line = 0; line < arguments.lines; ++line) {
        for (int state = first; state < last; ++state) {
          sum += parts[static_cast<std::int64_t>(line) * arguments.channel_blocks *
                           parameter.job_pitch +
                       state];
        }
      }
    }
    parameter.target[element * parameter.channel_stride + out * parameter.state_stride] = sum;
  }
}

dim3 blocks_for(std::int64_t elements) {
  return dim3(static_cast<unsigned>(ceil_div(elements, kSumThreads)));
}

// ---- the plan ----

struct BackwardPlan {
  ScanPlan scan;
  ScanBackwardArguments sweep;
  int blocks;
  int warp_channels;
  int padded_states;
  MutableCells vector_targets[kScanVectors];
  MutableCells dt_targets[2];
  ParameterSumArguments parameters;
};

BackwardPlan plan_backward(const SelectiveScan2dBackward& problem, Workspace& workspace) {
  const SelectiveScan2dInputs& inputs = problem.inputs;
  BackwardPlan plan{};
  plan.scan = plan_scan(inputs);
  const ScanVariant& variant = plan.scan.variant;
  ScanBackwardArguments& sweep = plan.sweep;
  sweep.scan = plan.scan.arguments;
  ScanArguments& scan = sweep.scan;
  int& warps = plan.scan.warps;
  const int kinds = variant.single ? 1 : 2;
  const int channels_per_thread = variant.wide_channels ? kWideChannels : 1;
  plan.warp_channels = warp_channels_of(scan.state_lanes, channels_per_thread);
  plan.padded_states = kStatesPerThread * scan.state_lanes;

  // The caller's tensors in the order and the axes of the scan.
  const std::int64_t element = scan.wide ? 4 : 2;
  const auto oriented = [&](auto tensor) {
    put_in_scan_order(tensor, inputs, element);
    if (plan.scan.swapped) swap_axes(tensor);
    return tensor;
  };
  sweep.y_grad = oriented(problem.y_grad);
  sweep.x_grad = oriented(problem.x_grad);
  if (inputs.z.data != nullptr) sweep.z_grad = oriented(problem.z_grad);
  sweep.final_grad = border_of(problem.final_states_grad);
  sweep.initial_grad = border_of(problem.initial_states_grad);
  MutableCells dt_grad[2] = {problem.dt1_grad, problem.dt2_grad};
  MutableCells vector_grad[kScanVectors] = {problem.B1_grad, problem.C1_grad, problem.B2_grad,
                                            problem.C2_grad};
  void* matrix_grad[4] = {problem.A1_grad, problem.A2_grad, problem.A3_grad, problem.A4_grad};
  void* bias_grad[2] = {problem.dt1_bias_grad, problem.dt2_bias_grad};
  if (plan.scan.swapped) {
    swap_axes_of_border(sweep.final_grad);
    swap_axes_of_border(sweep.initial_grad);
    std::swap(dt_grad[0], dt_grad[1]);
    std::swap(vector_grad[kVectorB1], vector_grad[kVectorB2]);
    std::swap(vector_grad[kVectorC1], vector_grad[kVectorC2]);
    std::swap(matrix_grad[0], matrix_grad[3]);
    std::swap(matrix_grad[1], matrix_grad[2]);
    std::swap(bias_grad[0], bias_grad[1]);
  }

  // Jobs, and what a resident block keeps.
  const std::int64_t lines =
      static_cast<std::int64_t>(scan.batch) * (variant.single ? scan.rows : 1);
  scan.jobs = scan_size(lines * scan.channel_blocks, "channels");
  const DeviceLimits limits = device_limits();
  const int resident = scan_backward_blocks(variant.single, variant.wide_channels);
  choose_tile(variant, static_cast<std::size_t>(limits.shared_bytes_per_block), resident, sweep,
              warps);
  plan.blocks = static_cast<int>(
      std::min<std::int64_t>(variant.single ? ceil_div(scan.jobs, warps) : scan.jobs,
                             static_cast<std::int64_t>(limits.multiprocessors) * resident));
  const ScanGrid grid(variant.single, warps, scan.rows, scan.columns, sweep.tile);
  sweep.tiles = static_cast<int>(ceil_div(grid.steps, sweep.tile));
  const std::int64_t row_floats = channels_per_thread * kWarpSize * (variant.single ? 2 : 4);
  const std::int64_t resident_rows = static_cast<std::int64_t>(plan.blocks) * warps;
  sweep.checkpoints = workspace.floats(resident_rows * sweep.tiles * row_floats);
  scan.row_buffer = variant.single
                        ? nullptr
                        : workspace.floats(static_cast<std::int64_t>(plan.blocks) *
                                           (grid.row_blocks - 1) * scan.columns * row_floats);

  // Steps.
  const std::int64_t cells = static_cast<std::int64_t>(scan.batch) * scan.rows * scan.columns;
  for (int kind = 0; kind < kinds; ++kind) {
    if (dt_grad[kind].data == nullptr || scan.dt[kind].data == nullptr) continue;
    const MutableCells target = oriented(dt_grad[kind]);
    if (scan.channels_per_head[kind] == 1) {
      sweep.dt_grad[kind] = target;
    } else {
      plan.dt_targets[kind] = target;
      sweep.step_grads[kind] = workspace.floats(cells * scan.channels);
    }
  }

  // B and C, and which parameters' sums a job keeps.
  for (int& slot : sweep.state_slots) slot = -1;
  for (int& slot : sweep.channel_slots) slot = -1;
  for (int k = 0; k < 2 * kinds; ++k) {
    if (vector_grad[k].data == nullptr) continue;
    const ScanVector& vector = scan.vectors[k];
    if (vector.groups == 0) {
      sweep.state_slots[kParameterVectors + k] = sweep.state_parameter_count++;
    } else {
      plan.vector_targets[k] = oriented(vector_grad[k]);
      sweep.vector_grads[k] =
          workspace.floats(cells * scan.channel_blocks * vector.local_groups * scan.states);
    }
  }
  const bool scalar = variant.form == ScanForm::kScalar;
  for (int i = 0; i < 4; ++i) {
    if (matrix_grad[i] == nullptr || scan.a[i].data == nullptr) continue;
    if (scalar) {
      sweep.channel_slots[kParameterMatrices + i] = sweep.channel_parameter_count++;
    } else {
      sweep.state_slots[i] = sweep.state_parameter_count++;
    }
  }
  if (problem.gamma_grad != nullptr) {
    sweep.state_slots[kParameterGamma] = sweep.state_parameter_count++;
  }
  if (problem.D_grad != nullptr) {
    sweep.channel_slots[kParameterSkip] = sweep.channel_parameter_count++;
  }
  for (int kind = 0; kind < kinds; ++kind) {
    if (bias_grad[kind] == nullptr) continue;
    sweep.channel_slots[kParameterBias + kind] = sweep.channel_parameter_count++;
  }
  const int channel_states = plan.warp_channels * plan.padded_states;
  sweep.state_parameters = workspace.floats(static_cast<std::int64_t>(scan.jobs) *
                                            sweep.state_parameter_count * channel_states);
  sweep.channel_parameters = workspace.floats(static_cast<std::int64_t>(scan.jobs) *
                                              sweep.channel_parameter_count * plan.warp_channels);

  // Where those sums go.
  ParameterSumArguments& sums = plan.parameters;
  sums.channels = scan.channels;
  sums.channel_blocks = scan.channel_blocks;
  sums.warp_channels = plan.warp_channels;
  sums.lines = static_cast<int>(lines);
  const auto add = [&](int slot, bool by_state, void* target, int states_out,
                       std::int64_t channel_stride, std::int64_t state_stride,
                       int channels_per_element) {
    if (slot < 0) return;
    const std::int64_t part = by_state ? channel_states : plan.warp_channels;
    const float* const parts = by_state ? sweep.state_parameters : sweep.channel_parameters;
    const int count = by_state ? sweep.state_parameter_count : sweep.channel_parameter_count;
    sums.sums[sums.count++] = {parts == nullptr ? nullptr : parts + slot * part,
                               static_cast<float*>(target),
                               count * part,
                               channel_stride,
                               state_stride,
                               by_state ? plan.padded_states : 1,
                               by_state ? scan.states : 1,
                               states_out,
                               channels_per_element};
  };
  for (int i = 0; i < 4; ++i) {
    add(sweep.state_slots[i], true, matrix_grad[i], scan.states, scan.states, 1, 1);
    // The whole gradient of a value shared by the states stands with the first of them.
    add(sweep.channel_slots[kParameterMatrices + i], false, matrix_grad[i], scan.states,
        scan.states, 1, 1);
  }
  add(sweep.state_slots[kParameterGamma], true, problem.gamma_grad, 1, 1, 0, 1);
  for (int k = 0; k < kScanVectors; ++k) {
    add(sweep.state_slots[kParameterVectors + k], true, vector_grad[k].data, scan.states,
        vector_grad[k].channel_stride, vector_grad[k].state_stride, 1);
  }
  add(sweep.channel_slots[kParameterSkip], false, problem.D_grad, 1, 1, 0, 1);
  for (int kind = 0; kind < kinds; ++kind) {
    add(sweep.channel_slots[kParameterBias + kind], false, bias_grad[kind], 1, 1, 0,
        scan.channels_per_head[kind]);
  }
  return plan;
}

void sum_parts(const BackwardPlan& plan, cudaStream_t stream) {
  const ScanArguments& scan = plan.sweep.scan;
  const CellIndex index{scan.rows, scan.columns};
  const std::int64_t cells = static_cast<std::int64_t>(scan.batch) * scan.rows * scan.columns;
  for (int k = 0; k < kScanVectors; ++k) {
    if (plan.vector_targets[k].data == nullptr) continue;
    const ScanVector& vector = scan.vectors[k];
    VectorSumArguments arguments{};
    arguments.parts = plan.sweep.vector_grads[k];
    arguments.target = plan.vector_targets[k];
    arguments.index = index;
    arguments.elements = cells * vector.groups * scan.states;
    arguments.channels = scan.channels;
    arguments.channel_blocks = scan.channel_blocks;
    arguments.warp_channels = plan.warp_channels;
    arguments.groups = vector.groups;
    arguments.channels_per_group = vector.channels_per_group;
    arguments.local_groups = vector.local_groups;
    arguments.states = scan.states;
    arguments.wide = scan.wide;
    arguments.half = scan.half;
    launch(sum_vectors_kernel,
           {blocks_for(arguments.elements), dim3(kSumThreads), 0, stream,
            "selective_scan_2d_sum_vectors"},
           arguments);
  }
  for (int kind = 0; kind < 2; ++kind) {
    if (plan.dt_targets[kind].data == nullptr) continue;
    HeadSumArguments arguments{};
    arguments.parts = plan.sweep.step_grads[kind];
    arguments.target = plan.dt_targets[kind];
    arguments.index = index;
    arguments.channels_per_head = scan.channels_per_head[kind];
    arguments.heads = scan.channels / arguments.channels_per_head;
    arguments.elements = cells * arguments.heads;
    arguments.wide = scan.wide;
    arguments.half = scan.half;
    launch(sum_heads_kernel,
           {blocks_for(arguments.elements), dim3(kSumThreads), 0, stream,
            "selective_scan_2d_sum_heads"},
           arguments);
  }
  if (plan.parameters.count > 0) {
    launch(
        sum_parameters_kernel,
        {dim3(static_cast<unsigned>(scan.channels), static_cast<unsigned>(plan.parameters.count)),
         dim3(kWarpSize), 0, stream, "selective_scan_2d_sum_parameters"},
        plan.parameters);
  }
}

}  // namespace

std::size_t selective_scan_2d_backward_workspace(const SelectiveScan2dBackward& problem) {
  if (is_empty(problem.inputs.shape)) return 0;
  Workspace workspace(nullptr);
  plan_backward(problem, workspace);
  return workspace.used();
}

void selective_scan_2d_backward(const SelectiveScan2dBackward& problem, void* workspace_start,
                                void* stream_pointer) {
  check_scan(problem.inputs);
  if (is_empty(problem.inputs.shape)) return;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  Workspace workspace(workspace_start);
  const BackwardPlan plan = plan_backward(problem, workspace);
  with_scan_form(plan.scan.variant.form, [&]<ScanForm kForm>() {
    launch_backward_form<kForm>(plan.scan.variant, plan.sweep, plan.scan.warps, plan.blocks,
                                stream);
  });
  sum_parts(plan, stream);
}

}  // namespace rankone::cuda
