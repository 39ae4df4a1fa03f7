// The gradients of q, k and log_decay of the delta rule, all groups of tokens in parallel.
//
// After the sweeps every group has in memory the state S before it, the gradient dS of the state
// after it, E and dR (delta_rule_sweep.cuh). A block takes one group of one value head. Here the
// key channel is the unit of parallel work: a warp owns 16 of them and carries its rows of S
// through the group's chunks along time, then its rows of dS against time:
//
//   dq      = scale a (S dO) + b k         dP = tril(dO U^T),   b = scale dP W
//   dk read = -a (S dR) + a' k             dM = -stril(dR U^T), a' = dM W
//   dk write = b (dS U) + a'^T k + b^T q
//   d log_decay_t = sum over the group's tokens j >= t of (q.dq + k.dk_read - k.dk_write)_j
//                   + <S, dS> after the group
//
// The last sum ends with the group, so its rounding errors do not pile up along the sequence. Its
// terms are per channel for channel decays, and then W is applied by running products.
//
// Registers hold 16 x 128 of a state: more value channels are gone through in parts, whose
// gradients add up in memory, since spilling the rest would cost more than the second reading of q
// and k.
//
// T is bfloat16 or float; __half runs on float, since dR, dS and their products have no natural
// range.
#pragma once

#include <cstdint>

#include "decay_products.cuh"
#include "delta_rule_chunk.cuh"
#include "delta_rule_sweep.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

struct DeltaGradientLayout {
  int key_ld;
  int value_ld;
  int decay_ld;
  int query, key;                          // the block's key channels
  int output_grad, errors, residual_grad;  // all value channels
  int decay;                               // kChannel
  int tables;
  int tiles;    // two 16 x 16 float tiles a warp
  int scratch;  // kChannel: two 16 x 16 operands a warp
  int row_sums;
  int bytes;
};

struct DeltaGradientArguments {
  TokenOperand query;
  TokenOperand key;
  TokenOperand output_grad;
  TokenOperand errors;
  TokenOperand residual_grad;
  TokenScalars beta;
  DecaySource decay;
  DeltaSnapshots states;       // along time, of T
  DeltaSnapshots state_grads;  // against time
  float* query_grad;           // (batch, time, value_heads, key_dim), of normalised q and k
  float* key_grad;
  float* decay_grad;  // (batch, time, value_heads, key_dim), or (key_blocks, batch, time,
                      // value_heads); null: not wanted
  std::int64_t decay_grad_stride;  // from one key block's part to the next one's
  bool aligned;  // rows of query_grad, key_grad and decay_grad are whole 16-byte units
  const std::int64_t* cu_seqlens;
  int time;
  int sequences;
  int value_heads;
  int group;  // value heads a key head
  int first;  // range of positions within each sequence
  int last;
  int groups;  // of a sequence's range, `states.tokens` each
  float scale;
  float l2norm_eps;
  bool l2norm;
  // Filled in by launch_delta_gradients.
  DeltaGradientLayout layout;
  int key_blocks;
  int value_parts;
};

/// Tokens of a group, blocks along the key channels, and parts of the value channels.
struct DeltaGradientPlan {
  int group_tokens;
  int key_blocks;
  int warps;
  int value_parts;
};

template <typename T>
DeltaGradientPlan plan_delta_gradients(DeltaDecay decay, int key_dim, int value_dim);

template <typename T>
void launch_delta_gradients(DeltaDecay decay, DeltaGradientArguments arguments,
                            cudaStream_t stream);

}  // namespace rankone::cuda
