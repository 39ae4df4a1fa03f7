// 2^x as one instruction of the special function unit.
#pragma once

#include "platform.cuh"

#ifdef RANKONE_EMULATION
#include <cmath>
#endif

namespace rankone::cuda {

/// 2^x, 2 ulp; results and arguments below the normal range count as 0. (Without the flush the
/// instruction is wrapped in two products that scale such results.)
__device__ __forceinline__ float flushed_exp2(float x) {
#ifdef RANKONE_EMULATION
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0.0f : result;
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

}  // namespace rankone::cuda
