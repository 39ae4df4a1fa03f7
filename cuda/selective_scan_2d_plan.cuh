// The caller's problem as the sweeps of the 2D selective scan see it: axes in scan order, swapped
// where that fills the warps better, the form of the inner loop, and how much runs at once. Host
// code.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "primitives/launch.cuh"
#include "selective_scan_2d.cuh"

namespace rankone::cuda {

/// Moves `tensor` to the other end of the reversed axes and turns their strides.
template <typename Pointer>
void put_in_scan_order(CellTensor<Pointer>& tensor, const SelectiveScan2dInputs& inputs,
                       std::int64_t element_bytes) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const std::byte,
                                  std::byte>;
  if (tensor.data == nullptr) return;
  auto* data = static_cast<Byte*>(tensor.data);
  if (inputs.reverse_rows) {
    data += (inputs.shape.rows - 1) * tensor.row_stride * element_bytes;
    tensor.row_stride = -tensor.row_stride;
  }
  if (inputs.reverse_columns) {
    data += (inputs.shape.columns - 1) * tensor.column_stride * element_bytes;
    tensor.column_stride = -tensor.column_stride;
  }
  tensor.data = data;
}

template <typename Pointer>
void swap_axes(CellTensor<Pointer>& tensor) {
  std::swap(tensor.row_stride, tensor.column_stride);
}

template <typename Border>
void swap_axes_of_border(Border& border) {
  std::swap(border.column_h1, border.row_h2);
  std::swap(border.column_h2, border.row_h1);
}

inline ScanBorder border_of(const ScanStates<const void*>& states) {
  const auto floats = [](const void* data) { return static_cast<float*>(const_cast<void*>(data)); };
  return {floats(states.column_h1), floats(states.column_h2), floats(states.row_h1),
          floats(states.row_h2)};
}
inline ScanBorder border_of(const ScanStates<void*>& states) {
  return border_of(
      ScanStates<const void*>{states.column_h1, states.column_h2, states.row_h1, states.row_h2});
}

/// Sizes that kernels hold in an int, with room to round up.
inline int scan_size(std::int64_t size, const char* name) {
  constexpr std::int64_t kLargest = std::int64_t{1} << 30;
  if (size < 0 || size > kLargest) {
    throw ArgumentError(name, "expected 0 to 2^30 on CUDA, got " + std::to_string(size));
  }
  return static_cast<int>(size);
}

inline bool is_empty(const SelectiveScan2dShape& shape) {
  return shape.batch == 0 || shape.rows == 0 || shape.columns == 0 || shape.channels == 0;
}

inline ScanForm form_of(const SelectiveScan2dInputs& inputs) {
  if (inputs.structure == ScanStructure::kCompanion) return ScanForm::kCompanion;
  const bool one_state = inputs.shape.states == 1;
  const auto is_scalar = [&](const ScanParameter& a) {
    return a.data == nullptr || one_state || a.state_stride == 0;
  };
  if (is_scalar(inputs.A1) && is_scalar(inputs.A2) && is_scalar(inputs.A3) &&
      is_scalar(inputs.A4)) {
    return ScanForm::kScalar;
  }
  switch (inputs.discretization) {
    case ScanDiscretization::kZoh:
      return ScanForm::kZoh;
    case ScanDiscretization::kMamba:
      return ScanForm::kMamba;
    case ScanDiscretization::kExp:
      // Without a coupling the two are the same.
      return inputs.single_axis ? ScanForm::kZoh : ScanForm::kExp;
    case ScanDiscretization::kNone:
      break;
  }
  return ScanForm::kNone;
}

