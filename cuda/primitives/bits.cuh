// Counts of bits, the high half of a product, and loads that are made each time they are written.
#pragma once

#include <bit>
#include <cstdint>

#include "platform.cuh"

namespace rankone::cuda {

__device__ __forceinline__ int population_count(unsigned word) {
#ifdef RANKONE_EMULATION
  return std::popcount(word);
#else
  return __popc(word);
#endif
}

/// The number of the lowest set bit of a word that is not 0.
__device__ __forceinline__ int lowest_bit(unsigned word) {
#ifdef RANKONE_EMULATION
  return std::countr_zero(word);
#else
  return __ffs(static_cast<int>(word)) - 1;
#endif
}

/// The upper 64 bits of a product.
__device__ __forceinline__ std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
#ifdef RANKONE_EMULATION
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(a) * b >> 64);
#else
  return __umul64hi(a, b);
#endif
}

/// Lanes below the caller's.
__device__ __forceinline__ unsigned lower_lanes(int lane) { return (1u << lane) - 1; }

/// A load of a word that other threads may write by atomics, from where those are made.
template <typename T>
__device__ __forceinline__ T load_volatile(const T* address) {
  return *static_cast<const volatile T*>(address);
}

}  // namespace rankone::cuda
