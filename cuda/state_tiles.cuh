// What the kernels that keep a recurrent state in registers share: operands scaled by token or into
// the range of __half, and products of two fp32 factors on the tensor cores.
//
// A state is a row of accumulators, 16 rows by 8 columns each. Two neighbours rounded to T are an A
// operand (to_a), so a state is multiplied without leaving the registers.
#pragma once

#include <cstdint>

#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"

namespace rankone::cuda {

/// What rounding to T leaves of x.
template <typename T>
__device__ __forceinline__ float residue(float x) {
  return x - to_float(from_float<T>(x));
}
template <typename T>
__device__ __forceinline__ Accumulator residue(Accumulator tile) {
#pragma unroll
  for (float& x : tile.x) x = residue<T>(x);
  return tile;
}

/// A[m][k] *= factors[k]: the product rounded to T (part 0), or what rounding leaves of it (part
/// 1).
template <typename T>
__device__ __forceinline__ void scale_columns(FragmentA<T>& a, const float* factors, int part = 0) {
  const int t = lane_id() % 4;
  const float2 left = *reinterpret_cast<const float2*>(factors + 2 * t);
  const float2 right = *reinterpret_cast<const float2*>(factors + 2 * t + 8);
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 pair = i < 4 ? left : right;
      a.x[i] *= i % 2 == 0 ? pair.x : pair.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 factor = i < 2 ? left : right;
      float2 value = unpack<T>(a.x[i]);
      value = make_float2(value.x * factor.x, value.y * factor.y);
      if (part > 0) value = make_float2(residue<T>(value.x), residue<T>(value.y));
      a.x[i] = pack<T>(value.x, value.y);
    }
  }
}

/// The operand B[k][n] = A[n][k], n in 0..15: the same registers in another order.
template <typename T>
__device__ __forceinline__ FragmentBPair<T> transpose_to_b(const FragmentA<T>& a) {
  if constexpr (std::is_same_v<T, float>) {
    return {{{a.x[0], a.x[1], a.x[4], a.x[5]}}, {{a.x[2], a.x[3], a.x[6], a.x[7]}}};
  } else {
    return {{{a.x[0], a.x[2]}}, {{a.x[1], a.x[3]}}};
  }
}

/// 16 x 16 values in fp32: columns 0..7 and 8..15.
struct AccumulatorPair {
  Accumulator left;
  Accumulator right;

  __device__ __forceinline__ Accumulator& operator[](int side) { return side == 0 ? left : right; }
  __device__ __forceinline__ const Accumulator& operator[](int side) const {
    return side == 0 ? left : right;
  }
};

template <typename T>
__device__ __forceinline__ void mma_pair(AccumulatorPair& acc, const FragmentA<T>& a,
                                         const FragmentBPair<T>& b) {
  mma(acc.left, a, b.left);
  mma(acc.right, a, b.right);
}

/// Steps that multiply_rows has in flight beside a state of `columns` columns; more would spill.
constexpr int row_steps(int columns) { return columns > 128 ? 2 : 4; }

/// products += A B^T of 16 rows each in shared memory over `columns` columns.
template <int kSteps, typename T>
__device__ __forceinline__ void multiply_rows(AccumulatorPair& products, const T* a, const T* b,
                                              int ld, int columns) {
#pragma unroll kSteps
  for (int column = 0; column < columns; column += 16) {
    const FragmentA<T> rows = load_a(a + column, ld);
    mma_pair(products, rows, load_b_pair(b + column, ld));
  }
}

/// Column, within the 16, of element i of side `side`.
__device__ __forceinline__ int pair_column(int side, int i) {
  return side * kFragmentCols + Accumulator::col(i);
}

/// sign * factors[column] * values.
__device__ __forceinline__ AccumulatorPair scaled_columns(const AccumulatorPair& values,
                                                          const float* factors, float sign = 1.0f) {
  AccumulatorPair result;
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      result[side].x[i] = sign * factors[pair_column(side, i)] * values[side].x[i];
    }
  }
  return result;
}

/// The inverse of to_a, exact.
template <typename T>
__device__ __forceinline__ AccumulatorPair unpack_a(const FragmentA<T>& a) {
  AccumulatorPair values;
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i / 4].x[i % 4] = a.x[i];
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack<T>(a.x[i]);
      values[i / 2].x[i % 2 * 2] = pair.x;
      values[i / 2].x[i % 2 * 2 + 1] = pair.y;
    }
  }
  return values;
}

// ---- the range of __half ----

/// A power of two and its inverse.
struct BinaryScale {
  float down = 1.0f;
  float up = 1.0f;
};

/// Scale that brings values up to `largest` just below 2^14: well inside __half, whose normal
/// numbers then reach 2^28 below the largest value. 1 when `largest` is zero or not finite.
__device__ __forceinline__ BinaryScale scale_for_half(float largest) {
  constexpr int kTargetExponent = 14;
  constexpr int kMaxExponent = 126;  // its inverse is still a normal number
  if (!(largest > 0.0f) || !(largest <= 3.0e38f)) return {};
  int exponent;
  frexpf(largest, &exponent);
  const int shift = min(kTargetExponent - exponent, kMaxExponent);
  return {ldexpf(1.0f, shift), ldexpf(1.0f, -shift)};
}