inline void check_scan(const SelectiveScan2dInputs& inputs) {
  if (inputs.dtype == DataType::kFloat64) {
    throw ArgumentError("dtype", "expected float32, float16 or bfloat16 on CUDA, got float64");
  }
  const SelectiveScan2dShape& shape = inputs.shape;
  if (shape.states < 1 || shape.states > kMaxScanStates) {
    throw ArgumentError("states", "expected 1 to " + std::to_string(kMaxScanStates) + ", got " +
                                      std::to_string(shape.states));
  }
  if (inputs.structure == ScanStructure::kCompanion &&
      inputs.discretization != ScanDiscretization::kZoh) {
    throw ArgumentError("discretization", "expected kZoh with the companion structure");
  }
  const auto check_parts = [&](std::int64_t parts, const char* name) {
    if (parts < 0 || (parts > 0 && shape.channels % parts != 0)) {
      throw ArgumentError(
          name, "expected a divisor of channels = " + std::to_string(shape.channels) + ", got " +
                    std::to_string(parts));
    }
  };
  check_parts(shape.dt1_heads, "dt1_heads");
  check_parts(shape.dt2_heads, "dt2_heads");
  check_parts(shape.B1_groups, "B1_groups");
  check_parts(shape.B2_groups, "B2_groups");
  check_parts(shape.C1_groups, "C1_groups");
  check_parts(shape.C2_groups, "C2_groups");
  scan_size(shape.batch, "batch");
  scan_size(shape.rows, "rows");
  scan_size(shape.columns, "columns");
  scan_size(shape.channels, "channels");
}

/// The greatest number of channel groups that `warp_channels` channels from a multiple of
/// `warp_channels` on can meet.
inline int groups_met(int channels, int channels_per_group, int warp_channels) {
  int most = 1;
  for (int first = 0; first < channels; first += warp_channels) {
    const int last = std::min(first + warp_channels, channels) - 1;
    most = std::max(most, last / channels_per_group - first / channels_per_group + 1);
  }
  return most;
}

/// A problem in the terms of the sweeps.
struct ScanPlan {
  ScanVariant variant;
  ScanArguments arguments;
  int warps;
  bool swapped;  // the sweep's rows are the problem's columns
};

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// A step is one column: its rows stay on the warps, one channel a thread.
enum class ScanUse { kSweep, kStep };

