// Log-decays as the sequence kernels read them, and their running products over 16 tokens.
//
// Products of factors in [0, 1], never differences of summed logarithms: a log-decay of -inf gives
// exact zeros and nothing can overflow.
#pragma once

#include <cstdint>

#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/core.h"
#include "token_tiles.cuh"

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

/// What lane l knows of the decays d of a block of 16 tokens: with j = l % 16, the products of d_u
/// over u <= j and over u > j.
struct BlockProducts {
  double prefix;
  double suffix;
};

/// Lanes 0..15 and 16..31 each bring the decays of a block's 16 tokens. Calls visit(i, weight) for
/// i in 0..15 with the product of d_u over j < u <= i, which is 0 for i < j. In double, because a
/// constant decay repeats its own rounding error in every factor.
template <typename Visit>
__device__ __forceinline__ BlockProducts multiply_block(double decay, Visit visit) {
  const int own = lane_id() % 16;
  double weight = 1.0, prefix = 1.0;
#pragma unroll 1
  for (int u = 0; u < 16; ++u) {
    const double decay_u = shuffle_idx(decay, u, 16);
    if (u > own) weight *= decay_u;
    if (u <= own) prefix *= decay_u;
    visit(u, u < own ? 0.0f : static_cast<float>(weight));
  }
  return {prefix, weight};
}

/// Keys that one call of multiply_decayed_rows takes.
inline constexpr int kKeysPerJob = 4;

/// The products of the rows of kTables 16-row tiles with four keys of `keys` under channel decays,
/// by one warp: for every row i >= first_key, own key j in first_key..first_key + 3 and table n
///   sums[n] = sum over channels c of rows[n][i][c] keys[j][c] prod_{j < u <= i} decay[u][c],
/// 0 for i < j, of which one lane learns by visit(i, j, sums). Eight lanes share a key, each with
/// every eighth group of four channels.
template <int kColumns, int kTables, typename T, typename Visit>
__device__ __forceinline__ void multiply_decayed_rows(const T* const (&rows)[kTables],
                                                      const T* keys, int ld, const float* decay,
                                                      int decay_ld, int first_key, Visit visit) {
  constexpr int kLanesPerKey = kWarpSize / kKeysPerJob;
  const int part = lane_id() % kLanesPerKey;
  const int own = first_key + lane_id() / kLanesPerKey;
  float sums[kTables][16] = {};
  for (int channel = 4 * part; channel < kColumns; channel += 4 * kLanesPerKey) {
    const float4 own_key = load_four(keys + own * ld + channel);
    float4 weighted = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i < first_key) continue;
      const float4 d = load_four(decay + i * decay_ld + channel);
      const bool is_own = i == own;
      weighted.x = is_own ? own_key.x : weighted.x * d.x;
      weighted.y = is_own ? own_key.y : weighted.y * d.y;
      weighted.z = is_own ? own_key.z : weighted.z * d.z;
      weighted.w = is_own ? own_key.w : weighted.w * d.w;
#pragma unroll
      for (int n = 0; n < kTables; ++n) {
        const float4 row = load_four(rows[n] + i * ld + channel);
        sums[n][i] +=
            row.x * weighted.x + row.y * weighted.y + row.z * weighted.z + row.w * weighted.w;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float totals[kTables];
#pragma unroll
    for (int n = 0; n < kTables; ++n) totals[n] = warp_sum(sums[n][i], kLanesPerKey);
    if (part == i % kLanesPerKey) visit(i, own, totals);
  }
}

inline DecaySource decay_source(const ConstTokens& log_decay, DecayForm form) {
  return {static_cast<const float*>(log_decay.data), log_decay.batch_stride, log_decay.time_stride,
          log_decay.head_stride, form};
}

}  // namespace rankone::cuda
