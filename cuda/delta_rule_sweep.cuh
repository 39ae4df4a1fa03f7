// The two sweeps of the delta rule, which carry a state through a sequence chunk by chunk:
//
//   along time    S^T = D S^T + (b U^T) K       from R^T = V^T - a (S^T K^T), E^T, U^T = beta E^T;
//                 writes O^T = scale a (S^T Q^T) + U^T P^T, or E for the backward pass
//   against time  dS^T = D dS^T + (scale a dO^T) Q - (a dR^T) K
//                 from dU^T = dO^T P + b (dS^T K^T), Y^T, dR^T = beta Y^T;
//                 writes dV = dR, and dbeta = E . Y
//
// (the symbols are those of delta_rule_chunk.cuh).
//
// The value channel is the unit of parallel work: the recurrence couples key channels and time, and
// never value channels. A warp owns 16 of them for the whole sequence and keeps its slice of the
// state in registers, transposed, as accumulators; two of them rounded to T are an A operand, and
// so is every intermediate, so the chain from one chunk to the next touches shared memory only for
// q, k and the chunk's 16 x 16 tables. A block holds warps of one value head, which share those;
// its warps make the tables of the next stage while the current one is worked on, so that neither
// they nor a state a chunk go through memory.
//
// Chunks are 16 tokens at all sizes: the larger chunks of the published algorithms save updates of
// a state in memory, which here lies in registers, and cost products inside the chunk.
//
// Decays are one factor a row (kScalar, which is also no decay) or one a channel (kChannel): then
// the block prepares decayed tiles of q and k, and P and M by running products.
//
// Precision. The state is fp32. What it predicts is subtracted from v in fp32, and where the state
// already knows v that difference is small: so S enters S^T K^T as two operands, high and low, with
// twice T's precision, and a K as well where it is not a row factor. E, U and Y come from products
// of two bfloat16 parts each (16 bits with fp32's exponents; 3xTF32 for float), the 16 x 16 inverse
// from fp32 arithmetic. What is rounded to T: the state where it is read for an output, U where it
// enters the state, both with a power of two as scale in __half. A pass that makes states alone
// rounds neither: U and b K enter the state as two operands each, for what a segment of time starts
// from (delta_rule_segments.cuh) must be as exact as what a state in registers goes on with.
#pragma once

#include <cstdint>

#include "decay_products.cuh"
#include "delta_rule_chunk.cuh"
#include "primitives/fragments.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

enum class DeltaDecay : int { kScalar, kChannel };

/// Element type of what the backward pass keeps in memory between its kernels: T's where that has
/// fp32's exponents.
template <typename T>
using DeltaStored = std::conditional_t<sizeof(T) == 2 && !std::is_same_v<T, __half>, T, float>;

/// Copies of the state of every (sequence, value head), one for each `tokens` positions of a range:
/// along time the state before the first of them, against time the gradient of the state after the
/// last of them. (slots, value_heads, value tiles, key tiles, 32 lanes, 8) of DeltaStored: tiles of
/// 16 x 16, in each what the lanes of a warp hold of two neighbouring accumulators with key
/// channels as rows, so that they are read 16 bytes at a time and need no bounds.
struct DeltaSnapshots {
  void* data;     // null: not wanted
  bool by_token;  // slots are counted along the packed tokens, else `count` a sequence
  int tokens;     // a multiple of 16
  int count;

  /// The slot of the n-th copy of a sequence whose first token is `begin`. By token, a sequence's
  /// copies end before its successor's begin, one slot being set aside for each.
  __device__ __forceinline__ std::int64_t slot(int sequence, int begin, int n) const {
    return by_token ? std::int64_t{begin / tokens} + sequence + n
                    : std::int64_t{sequence} * count + n;
  }
  __host__ __device__ __forceinline__ static int tiles(int columns) { return (columns + 15) / 16; }
  /// Elements of one state.
  __host__ __device__ __forceinline__ static std::int64_t elements(int key_dim, int value_dim) {
    return std::int64_t{256} * tiles(key_dim) * tiles(value_dim);
  }
  /// The calling lane's elements of a state's tile.
  template <typename Stored>
  __device__ __forceinline__ static Stored* tile(Stored* state, int key_dim, int value_tile,
                                                 int key_tile) {
    return state + (value_tile * tiles(key_dim) + key_tile) * 256 + lane_id() * 8;
  }
};