/// Everything but what depends on outputs and workspace.
inline ScanPlan plan_scan(const SelectiveScan2dInputs& inputs, ScanUse use = ScanUse::kSweep) {
  check_scan(inputs);
  const SelectiveScan2dShape& shape = inputs.shape;
  ScanPlan plan{};
  plan.variant.form = form_of(inputs);
  plan.variant.single = inputs.single_axis;
  ScanArguments& arguments = plan.arguments;
  arguments.batch = static_cast<int>(shape.batch);
  arguments.rows = static_cast<int>(shape.rows);
  arguments.columns = static_cast<int>(shape.columns);
  arguments.channels = static_cast<int>(shape.channels);
  arguments.states = static_cast<int>(shape.states);
  arguments.discretization = inputs.discretization;
  arguments.wide = inputs.dtype == DataType::kFloat32;
  arguments.half = inputs.dtype == DataType::kFloat16;
  arguments.softplus = inputs.dt_softplus;
  arguments.state_lanes = kMinStateLanes;
  while (kStatesPerThread * arguments.state_lanes < shape.states) arguments.state_lanes *= 2;

  // Four channels a thread, where that leaves a block for every second multiprocessor at least;
  // below, a step costs about half with one channel a thread.
  const int wide_channels = warp_channels_of(arguments.state_lanes, kWideChannels);
  const std::int64_t lines = shape.batch * (inputs.single_axis ? ceil_div(shape.rows, 8) : 1);
  plan.variant.wide_channels =
      use == ScanUse::kSweep &&
      (!has_narrow_variant(plan.variant.form) ||
       2 * lines * ceil_div(shape.channels, wide_channels) >= device_limits().multiprocessors);
  const int warp_channels =
      warp_channels_of(arguments.state_lanes, plan.variant.wide_channels ? kWideChannels : 1);
  arguments.channel_blocks = static_cast<int>(ceil_div(shape.channels, warp_channels));

  const std::int64_t element = arguments.wide ? 4 : 2;
  arguments.x = inputs.x;
  arguments.dt[0] = inputs.dt1;
  arguments.dt[1] = inputs.dt2;
  arguments.z = inputs.z;
  for (ConstCells* tensor : {&arguments.x, &arguments.dt[0], &arguments.dt[1], &arguments.z}) {
    put_in_scan_order(*tensor, inputs, element);
  }
  const auto per_part = [&](std::int64_t parts) {
    return static_cast<int>(parts > 0 ? shape.channels / parts : 1);
  };
  arguments.channels_per_head[0] = per_part(shape.dt1_heads);
  arguments.channels_per_head[1] = per_part(shape.dt2_heads);
  const auto vector = [&](const ConstCells& tensor, std::int64_t groups) {
    ScanVector result{tensor, static_cast<int>(groups), per_part(groups), warp_channels};
    if (groups > 0) {
      put_in_scan_order(result.tensor, inputs, element);
      result.local_groups =
          groups_met(arguments.channels, result.channels_per_group, warp_channels);
    }
    return result;
  };
  arguments.vectors[kVectorB1] = vector(inputs.B1, shape.B1_groups);
  arguments.vectors[kVectorC1] = vector(inputs.C1, shape.C1_groups);
  if (!inputs.single_axis) {
    arguments.vectors[kVectorB2] = vector(inputs.B2, shape.B2_groups);
    arguments.vectors[kVectorC2] = vector(inputs.C2, shape.C2_groups);
  }
  const auto matrix = [](const ScanParameter& a) {
    return ScanMatrix{static_cast<const float*>(a.data), a.channel_stride, a.state_stride};
  };
  arguments.a[0] = matrix(inputs.A1);
  arguments.a[1] = matrix(inputs.A2);
  arguments.a[2] = matrix(inputs.A3);
  arguments.a[3] = matrix(inputs.A4);
  arguments.skip = static_cast<const float*>(inputs.D);
  arguments.bias[0] = static_cast<const float*>(inputs.dt1_bias);
  arguments.bias[1] = static_cast<const float*>(inputs.dt2_bias);
  arguments.gamma = static_cast<const float*>(inputs.gamma);
  arguments.initial = border_of(inputs.initial_states);
  arguments.segments = 1;

  // Companion matrices act along columns only.
  plan.swapped = use == ScanUse::kSweep && !inputs.single_axis &&
                 inputs.structure == ScanStructure::kDiagonal && shape.columns < shape.rows;
  if (plan.swapped) {
    std::swap(arguments.rows, arguments.columns);
    for (ConstCells* tensor : {&arguments.x, &arguments.dt[0], &arguments.dt[1], &arguments.z}) {
      swap_axes(*tensor);
    }
    for (ScanVector& each : arguments.vectors) swap_axes(each.tensor);
    std::swap(arguments.vectors[kVectorB1], arguments.vectors[kVectorB2]);
    std::swap(arguments.vectors[kVectorC1], arguments.vectors[kVectorC2]);
    std::swap(arguments.dt[0], arguments.dt[1]);
    std::swap(arguments.bias[0], arguments.bias[1]);
    std::swap(arguments.channels_per_head[0], arguments.channels_per_head[1]);
    std::swap(arguments.a[0], arguments.a[3]);
    std::swap(arguments.a[1], arguments.a[2]);
    swap_axes_of_border(arguments.initial);
  }
  arguments.segment_columns = arguments.columns;
  // As few row blocks as 8 warps allow, and no more warps than fill them.
  const std::int64_t lines_of_block =
      inputs.single_axis ? shape.batch * shape.rows * arguments.channel_blocks : arguments.rows;
  plan.warps = static_cast<int>(ceil_div(lines_of_block, ceil_div(lines_of_block, kMaxScanWarps)));
  return plan;
}

}  // namespace rankone::cuda
