// One column of the 2D selective scan: h1 of all rows from the column before, then h2 down the
// rows. Called once a column in closed-loop forecasting, from selective_scan_2d_step.
//
// A block owns the channels of one warp and takes as many rows at a time as it has warps. Given h1,
// h2 is a first-order recurrence along the rows: warps make its factors for their own rows, all at
// once, and each runs through the group's few products to its own row and on to the last one. So
// the sequential part of a row is one FMA, and the loads of a group are under way together. The
// state is read and written once, in place if the caller likes.
#include "primitives/launch.cuh"
#include "selective_scan_2d_cell.cuh"
#include "selective_scan_2d_plan.cuh"

namespace rankone::cuda {
namespace {

struct alignas(16) SharedFloats {
  float x[4];
};

struct StepLayout {
  ScanLayout cell;
  int warp_floats;
  int h1;       // of row -1 of the group and its rows, two groups
  int factors;  // of h2 in the group's rows
  int table;
  int static_vectors;
  int warps_start;
  int total;

  __host__ __device__ StepLayout(const ScanArguments& arguments, int value_rows, int warps)
      : cell(arguments, 1, value_rows, kScanVectors) {
    warp_floats = cell.slot + kScratchRow;
    h1 = 0;
    factors = 2 * (warps + 1) * kWarpSize * 2;
    table = factors + warps * kWarpSize * 4;
    static_vectors = table + kParameterTableFloats<false, 1>;
    warps_start = static_vectors + cell.static_floats;
    total = warps_start + warps * warp_floats;
  }
};

template <ScanForm kForm>
__global__ void __launch_bounds__(kMaxScanWarps* kWarpSize)
    scan_step_kernel(__grid_constant__ const ScanArguments arguments) {
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = shuffle_idx(warp_id(), 0);
  const ScanLane lane = ScanLane::of<1>(arguments.state_lanes);
  const StepLayout layout(arguments, kValueRows<kForm>, warps);
  float* const shared = shared_memory<SharedFloats>().x;
  float* const slot = shared + layout.warps_start + warp * layout.warp_floats;
  float* const scratch = slot + layout.cell.slot;
  float* const static_vectors = shared + layout.static_vectors;
  const auto h1_at = [&](int group, int row) -> float2& {
    return reinterpret_cast<float2*>(
        shared + layout.h1)[((group % 2) * (warps + 1) + row) * kWarpSize + lane_id()];
  };
  const auto factors_at = [&](int row) -> float4& {
    return reinterpret_cast<float4*>(shared + layout.factors)[row * kWarpSize + lane_id()];
  };

  ScanLine line{};
  line.channel =
      static_cast<int>(blockIdx.x) % arguments.channel_blocks * layout.cell.warp_channels;
  line.batch = static_cast<int>(blockIdx.x) / arguments.channel_blocks;
  const int channel = line.channel + lane.channel;
  CellStage<kForm, false, 1> stage(arguments, layout.cell);
  stage.store_static(line, static_vectors, static_cast<int>(threadIdx.x), warps * kWarpSize);
  CellVectors<false, 1> vectors;
  vectors.start(arguments, line, lane);
  ScanParameters<kForm, false, 1, ScanTable::kInverses> parameters;
  float* const table = shared + layout.table;
  parameters.load(arguments, line, lane, warp == 0 ? table : nullptr);
  const float skip = arguments.skip != nullptr && stage.is_inside(line, 0)
                         ? arguments.skip[stage.channel_of(line, 0)]
                         : 0.0f;
  if (warp == 0) h1_at(0, 0) = make_float2(0.0f, 0.0f);  // above the first row
  block_sync();

  parameters.select(table, 0);
  float carry[2] = {};  // h2 of the last row before the group
  for (int first = 0, group = 0; first < arguments.rows; first += warps, ++group) {
    const int row = first + warp;
    const bool active = row < arguments.rows;
    const std::int64_t place = static_cast<std::int64_t>(line.batch) * arguments.rows + row;
    CellStates states{};
    std::uint32_t gate = 0;
    CellFactors<kForm, false, 1> factors;
    if (active) {
      stage.prefetch(line, row, 0);
      CellStates left;
      load_states(arguments, arguments.initial.column_h1, place, channel, lane.state, left.h1);
      load_states(arguments, arguments.initial.column_h2, place, channel, lane.state, left.h2);
      if (arguments.z.data != nullptr && stage.is_inside(line, 0)) {
        gate = load_bits(arguments.z.data,
                         cell_offset(arguments.z, line.batch, row, 0) +
                             stage.channel_of(line, 0) * arguments.z.channel_stride,
                         arguments.wide);
      }
      stage.commit(line, slot);
      warp_sync();
      factors.load(slot, layout.cell, lane);
      vectors.load(arguments, layout.cell, lane, slot, static_vectors, 0);
      states = advance_states(parameters, factors, vectors, lane, arguments.states, 0, left,
                              CellStates{});
      h1_at(group, warp + 1) = make_float2(states.h1[0], states.h1[1]);
      if (warp == warps - 1) h1_at(group + 1, 0) = make_float2(states.h1[0], states.h1[1]);
    }
    block_sync();
    if (active) {
      const float2 above = h1_at(group, warp);
      const float b2[2] = {vectors.values[kVectorB2].x, vectors.values[kVectorB2].y};
      factors_at(warp) = make_float4(factors.own_factor(parameters, 1, 0, 0),
                                     factors.own_factor(parameters, 1, 0, 1),
                                     factors.advance(parameters, 1, 0, 0, 0.0f, above.x, b2[0]),
                                     factors.advance(parameters, 1, 0, 1, 0.0f, above.y, b2[1]));
    }
    block_sync();
    const int count = min(warps, arguments.rows - first);
    for (int r = 0; r < count; ++r) {
      const float4 each = factors_at(r);
      carry[0] = fmaf(each.x, carry[0], each.z);
      carry[1] = fmaf(each.y, carry[1], each.w);
      if (r == warp) {
        states.h2[0] = carry[0];
        states.h2[1] = carry[1];
      }
    }
    if (active) {
      store_states(arguments, arguments.final.column_h1, place, channel, lane.state, states.h1);
      store_states(arguments, arguments.final.column_h2, place, channel, lane.state, states.h2);
      float sum = vectors.values[kVectorC1].x * states.h1[0];
      sum = fmaf(vectors.values[kVectorC1].y, states.h1[1], sum);
      sum = fmaf(vectors.values[kVectorC2].x, states.h2[0], sum);
      sum = fmaf(vectors.values[kVectorC2].y, states.h2[1], sum);
      scratch[lane_id()] = sum;
      warp_sync();
      if (stage.is_inside(line, 0)) {
        float y = skip * slot[kRowX * layout.cell.value_pitch + lane_id()];
        for (int i = 0; i < arguments.state_lanes; ++i) {
          y += scratch[lane_id() * arguments.state_lanes + i];
        }
        if (arguments.z.data != nullptr) {
          const float z = from_bits(gate, arguments.wide, arguments.half);
          y *= z / (1.0f + expf(-z));
        }
        store_element(arguments.y.data,
                      cell_offset(arguments.y, line.batch, row, 0) +
                          stage.channel_of(line, 0) * arguments.y.channel_stride,
                      y, arguments.wide, arguments.half);
      }
      warp_sync();
    }
  }
}

template <ScanForm kForm>
void launch_step(const ScanArguments& arguments, int warps, cudaStream_t stream) {
  const StepLayout layout(arguments, kValueRows<kForm>, warps);
  launch(scan_step_kernel<kForm>,
         {dim3(static_cast<unsigned>(arguments.batch) *
               static_cast<unsigned>(arguments.channel_blocks)),
          dim3(static_cast<unsigned>(warps * kWarpSize)),
          static_cast<std::size_t>(layout.total) * sizeof(float), stream, "selective_scan_2d_step"},
         arguments);
}

}  // namespace

void selective_scan_2d_step(const SelectiveScan2dStep& problem, void* stream_pointer) {
  const SelectiveScan2dInputs& inputs = problem.inputs;
  check_scan(inputs);
  if (inputs.shape.columns != 1) {
    throw ArgumentError("columns",
                        "expected 1 in a step, got " + std::to_string(inputs.shape.columns));
  }
  if (is_empty(inputs.shape)) return;
  if (inputs.single_axis) {
    // Rows are independent: the sweep of one column, which needs no workspace.
    SelectiveScan2dForward forward;
    forward.inputs = inputs;
    forward.y = problem.y;
    forward.final_states.column_h1 = problem.column_h1;
    selective_scan_2d_forward(forward, nullptr, stream_pointer);
    return;
  }
  ScanPlan plan = plan_scan(inputs, ScanUse::kStep);
  ScanArguments& arguments = plan.arguments;
  arguments.y = problem.y;
  put_in_scan_order(arguments.y, inputs, arguments.wide ? 4 : 2);
  arguments.final.column_h1 = static_cast<float*>(problem.column_h1);
  arguments.final.column_h2 = static_cast<float*>(problem.column_h2);
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  with_scan_form(plan.variant.form,
                 [&]<ScanForm kForm>() { launch_step<kForm>(arguments, plan.warps, stream); });
}

}  // namespace rankone::cuda
