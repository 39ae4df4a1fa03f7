// Elementwise functions of the 2D selective scan, on vectors: exp together with exp - 1, softplus
// and SiLU, and sums over lanes.
#pragma once

#include "simd.h"

#if RANKONE_ISA_LEVEL == 0 && defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace rankone::cpu::RANKONE_ISA {

template <typename T>
struct Exp2Constants;
template <>
struct Exp2Constants<float> {
  using Bits = std::int32_t;
  static constexpr float kRounder = 12582912.0F + 127.0F;  // 1.5 * 2^23 and the exponent's bias
  static constexpr int kMantissaBits = 23;
  static constexpr float kLow = -127.0F, kHigh = 128.0F;  // 2^n is 0 and inf there
  /// (2^f - 1) / f by Chebyshev interpolation on |f| <= 1/2; relative error 2^-26.4.
  static constexpr float kSeries[] = {6.9314718802622878e-1F, 2.4022650760568127e-1F,
                                      5.5503571142190778e-2F, 9.6180825572778515e-3F,
                                      1.3390863366671234e-3F, 1.5453162945120690e-4F};
};
template <>
struct Exp2Constants<double> {
  using Bits = std::int64_t;
  static constexpr double kRounder = 6755399441055744.0 + 1023.0;
  static constexpr int kMantissaBits = 52;
  static constexpr double kLow = -1023.0, kHigh = 1024.0;
  /// Relative error 2^-61.8.
  static constexpr double kSeries[] = {
      6.9314718055994530925e-1, 2.4022650695910071233e-1, 5.5504108664821627039e-2,
      9.6181291076284794928e-3, 1.3333558146406470697e-3, 1.5403530393370733411e-4,
      1.5252733841556772589e-5, 1.321548680870556279e-6,  1.0178057087733941105e-7,
      7.0548973041554992774e-9, 4.455817908336064493e-10, 2.5729324177362304214e-11};
};

inline constexpr double kLog2E = 1.4426950408889634074;

/// The larger (smaller) of a bound and a value, NaN for a NaN value.
template <typename T>
RANKONE_INLINE Vec<T> at_least(Vec<T> bound, Vec<T> value) {
#if RANKONE_ISA_LEVEL == 2
  if constexpr (sizeof(T) == 4) {
    return Vec<T>(_mm512_maskz_max_ps(0xffff, bound, value));
  } else {
    return Vec<T>(_mm512_maskz_max_pd(0xff, bound, value));
  }
#elif RANKONE_ISA_LEVEL == 1
  if constexpr (sizeof(T) == 4) {
    return Vec<T>(_mm256_max_ps(bound, value));
  } else {
    return Vec<T>(_mm256_max_pd(bound, value));
  }
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4) {
    return Vec<T>(_mm_max_ps(bound, value));
  } else {
    return Vec<T>(_mm_max_pd(bound, value));
  }
#else
  return bound > value ? bound : value;
#endif
}

template <typename T>
RANKONE_INLINE Vec<T> at_most(Vec<T> bound, Vec<T> value) {
#if RANKONE_ISA_LEVEL == 2
  if constexpr (sizeof(T) == 4) {
    return Vec<T>(_mm512_maskz_min_ps(0xffff, bound, value));
  } else {
    return Vec<T>(_mm512_maskz_min_pd(0xff, bound, value));
  }
#elif RANKONE_ISA_LEVEL == 1
  if constexpr (sizeof(T) == 4) {
    return Vec<T>(_mm256_min_ps(bound, value));
  } else {
    return Vec<T>(_mm256_min_pd(bound, value));
  }
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4) {
    return Vec<T>(_mm_min_ps(bound, value));
  } else {
    return Vec<T>(_mm_min_pd(bound, value));
  }
#else
  return bound < value ? bound : value;
#endif
}

/// value = exp(x) and less_one = exp(x) - 1, the latter to a few units of its own last place, so
/// that (exp(x) - 1) / x needs no series near 0.
template <typename T>
struct Exponential {
  Vec<T> value, less_one;
};

