// Element types and their conversions. Kernels compute in float and touch an element type T
// (__nv_bfloat16, __half, float) only here: to_float is exact, from_float rounds to nearest even.
#pragma once

#include "platform.cuh"

namespace rankone::cuda {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

/// Two floats rounded to a 16-bit T in one register, `low` in the lower half.
template <typename T>
__device__ __forceinline__ std::uint32_t pack(float low, float high);

template <typename T>
__device__ __forceinline__ float2 unpack(std::uint32_t pair);

#ifdef RANKONE_EMULATION
template <typename T>
inline std::uint32_t pack(float low, float high) {
  static_assert(sizeof(T) == 2);
  return std::bit_cast<std::uint16_t>(from_float<T>(low)) |
         static_cast<std::uint32_t>(std::bit_cast<std::uint16_t>(from_float<T>(high))) << 16;
}
template <typename T>
inline float2 unpack(std::uint32_t pair) {
  static_assert(sizeof(T) == 2);
  return {to_float(std::bit_cast<T>(static_cast<std::uint16_t>(pair))),
          to_float(std::bit_cast<T>(static_cast<std::uint16_t>(pair >> 16)))};
}
#else
// PTX names the operand of the upper half first.
template <>
__device__ __forceinline__ std::uint32_t pack<__nv_bfloat16>(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
__device__ __forceinline__ std::uint32_t pack<__half>(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
__device__ __forceinline__ float2 unpack<__nv_bfloat16>(std::uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <>
__device__ __forceinline__ float2 unpack<__half>(std::uint32_t pair) {
  return make_float2(__half2float(__ushort_as_half(static_cast<unsigned short>(pair))),
                     __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16))));
}
#endif

/// The float with these bits.
__device__ __forceinline__ float as_float(std::uint32_t bits) {
#ifdef RANKONE_EMULATION
  return std::bit_cast<float>(bits);
#else
  return __uint_as_float(bits);
#endif
}

/// exp(x) by the special function unit: 2 ulp plus the error of x * log2(e). exp(-inf) is 0.
__device__ __forceinline__ float fast_exp(float x) {
#ifdef RANKONE_EMULATION
  return std::exp(x);
#else
  return __expf(x);
#endif
}

/// 2^x by the special function unit, 2 ulp.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef RANKONE_EMULATION
  return std::exp2(x);
#else
  float result;
  asm("ex2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

}  // namespace rankone::cuda
