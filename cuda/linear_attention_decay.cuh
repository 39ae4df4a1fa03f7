// Decays of causal linear attention inside a chunk, as running products of factors in [0, 1].
//
// With d_u = exp(log_decay_u), i and j local indices:
//   W_ij = prod_{j<u<=i} d_u   (1 at i = j)     weight of key j in query i
//   P_i  = prod_{u<=i} d_u                      weight of the state before the chunk in query i
//   R_j  = prod_{u>j} d_u                       weight of key j in the state after the chunk
//   D    = P_last                               weight of the old state in the new one
// No logarithms are summed and subtracted: a log-decay of -inf gives exact zeros and nothing can
// overflow. A scalar decay has one table a chunk, built by one warp and read by all; its products
// run in double, because a constant decay repeats its own rounding error in every factor. A
// channel decay has one factor an element and no table.
#pragma once

#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/linear_attention.h"

namespace rankone::cuda {

/// Where log_decay lies. kNone: nowhere; kPerHead: one value a kv head; the other forms have
/// tokens, kPerChannel with contiguous channels.
struct DecaySource {
  const float* data;
  std::int64_t batch_stride;
  std::int64_t time_stride;
  std::int64_t head_stride;
  DecayForm form;

  /// First channel of one token.
  __device__ __forceinline__ const float* at(std::int64_t batch, std::int64_t token,
                                             std::int64_t kv_head) const {
    return data + batch * batch_stride + token * time_stride + kv_head * head_stride;
  }
};

/// Products of one chunk of a scalar decay, in blocks of 16 tokens:
///   W_ij = within[i / 16][i % 16][j % 16]                              inside a block
///   W_ij = block_prefix[i] * between[i / 16][j / 16] * block_suffix[j]  from block to block
template <int kTokens>
struct alignas(16) ScalarDecayTable {
  static constexpr int kBlocks = kTokens / 16;

  float within[kBlocks][16][16];
  float block_prefix[kTokens];
  float block_suffix[kTokens];
  float between[kBlocks][kBlocks];
  float prefix[kTokens];  // P
  float suffix[kTokens];  // R
  float total;            // D

  __device__ __forceinline__ float weight(int i, int j) const {
    return i / 16 == j / 16 ? within[i / 16][i % 16][j % 16]
                            : block_prefix[i] * between[i / 16][j / 16] * block_suffix[j];
  }
};

/// One warp fills `table`; lane l brings the log-decays of tokens l, l + 32, ...
template <int kTokens>
__device__ __forceinline__ void build_table(ScalarDecayTable<kTokens>& table,
                                            const float (&log_decay)[kTokens / kWarpSize]) {
  constexpr int kRounds = kTokens / kWarpSize;
  constexpr int kBlocks = kTokens / 16;
  const int lane = lane_id();
  const int own = lane % 16;
  double prefix[kRounds], suffix[kRounds], block_total[kBlocks];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int block = 2 * round + lane / 16;
    const double decay = exp(static_cast<double>(log_decay[round]));
    double weight = 1.0;  // W_{u, own} as u runs
    double product = 1.0;
#pragma unroll 1
    for (int u = 0; u < 16; ++u) {
      const double decay_u = shuffle_idx(decay, u, 16);
      if (u > own) weight *= decay_u;
      if (u <= own) product *= decay_u;
      table.within[block][u][own] = u < own ? 0.0f : static_cast<float>(weight);
    }
    prefix[round] = product;
    suffix[round] = weight;
    block_total[2 * round] = shuffle_idx(product, 15);
    block_total[2 * round + 1] = shuffle_idx(product, 31);
  }
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int block = 2 * round + lane / 16;
    const int token = kWarpSize * round + lane;
    double before = 1.0, after = 1.0;
#pragma unroll
    for (int other = 0; other < kBlocks; ++other) {
      if (other < block) before *= block_total[other];
      if (other > block) after *= block_total[other];
    }
    table.block_prefix[token] = static_cast<float>(prefix[round]);
    table.block_suffix[token] = static_cast<float>(suffix[round]);
    table.prefix[token] = static_cast<float>(before * prefix[round]);
    table.suffix[token] = static_cast<float>(suffix[round] * after);
  }
  double total = 1.0;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    double product = 1.0;
    total *= block_total[block];
#pragma unroll
    for (int earlier = block - 1; earlier >= 0; --earlier) {
      if (lane == 0) table.between[block][earlier] = static_cast<float>(product);
      product *= block_total[earlier];
    }
  }
  if (lane == 0) table.total = static_cast<float>(total);
}

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
__device__ __forceinline__ void scale_columns(FragmentA<T>& a, const float* factors, int part) {
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

}  // namespace rankone::cuda
