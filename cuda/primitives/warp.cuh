// Warp collectives (shuffles, votes, reductions) and integer atomics.
//
// Every lane named in `members` must make the same call; the default is the whole warp. Values are
// 32- or 64-bit scalars. With `width` (a power of two up to 32) a shuffle stays inside segments of
// that many lanes, and a lane whose source lies outside its segment gets its own value back.
#pragma once

#include <type_traits>

#include "platform.cuh"

namespace rankone::cuda {

/// Waits for the lanes in `members` and orders their memory accesses.
__device__ __forceinline__ void warp_sync(unsigned members = kFullWarp) {
#ifdef RANKONE_EMULATION
  emulation::warp_barrier(members);
#else
  __syncwarp(members);
#endif
}

/// The value of lane `source` (modulo `width`) of the caller's segment.
template <typename T>
__device__ __forceinline__ T shuffle_idx(T value, int source, int width = kWarpSize,
                                         unsigned members = kFullWarp) {
#ifdef RANKONE_EMULATION
  return emulation::shuffle(emulation::ShuffleMode::kIdx, value, source, width, members);
#else
  return __shfl_sync(members, value, source, width);
#endif
}

/// The value of the lane `delta` below.
template <typename T>
__device__ __forceinline__ T shuffle_up(T value, int delta, int width = kWarpSize,
                                        unsigned members = kFullWarp) {
#ifdef RANKONE_EMULATION
  return emulation::shuffle(emulation::ShuffleMode::kUp, value, delta, width, members);
#else
  return __shfl_up_sync(members, value, static_cast<unsigned>(delta), width);
#endif
}

/// The value of the lane `delta` above.
template <typename T>
__device__ __forceinline__ T shuffle_down(T value, int delta, int width = kWarpSize,
                                          unsigned members = kFullWarp) {
#ifdef RANKONE_EMULATION
  return emulation::shuffle(emulation::ShuffleMode::kDown, value, delta, width, members);
#else
  return __shfl_down_sync(members, value, static_cast<unsigned>(delta), width);
#endif
}

/// The value of the lane whose number is the caller's xor `lane_mask`.
template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int lane_mask, int width = kWarpSize,
                                         unsigned members = kFullWarp) {
#ifdef RANKONE_EMULATION
  return emulation::shuffle(emulation::ShuffleMode::kXor, value, lane_mask, width, members);
#else
  return __shfl_xor_sync(members, value, lane_mask, width);
#endif
}

/// Bit l is set when lane l is a member and its predicate holds.
__device__ __forceinline__ unsigned ballot(bool predicate, unsigned members = kFullWarp) {
#ifdef RANKONE_EMULATION
  return emulation::ballot(predicate, members);
#else
  return __ballot_sync(members, predicate);
#endif
}

__device__ __forceinline__ bool any(bool predicate, unsigned members = kFullWarp) {
#ifdef RANKONE_EMULATION
  return emulation::ballot(predicate, members) != 0;
#else
  return __any_sync(members, predicate) != 0;
#endif
}

__device__ __forceinline__ bool all(bool predicate, unsigned members = kFullWarp) {
#ifdef RANKONE_EMULATION
  return emulation::ballot(predicate, members) == members;
#else
  return __all_sync(members, predicate) != 0;
#endif
}

/// Sum over each segment of `width` lanes, the same bits in every lane of the segment.
template <typename T>
__device__ __forceinline__ T warp_sum(T value, int width = kWarpSize) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    if (distance < width) value += shuffle_xor(value, distance);
  }
  return value;
}

/// Maximum over each segment of `width` lanes. A NaN loses against a number, as in `fmaxf`.
template <typename T>
__device__ __forceinline__ T warp_max(T value, int width = kWarpSize) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    if (distance < width) {
      const T other = shuffle_xor(value, distance);
      if constexpr (std::is_same_v<T, float>) {
        value = fmaxf(value, other);
      } else {
        value = other > value ? other : value;
      }
    }
  }
  return value;
}

/// Orders the calling thread's memory accesses before it against those after it, as other threads
/// of the device see them.
__device__ __forceinline__ void device_fence() {
#ifndef RANKONE_EMULATION
  __threadfence();
#endif
}

// Integer atomics on shared or global memory, relaxed order; each returns the value before it.
// T is int, unsigned or unsigned long long. There are none for floating point: a sum whose order
// is left to the scheduler is not repeatable.

template <typename T>
__device__ __forceinline__ T atomic_add(T* address, T value) {
  static_assert(std::is_integral_v<T>);
#ifdef RANKONE_EMULATION
  // Unsigned, as the hardware wraps.
  return emulation::atomic_update(address, [value](T old) {
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Unsigned>(old) + static_cast<Unsigned>(value));
  });
#else
  return atomicAdd(address, value);
#endif
}

template <typename T>
__device__ __forceinline__ T atomic_min(T* address, T value) {
  static_assert(std::is_integral_v<T>);
#ifdef RANKONE_EMULATION
  return emulation::atomic_update(address, [value](T old) { return value < old ? value : old; });
#else
  return atomicMin(address, value);
#endif
}

template <typename T>
__device__ __forceinline__ T atomic_max(T* address, T value) {
  static_assert(std::is_integral_v<T>);
#ifdef RANKONE_EMULATION
  return emulation::atomic_update(address, [value](T old) { return value > old ? value : old; });
#else
  return atomicMax(address, value);
#endif
}

template <typename T>
__device__ __forceinline__ T atomic_or(T* address, T value) {
  static_assert(std::is_integral_v<T>);
#ifdef RANKONE_EMULATION
  return emulation::atomic_update(address, [value](T old) { return old | value; });
#else
  return atomicOr(address, value);
#endif
}

template <typename T>
__device__ __forceinline__ T atomic_and(T* address, T value) {
  static_assert(std::is_integral_v<T>);
#ifdef RANKONE_EMULATION
  return emulation::atomic_update(address, [value](T old) { return old & value; });
#else
  return atomicAnd(address, value);
#endif
}

template <typename T>
__device__ __forceinline__ T atomic_exchange(T* address, T value) {
  static_assert(std::is_integral_v<T>);
#ifdef RANKONE_EMULATION
  return emulation::atomic_update(address, [value](T) { return value; });
#else
  return atomicExch(address, value);
#endif
}

/// Writes `value` where `*address` equals `expected`.
template <typename T>
__device__ __forceinline__ T atomic_compare_exchange(T* address, T expected, T value) {
  static_assert(std::is_integral_v<T>);
#ifdef RANKONE_EMULATION
  return emulation::atomic_update(address, [=](T old) { return old == expected ? value : old; });
#else
  return atomicCAS(address, expected, value);
#endif
}

}  // namespace rankone::cuda
