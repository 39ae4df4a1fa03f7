// The companion structure: h1's transition couples neighbouring states, so that the loop over
// states is the inner one.
#pragma once

#include "selective_scan_2d_cell_kernel.h"
#include "selective_scan_2d_lanes.h"

namespace rankone::cpu::RANKONE_ISA {

/// All states of a block. With kKeep also writes `kept`, every state's own.
template <typename T, bool kSecond, bool kLaneVectors, bool kKeep>
void scan_companion(ScanLaneBlock<T>& lanes, ScanArrays<T>& a) {
  constexpr int L = kLanes<T>;
  if constexpr (kLaneVectors) {
    for (int n = 0; n < a.states; ++n) lanes.expand_projections(n, a);
  }
  if constexpr (kKeep) {
    for (int n = 0; n < a.states; ++n) keep_borders<T, kSecond>(a, n);
  }
  const Vec<T> gamma = load<T>(a.gamma);
  for (int c = 0, r = 0; r < a.rows; ++r) {
    for (int t = 0; t < a.columns; ++t, ++c) {
      const Exponential<T> stays = exp_and_less_one<T>(-load<T>(a.dt1 + c * L));
      const Vec<T> moves = -stays.less_one;
      const Vec<T> x = load<T>(a.x + c * L);
      const Vec<T> dt2 = kSecond ? load<T>(a.dt2 + c * L) : zero<T>();
      const T* last = a.column_at(r, a.states - 1);
      const Vec<T> last1 = load<T>(last), last2 = kSecond ? load<T>(last + L) : zero<T>();
      Vec<T> before1 = zero<T>(), before2 = zero<T>();
      Vec<T> y = load<T>(a.y + c * L);
      for (int n = 0; n < a.states; ++n) {
        T* left = a.column_at(r, n);
        const Vec<T> left1 = load<T>(left);
        Vec<T> target = fma(a.parameter(kA1, n), last1, before1);
        target = fma(projection<T, kLaneVectors>(a.projection_at(0, n, c)), x, target);
        if constexpr (kSecond) {
          target = fma(gamma, fma(a.parameter(kA2, n), last2, before2), target);
        }
        const Vec<T> h1 = fma(stays.value, left1, moves * target);
        y = fma(projection<T, kLaneVectors>(a.projection_at(2, n, c)), h1, y);
        before1 = left1;
        store<T>(left, h1);
        if constexpr (kKeep) store<T>(a.kept_at(n, r, t), h1);
        if constexpr (kSecond) {
          T* above = a.row_at(n, t);
          const Exponential<T> rate = exp2_and_less_one<T>(dt2 * a.parameter(kRate4, n));
          const Vec<T> input = fma(a.parameter(kA3, n), load<T>(above),
                                   projection<T, kLaneVectors>(a.projection_at(1, n, c)) * x);
          const Vec<T> h2 = fma(rate.value, load<T>(above + L),
                                rate.less_one * a.parameter(kInverse4, n) * input);
          y = fma(projection<T, kLaneVectors>(a.projection_at(3, n, c)), h2, y);
          before2 = load<T>(left + L);
          store<T>(left + L, h2);
          store<T>(above, h1);
          store<T>(above + L, h2);
          if constexpr (kKeep) store<T>(a.kept_at(n, r, t) + L, h2);
        }
      }
      store<T>(a.y + c * L, y);
    }
  }
}

template <typename T, bool kKeep = false>
auto companion_block(const ScanVariant& variant) {
  if (variant.second) {
    return variant.lane_vectors ? &scan_companion<T, true, true, kKeep>
                                : &scan_companion<T, true, false, kKeep>;
  }
  return variant.lane_vectors ? &scan_companion<T, false, true, kKeep>
                              : &scan_companion<T, false, false, kKeep>;
}

/// The adjoint of a block whose states were kept, last cell first: with l1 the total derivative of
/// the loss by h1 of a cell, (Comp(a)^T l1)_i = l1_{i+1} and sum over i of a_i l1_i for the last i.
template <typename T, bool kSecond, bool kLaneVectors>
void adjoint_companion(const ScanArrays<T>& a, const AdjointArrays<T>& b) {
  constexpr int L = kLanes<T>;
  const Vec<T> gamma = load<T>(a.gamma);
  T* gamma_slot = b.slot_at(kSlotGamma, 0, a.states);
  Vec<T> gamma_grad = load<T>(gamma_slot);
  const int last = a.states - 1;
  for (int c = a.rows * a.columns - 1; c >= 0; --c) {
    const int r = c / a.columns, t = c % a.columns;
    const Exponential<T> stays = exp_and_less_one<T>(-load<T>(a.dt1 + c * L));
    const Vec<T> moves = -stays.less_one;
    const Vec<T> x = load<T>(a.x + c * L), g = load<T>(b.y_grad + c * L);
    const Vec<T> last1 = load<T>(a.kept_at(last, r, t - 1));
    Vec<T> dt2{}, last2{}, dt2_grad{};
    if constexpr (kSecond) {
      dt2 = load<T>(a.dt2 + c * L);
      last2 = load<T>(a.kept_at(last, r, t - 1) + L);
      dt2_grad = load<T>(b.dt2_grad + c * L);
    }
    Vec<T> x_grad = load<T>(b.x_grad + c * L);
    // Down the states, so that l1_{i+1} is at hand; the row of the last column needs every l1_i.
    Vec<T> after{}, along_A1{}, along_A2{}, moves_grad{}, coupled_grad{};
    for (int n = last; n >= 0; --n) {
      const T* left = a.kept_at(n, r, t - 1);
      const Vec<T> left1 = load<T>(left);
      T* right = b.column_at(r, n, a.states);
      Vec<T> adjoint =
          fma(projection<T, kLaneVectors>(a.projection_at(2, n, c)), g, load<T>(right));
      if constexpr (kSecond) adjoint += load<T>(b.row_at(n, t));
      store<T>(b.product_at(2, n, c), g * load<T>(a.kept_at(n, r, t)));

      const Vec<T> B1 = projection<T, kLaneVectors>(a.projection_at(0, n, c));
      const Vec<T> A1 = a.parameter(kA1, n);
      const Vec<T> before1 = n > 0 ? load<T>(a.kept_at(n - 1, r, t - 1)) : zero<T>();
      Vec<T> moved = fma(B1, x, fma(A1, last1, before1)) - left1;
      const Vec<T> moving = moves * adjoint;
      store<T>(b.product_at(0, n, c), moving * x);
      x_grad = fma(moving, B1, x_grad);
      along_A1 = fma(A1, adjoint, along_A1);
      T* slot = b.slot_at(kSlotA1, n, a.states);
      store<T>(slot, fma(moving, last1, load<T>(slot)));
      store<T>(right, fma(stays.value, adjoint, moves * after));

      if constexpr (kSecond) {
        const Vec<T> A2 = a.parameter(kA2, n);
        const Vec<T> before2 = n > 0 ? load<T>(a.kept_at(n - 1, r, t - 1) + L) : zero<T>();
        const Vec<T> coupled = fma(A2, last2, before2);
        moved = fma(gamma, coupled, moved);
        coupled_grad = fma(moving, coupled, coupled_grad);
        along_A2 = fma(A2, adjoint, along_A2);
        slot = b.slot_at(kSlotA2, n, a.states);
        store<T>(slot, fma(gamma * moving, last2, load<T>(slot)));

        T* below = b.row_at(n, t);
        const T* above = a.kept_at(n, r - 1, t);
        const Vec<T> above1 = load<T>(above), above2 = load<T>(above + L);
        store<T>(b.product_at(3, n, c), g * load<T>(a.kept_at(n, r, t) + L));
        const Vec<T> adjoint2 = fma(projection<T, kLaneVectors>(a.projection_at(3, n, c)), g,
                                    load<T>(right + L) + load<T>(below + L));
        const Vec<T> inverse = a.parameter(kInverse4, n);
        const Exponential<T> rate = exp2_and_less_one<T>(dt2 * a.parameter(kRate4, n));
        AxisAdjoint<T, ScanCode<ScanDiscretization::kZoh, true, false, false>> second;
        second.A = a.parameter(kA4, n);
        second.inverse = inverse;
        second.A_other = a.parameter(kA3, n);
        second.dt = dt2;
        second.e = rate.value;
        second.g = rate.less_one * inverse;
        second.self = above2;
        second.other = above1;
        second.B = projection<T, kLaneVectors>(a.projection_at(1, n, c));
        second.x = x;
        second.A_grad = load<T>(b.slot_at(kSlotA4, n, a.states));
        second.A_other_grad = load<T>(b.slot_at(kSlotA3, n, a.states));
        second.run(adjoint2, x_grad, dt2_grad);
        store<T>(b.slot_at(kSlotA4, n, a.states), second.A_grad);
        store<T>(b.slot_at(kSlotA3, n, a.states), second.A_other_grad);
        store<T>(below, second.to_other);
        store<T>(below + L, second.to_self);
        store<T>(b.product_at(1, n, c), second.B_product);
        store<T>(right + L, gamma * moves * after);
      }
      moves_grad = fma(adjoint, moved, moves_grad);
      after = adjoint;
    }
    T* right = b.column_at(r, last, a.states);
    store<T>(right, fma(moves, along_A1, load<T>(right)));
    if constexpr (kSecond) {
      store<T>(right + L, fma(gamma * moves, along_A2, load<T>(right + L)));
      gamma_grad += coupled_grad;
      store<T>(b.dt2_grad + c * L, dt2_grad);
    }
    T* dt1_grad = b.dt1_grad + c * L;
    store<T>(dt1_grad, fma(stays.value, moves_grad, load<T>(dt1_grad)));
    store<T>(b.x_grad + c * L, x_grad);
  }
  store<T>(gamma_slot, gamma_grad);
}

template <typename T>
auto companion_adjoint(const ScanVariant& variant) {
  if (variant.second) {
    return variant.lane_vectors ? &adjoint_companion<T, true, true>
                                : &adjoint_companion<T, true, false>;
  }
  return variant.lane_vectors ? &adjoint_companion<T, false, true>
                              : &adjoint_companion<T, false, false>;
}

}  // namespace rankone::cpu::RANKONE_ISA
