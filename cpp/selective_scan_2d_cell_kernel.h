// One cell of the 2D selective scan: what its steps make of the parameters, and the adjoint of
// that.
#pragma once

#include "selective_scan_2d_arrays.h"

namespace rankone::cpu::RANKONE_ISA {

/// A ScanVariant as template arguments.
template <ScanDiscretization kRule, bool kSecond_, bool kShared_, bool kLaneVectors_>
struct ScanCode {
  static constexpr bool kSecond = kSecond_;
  static constexpr bool kShared = kShared_;
  static constexpr bool kLaneVectors = kLaneVectors_;
  static constexpr bool kMamba = kRule == ScanDiscretization::kMamba;
  static constexpr bool kExp = kRule == ScanDiscretization::kExp;
  static constexpr bool kNone = kRule == ScanDiscretization::kNone;
  /// The input is held over the step, G = (E - 1) / A.
  static constexpr bool kHold = !kMamba && !kNone;
  /// With h1 alone and kMamba, x comes multiplied by its step.
  static constexpr bool kPremultiplied = kMamba && !kSecond;
};

template <ScanDiscretization kRule, bool kSecond, typename Body>
void with_rule(const ScanVariant& variant, Body&& body) {
  constexpr bool kRated = kRule != ScanDiscretization::kNone;
  if (variant.lane_vectors) {
    if constexpr (kRated) {
      if (variant.shared_rates) return body(ScanCode<kRule, kSecond, true, true>{});
    }
    return body(ScanCode<kRule, kSecond, false, true>{});
  }
  if constexpr (kRated) {
    if (variant.shared_rates) return body(ScanCode<kRule, kSecond, true, false>{});
  }
  return body(ScanCode<kRule, kSecond, false, false>{});
}

/// Calls `body` with the ScanCode of a variant.
template <typename Body>
void with_code(const ScanVariant& variant, Body&& body) {
  using Rule = ScanDiscretization;
  if (!variant.second) {
    switch (variant.rule) {
      case Rule::kZoh:
      case Rule::kExp:  // differs in A2 and A3 alone
        return with_rule<Rule::kZoh, false>(variant, body);
      case Rule::kMamba:
        return with_rule<Rule::kMamba, false>(variant, body);
      case Rule::kNone:
        return with_rule<Rule::kNone, false>(variant, body);
    }
  }
  switch (variant.rule) {
    case Rule::kZoh:
      return with_rule<Rule::kZoh, true>(variant, body);
    case Rule::kMamba:
      return with_rule<Rule::kMamba, true>(variant, body);
    case Rule::kExp:
      return with_rule<Rule::kExp, true>(variant, body);
    case Rule::kNone:
      return with_rule<Rule::kNone, true>(variant, body);
  }
}

/// What one state's steps need, in registers along a row.
template <typename T, typename Code>
struct ScanRates {
  Vec<T> rate1{}, rate2{}, rate3{}, rate4{}, inverse1{}, inverse4{}, has_A2{}, has_A3{};

  RANKONE_INLINE void load(const ScanArrays<T>& a, int n) {
    rate1 = a.parameter(Code::kNone ? kA1 : kRate1, n);
    if constexpr (Code::kHold) inverse1 = a.parameter(kInverse1, n);
    if constexpr (Code::kSecond) {
      rate4 = a.parameter(Code::kNone ? kA4 : kRate4, n);
      if constexpr (Code::kHold) inverse4 = a.parameter(kInverse4, n);
      if constexpr (Code::kExp) {
        rate2 = a.parameter(kRate2, n);
        rate3 = a.parameter(kRate3, n);
        has_A2 = broadcast<T>(a.has_A2);
        has_A3 = broadcast<T>(a.has_A3);
      }
    }
  }
};

/// The coefficients of one cell and state; what a rule does not have stays unused.
template <typename T, typename Code>
struct ScanStep {
  Vec<T> e1{}, g1{}, e2{}, g2{}, m2{}, m3{};

  RANKONE_INLINE void make(const ScanRates<T, Code>& rates, Vec<T> dt1, Vec<T> dt2) {
    if constexpr (Code::kNone) {
      e1 = rates.rate1;
      e2 = rates.rate4;
    } else {
      const Exponential<T> first = exp2_and_less_one<T>(dt1 * rates.rate1);
      e1 = first.value;
      g1 = Code::kHold ? Vec<T>(first.less_one * rates.inverse1) : dt1;
      if constexpr (Code::kSecond) {
        const Exponential<T> second = exp2_and_less_one<T>(dt2 * rates.rate4);
        e2 = second.value;
        g2 = Code::kHold ? Vec<T>(second.less_one * rates.inverse4) : dt2;
      }
      if constexpr (Code::kExp && Code::kSecond) {
        m2 = exp2_and_less_one<T>(dt1 * rates.rate2).value * rates.has_A2;
        m3 = exp2_and_less_one<T>(dt2 * rates.rate3).value * rates.has_A3;
      }
    }
  }

  /// Of coefficients that `store` wrote.
  RANKONE_INLINE void load(const T* source, const ScanRates<T, Code>& rates, Vec<T> dt1,
                           Vec<T> dt2) {
    constexpr int L = kLanes<T>;
    if constexpr (Code::kNone) {
      make(rates, dt1, dt2);
    } else {
      e1 = RANKONE_ISA::load<T>(source + kE1 * L);
      g1 = Code::kHold ? RANKONE_ISA::load<T>(source + kG1 * L) : dt1;
      if constexpr (Code::kSecond) {
        e2 = RANKONE_ISA::load<T>(source + kE2 * L);
        g2 = Code::kHold ? RANKONE_ISA::load<T>(source + kG2 * L) : dt2;
        if constexpr (Code::kExp) {
          m2 = RANKONE_ISA::load<T>(source + kM2 * L);
          m3 = RANKONE_ISA::load<T>(source + kM3 * L);
        }
      }
    }
  }

