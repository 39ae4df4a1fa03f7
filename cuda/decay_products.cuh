// Log-decays as the sequence kernels read them, and their running products over 16 tokens.
//
// Products of factors in [0, 1], never differences of summed logarithms: a log-decay of -inf gives
// exact zeros and nothing can overflow.
#pragma once

#include <cstdint>

#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/core.h"

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
  for (int u = 0; u < 16; ++u) {
    const double decay_u = shuffle_idx(decay, u, 16);
    if (u > own) weight *= decay_u;
    if (u <= own) prefix *= decay_u;
    visit(u, u < own ? 0.0f : static_cast<float>(weight));
  }
  return {prefix, weight};
}

inline DecaySource decay_source(const ConstTokens& log_decay, DecayForm form) {
  return {static_cast<const float*>(log_decay.data), log_decay.batch_stride, log_decay.time_stride,
          log_decay.head_stride, form};
}

}  // namespace rankone::cuda
