// Vectors of one instruction set, for kernel sources that are compiled once for each set.
//
// A source defines RANKONE_ISA as generic, avx2 or avx512 (with RANKONE_ISA_LEVEL 0, 1 or 2) before
// it includes this header, and is compiled with that set's flags. All code of the set lives in
// namespace rankone::cpu::RANKONE_ISA, so that the linker never merges an inline function of one
// set with another's; for the same reason such sources use no inline function of the standard
// library. Fused multiply-adds are written out (`fma`); compile with -ffp-contract=off, so that no
// others appear and a sum has the same bits in whatever tile it is computed.
#pragma once

#include <cstdint>
#include <cstring>

#include "rankone/core.h"

#if !defined(RANKONE_ISA) || !defined(RANKONE_ISA_LEVEL)
#error "define RANKONE_ISA and RANKONE_ISA_LEVEL before including simd.h"
#endif

#if RANKONE_ISA_LEVEL > 0
#include <immintrin.h>
#elif defined(__x86_64__)
#include <xmmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define RANKONE_INLINE inline __attribute__((always_inline))

namespace rankone::cpu::RANKONE_ISA {

inline constexpr int kVectorBytes = RANKONE_ISA_LEVEL == 2 ? 64 : RANKONE_ISA_LEVEL == 1 ? 32 : 16;

/// Vector registers an inner loop may count on.
inline constexpr int kVectorRegisters = RANKONE_ISA_LEVEL == 2 ? 32 : 16;

template <typename T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using Type = std::int32_t;
};
template <>
struct BitsOf<double> {
  using Type = std::int64_t;
};

template <typename T>
struct VectorTypes {
  using Scalar = T;
  using Bits = typename BitsOf<T>::Type;
  typedef Scalar Vector __attribute__((vector_size(kVectorBytes)));
  typedef Bits BitVector __attribute__((vector_size(kVectorBytes)));
};

template <typename T>
using Vec = typename VectorTypes<T>::Vector;
template <typename T>
using BitVec = typename VectorTypes<T>::BitVector;

template <typename T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <typename T>
constexpr int vectors_for(int count) {
  return (count + kLanes<T> - 1) / kLanes<T>;
}

template <typename T>
constexpr int round_to_lanes(int count) {
  return vectors_for<T>(count) * kLanes<T>;
}

constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }

// ---- loads, stores, lanes ----

template <typename T>
RANKONE_INLINE Vec<T> load(const T* source) {
  Vec<T> value;
  std::memcpy(&value, source, sizeof value);
  return value;
}

template <typename T>
RANKONE_INLINE void store(T* target, Vec<T> value) {
  std::memcpy(target, &value, sizeof value);
}

template <typename T>
RANKONE_INLINE Vec<T> broadcast(T value) {
#if RANKONE_ISA_LEVEL == 2
  if constexpr (sizeof(T) == 4) {
    return Vec<T>(_mm512_set1_ps(value));
  } else {
    return Vec<T>(_mm512_set1_pd(value));
  }
#else
  return value - Vec<T>{};
#endif
}

template <typename T>
RANKONE_INLINE Vec<T> zero() {
  return Vec<T>{};
}

/// a * b + c.
RANKONE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if RANKONE_ISA_LEVEL == 2
  return Vec<float>(_mm512_fmadd_ps(a, b, c));
#elif RANKONE_ISA_LEVEL == 1
  return Vec<float>(_mm256_fmadd_ps(a, b, c));
#elif defined(__aarch64__)
  return Vec<float>(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
#else
  return a * b + c;
#endif
}

RANKONE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if RANKONE_ISA_LEVEL == 2
  return Vec<double>(_mm512_fmadd_pd(a, b, c));
#elif RANKONE_ISA_LEVEL == 1
  return Vec<double>(_mm256_fmadd_pd(a, b, c));
#elif defined(__aarch64__)
  return Vec<double>(vfmaq_f64(float64x2_t(c), float64x2_t(a), float64x2_t(b)));
#else
  return a * b + c;
#endif
}

/// Lane i holds i.
template <typename T>
RANKONE_INLINE BitVec<T> lane_numbers() {
  BitVec<T> lanes;
  for (int i = 0; i < kLanes<T>; ++i) lanes[i] = i;
  return lanes;
}

/// A set of leading lanes; `count` may be any integer.
template <typename T>
class LeadingLanes {
 public:
#if RANKONE_ISA_LEVEL == 2
  explicit RANKONE_INLINE LeadingLanes(int count)
      : mask_(static_cast<__mmask16>((1u << larger(0, smaller(count, kLanes<T>))) - 1u)) {}