/// Byte offsets of what a block keeps in shared memory.
struct DeltaSweepLayout {
  int value_ld;
  int query, key, value;  // `slots` stages, value one more where kChannel is pipelined
  int decay;              // kChannel: decays, like query
  int decayed_query, decayed_key, decayed_key_low;  // kChannel: a q, a k
  int written_key, written_key_low;                 // kChannel: b k
  int key_decay;                                    // kChannel: D
  int tables;                                       // DeltaChunkTable by stage and chunk
  int output;                                       // a 16 x 16 float tile a warp
  int row_sums;                                     // E . Y by warp and token of a stage
  int slots;                                        // of query, key, decay
  int value_slots;
  int bytes;
};

struct DeltaSweepArguments {
  TokenOperand query;  // without data: no outputs
  TokenOperand key;
  TokenOperand value;  // v, or against time dO
  TokenOutput output;  // o, or against time dv; without data: not wanted
  TokenOutput errors;  // E, of DeltaStored: written along time where wanted, read against time
  TokenOutput residual_grad;      // dR, of DeltaStored, where it is not `output` itself
  float* beta_grad;               // against time: (value_blocks, batch, time, value_heads)
  std::int64_t beta_grad_stride;  // from one value block's part to the next one's
  TokenScalars beta;
  DecaySource decay;           // kScalar
  TokenOperand channel_decay;  // kChannel: log-decays
  // (sequences, value_heads[, segments], key_dim, value_dim): along time the states before and
  // after the range or its segments, against time the gradients of those after and before it.
  const float* initial;  // null: zeros
  float* final;          // null: not wanted
  bool initial_of_every_segment;
  bool final_of_every_segment;
  // Along time, for states alone: what every segment multiplies the state before it by, (sequences,
  // value_heads, segments, key_dim, key_dim); null: not wanted.
  float* transitions;
  DeltaSnapshots snapshots;
  const std::int64_t* cu_seqlens;
  int time;
  int sequences;
  int value_heads;
  int group;  // value heads a key head
  int first;  // range of positions within each sequence
  int last;
  int segments;  // of the range, run in parallel
  float scale;
  float l2norm_eps;
  bool l2norm;
  // Filled in by launch_delta_sweep.
  DeltaSweepLayout layout;
  int value_blocks;
  int transition_blocks;
  int steps;       // chunks of a stage
  bool pipelined;  // the next stage is prepared while one is worked on
};

inline constexpr int kDeltaChannelsPerWarp = kFragmentRows;
/// Warps of a block at most: two on each of a multiprocessor's four schedulers.
inline constexpr int kMaxDeltaWarps = 8;

/// Blocks along the value channels for this many (sequence, value head, segment).
template <typename T>
int delta_value_blocks(DeltaDecay decay, std::int64_t heads, int key_dim, int value_dim);

/// Blocks along the value channels where there are enough heads to fill the device.
inline std::int64_t delta_full_value_blocks(std::int64_t value_dim) {
  constexpr std::int64_t kChannels = kMaxDeltaWarps * kDeltaChannelsPerWarp;
  return (value_dim + kChannels - 1) / kChannels;
}

/// Starts the sweep; fills in what follows from the plan.
template <typename T>
void launch_delta_sweep(DeltaDecay decay, bool reversed, DeltaSweepArguments arguments,
                        cudaStream_t stream);

}  // namespace rankone::cuda
