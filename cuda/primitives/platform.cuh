// The one place that decides whether device code is compiled by nvcc or, with RANKONE_EMULATION
// defined, by the host compiler against the SIMT emulation in tests/emulation/runtime. Everything
// else in cuda/ is the same text for both. Also what every kernel needs first: its shared memory,
// its place in the block, and the block's barriers.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef RANKONE_EMULATION
#include "simt.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace rankone::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

/// Base alignment of dynamic shared memory. `launch` and the layouts rely on it.
inline constexpr int kSharedAlignment = 128;

/// The block's dynamic shared memory, laid out by the struct `Layout`. The launch must ask for at
/// least sizeof(Layout) bytes (the emulation checks it). Contents are undefined at kernel entry.
template <typename Layout>
__device__ __forceinline__ Layout& shared_memory() {
  static_assert(alignof(Layout) <= kSharedAlignment);
#ifdef RANKONE_EMULATION
  return *static_cast<Layout*>(emulation::shared_memory(sizeof(Layout)));
#else
  extern __shared__ __align__(kSharedAlignment) unsigned char dynamic_shared_memory[];
  return *reinterpret_cast<Layout*>(dynamic_shared_memory);
#endif
}

/// Lane of the calling thread; blockDim.x must be a multiple of the warp size.
__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % kWarpSize); }

/// Warp of the calling thread in a one-dimensional block.
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x / kWarpSize); }

/// Barrier of all threads of the block; orders their memory accesses.
__device__ __forceinline__ void block_sync() {
#ifdef RANKONE_EMULATION
  emulation::block_barrier();
#else
  __syncthreads();
#endif
}

/// Barrier `id` (1..15) of `threads` threads of the block, a multiple of the warp size; whole warps
/// must take part. For groups of warps that meet without the rest of the block.
__device__ __forceinline__ void barrier_sync(int id, int threads) {
#ifdef RANKONE_EMULATION
  emulation::named_barrier(id, threads, true);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

/// Counts the calling thread in at barrier `id` without waiting: the producer's half of
/// `barrier_sync`, for a warp that hands data over and goes on.
__device__ __forceinline__ void barrier_arrive(int id, int threads) {
#ifdef RANKONE_EMULATION
  emulation::named_barrier(id, threads, false);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

}  // namespace rankone::cuda
