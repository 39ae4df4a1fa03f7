// Matrix fragments of one warp and the products over them. With g = lane/4 and t = lane%4:
//
//   Accumulator      16x8 fp32      x0,x1 = (g, 2t), (g, 2t+1);  x2,x3 = the same of row g+8
//   FragmentA<T>     16x16 operand  rows m, columns k
//   FragmentB<T>     16x8 operand   rows k, columns n
//   mma(acc, a, b)   acc += a b     in fp32
//
// T is __nv_bfloat16, __half (one mma.m16n8k16) or float (3xTF32, see mma below). For every T two
// neighbouring accumulators are an A operand with no shuffle: to_a.
//
// Loads and stores are collectives of the whole warp on tiles in shared memory; `ld` is the leading
// dimension in elements. For 16-bit T tiles and rows must be 16-byte aligned (ld % 8 == 0); with ld
// an odd multiple of 8 no access has bank conflicts, but for transposed stores before sm_90. For
// float, load_a, load_b and the row-major stores move float2 (8-byte aligned, ld even) without
// conflicts for ld = 8 mod 16; the _trans loads take any ld, without conflicts for ld = 4 mod 8.
//
// Long sums: the tensor cores align the addends of an mma and cut off, not round, what lies below
// the sum's last bit, so a chain of n mma into one accumulator drifts towards zero by up to n ulp.
// For long chains of 16-bit products start a fresh accumulator per chunk and `add` it to the total,
// which rounds. The float mma does so by itself.
#pragma once

#include "matrix_instructions.cuh"

namespace rankone::cuda {

inline constexpr int kFragmentRows = 16;   // m
inline constexpr int kFragmentCols = 8;    // n
inline constexpr int kFragmentDepth = 16;  // k

struct Accumulator {
  float x[4] = {0.0f, 0.0f, 0.0f, 0.0f};

  /// Row, within the 16, of the calling lane's element i.
  __device__ __forceinline__ static int row(int i) { return lane_id() / 4 + 8 * (i / 2); }
  /// Column, within the 8, of the calling lane's element i.
  __device__ __forceinline__ static int col(int i) { return 2 * (lane_id() % 4) + i % 2; }
};

/// The registers of mma.m16n8k16: pairs (g, 2t..), (g+8, 2t..), (g, 2t+8..), (g+8, 2t+8..).
template <typename T>
struct FragmentA {
  std::uint32_t x[4];
};

/// (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1), then the same 8 columns on: two accumulators.
template <>
struct FragmentA<float> {
  float x[8];
};

/// The registers of mma.m16n8k16: pairs (2t.., g), (2t+8.., g).
template <typename T>
struct FragmentB {
  std::uint32_t x[2];
};

/// (2t, g), (2t+1, g), (2t+8, g), (2t+9, g).
template <>
struct FragmentB<float> {
  float x[4];
};

/// Two B operands that are neighbours in n: columns 0..7 and 8..15.
template <typename T>
struct FragmentBPair {
  FragmentB<T> left;
  FragmentB<T> right;
};

/// total += chunk, rounded to nearest.
__device__ __forceinline__ void add(Accumulator& total, const Accumulator& chunk) {
#pragma unroll
  for (int i = 0; i < 4; ++i) total.x[i] += chunk.x[i];
}

template <typename T>
__device__ __forceinline__ void mma(Accumulator& acc, const FragmentA<T>& a,
                                    const FragmentB<T>& b) {
  instruction::mma_m16n8k16<T>(acc.x, a.x, b.x);
}

/// fp32-accurate product on tf32 tensor cores: x = high + low with both parts rounded to tf32, and
/// a b = a_low b_high + a_high b_low + a_high b_high, small terms first; what is left out is below
/// 2^-22 of each product. The sum starts from zero and is added to `acc` with rounding. Within a
/// k8 step, slot t of the instruction holds k = 2t and slot t+4 holds k = 2t+1, in A and B alike.
/// Infinite operands give NaN.
__device__ __forceinline__ void mma(Accumulator& acc, const FragmentA<float>& a,
                                    const FragmentB<float>& b) {
  Accumulator sum;
  std::uint32_t a_high[2][4], b_high[2][2];
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    std::uint32_t a_low[4], b_low[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Registers (g, slot t), (g+8, slot t), (g, slot t+4), (g+8, slot t+4).
      const float value = a.x[4 * step + 2 * (i % 2) + i / 2];
      a_high[step][i] = instruction::round_to_tf32(value);
      a_low[i] = instruction::round_to_tf32(value - as_float(a_high[step][i]));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float value = b.x[2 * step + i];
      b_high[step][i] = instruction::round_to_tf32(value);
      b_low[i] = instruction::round_to_tf32(value - as_float(b_high[step][i]));
    }
    instruction::mma_m16n8k8_tf32(sum.x, a_low, b_high[step]);
    instruction::mma_m16n8k8_tf32(sum.x, a_high[step], b_low);
  }
  instruction::mma_m16n8k8_tf32(sum.x, a_high[0], b_high[0]);
  instruction::mma_m16n8k8_tf32(sum.x, a_high[1], b_high[1]);
  add(acc, sum);
}

