// The part of the CUDA language that device code writes down outside cuda/primitives, for the host
// compiler: qualifiers, index and vector types, the two 16-bit floats, and a few functions of the
// global namespace. The 16-bit types are the emulation's own even where CUDA's headers are at hand:
// one definition for machines with and without the toolkit, and bit tricks that inline.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
};

struct CUstream_st;
using cudaStream_t = CUstream_st*;

// Set by the scheduler each time it resumes a thread.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

using std::max;
using std::min;

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

struct __nv_bfloat16 {
  std::uint16_t bits;
};

struct __half {
  std::uint16_t bits;
};

// What CUDA's conversions return for every NaN.
inline constexpr std::uint16_t kCanonicalNan16 = 0x7fff;

inline float __bfloat162float(__nv_bfloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (std::isnan(value)) return {kCanonicalNan16};
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t nearest_even = 0x7fffu + (bits >> 16 & 1u);
  return {static_cast<std::uint16_t>((bits + nearest_even) >> 16)};
}

inline float __half2float(__half value) {
  // Exponent and fraction moved to float's place are 2^112 too small; the product puts subnormals
  // right as well.
  const std::uint32_t magnitude = (value.bits & 0x7fffu) << 13;
  const std::uint32_t sign = (value.bits & 0x8000u) << 16;
  const std::uint32_t scaled =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const std::uint32_t finite_or_not =
      (value.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u | magnitude : scaled;
  return std::bit_cast<float>(sign | finite_or_not);
}

inline __half __float2half_rn(float value) {
  if (std::isnan(value)) return {kCanonicalNan16};
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const float magnitude = std::fabs(value);
  // Half of the last place above 65504: from here on rounding gives infinity.
  if (magnitude >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x1p-14f) {
    // Subnormal: the addition of 2^-1 leaves multiples of 2^-24, rounded to nearest even.
    const auto shifted = std::bit_cast<std::uint32_t>(magnitude + 0.5f);
    return {static_cast<std::uint16_t>(sign | (shifted - 0x3f000000u))};
  }
  const std::uint32_t rebased = std::bit_cast<std::uint32_t>(magnitude) - (112u << 23);
  const std::uint32_t nearest_even = 0xfffu + (rebased >> 13 & 1u);
  return {static_cast<std::uint16_t>(sign | (rebased + nearest_even) >> 13)};
}