/// The larger of `largest` and the magnitudes in a tile.
__device__ __forceinline__ float largest_in(const Accumulator& tile, float largest) {
#pragma unroll
  for (int i = 0; i < 4; ++i) largest = fmaxf(largest, fabsf(tile.x[i]));
  return largest;
}

/// The scale for the warp's tiles as operands of T: 1 but for __half. `largest` is the largest
/// magnitude of the lane's other elements.
template <typename T, int kTiles>
__device__ __forceinline__ BinaryScale operand_scale(const Accumulator (&tiles)[kTiles],
                                                     float largest = 0.0f) {
  if constexpr (std::is_same_v<T, __half>) {
#pragma unroll
    for (const Accumulator& tile : tiles) largest = largest_in(tile, largest);
    return scale_for_half(warp_max(largest));
  } else {
    return {};
  }
}

template <typename T>
__device__ __forceinline__ BinaryScale operand_scale(const AccumulatorPair& tile) {
  if constexpr (std::is_same_v<T, __half>) {
    return scale_for_half(warp_max(largest_in(tile.left, largest_in(tile.right, 0.0f))));
  } else {
    return {};
  }
}

/// to_a of values multiplied by `down` where T is __half.
template <typename T>
__device__ __forceinline__ FragmentA<T> scaled_to_a(const Accumulator& left,
                                                    const Accumulator& right, float down) {
  if constexpr (std::is_same_v<T, __half>) {
    Accumulator scaled_left = left, scaled_right = right;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scaled_left.x[i] *= down;
      scaled_right.x[i] *= down;
    }
    return to_a<T>(scaled_left, scaled_right);
  } else {
    return to_a<T>(left, right);
  }
}

// ---- operands of more than T's precision ----

/// x = high + low with both parts of T: twice T's precision. For float `high` is all of it.
template <typename T>
struct SplitA {
  FragmentA<T> high;
  FragmentA<T> low;
};

template <typename T>
__device__ __forceinline__ SplitA<T> split_a(const Accumulator& left, const Accumulator& right,
                                             float down = 1.0f) {
  SplitA<T> split;
  split.high = scaled_to_a<T>(left, right, down);
  if constexpr (!std::is_same_v<T, float>) {
    const AccumulatorPair rounded = unpack_a<T>(split.high);
    Accumulator rest[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      rest[0].x[i] = left.x[i] * down - rounded.left.x[i];
      rest[1].x[i] = right.x[i] * down - rounded.right.x[i];
    }
    split.low = to_a<T>(rest[0], rest[1]);
  }
  return split;
}

/// The element type of a product of two fp32 matrices: 3xTF32 for float, else two bfloat16 parts of
/// each factor, 16 bits with the exponents of fp32.
template <typename T>
using WideElement = std::conditional_t<std::is_same_v<T, float>, float, __nv_bfloat16>;

template <typename T>
struct WideB {
  FragmentBPair<WideElement<T>> high;
  FragmentBPair<WideElement<T>> low;
};

template <typename T>
__device__ __forceinline__ SplitA<WideElement<T>> wide_a(const AccumulatorPair& values) {
  return split_a<WideElement<T>>(values.left, values.right);
}

/// B[k][n] = element(k, n) for n in 0..15.
template <typename T, typename Element>
__device__ __forceinline__ WideB<T> make_wide_b(Element element) {
  AccumulatorPair values;  // of B^T
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[side].x[i] = element(pair_column(side, i), Accumulator::row(i));
    }
  }
  const SplitA<WideElement<T>> split = wide_a<T>(values);
  WideB<T> b;
  b.high = transpose_to_b(split.high);
  if constexpr (!std::is_same_v<T, float>) b.low = transpose_to_b(split.low);
  return b;
}

/// B[k][n] = factors[k] table[n * ld + k] for n in 0..15, or with kTranspose of table[k * ld + n];
/// without factors they are 1.
template <typename T, bool kTranspose>
__device__ __forceinline__ WideB<T> load_wide_b(const float* table, int ld,
                                                const float* factors = nullptr) {
  return make_wide_b<T>([&](int k, int n) {
    const float value = kTranspose ? table[k * ld + n] : table[n * ld + k];
    return factors == nullptr ? value : value * factors[k];
  });
}

/// acc += a b over 16 columns, to 16 bits or, for float, in fp32; small terms first.
template <typename T>
__device__ __forceinline__ void mma_wide(AccumulatorPair& acc, const SplitA<WideElement<T>>& a,
                                         const WideB<T>& b) {
  if constexpr (!std::is_same_v<T, float>) {
    mma_pair(acc, a.low, b.high);
    mma_pair(acc, a.high, b.low);
  }
  mma_pair(acc, a.high, b.high);
}

}  // namespace rankone::cuda
