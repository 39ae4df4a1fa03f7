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

#include "decay_products.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"

namespace rankone::cuda {

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
    const BlockProducts products =
        multiply_block(decay, [&](int u, float weight) { table.within[block][u][own] = weight; });
    prefix[round] = products.prefix;
    suffix[round] = products.suffix;
    block_total[2 * round] = shuffle_idx(products.prefix, 15);
    block_total[2 * round + 1] = shuffle_idx(products.prefix, 31);
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

}  // namespace rankone::cuda