/// Of x = z log(2); z is NaN, or clamped where 2^z is 0 or inf.
template <typename T>
RANKONE_INLINE Exponential<T> exp2_and_less_one(Vec<T> z) {
  using C = Exp2Constants<T>;
  constexpr int kTerms = sizeof(C::kSeries) / sizeof(T);
  z = at_most<T>(broadcast<T>(C::kHigh), at_least<T>(broadcast<T>(C::kLow), z));
  const Vec<T> rounder = broadcast<T>(C::kRounder);
  const Vec<T> shifted = z + rounder;
  const Vec<T> fraction = z - (shifted - rounder);
  const Vec<T> power = Vec<T>(BitVec<T>(shifted) << C::kMantissaBits);
  Vec<T> series = broadcast<T>(C::kSeries[kTerms - 1]);
#pragma GCC unroll 16
  for (int i = kTerms - 2; i >= 0; --i) series = fma(series, fraction, broadcast<T>(C::kSeries[i]));
  const Vec<T> less_one = series * fraction;
  const Vec<T> one = broadcast<T>(T(1));
  return {(less_one + one) * power, fma(power, less_one, power - one)};
}

template <typename T>
RANKONE_INLINE Exponential<T> exp_and_less_one(Vec<T> x) {
  return exp2_and_less_one<T>(x * broadcast<T>(T(kLog2E)));
}

/// Above this, softplus(x) is taken as x and its slope as 1, as in torch and mamba-ssm.
inline constexpr double kSoftplusThreshold = 20;

/// log(1 + exp(x)) = max(x, 0) + log1p(u), u = exp(-|x|), by log1p(u) = 2 artanh(u / (2 + u)).
template <typename T>
RANKONE_INLINE Vec<T> softplus(Vec<T> x) {
  constexpr int kTerms = sizeof(T) == 4 ? 8 : 18;  // 9^-terms / (2 terms + 1) < rounding
  const Vec<T> negative = x < zero<T>() ? x : -x;
  const Vec<T> u = exp_and_less_one<T>(negative).value;
  const Vec<T> s = u / (broadcast<T>(T(2)) + u);
  const Vec<T> square = s * s;
  Vec<T> series = broadcast<T>(T(1) / T(2 * kTerms - 1));
#pragma GCC unroll 20
  for (int i = kTerms - 2; i >= 0; --i) {
    series = fma(series, square, broadcast<T>(T(1) / T(2 * i + 1)));
  }
  const Vec<T> log1p = (s + s) * series;
  const Vec<T> value = at_least<T>(zero<T>(), x) + log1p;
  return x > broadcast<T>(T(kSoftplusThreshold)) ? x : value;
}

/// The slope of softplus where its value is `value`: 1 - exp(-value).
template <typename T>
RANKONE_INLINE Vec<T> softplus_slope(Vec<T> value) {
  const Vec<T> slope = -exp_and_less_one<T>(-value).less_one;
  return value > broadcast<T>(T(kSoftplusThreshold)) ? broadcast<T>(T(1)) : slope;
}

template <typename T>
RANKONE_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> one = broadcast<T>(T(1));
  return one / (one + exp_and_less_one<T>(-x).value);
}

/// Lane j is the sum of the lanes of vectors[j]: log2(kLanes) rounds that add the two halves of
/// vectors j and j + half, shuffled into one.
template <typename T>
RANKONE_INLINE Vec<T> sum_each(Vec<T> (&vectors)[kLanes<T>]) {
  constexpr int L = kLanes<T>;
  BitVec<T> low, high;
  for (int i = 0; i < L; ++i) {
    low[i] = i / 2 + (i % 2) * L;
    high[i] = L / 2 + i / 2 + (i % 2) * L;
  }
#pragma GCC unroll 4
  for (int half = L / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int j = 0; j < half; ++j) {
#if defined(__clang__)
      Vec<T> sum;
      for (int i = 0; i < L / 2; ++i) {
        sum[2 * i] = vectors[j][i] + vectors[j][L / 2 + i];
        sum[2 * i + 1] = vectors[j + half][i] + vectors[j + half][L / 2 + i];
      }
      vectors[j] = sum;
#else
      vectors[j] = __builtin_shuffle(vectors[j], vectors[j + half], low) +
                   __builtin_shuffle(vectors[j], vectors[j + half], high);
#endif
    }
  }
  return vectors[0];
}

}  // namespace rankone::cpu::RANKONE_ISA
