// Bindings of the 2D selective scan. The argument tuples are those of
// rankone.ops._selective_scan_2d.native_inputs; the CUDA functions also serve the host emulation.
#include "rankone/selective_scan_2d.h"

#include "bindings.h"

namespace rankone::bindings {
namespace {

/// batch, rows, columns, channels, states; heads of dt1, dt2; groups of B1, B2, C1, C2.
using Sizes = std::array<std::int64_t, 11>;
/// dtype, discretization, structure, single_axis, dt_softplus, reverse_rows, reverse_columns.
using Options = std::tuple<int, int, int, bool, bool, bool, bool>;
/// Address, then the strides of batch, row, column, channel and state.
using CellsTuple = std::array<std::int64_t, 6>;
/// x, dt1, dt2, z, B1, B2, C1, C2.
using Cells = std::array<CellsTuple, 8>;
/// A1, A2, A3, A4: address, strides of channel and state.
using Parameters = std::array<std::array<std::int64_t, 3>, 4>;
/// D, dt1_bias, dt2_bias, gamma; and column_h1, column_h2, row_h1, row_h2.
using Addresses4 = std::array<std::int64_t, 4>;
/// A1, A2, A3, A4, D, dt1_bias, dt2_bias, gamma.
using ParameterGrads = std::array<std::int64_t, 8>;
using Addresses2 = std::array<std::int64_t, 2>;

template <typename Pointer>
CellTensor<Pointer> cells(const CellsTuple& tuple) {
  return {pointer(tuple[0]), tuple[1], tuple[2], tuple[3], tuple[4], tuple[5]};
}

template <typename Pointer>
ScanStates<Pointer> states(const Addresses4& addresses) {
  return {pointer(addresses[0]), pointer(addresses[1]), pointer(addresses[2]),
          pointer(addresses[3])};
}

SelectiveScan2dInputs inputs(const Sizes& sizes, const Options& options, const Cells& tensors,
                             const Parameters& parameters, const Addresses4& vectors,
                             const Addresses4& initial) {
  SelectiveScan2dInputs inputs;
  inputs.shape = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5],
                  sizes[6], sizes[7], sizes[8], sizes[9], sizes[10]};
  inputs.dtype = static_cast<DataType>(std::get<0>(options));
  inputs.discretization = static_cast<ScanDiscretization>(std::get<1>(options));
  inputs.structure = static_cast<ScanStructure>(std::get<2>(options));
  inputs.single_axis = std::get<3>(options);
  inputs.dt_softplus = std::get<4>(options);
  inputs.reverse_rows = std::get<5>(options);
  inputs.reverse_columns = std::get<6>(options);
  ConstCells* const tensor_fields[] = {&inputs.x,  &inputs.dt1, &inputs.dt2, &inputs.z,
                                       &inputs.B1, &inputs.B2,  &inputs.C1,  &inputs.C2};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    *tensor_fields[i] = cells<const void*>(tensors[i]);
  }
  ScanParameter* const parameter_fields[] = {&inputs.A1, &inputs.A2, &inputs.A3, &inputs.A4};
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    *parameter_fields[i] = {pointer(parameters[i][0]), parameters[i][1], parameters[i][2]};
  }
  inputs.D = pointer(vectors[0]);
  inputs.dt1_bias = pointer(vectors[1]);
  inputs.dt2_bias = pointer(vectors[2]);
  inputs.gamma = pointer(vectors[3]);
  inputs.initial_states = states<const void*>(initial);
  return inputs;
}

SelectiveScan2dForward forward(const Sizes& sizes, const Options& options, const Cells& tensors,
                               const Parameters& parameters, const Addresses4& vectors,
                               const Addresses4& initial, const CellsTuple& y,
                               const Addresses4& final_states) {
  return {inputs(sizes, options, tensors, parameters, vectors, initial), cells<void*>(y),
          states<void*>(final_states)};
}

SelectiveScan2dBackward backward(const Sizes& sizes, const Options& options, const Cells& tensors,
                                 const Parameters& parameters, const Addresses4& vectors,
                                 const Addresses4& initial, const CellsTuple& y_grad,
                                 const Addresses4& final_states_grad, const Cells& cell_grads,
                                 const ParameterGrads& parameter_grads,
                                 const Addresses4& initial_states_grad) {
  SelectiveScan2dBackward problem;
  problem.inputs = inputs(sizes, options, tensors, parameters, vectors, initial);
  problem.y_grad = cells<const void*>(y_grad);
  problem.final_states_grad = states<const void*>(final_states_grad);
  MutableCells* const cell_fields[] = {&problem.x_grad,  &problem.dt1_grad, &problem.dt2_grad,
                                       &problem.z_grad,  &problem.B1_grad,  &problem.B2_grad,
                                       &problem.C1_grad, &problem.C2_grad};
  for (std::size_t i = 0; i < cell_grads.size(); ++i) {
    *cell_fields[i] = cells<void*>(cell_grads[i]);
  }
  void** const parameter_fields[] = {
      &problem.A1_grad, &problem.A2_grad,       &problem.A3_grad,       &problem.A4_grad,
      &problem.D_grad,  &problem.dt1_bias_grad, &problem.dt2_bias_grad, &problem.gamma_grad};
  for (std::size_t i = 0; i < parameter_grads.size(); ++i) {
    *parameter_fields[i] = pointer(parameter_grads[i]);
  }
  problem.initial_states_grad = states<void*>(initial_states_grad);
  return problem;
}

SelectiveScan2dStep step(const Sizes& sizes, const Options& options, const Cells& tensors,
                         const Parameters& parameters, const Addresses4& vectors,
                         const Addresses4& initial, const CellsTuple& y,
                         const Addresses2& column_states) {
  return {inputs(sizes, options, tensors, parameters, vectors, initial), cells<void*>(y),
          pointer(column_states[0]), pointer(column_states[1])};
}

}  // namespace

void bind_selective_scan_2d_cpu(py::module_& module) {
  def_cpu(module, "selective_scan_2d_forward", &forward, &cpu::selective_scan_2d_forward);
  def_cpu(module, "selective_scan_2d_backward", &backward, &cpu::selective_scan_2d_backward);
  def_cpu(module, "selective_scan_2d_step", &step, &cpu::selective_scan_2d_step);
}

#ifdef RANKONE_CUDA_SELECTIVE_SCAN_2D
void bind_selective_scan_2d_cuda(py::module_& module) {
  def_cuda(module, "selective_scan_2d_forward", &forward, &cuda::selective_scan_2d_forward,
           &cuda::selective_scan_2d_forward_workspace);
  def_cuda(module, "selective_scan_2d_backward", &backward, &cuda::selective_scan_2d_backward,
           &cuda::selective_scan_2d_backward_workspace);
  def_cuda(module, "selective_scan_2d_step", &step, &cuda::selective_scan_2d_step);
}
#endif

}  // namespace rankone::bindings