  RANKONE_INLINE void store(T* target) const {
    constexpr int L = kLanes<T>;
    if constexpr (!Code::kNone) {
      RANKONE_ISA::store<T>(target + kE1 * L, e1);
      if constexpr (Code::kHold) RANKONE_ISA::store<T>(target + kG1 * L, g1);
      if constexpr (Code::kSecond) {
        RANKONE_ISA::store<T>(target + kE2 * L, e2);
        if constexpr (Code::kHold) RANKONE_ISA::store<T>(target + kG2 * L, g2);
        if constexpr (Code::kExp) {
          RANKONE_ISA::store<T>(target + kM2 * L, m2);
          RANKONE_ISA::store<T>(target + kM3 * L, m3);
        }
      }
    }
  }
};

/// B or C of one cell.
template <typename T, bool kLaneVectors>
RANKONE_INLINE Vec<T> projection(const T* at) {
  if constexpr (kLaneVectors) {
    return load<T>(at);
  } else {
    return broadcast<T>(*at);
  }
}

/// Writes the border of `kept` for state n: the cells above the block and to its left.
template <typename T, bool kSecond>
RANKONE_INLINE void keep_borders(const ScanArrays<T>& a, int n) {
  constexpr int L = kLanes<T>;
  const int slot = a.kept_state_step == 0 ? 0 : n;
  for (int r = 0; r < a.rows; ++r) {
    store<T>(a.kept_at(slot, r, -1), load<T>(a.column_at(r, n)));
    if constexpr (kSecond) store<T>(a.kept_at(slot, r, -1) + L, load<T>(a.column_at(r, n) + L));
  }
  if constexpr (kSecond) {
    for (int t = 0; t < a.columns; ++t) {
      store<T>(a.kept_at(slot, -1, t), load<T>(a.row_at(n, t)));
      store<T>(a.kept_at(slot, -1, t) + L, load<T>(a.row_at(n, t) + L));
    }
  }
}

/// dG/dA = (dt E - G) / A with z = dt A. The difference loses 2 / |z| units, so near 0 it is
/// dt^2 sum over k of z^k / (k! (k + 2)).
template <typename T>
RANKONE_INLINE Vec<T> hold_slope(Vec<T> dt, Vec<T> z, Vec<T> e, Vec<T> g, Vec<T> inverse) {
  constexpr int kTerms = sizeof(T) == 4 ? 7 : 13;
  const Vec<T> bound = broadcast<T>(T(0.35));  // bound^terms / (terms! (terms + 2)) < rounding
  T coefficients[kTerms];
  T factorial = 1;
  for (int k = 0; k < kTerms; ++k) {
    if (k > 0) factorial *= T(k);
    coefficients[k] = T(1) / (factorial * T(k + 2));
  }
  Vec<T> series = broadcast<T>(coefficients[kTerms - 1]);
#pragma GCC unroll 16
  for (int k = kTerms - 2; k >= 0; --k) series = fma(series, z, broadcast<T>(coefficients[k]));
  const Vec<T> difference = fma(dt, e, -g) * inverse;
  return (z < bound && z > -bound) ? dt * dt * series : difference;
}

/// One axis of one cell: h' = E h + M other + G (B x) with M = G A_other or, under kExp, its own.
template <typename T, typename Code>
struct AxisAdjoint {
  // In: parameters, the cell's coefficients, the states it was made of.
  Vec<T> A{}, inverse{}, A_other{};
  Vec<T> dt{}, e{}, g{}, m{};
  Vec<T> self{}, other{}, B{}, x{};
  // Sums over cells.
  Vec<T> A_grad{}, A_other_grad{};
  // Out.
  Vec<T> to_self{}, to_other{}, B_product{};

  /// Adds to the gradients of x and of the step.
  RANKONE_INLINE void run(Vec<T> adjoint, Vec<T>& x_grad, Vec<T>& dt_grad) {
    const Vec<T> input = B * x;
    to_self = adjoint * e;
    if constexpr (Code::kNone) {
      A_grad = fma(adjoint, self, A_grad);
      B_product = adjoint * x;
      x_grad = fma(adjoint, B, x_grad);
      if constexpr (Code::kSecond) {
        A_other_grad = fma(adjoint, other, A_other_grad);
        to_other = adjoint * A_other;
      }
    } else {
      const Vec<T> held = adjoint * g;
      B_product = held * x;
      x_grad = fma(held, B, x_grad);
      Vec<T> moved = input;  // what the step multiplies, beside the state itself
      if constexpr (Code::kSecond && Code::kExp) {
        const Vec<T> coupled = adjoint * m * other;
        A_other_grad = fma(dt, coupled, A_other_grad);
        dt_grad = fma(A_other, coupled, dt_grad);
        to_other = adjoint * m;
      } else if constexpr (Code::kSecond) {
        moved = fma(A_other, other, input);
        A_other_grad = fma(held, other, A_other_grad);
        to_other = held * A_other;
      }
      const Vec<T> kept = to_self * self;
      A_grad = fma(dt, kept, A_grad);
      if constexpr (Code::kHold) {
        const Vec<T> slope = hold_slope<T>(dt, dt * A, e, g, inverse);
        A_grad = fma(adjoint * moved, slope, A_grad);
        dt_grad = fma(to_self, fma(A, self, moved), dt_grad);
      } else {
        dt_grad = fma(A, kept, fma(adjoint, moved, dt_grad));
      }
    }
  }
};

}  // namespace rankone::cpu::RANKONE_ISA
