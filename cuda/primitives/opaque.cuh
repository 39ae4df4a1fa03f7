// A value the optimiser cannot see through.
#pragma once

#include "platform.cuh"

namespace rankone::cuda {

/// The same value, unknown to the compiler. Used on an index at the top of a long loop's body, what
/// follows from it (64-bit addresses above all) is computed where it is needed instead of being
/// kept in registers for the whole loop.
__device__ __forceinline__ int opaque(int value) {
#ifndef RANKONE_EMULATION
  asm volatile("" : "+r"(value));
#endif
  return value;
}

}  // namespace rankone::cuda
