// What the kernels of the family share: blocks of one size, whose threads stride over their items,
// and counts that are added up a warp at a time.
#pragma once

#include <cstdint>

#include "primitives/launch.cuh"
#include "primitives/warp.cuh"

namespace rankone::cuda {

inline constexpr int kBfsThreads = 256;
inline constexpr int kBfsWarps = kBfsThreads / kWarpSize;
/// Blocks that fill the device a few times over; loops stride over the rest.
inline constexpr std::int64_t kBlocksPerMultiprocessor = 32;

/// A launch of a kernel whose threads stride over `items`.
inline LaunchConfig strided(std::int64_t items, int multiprocessors, std::size_t shared_bytes,
                            cudaStream_t stream, const char* name) {
  const std::int64_t wanted = (items + kBfsThreads - 1) / kBfsThreads;
  const std::int64_t most = kBlocksPerMultiprocessor * multiprocessors;
  const auto blocks = static_cast<unsigned>(wanted < 1 ? 1 : wanted < most ? wanted : most);
  return {dim3(blocks), dim3(kBfsThreads), shared_bytes, stream, name};
}

/// The caller's number in the grid, and the number of threads.
__device__ __forceinline__ std::int64_t grid_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t grid_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

/// Adds up over the warp what each thread counted. All lanes call it.
__device__ __forceinline__ void add_counts(unsigned long long* total, unsigned long long count) {
  count = warp_sum(count);
  if (lane_id() == 0 && count > 0) atomic_add(total, count);
}

}  // namespace rankone::cuda
