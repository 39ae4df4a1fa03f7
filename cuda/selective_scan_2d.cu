// The 2D selective scan on CUDA: entry points, and the split of columns where there are few
// channels and the two states are coupled one way at most.
//
// Segments: with A2 or A3 absent (always, on a single axis) the states at the borders of segments
// of columns follow from sweeps of the segments on their own. A first sweep makes each segment's
// last states from zero states before it and the sum of its steps, `join_segments` puts them
// together, and the main sweep runs all segments at once:
//   A2 absent    h1 is a scan along columns by itself: the first sweep is the single-axis one
//   A3 absent    h2 never sees h1: the first sweep starts one column early and keeps that column's
//                h2 only
// Composed columns of the coupled recurrence have no factors of fixed size, so it is not split.
#include "selective_scan_2d.cuh"
#include "selective_scan_2d_plan.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {
namespace {

// Both follow from counting, not from measurement. The first sweep costs about as much as the main
// one, so that two segments gain nothing and three a third; a segment shorter than some hundred
// columns is all start-up.
constexpr int kMinSegments = 3;
constexpr int kMinSegmentColumns = 128;

struct JoinArguments {
  float* h1;  // (segments, batch, rows, channels, states): last states from zero in, first ones out
  float* h2;  // last states in, those of the segment before out; or null
  const float* initial_h1;  // (batch, rows, channels, states) or null
  const float* initial_h2;
  const float* step_sums;  // (segments, batch, rows, channels); null without steps
  ScanMatrix a;
  std::int64_t elements;  // batch * rows * channels * states
  int channels;
  int states;
  int segments;
  int segment_columns;
};

constexpr int kJoinThreads = 256;

/// One thread an element.
__global__ void __launch_bounds__(kJoinThreads)
    join_segments_kernel(__grid_constant__ const JoinArguments arguments) {
  const std::int64_t element = static_cast<std::int64_t>(blockIdx.x) * kJoinThreads + threadIdx.x;
  if (element >= arguments.elements) return;
  const std::int64_t line = element / arguments.states;
  const std::int64_t lines = arguments.elements / arguments.states;
  const auto channel = line % arguments.channels;
  const float a = arguments.a.data[channel * arguments.a.channel_stride +
                                   element % arguments.states * arguments.a.state_stride];
  float h1 = arguments.initial_h1 == nullptr ? 0.0f : arguments.initial_h1[element];
  float h2 = arguments.initial_h2 == nullptr ? 0.0f : arguments.initial_h2[element];
  for (int segment = 0; segment < arguments.segments; ++segment) {
    float& stored = arguments.h1[segment * arguments.elements + element];
    const float end = stored;
    stored = h1;
    const float decay = arguments.step_sums == nullptr
                            ? powf(a, static_cast<float>(arguments.segment_columns))
                            : expf(a * arguments.step_sums[segment * lines + line]);
    h1 = fmaf(decay, h1, end);
    if (arguments.h2 != nullptr) {
      float& other = arguments.h2[segment * arguments.elements + element];
      const float last = other;
      other = h2;
      h2 = last;
    }
  }
}

/// Sets the jobs and buffers of a sweep, and fewer warps where their shared memory (many groups of
/// B and C) is more than a block may have; the blocks to launch.
int set_jobs(const ScanVariant& variant, ScanArguments& arguments, int& warps,
             Workspace& workspace) {
  const auto limit = static_cast<std::size_t>(device_limits().shared_bytes_per_block);
  while (warps > 1 && scan_forward_shared_bytes(variant, arguments, warps) > limit) {
    warps = (warps + 1) / 2;
  }
  std::int64_t jobs =
      static_cast<std::int64_t>(arguments.segments) * arguments.batch * arguments.channel_blocks;
  if (variant.single) jobs *= arguments.rows;
  arguments.jobs = scan_size(jobs, "channels");
  const std::int64_t resident =
      static_cast<std::int64_t>(device_limits().multiprocessors) * kScanForwardBlocks;
  const std::int64_t blocks = std::min(variant.single ? ceil_div(jobs, warps) : jobs, resident);
  arguments.row_buffer = nullptr;
  if (!variant.single && arguments.rows > warps) {
    const int channels = variant.wide_channels ? kWideChannels : 1;
    arguments.row_buffer =
        workspace.floats(blocks * (arguments.segment_columns + 1) * channels * kWarpSize * 4);
  }
  return static_cast<int>(blocks);
}

int choose_segments(const ScanPlan& plan) {
  const ScanArguments& arguments = plan.arguments;
  const bool couples_both =
      !plan.variant.single && arguments.a[1].data != nullptr && arguments.a[2].data != nullptr;
  if (couples_both || plan.variant.form == ScanForm::kCompanion) return 1;
  std::int64_t jobs = static_cast<std::int64_t>(arguments.batch) * arguments.channel_blocks;
  if (plan.variant.single) jobs = ceil_div(jobs * arguments.rows, kMaxScanWarps);
  const std::int64_t segments =
      std::min<std::int64_t>(device_limits().multiprocessors * kScanForwardBlocks / jobs,
                             arguments.columns / kMinSegmentColumns);
  return segments < kMinSegments ? 1 : static_cast<int>(segments);
}

struct ForwardPlan {
  ScanPlan scan;
  int blocks;
  // With more than one segment:
  ScanVariant first_variant;
  ScanArguments first;
  int first_warps;
  int first_blocks;
  JoinArguments join;
};

ForwardPlan plan_forward(const SelectiveScan2dForward& problem, Workspace& workspace) {
  const SelectiveScan2dInputs& inputs = problem.inputs;
  ForwardPlan plan{};
  plan.scan = plan_scan(inputs);
  ScanArguments& arguments = plan.scan.arguments;
  arguments.y = problem.y;
  put_in_scan_order(arguments.y, inputs, arguments.wide ? 4 : 2);
  arguments.final = border_of(problem.final_states);
  if (plan.scan.swapped) {
    swap_axes(arguments.y);
    swap_axes_of_border(arguments.final);
  }
  const int segments = choose_segments(plan.scan);
  if (segments > 1) {
    arguments.segment_columns = static_cast<int>(ceil_div(arguments.columns, segments));
    arguments.segments = static_cast<int>(ceil_div(arguments.columns, arguments.segment_columns));
    const bool has_other = !plan.scan.variant.single && arguments.a[1].data != nullptr;
    JoinArguments& join = plan.join;
    const std::int64_t lines =
        static_cast<std::int64_t>(arguments.batch) * arguments.rows * arguments.channels;
    join.elements = lines * arguments.states;
    join.h1 = workspace.floats(arguments.segments * join.elements);
    if (has_other) join.h2 = workspace.floats(arguments.segments * join.elements);
    float* const step_sums = arguments.discretization == ScanDiscretization::kNone
                                 ? nullptr
                                 : workspace.floats(arguments.segments * lines);
    join.initial_h1 = arguments.initial.column_h1;
    join.initial_h2 = arguments.initial.column_h2;
    join.step_sums = step_sums;
    join.a = arguments.a[0];
    join.channels = arguments.channels;
    join.states = arguments.states;
    join.segments = arguments.segments;
    join.segment_columns = arguments.segment_columns;

    plan.first = arguments;
    plan.first.y = {};
    plan.first.initial.column_h1 = nullptr;
    plan.first.initial.column_h2 = nullptr;
    plan.first.final = {join.h1, join.h2, nullptr, nullptr};
    plan.first.step_sums = step_sums;
    plan.first.segment_ends = true;
    plan.first.lead_column = has_other;
    plan.first_variant = plan.scan.variant;
    plan.first_warps = plan.scan.warps;
    if (has_other) {
      // The first segment has no column before it: what h2 was there comes in from outside.
      plan.first.initial.column_h2 = arguments.initial.column_h2;
    } else if (!plan.scan.variant.single) {
      plan.first_variant.single = true;
      if (plan.first_variant.form == ScanForm::kExp) plan.first_variant.form = ScanForm::kZoh;
      plan.first_warps = kMaxScanWarps;
    }
    plan.first_blocks = set_jobs(plan.first_variant, plan.first, plan.first_warps, workspace);
    arguments.initial.column_h1 = join.h1;
    arguments.initial.column_h2 = join.h2;
  }
  plan.blocks = set_jobs(plan.scan.variant, arguments, plan.scan.warps, workspace);
  return plan;
}

}  // namespace

std::size_t selective_scan_2d_forward_workspace(const SelectiveScan2dForward& problem) {
  if (is_empty(problem.inputs.shape)) return 0;
  Workspace workspace(nullptr);
  plan_forward(problem, workspace);
  return workspace.used();
}

void selective_scan_2d_forward(const SelectiveScan2dForward& problem, void* workspace_start,
                               void* stream_pointer) {
  check_scan(problem.inputs);
  if (is_empty(problem.inputs.shape)) return;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  Workspace workspace(workspace_start);
  const ForwardPlan plan = plan_forward(problem, workspace);
  if (plan.scan.arguments.segments > 1) {
    launch_scan_forward(plan.first_variant, plan.first, plan.first_warps, plan.first_blocks,
                        stream);
    launch(join_segments_kernel,
           {dim3(static_cast<unsigned>(ceil_div(plan.join.elements, kJoinThreads))),
            dim3(kJoinThreads), 0, stream, "selective_scan_2d_join_segments"},
           plan.join);
  }
  launch_scan_forward(plan.scan.variant, plan.scan.arguments, plan.scan.warps, plan.blocks, stream);
}

}  // namespace rankone::cuda
