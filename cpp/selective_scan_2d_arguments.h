// The arguments of the 2D selective scan: checks of what pointers and sizes can show, and the
// inputs in scan order.
#pragma once

#include <cstdint>
#include <string>

#include "rankone/selective_scan_2d.h"
#include "sequence_arguments.h"

namespace rankone {

/// A tensor with the rows or columns that are scanned in reverse turned over.
template <typename Pointer>
CellTensor<Pointer> in_scan_order(CellTensor<Pointer> tensor, const SelectiveScan2dInputs& inputs) {
  if (tensor.data == nullptr) return tensor;
  if (inputs.reverse_rows) {
    tensor.data =
        cpu::advance(tensor.data, (inputs.shape.rows - 1) * tensor.row_stride, inputs.dtype);
    tensor.row_stride = -tensor.row_stride;
  }
  if (inputs.reverse_columns) {
    tensor.data =
        cpu::advance(tensor.data, (inputs.shape.columns - 1) * tensor.column_stride, inputs.dtype);
    tensor.column_stride = -tensor.column_stride;
  }
  return tensor;
}

/// The inputs with every tensor over cells in scan order and no reverse flag. Static B and C have
/// no rows and columns to turn over.
inline SelectiveScan2dInputs in_scan_order(const SelectiveScan2dInputs& inputs) {
  SelectiveScan2dInputs turned = inputs;
  for (ConstCells* tensor : {&turned.x, &turned.dt1, &turned.dt2, &turned.z}) {
    *tensor = in_scan_order(*tensor, inputs);
  }
  const SelectiveScan2dShape& shape = inputs.shape;
  if (shape.B1_groups > 0) turned.B1 = in_scan_order(turned.B1, inputs);
  if (shape.B2_groups > 0) turned.B2 = in_scan_order(turned.B2, inputs);
  if (shape.C1_groups > 0) turned.C1 = in_scan_order(turned.C1, inputs);
  if (shape.C2_groups > 0) turned.C2 = in_scan_order(turned.C2, inputs);
  turned.reverse_rows = turned.reverse_columns = false;
  return turned;
}

/// Throws ArgumentError unless the inputs are ones the kernels take.
inline void check_selective_scan_2d(const SelectiveScan2dInputs& inputs) {
  using cpu::got;
  using cpu::require;
  const SelectiveScan2dShape& shape = inputs.shape;
  cpu::element_size(inputs.dtype);
  require(shape.batch >= 0, "batch", "expected at least 0" + got(shape.batch));
  require(shape.rows >= 1, "rows", "expected at least 1" + got(shape.rows));
  require(shape.columns >= 1, "columns", "expected at least 1" + got(shape.columns));
  require(shape.channels >= 0, "channels", "expected at least 0" + got(shape.channels));
  require(shape.states >= 1 && shape.states <= kMaxScanStates, "states",
          "expected 1 to " + std::to_string(kMaxScanStates) + got(shape.states));
  const int rule = static_cast<int>(inputs.discretization);
  require(rule >= 0 && rule <= static_cast<int>(ScanDiscretization::kNone), "discretization",
          "expected kZoh, kMamba, kExp or kNone" + got(rule));
  const bool companion = inputs.structure == ScanStructure::kCompanion;
  require(companion || inputs.structure == ScanStructure::kDiagonal, "structure",
          "expected kDiagonal or kCompanion" + got(static_cast<int>(inputs.structure)));
  require(!companion || inputs.discretization == ScanDiscretization::kZoh, "discretization",
          "expected kZoh with the companion structure" + got(rule));
  require(inputs.gamma == nullptr || (companion && inputs.A2.data != nullptr), "gamma",
          "expected null without the companion structure and its A2");

  const bool second = !inputs.single_axis;
  const bool stepped = inputs.discretization != ScanDiscretization::kNone;
  const std::int64_t channels = shape.channels;
  const auto check_divides = [&](const char* name, std::int64_t count) {
    require(count >= 1 && channels % count == 0, name,
            "expected a divisor of channels = " + std::to_string(channels) + got(count));
  };
  const auto check_absent = [&](const char* name, bool absent, const char* where) {
    require(absent, name, std::string("expected null ") + where);
  };
  const bool empty = shape.batch == 0 || channels == 0;
  const auto check_data = [&](const char* name, const void* data) {
    require(data != nullptr || empty, name, "expected data, got null");
  };
  const auto check_steps = [&](const char* name, const char* heads_name, const ConstCells& dt,
                               std::int64_t heads, const char* bias_name, const void* bias,
                               bool wanted, const char* where) {
    if (wanted) {
      check_data(name, dt.data);
      check_divides(heads_name, heads);
    } else {
      check_absent(name, dt.data == nullptr, where);
      check_absent(bias_name, bias == nullptr, where);
    }
  };
  check_data("x", inputs.x.data);
  check_steps("dt1", "dt1_heads", inputs.dt1, shape.dt1_heads, "dt1_bias", inputs.dt1_bias, stepped,
              "with kNone");
  check_steps("dt2", "dt2_heads", inputs.dt2, shape.dt2_heads, "dt2_bias", inputs.dt2_bias,
              stepped && second, stepped ? "with single_axis" : "with kNone");
  check_data("A1", inputs.A1.data);
  const auto check_projection = [&](const char* name, const char* groups_name,
                                    const ConstCells& tensor, std::int64_t groups) {
    check_data(name, tensor.data);
    if (groups != 0) check_divides(groups_name, groups);
  };
  check_projection("B1", "B1_groups", inputs.B1, shape.B1_groups);
  check_projection("C1", "C1_groups", inputs.C1, shape.C1_groups);
  if (second) {
    check_data("A4", inputs.A4.data);
    check_projection("B2", "B2_groups", inputs.B2, shape.B2_groups);
    check_projection("C2", "C2_groups", inputs.C2, shape.C2_groups);
    return;
  }
  const char* alone = "with single_axis";
  check_absent("A2", inputs.A2.data == nullptr, alone);
  check_absent("A3", inputs.A3.data == nullptr, alone);
  check_absent("A4", inputs.A4.data == nullptr, alone);
  check_absent("B2", inputs.B2.data == nullptr, alone);
  check_absent("C2", inputs.C2.data == nullptr, alone);
  check_absent("column_h2", inputs.initial_states.column_h2 == nullptr, alone);
  check_absent("row_h1", inputs.initial_states.row_h1 == nullptr, alone);
  check_absent("row_h2", inputs.initial_states.row_h2 == nullptr, alone);
}

}  // namespace rankone
