// Asynchronous copies from global to shared memory (cp.async), in the order of use:
//
//   copy_async_16(...); ...   start copies; the destination is undefined until waited for
//   commit_async();           close a group, empty ones count too
//   wait_async<N>();          all but the calling thread's N youngest groups have landed
//   block_sync();             now other threads' copies may be read as well
//
// Both addresses must be multiples of the size. A copy reads only `valid_bytes` of the source and
// fills the rest of the destination with zeros; with 0 the source is not touched at all.
#pragma once

#include "platform.cuh"

namespace rankone::cuda {

/// Starts a copy of kBytes (4, 8 or 16); 16 bypasses L1.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* destination_shared, const void* source_global,
                                           int valid_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#ifdef RANKONE_EMULATION
  emulation::start_copy(destination_shared, source_global, kBytes, valid_bytes);
#else
  const auto destination = static_cast<unsigned>(__cvta_generic_to_shared(destination_shared));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination),
                 "l"(source_global), "r"(valid_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination),
                 "l"(source_global), "n"(kBytes), "r"(valid_bytes)
                 : "memory");
  }
#endif
}

/// Starts a copy of 16 bytes, or of zeros when not `valid`.
__device__ __forceinline__ void copy_async_16(void* destination_shared, const void* source_global,
                                              bool valid = true) {
  copy_async<16>(destination_shared, source_global, valid ? 16 : 0);
}

/// Closes the group of the copies this thread started since its last commit.
__device__ __forceinline__ void commit_async() {
#ifdef RANKONE_EMULATION
  emulation::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most kPendingGroups of this thread's committed groups are under way.
template <int kPendingGroups>
__device__ __forceinline__ void wait_async() {
  static_assert(kPendingGroups >= 0);
#ifdef RANKONE_EMULATION
  emulation::wait_copies(kPendingGroups);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPendingGroups) : "memory");
#endif
}

}  // namespace rankone::cuda
