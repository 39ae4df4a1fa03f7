// The PTX matrix instructions behind fragments.cuh, one thin wrapper each with its host twin:
// mma.sync, ldmatrix and stmatrix. All are collectives of a whole converged warp. Kernels use the
// fragments; only this file and fragments.cuh know which register holds what.
#pragma once

#include <type_traits>

#include "convert.cuh"

namespace rankone::cuda::instruction {

/// d += A B with A 16x16 row-major, B 16x8 column-major of T (16-bit), fp32 accumulation.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
#ifdef RANKONE_EMULATION
  emulation::mma_m16n8k16(d, a, b, std::is_same_v<T, __half>);
#else
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

/// d += A B with A 16x8 row-major, B 8x8 column-major in tf32: of each operand register the
/// hardware reads all but the low 13 bits.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
#ifdef RANKONE_EMULATION
  emulation::mma_m16n8k8_tf32(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// x rounded to tf32 (10 fraction bits), nearest with ties away from zero.
__device__ __forceinline__ std::uint32_t round_to_tf32(float x) {
#ifdef RANKONE_EMULATION
  return emulation::round_to_tf32(x);
#else
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

/// Loads kMatrices (1, 2, 4) 8x8 matrices of 16-bit elements from shared memory. Lane 8i+r passes
/// the address of row r of matrix i, 16-byte aligned; register i of lane l receives elements
/// (l/4, 2(l%4)) and (l/4, 2(l%4)+1) of matrix i, or of its transpose.
template <bool kTranspose, int kMatrices>
__device__ __forceinline__ void ldmatrix(std::uint32_t (&registers)[kMatrices],
                                         const void* row_shared) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
#ifdef RANKONE_EMULATION
  emulation::ldmatrix(registers, kMatrices, kTranspose, row_shared);
#else
  const auto row = static_cast<unsigned>(__cvta_generic_to_shared(row_shared));
  if constexpr (kMatrices == 1 && !kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(row));
  } else if constexpr (kMatrices == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(row));
  } else if constexpr (kMatrices == 2 && !kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(row));
  } else if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(row));
  } else if constexpr (!kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(row));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(row));
  }
#endif
}

// stmatrix exists from sm_90 on; before, fragments.cuh stores the same elements one by one.
#if defined(RANKONE_EMULATION)
inline constexpr bool kHasStmatrix = emulation::kArchitecture >= 900;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kHasStmatrix = true;
#else
inline constexpr bool kHasStmatrix = false;
#endif

/// The inverse of ldmatrix, for 2 or 4 matrices.
template <bool kTranspose, int kMatrices>
__device__ __forceinline__ void stmatrix(void* row_shared,
                                         const std::uint32_t (&registers)[kMatrices]) {
  static_assert(kMatrices == 2 || kMatrices == 4);
#if defined(RANKONE_EMULATION)
  emulation::stmatrix(registers, kMatrices, kTranspose, row_shared);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const auto row = static_cast<unsigned>(__cvta_generic_to_shared(row_shared));
  if constexpr (kMatrices == 2 && !kTranspose) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};" ::"r"(row),
                 "r"(registers[0]), "r"(registers[1])
                 : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" ::"r"(row),
                 "r"(registers[0]), "r"(registers[1])
                 : "memory");
  } else if constexpr (!kTranspose) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(row),
                 "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(row),
                 "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
                 : "memory");
  }
#endif
}

}  // namespace rankone::cuda::instruction