  /// `yes` in the leading lanes, `no` elsewhere.
  RANKONE_INLINE Vec<T> select(Vec<T> yes, Vec<T> no) const {
    if constexpr (sizeof(T) == 4) {
      return Vec<T>(_mm512_mask_blend_ps(mask_, no, yes));
    } else {
      return Vec<T>(_mm512_mask_blend_pd(static_cast<__mmask8>(mask_), no, yes));
    }
  }

  /// a * b in the leading lanes, a elsewhere.
  RANKONE_INLINE Vec<T> multiply(Vec<T> a, Vec<T> b) const {
    if constexpr (sizeof(T) == 4) {
      return Vec<T>(_mm512_mask_mul_ps(a, mask_, a, b));
    } else {
      return Vec<T>(_mm512_mask_mul_pd(a, static_cast<__mmask8>(mask_), a, b));
    }
  }

  RANKONE_INLINE Vec<T> load(const T* source) const {
    if constexpr (sizeof(T) == 4) {
      return Vec<T>(_mm512_maskz_loadu_ps(mask_, source));
    } else {
      return Vec<T>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask_), source));
    }
  }

  RANKONE_INLINE void store(T* target, Vec<T> value) const {
    if constexpr (sizeof(T) == 4) {
      _mm512_mask_storeu_ps(target, mask_, value);
    } else {
      _mm512_mask_storeu_pd(target, static_cast<__mmask8>(mask_), value);
    }
  }

 private:
  __mmask16 mask_;
#else
  explicit RANKONE_INLINE LeadingLanes(int count)
      : mask_(lane_numbers<T>() < static_cast<typename BitsOf<T>::Type>(count)),
        count_(larger(0, smaller(count, kLanes<T>))) {}

  RANKONE_INLINE Vec<T> select(Vec<T> yes, Vec<T> no) const { return mask_ ? yes : no; }
  RANKONE_INLINE Vec<T> multiply(Vec<T> a, Vec<T> b) const { return mask_ ? a * b : a; }

  RANKONE_INLINE Vec<T> load(const T* source) const {
    Vec<T> value{};
    std::memcpy(&value, source, static_cast<std::size_t>(count_) * sizeof(T));
    return value;
  }

  RANKONE_INLINE void store(T* target, Vec<T> value) const {
    std::memcpy(target, &value, static_cast<std::size_t>(count_) * sizeof(T));
  }

 private:
  BitVec<T> mask_;
  int count_;
#endif
};

/// The lanes' sum, in double and in a fixed order.
template <typename T>
RANKONE_INLINE double sum_lanes(Vec<T> value) {
  double sums[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) sums[i] = static_cast<double>(value[i]);
#pragma GCC unroll 4
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

/// Transposes the square block whose rows are `rows[0 .. kLanes)`: log2(kLanes) rounds of perfect
/// shuffles of row i with row i + kLanes / 2.
template <typename T>
RANKONE_INLINE void transpose_block(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int kHalf = kLanes<T> / 2;
  BitVec<T> low, high;
  for (int i = 0; i < kLanes<T>; ++i) {
    low[i] = i / 2 + (i % 2) * kLanes<T>;
    high[i] = kHalf + i / 2 + (i % 2) * kLanes<T>;
  }
  Vec<T> shuffled[kLanes<T>];
#pragma GCC unroll 4
  for (int width = 1; width < kLanes<T>; width *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; ++i) {
#if defined(__clang__)
      for (int lane = 0; lane < kHalf; ++lane) {
        shuffled[2 * i][2 * lane] = rows[i][lane];
        shuffled[2 * i][2 * lane + 1] = rows[i + kHalf][lane];
        shuffled[2 * i + 1][2 * lane] = rows[i][kHalf + lane];
        shuffled[2 * i + 1][2 * lane + 1] = rows[i + kHalf][kHalf + lane];
      }
#else
      shuffled[2 * i] = __builtin_shuffle(rows[i], rows[i + kHalf], low);
      shuffled[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kHalf], high);
#endif
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) rows[i] = shuffled[i];
  }
}

// ---- between T and double ----

RANKONE_INLINE Vec<double> load_widened(const double* source) { return load<double>(source); }

RANKONE_INLINE void store_rounded(double* target, Vec<double> value) {
  store<double>(target, value);
}

typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));

/// As many floats as a vector has doubles.
RANKONE_INLINE Vec<double> load_widened(const float* source) {
  HalfFloats narrow;
  std::memcpy(&narrow, source, sizeof narrow);
  return __builtin_convertvector(narrow, Vec<double>);
}

