// The 2D selective state-space scan and its 1D special case, the third kernel family.
//
// A grid of `rows` x `columns` cells (v, t); per batch entry and channel two states of length
// `states`, one that moves along columns and one that moves along rows (0, or the initial states,
// outside the grid):
//   h1[v,t] = A1' h1[v,t-1] + A2' h2[v,t-1] + B1' x[v,t]
//   h2[v,t] = A3' h1[v-1,t] + A4' h2[v-1,t] + B2' x[v,t]
//   y[v,t]  = (C1 . h1[v,t] + C2 . h2[v,t] + D x[v,t]) * silu(z[v,t])
// with the primed quantities made from A, B and the cell's own steps dt1 (h1) and dt2 (h2).
//
// Equations: arXiv 2406.04320 (Chimera); the 1D scan is that of arXiv 2312.00752 (Mamba).
#pragma once

#include <cstddef>
#include <cstdint>

#include "rankone/core.h"

namespace rankone {

/// Largest number of states per channel and state kind.
inline constexpr std::int64_t kMaxScanStates = 64;

/// E = exp(dt A), G = (exp(dt A) - 1) / A, with dt1 for A1, A2, B1 and dt2 for A3, A4, B2.
enum class ScanDiscretization : int {
  kZoh = 0,    // A1' = E(A1), A2' = G(A1) A2, B1' = G(A1) B1; A4' = E(A4), A3' = G(A4) A3, ...
  kMamba = 1,  // the same with dt in place of G
  kExp = 2,    // A' = E(A) for all four, a null A2 or A3 giving 0; B' as in kZoh
  kNone = 3,   // A and B as they are; no dt1, dt2
};

/// Companion: h1' = (1 - g) h1 + g (Comp(A1) h1 + gamma Comp(A2) h2 + B1 x), g = 1 - exp(-dt1),
/// (Comp(a) h)_i = h_{i-1} + a_i h_{last}; h2 as in the diagonal structure. With kZoh only.
enum class ScanStructure : int { kDiagonal = 0, kCompanion = 1 };

/// A tensor over cells in caller-owned memory: (batch, rows, columns, channels[, states]) in any
/// order of memory. Strides count elements and may be any value, 0 and negative included (an
/// output's elements must be distinct). `channel_stride` is that of the tensor's own fourth axis:
/// channels, heads of a dt, groups of a B or C.
template <typename Pointer>
struct CellTensor {
  Pointer data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t row_stride = 0;
  std::int64_t column_stride = 0;
  std::int64_t channel_stride = 0;
  std::int64_t state_stride = 0;  // of B and C
};

using ConstCells = CellTensor<const void*>;
using MutableCells = CellTensor<void*>;

/// A (channels, states) parameter; a state_stride of 0 is one value a channel.
struct ScanParameter {
  const void* data = nullptr;
  std::int64_t channel_stride = 0;
  std::int64_t state_stride = 0;
};

/// States on the two borders of a grid, contiguous, in the order of the scan: with reverse_rows
/// entry v of a column state belongs to the row that is scanned v-th, and so for columns.
template <typename Pointer>
struct ScanStates {
  Pointer column_h1 = nullptr;  // (batch, rows, channels, states): of the column before / the last
  Pointer column_h2 = nullptr;
  Pointer row_h1 = nullptr;  // (batch, columns, channels, states): of the row above / the last
  Pointer row_h2 = nullptr;
};

struct SelectiveScan2dShape {
  std::int64_t batch = 0;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t channels = 0;
  std::int64_t states = 0;     // 1 to kMaxScanStates
  std::int64_t dt1_heads = 0;  // divides channels; each head serves channels / heads consecutive
  std::int64_t dt2_heads = 0;  // channels. 0 without a dt
  /// Groups of B1, B2, C1, C2, each serving channels / groups consecutive channels; 0: static, one
  /// vector a channel for all cells.
  std::int64_t B1_groups = 0;
  std::int64_t B2_groups = 0;
  std::int64_t C1_groups = 0;
  std::int64_t C2_groups = 0;
};

/// What forward and backward both read. `dtype` is that of every tensor over cells and of y. The
/// parameters (A, D, dt biases, gamma, static B and C) and the states are of the state's type:
/// float64 when dtype is float64, else float32.
struct SelectiveScan2dInputs {
  SelectiveScan2dShape shape;
  DataType dtype = DataType::kFloat32;
  ScanDiscretization discretization = ScanDiscretization::kZoh;
  ScanStructure structure = ScanStructure::kDiagonal;
  /// h1 alone: rows are independent 1D scans. dt2, A2, A3, A4, B2, C2 and all states but column_h1
  /// are null and no work is done for them.
  bool single_axis = false;
  bool dt_softplus = false;      // the steps are softplus(dt + dt_bias), else dt + dt_bias
  bool reverse_rows = false;     // rows are scanned from the last to the first
  bool reverse_columns = false;  // and so columns