/// Two neighbouring accumulators (columns 0..7 and 8..15), rounded to T, as an A operand.
template <typename T>
__device__ __forceinline__ FragmentA<T> to_a(const Accumulator& left, const Accumulator& right) {
  if constexpr (std::is_same_v<T, float>) {
    return {{left.x[0], left.x[1], left.x[2], left.x[3],  //
             right.x[0], right.x[1], right.x[2], right.x[3]}};
  } else {
    return {{pack<T>(left.x[0], left.x[1]), pack<T>(left.x[2], left.x[3]),
             pack<T>(right.x[0], right.x[1]), pack<T>(right.x[2], right.x[3])}};
  }
}

/// A[m][k] = tile[m * ld + k].
template <typename T>
__device__ __forceinline__ FragmentA<T> load_a(const T* tile, int ld) {
  const int lane = lane_id();
  FragmentA<T> a;
  if constexpr (std::is_same_v<T, float>) {
    const float* row = tile + (lane / 4) * ld + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = *reinterpret_cast<const float2*>(row + (i % 2) * 8 * ld + (i / 2) * 8);
      a.x[2 * i] = pair.x;
      a.x[2 * i + 1] = pair.y;
    }
  } else {
    instruction::ldmatrix<false>(a.x, tile + (lane % 16) * ld + (lane / 16) * 8);
  }
  return a;
}

/// A[m][k] = tile[k * ld + m].
template <typename T>
__device__ __forceinline__ FragmentA<T> load_a_trans(const T* tile, int ld) {
  const int lane = lane_id();
  FragmentA<T> a;
  if constexpr (std::is_same_v<T, float>) {
    const float* column = tile + 2 * (lane % 4) * ld + lane / 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      a.x[i] = column[((i / 4) * 8 + i % 2) * ld + (i / 2 % 2) * 8];
    }
  } else {
    const int k = (lane / 16) * 8 + lane % 8;
    const int m = (lane / 8 % 2) * 8;
    instruction::ldmatrix<true>(a.x, tile + k * ld + m);
  }
  return a;
}

/// B[k][n] = tile[n * ld + k].
template <typename T>
__device__ __forceinline__ FragmentB<T> load_b(const T* tile, int ld) {
  const int lane = lane_id();
  FragmentB<T> b;
  if constexpr (std::is_same_v<T, float>) {
    const float* row = tile + (lane / 4) * ld + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 pair = *reinterpret_cast<const float2*>(row + i * 8);
      b.x[2 * i] = pair.x;
      b.x[2 * i + 1] = pair.y;
    }
  } else {
    instruction::ldmatrix<false>(b.x, tile + (lane % 8) * ld + (lane / 8 % 2) * 8);
  }
  return b;
}

/// Two operands at once: B[k][n] = tile[n * ld + k] for n in 0..15.
template <typename T>
__device__ __forceinline__ FragmentBPair<T> load_b_pair(const T* tile, int ld) {
  if constexpr (std::is_same_v<T, float>) {
    return {load_b(tile, ld), load_b(tile + 8 * ld, ld)};
  } else {
    const int lane = lane_id();
    const int n = (lane / 16) * 8 + lane % 8;
    const int k = (lane / 8 % 2) * 8;
    std::uint32_t x[4];
    instruction::ldmatrix<false>(x, tile + n * ld + k);
    return {{{x[0], x[1]}}, {{x[2], x[3]}}};
  }
}

/// B[k][n] = tile[k * ld + n].
template <typename T>
__device__ __forceinline__ FragmentB<T> load_b_trans(const T* tile, int ld) {
  const int lane = lane_id();
  FragmentB<T> b;
  if constexpr (std::is_same_v<T, float>) {
    const float* column = tile + 2 * (lane % 4) * ld + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) b.x[i] = column[((i / 2) * 8 + i % 2) * ld];
  } else {
    instruction::ldmatrix<true>(b.x, tile + (lane % 16) * ld);
  }
  return b;
}