RANKONE_INLINE void store_rounded(float* target, Vec<double> value) {
  const HalfFloats rounded = __builtin_convertvector(value, HalfFloats);
  std::memcpy(target, &rounded, sizeof rounded);
}

// ---- exp ----

template <typename T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr int kMantissaBits = 23;
  static constexpr std::int32_t kBias = 127;
  static constexpr float kRounder = 12582912.0F;    // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLog2High = 0.693359375F;  // few bits: its product with n is exact
  static constexpr float kLog2Low = -2.12194440e-4F;
  static constexpr float kSmallest = -87.3365F;  // exp of less is below the normal numbers
  static constexpr int kDegree = 7;              // (log(2) / 2)^8 / 8! < 2^-27
};
template <>
struct ExpConstants<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr std::int64_t kBias = 1023;
  static constexpr double kRounder = 6755399441055744.0;
  static constexpr double kLog2High = 0x1.62e42feep-1;
  static constexpr double kLog2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kSmallest = -708.396;
  static constexpr int kDegree = 13;  // (log(2) / 2)^14 / 14! < 2^-57
};

/// exp(x) for x up to the type's largest exponent, as the rounded value (to about one unit in the
/// last place) and what the rounding left out: exactly 1 and 0 at 0, exactly 0 where the result
/// would not be a normal number, NaN at NaN. For |x| < log(2) / 2, `low` makes the pair accurate to
/// about |x| units of the last place of 1, so that a power of exp(x) may be taken thousands of
/// times.
template <typename T>
RANKONE_INLINE Vec<T> exp(Vec<T> x, Vec<T>& low) {
  using C = ExpConstants<T>;
  const Vec<T> rounder = broadcast<T>(C::kRounder);
  const Vec<T> shifted = fma(x, broadcast<T>(T(1.4426950408889634)), rounder);
  const Vec<T> n = shifted - rounder;
  Vec<T> r = fma(n, broadcast<T>(-C::kLog2High), x);
  r = fma(n, broadcast<T>(-C::kLog2Low), r);

  T inverse_factorial[C::kDegree + 1] = {1};
  for (int i = 1; i <= C::kDegree; ++i) inverse_factorial[i] = inverse_factorial[i - 1] / T(i);
  Vec<T> series = broadcast<T>(inverse_factorial[C::kDegree]);
#pragma GCC unroll 16
  for (int i = C::kDegree - 1; i >= 1; --i) {
    series = fma(series, r, broadcast<T>(inverse_factorial[i]));
  }
  const Vec<T> less_one = series * r;
  const Vec<T> value = less_one + broadcast<T>(T(1));
  BitVec<T> exponent = BitVec<T>(shifted) - BitVec<T>(rounder);
  exponent = (exponent + C::kBias) << C::kMantissaBits;
  const Vec<T> power = Vec<T>(exponent);
  const auto vanishes = x < broadcast<T>(C::kSmallest);
  low = vanishes ? zero<T>() : (less_one - (value - broadcast<T>(T(1)))) * power;
  return vanishes ? zero<T>() : value * power;
}

template <typename T>
RANKONE_INLINE Vec<T> exp(Vec<T> x) {
  Vec<T> low;
  return exp<T>(x, low);
}

/// a * b - product, where product is a * b rounded: exact but for underflow.
template <typename T>
RANKONE_INLINE Vec<T> product_error(Vec<T> a, Vec<T> b, Vec<T> product) {
#if RANKONE_ISA_LEVEL > 0 || defined(__aarch64__)
  return fma(a, b, -product);
#else
  // Dekker's splitting: products of halves are exact.
  const Vec<T> splitter = broadcast<T>(sizeof(T) == 4 ? T(4097) : T(134217729));
  const Vec<T> a_high = splitter * a - (splitter * a - a), a_low = a - a_high;
  const Vec<T> b_high = splitter * b - (splitter * b - b), b_low = b - b_high;
  return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}

/// While it lives, this thread's results below the normal numbers are zero. Products of decays pass
/// through that range, where arithmetic is up to a hundred times slower.
class FlushToZero {
 public:
#if defined(__x86_64__)
  FlushToZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8000u); }
  ~FlushToZero() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  FlushToZero() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (std::uint64_t{1} << 24)));
  }
  ~FlushToZero() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
  FlushToZero() : saved_(0) {}
#endif
  FlushToZero(const FlushToZero&) = delete;
  FlushToZero& operator=(const FlushToZero&) = delete;

 private:
#if defined(__aarch64__)
  std::uint64_t saved_;
#else
  unsigned saved_;
#endif
};

// ---- storage types: their loads and stores are the only places that know them ----

struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

typedef std::uint16_t HalfBits
    __attribute__((vector_size(kLanes<float> * static_cast<int>(sizeof(std::uint16_t)))));
typedef std::uint32_t FloatBits __attribute__((vector_size(kVectorBytes)));

RANKONE_INLINE float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  // Placed 13 bits up, the number is 2^112 too small, subnormals included; infinities and NaN take
  // the largest exponent afterwards.
  std::uint32_t bits = magnitude << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  value *= 0x1p112F;
  std::memcpy(&bits, &value, sizeof bits);
  if (magnitude >= 0x7c00u) bits |= 0x7f800000u;
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

RANKONE_INLINE std::uint16_t float_to_half(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  std::uint32_t half;
  if (bits > 0x7f800000u) {
    half = 0x7e00u;
  } else if (bits >= 0x477ff000u) {  // rounds to 2^16 or is larger: infinity
    half = 0x7c00u;
  } else if (bits < 0x38800000u) {  // below 2^-14: adding 1/2 leaves the subnormal's bits below
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5F;
    std::uint32_t shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    half = shifted - 0x3f000000u;
  } else {  // round to nearest, ties to even, and rebias the exponent by 112
    half = (bits + 0xfffu + ((bits >> 13) & 1u) - (112u << 23)) >> 13;
  }
  return static_cast<std::uint16_t>(half | sign);
}

template <typename T>
RANKONE_INLINE Vec<T> load_storage(const T* source) {
  return load<T>(source);
}

template <typename T>
RANKONE_INLINE void store_storage(T* target, Vec<T> value) {
  store<T>(target, value);
}

template <typename T>
RANKONE_INLINE Vec<T> load_storage(const BFloat16* source) {
  HalfBits bits;
  std::memcpy(&bits, source, sizeof bits);
  return Vec<T>(__builtin_convertvector(bits, FloatBits) << 16);
}

template <typename T>
RANKONE_INLINE void store_storage(BFloat16* target, Vec<T> value) {
  const FloatBits bits = FloatBits(value);
  const FloatBits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const FloatBits quiet = (bits >> 16) | 0x40u;
  const HalfBits result =
      __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, HalfBits);
  std::memcpy(target, &result, sizeof result);
}

template <typename T>
RANKONE_INLINE Vec<T> load_storage(const Half* source) {
#if RANKONE_ISA_LEVEL == 2
  return Vec<T>(
      _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))));
#elif RANKONE_ISA_LEVEL == 1
  return Vec<T>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
#else
  Vec<T> value;
  for (int i = 0; i < kLanes<T>; ++i) value[i] = half_to_float(source[i].bits);
  return value;
#endif
}

template <typename T>
RANKONE_INLINE void store_storage(Half* target, Vec<T> value) {
#if RANKONE_ISA_LEVEL == 2
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target),
                      _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT));
#elif RANKONE_ISA_LEVEL == 1
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                   _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes<T>; ++i) target[i].bits = float_to_half(value[i]);
#endif
}

/// The first `count` elements, zeros in the other lanes; reads no further.
template <typename T, typename Storage>
RANKONE_INLINE Vec<T> load_partial(const Storage* source, int count) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    return LeadingLanes<T>(count).load(source);
  } else {
    Storage buffer[kLanes<T>] = {};
    std::memcpy(buffer, source, static_cast<std::size_t>(count) * sizeof(Storage));
    return load_storage<T>(buffer);
  }
}

/// Writes the first `count` lanes and nothing after them.
template <typename T, typename Storage>
RANKONE_INLINE void store_partial(Storage* target, Vec<T> value, int count) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    LeadingLanes<T>(count).store(target, value);
  } else {
    Storage buffer[kLanes<T>];
    store_storage<T>(buffer, value);
    std::memcpy(target, buffer, static_cast<std::size_t>(count) * sizeof(Storage));
  }
}

template <typename Storage>
struct StorageTag {
  using Type = Storage;
};

/// Calls `body` with the tag of the storage type: float64 for T = double; else float32, float16 or
/// bfloat16.
template <typename T, typename Body>
RANKONE_INLINE void with_storage(DataType dtype, Body&& body) {
  if constexpr (sizeof(T) == sizeof(double)) {
    body(StorageTag<double>{});
  } else {
    switch (dtype) {
      case DataType::kFloat16:
        return body(StorageTag<Half>{});
      case DataType::kBFloat16:
        return body(StorageTag<BFloat16>{});
      default:
        return body(StorageTag<float>{});
    }
  }
}

}  // namespace rankone::cpu::RANKONE_ISA
