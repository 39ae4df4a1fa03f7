// The adjoint of one block of cells, diagonal structure, last cell first. With l1, l2 the total
// derivatives of the loss by h1, h2 of a cell, and g that by y before the gate:
//   l1[v,t] = C1 g + A1'[v,t+1] l1[v,t+1] + A3'[v+1,t] l2[v+1,t]
//   l2[v,t] = C2 g + A2'[v,t+1] l1[v,t+1] + A4'[v+1,t] l2[v+1,t]
#pragma once

#include "selective_scan_2d_forward_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

/// State n of a block whose states and coefficients were kept.
template <typename T, typename Code>
void adjoint_states(const ScanArrays<T>& a, const AdjointArrays<T>& b, int n) {
  constexpr int L = kLanes<T>;
  constexpr bool kSecond = Code::kSecond;
  ScanRates<T, Code> rates;
  rates.load(a, n);
  AxisAdjoint<T, Code> first, second;
  first.A = a.parameter(kA1, n);
  first.A_grad = load<T>(b.slot_at(kSlotA1, n, a.states));
  if constexpr (Code::kHold) first.inverse = a.parameter(kInverse1, n);
  if constexpr (kSecond) {
    first.A_other = a.parameter(kA2, n);
    first.A_other_grad = load<T>(b.slot_at(kSlotA2, n, a.states));
    second.A = a.parameter(kA4, n);
    second.A_other = a.parameter(kA3, n);
    second.A_grad = load<T>(b.slot_at(kSlotA4, n, a.states));
    second.A_other_grad = load<T>(b.slot_at(kSlotA3, n, a.states));
    if constexpr (Code::kHold) second.inverse = a.parameter(kInverse4, n);
  }
  for (int r = a.rows - 1; r >= 0; --r) {
    T* right = b.column_at(r, n, a.states);
    Vec<T> right1 = load<T>(right), right2{};
    Vec<T> h1 = load<T>(a.kept_at(0, r, a.columns - 1)), h2{};
    if constexpr (kSecond) {
      right2 = load<T>(right + L);
      h2 = load<T>(a.kept_at(0, r, a.columns - 1) + L);
    }
    for (int t = a.columns - 1; t >= 0; --t) {
      const int c = r * a.columns + t;
      if constexpr (!Code::kNone) {
        first.dt = load<T>(a.dt1 + c * L);
        if constexpr (kSecond) second.dt = load<T>(a.dt2 + c * L);
      }
      ScanStep<T, Code> step;
      step.load(a.coefficients_at(c), rates, first.dt, second.dt);
      const Vec<T> g = load<T>(b.y_grad + c * L);
      const Vec<T> x = load<T>(a.x + c * L);
      Vec<T> x_grad = load<T>(b.x_grad + c * L);

      const T* left = a.kept_at(0, r, t - 1);
      store<T>(b.product_at(2, 0, c), g * h1);
      Vec<T> adjoint1 = fma(projection<T, Code::kLaneVectors>(a.projection_at(2, n, c)), g, right1);
      first.self = h1 = load<T>(left);
      if constexpr (kSecond) {
        T* below = b.row_at(n, t);
        const T* above = a.kept_at(0, r - 1, t);
        store<T>(b.product_at(3, 0, c), g * h2);
        adjoint1 += load<T>(below);
        const Vec<T> adjoint2 = fma(projection<T, Code::kLaneVectors>(a.projection_at(3, n, c)), g,
                                    right2 + load<T>(below + L));
        first.other = h2 = load<T>(left + L);
        second.self = load<T>(above + L);
        second.other = load<T>(above);
        second.B = projection<T, Code::kLaneVectors>(a.projection_at(1, n, c));
        second.x = x;
        second.e = step.e2;
        second.g = step.g2;
        second.m = step.m3;
        Vec<T> dt2_grad = load<T>(b.dt2_grad + c * L);
        second.run(adjoint2, x_grad, dt2_grad);
        store<T>(b.dt2_grad + c * L, dt2_grad);
        store<T>(below, second.to_other);
        store<T>(below + L, second.to_self);
        store<T>(b.product_at(1, 0, c), second.B_product);
      }
      first.B = projection<T, Code::kLaneVectors>(a.projection_at(0, n, c));
      first.x = x;
      first.e = step.e1;
      first.g = step.g1;
      first.m = step.m2;
      Vec<T> dt1_grad = load<T>(b.dt1_grad + c * L);
      first.run(adjoint1, x_grad, dt1_grad);
      store<T>(b.dt1_grad + c * L, dt1_grad);
      store<T>(b.x_grad + c * L, x_grad);
      store<T>(b.product_at(0, 0, c), first.B_product);
      right1 = first.to_self;
      right2 = first.to_other;
    }
    store<T>(right, right1);
    if constexpr (kSecond) store<T>(right + L, right2);
  }
  store<T>(b.slot_at(kSlotA1, n, a.states), first.A_grad);
  if constexpr (kSecond) {
    store<T>(b.slot_at(kSlotA2, n, a.states), first.A_other_grad);
    store<T>(b.slot_at(kSlotA3, n, a.states), second.A_other_grad);
    store<T>(b.slot_at(kSlotA4, n, a.states), second.A_grad);
  }
}

/// All states of the staged block, from its carries; collect(n) after each, while the products of B
/// and C stand.
template <typename T, typename Code, typename Collect>
void adjoint_block(ScanLaneBlock<T>& lanes, ScanArrays<T>& a, const AdjointArrays<T>& b,
                   Collect& collect) {
  if constexpr (Code::kShared) share_coefficients<T, Code>(a);
  for (int n = 0; n < a.states; ++n) {
    if constexpr (Code::kLaneVectors) lanes.expand_projections(n, a);
    scan_states<T, Code, true, 1>(a, n);
    adjoint_states<T, Code>(a, b, n);
    collect(n);
  }
}

}  // namespace rankone::cpu::RANKONE_ISA