/// Two operands at once: B[k][n] = tile[k * ld + n] for n in 0..15.
template <typename T>
__device__ __forceinline__ FragmentBPair<T> load_b_trans_pair(const T* tile, int ld) {
  if constexpr (std::is_same_v<T, float>) {
    return {load_b_trans(tile, ld), load_b_trans(tile + 8, ld)};
  } else {
    const int lane = lane_id();
    std::uint32_t x[4];
    instruction::ldmatrix<true>(x, tile + (lane % 16) * ld + (lane / 16) * 8);
    return {{{x[0], x[1]}}, {{x[2], x[3]}}};
  }
}

/// The two halves of a 16-bit accumulator tile as stmatrix takes them: rows 0..7 and rows 8..15.
template <typename T>
__device__ __forceinline__ std::uint32_t pack_rows(const Accumulator& acc, int half) {
  return pack<T>(acc.x[2 * half], acc.x[2 * half + 1]);
}

/// tile[m * ld + n] = acc[m][n], rounded to T.
template <typename T, bool kUseStmatrix = instruction::kHasStmatrix>
__device__ __forceinline__ void store_accumulator(T* tile, int ld, const Accumulator& acc) {
  const int lane = lane_id();
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<float2*>(tile + (lane / 4 + 8 * half) * ld + 2 * (lane % 4)) =
          make_float2(acc.x[2 * half], acc.x[2 * half + 1]);
    }
  } else if constexpr (kUseStmatrix) {
    const std::uint32_t x[2] = {pack_rows<T>(acc, 0), pack_rows<T>(acc, 1)};
    instruction::stmatrix<false>(tile + (lane % 16) * ld, x);
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<std::uint32_t*>(tile + (lane / 4 + 8 * half) * ld + 2 * (lane % 4)) =
          pack_rows<T>(acc, half);
    }
  }
}

/// Two neighbouring accumulators, columns 0..7 and 8..15.
template <typename T, bool kUseStmatrix = instruction::kHasStmatrix>
__device__ __forceinline__ void store_accumulator_pair(T* tile, int ld, const Accumulator& left,
                                                       const Accumulator& right) {
  if constexpr (!std::is_same_v<T, float> && kUseStmatrix) {
    const int lane = lane_id();
    const std::uint32_t x[4] = {pack_rows<T>(left, 0), pack_rows<T>(left, 1),
                                pack_rows<T>(right, 0), pack_rows<T>(right, 1)};
    instruction::stmatrix<false>(tile + (lane % 16) * ld + (lane / 16) * 8, x);
  } else {
    store_accumulator<T, kUseStmatrix>(tile, ld, left);
    store_accumulator<T, kUseStmatrix>(tile + 8, ld, right);
  }
}

/// tile[n * ld + m] = acc[m][n], rounded to T.
template <typename T, bool kUseStmatrix = instruction::kHasStmatrix>
__device__ __forceinline__ void store_accumulator_trans(T* tile, int ld, const Accumulator& acc) {
  const int lane = lane_id();
  if constexpr (!std::is_same_v<T, float> && kUseStmatrix) {
    const std::uint32_t x[2] = {pack_rows<T>(acc, 0), pack_rows<T>(acc, 1)};
    instruction::stmatrix<true>(tile + (lane % 8) * ld + (lane / 8 % 2) * 8, x);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      tile[Accumulator::col(i) * ld + Accumulator::row(i)] = from_float<T>(acc.x[i]);
    }
  }
}

/// Two neighbouring accumulators, n = 0..7 and 8..15.
template <typename T, bool kUseStmatrix = instruction::kHasStmatrix>
__device__ __forceinline__ void store_accumulator_trans_pair(T* tile, int ld,
                                                             const Accumulator& left,
                                                             const Accumulator& right) {
  if constexpr (!std::is_same_v<T, float> && kUseStmatrix) {
    const int lane = lane_id();
    const int n = (lane / 16) * 8 + lane % 8;
    const int m = (lane / 8 % 2) * 8;
    const std::uint32_t x[4] = {pack_rows<T>(left, 0), pack_rows<T>(left, 1),
                                pack_rows<T>(right, 0), pack_rows<T>(right, 1)};
    instruction::stmatrix<true>(tile + n * ld + m, x);
  } else {
    store_accumulator_trans<T, kUseStmatrix>(tile, ld, left);
    store_accumulator_trans<T, kUseStmatrix>(tile + 8 * ld, ld, right);
  }
}

}  // namespace rankone::cuda