  ConstCells x;
  ConstCells dt1, dt2;        // (batch, rows, columns, heads)
  ConstCells z;               // null: no gate
  ConstCells B1, B2, C1, C2;  // (batch, rows, columns, groups, states) or static (channels, states)
  ScanParameter A1, A2, A3, A4;              // A2 and A3 null: no coupling from that state
  const void* D = nullptr;                   // (channels), or null
  const void* dt1_bias = nullptr;            // (dt1_heads), or null
  const void* dt2_bias = nullptr;            // (dt2_heads), or null
  const void* gamma = nullptr;               // (channels), companion only; null is 1
  ScanStates<const void*> initial_states{};  // null: zeros
};

struct SelectiveScan2dForward {
  SelectiveScan2dInputs inputs;
  MutableCells y;
  ScanStates<void*> final_states{};  // null: not wanted
};

/// Every gradient may be null when it is not wanted. Those of tensors over cells are of
/// inputs.dtype and the tensor's own shape (summed over the channels of a head or group), the
/// others contiguous and of the state's type.
struct SelectiveScan2dBackward {
  SelectiveScan2dInputs inputs;
  ConstCells y_grad;                            // of y's shape
  ScanStates<const void*> final_states_grad{};  // null: zeros
  MutableCells x_grad, dt1_grad, dt2_grad, z_grad;
  /// Static B and C: (channels, states) of the state's type, batch, row and column strides unused.
  MutableCells B1_grad, B2_grad, C1_grad, C2_grad;
  void* A1_grad = nullptr;  // (channels, states), also where A is one value a channel
  void* A2_grad = nullptr;
  void* A3_grad = nullptr;
  void* A4_grad = nullptr;
  void* D_grad = nullptr;
  void* dt1_bias_grad = nullptr;
  void* dt2_bias_grad = nullptr;
  void* gamma_grad = nullptr;
  ScanStates<void*> initial_states_grad{};
};

/// One column: inputs.shape.columns == 1, inputs.initial_states holds the column state before
/// (null: zeros) and no row state. column_h1, column_h2 may be those of inputs.initial_states.
struct SelectiveScan2dStep {
  SelectiveScan2dInputs inputs;
  MutableCells y;
  void* column_h1 = nullptr;
  void* column_h2 = nullptr;
};

namespace cpu {

/// Float32, float64, float16 and bfloat16 (the last two computed in float32). `num_threads` bounds
/// the threads used; the result does not depend on it, bit for bit. Extra memory of a forward: two
/// states a row, for the channels at work. Of a backward: about states / 2 numbers a cell for the
/// channels at work, and up to 32 / batch copies of the gradients of B, C and shared steps.
void selective_scan_2d_forward(const SelectiveScan2dForward& problem, int num_threads);
void selective_scan_2d_backward(const SelectiveScan2dBackward& problem, int num_threads);
void selective_scan_2d_step(const SelectiveScan2dStep& problem, int num_threads);

}  // namespace cpu

namespace cuda {

/// As cuda::linear_attention_*. Built where RANKONE_CUDA_FAMILIES names selective_scan_2d.
void selective_scan_2d_forward(const SelectiveScan2dForward& problem, void* workspace,
                               void* stream);
void selective_scan_2d_backward(const SelectiveScan2dBackward& problem, void* workspace,
                                void* stream);
void selective_scan_2d_step(const SelectiveScan2dStep& problem, void* stream);

std::size_t selective_scan_2d_forward_workspace(const SelectiveScan2dForward& problem);
std::size_t selective_scan_2d_backward_workspace(const SelectiveScan2dBackward& problem);

}  // namespace cuda
}  // namespace rankone
