// The sweep: the one kernel under causal linear attention's forward and backward,
//
//   S'_t = d_t S'_{t-1} + k'_t v'_t^T,   o'_t = q'_t S'_t,
//
// along time or against it. With S and dS the states of the two passes,
//   forward  q' = q,   k' = k,   v' = v     along time
//   dq       q' = dO,  k' = v,   v' = k     along time, the state is S^T
//   dk       q' = v,   k' = dO,  v' = q     against time, the state is dS^T
//   dv       q' = k,   k' = q,   v' = dO    against time, the state is dS
// Against time the decay of token t+1 multiplies the state before token t is added.
//
// The value' channel is the unit of parallel work: a warp owns 16 of them for the whole sequence
// and keeps its slice of the state in registers, transposed (16 x key_dim'), as accumulators. Two
// neighbouring accumulators rounded to T are an A operand, so
//   O^T  = S^T Q'^T   and   S^T = D S^T + (V' R)^T K'
// need no shuffle and no trip through shared memory. A block holds the warps of one head, which
// share the tiles of Q', K', the weights P = lower(Q' K'^T) W and the decays; the next stage is
// copied while this one is worked on.
//
// Decays (see linear_attention_decay.cuh):
//   kScalar        W is one matrix; a step of the state is a whole stage.
//   kKeyChannel    the decay acts on the channels of k' (forward, dv): steps of 16 tokens with
//                  q' P and k' R, and P by a running product over the 16 x 16 pairs.
//   kValueChannel  the decay acts on the channels of v' (dq, dk): steps of 16 tokens; P has no
//                  decay, and a lane sums its own channel's outputs with a running product.
//
// Grouped heads: either q' has several heads on one (k', v') (forward, dq: one output each, one
// state update), or (k', v') has several heads on one q' (dk, dv: all add to one state and one
// output). Both are a loop of `group` items over each chunk.
//
// Precision: fp32 state and accumulators, operands rounded to T, each chunk's update of the state
// summed on its own and added with rounding, one rounding of the output. __half has too few
// exponents for a state or for P: a power of two per warp and product brings them into range.
#pragma once

#include <cstdint>

#include "linear_attention_decay.cuh"
#include "primitives/fragments.cuh"
#include "primitives/platform.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

enum class SweepDecay : int { kScalar, kKeyChannel, kValueChannel };

/// Float states (sequences, kv_heads[, segments], ...), element (key', value') at the strides.
struct SweepState {
  float* data;  // null: zeros, or not wanted
  std::int64_t sequence_stride;
  std::int64_t head_stride;
  std::int64_t segment_stride;
  std::int64_t key_stride;
  std::int64_t value_stride;

  __device__ __forceinline__ float* slice(std::int64_t sequence, std::int64_t head,
                                          std::int64_t segment) const {
    return data + sequence * sequence_stride + head * head_stride + segment * segment_stride;
  }
};

/// Where the products e_t = sign x_t * o'_t of dq and dk (x = q or k) go, from which the gradient
/// of the decay is summed up. With channel decays one a channel of v'; else the sum over a block's
/// channels. The heads of a group add up.
struct SweepEnergy {
  float* data;  // null: not wanted. ([value_blocks,] batch, time, kv_heads[, channels])
  TokenOperand factor;
  std::int64_t block_stride;  // from one value block's sums to the next one's
  float sign;
  bool adds;     // to what is there already
  bool aligned;  // rows of channels are whole float4
};

struct SweepRole {
  TokenOperand query;
  TokenOperand key;
  TokenOperand value;
  TokenOutput output;
  SweepState initial;  // before the decay of the first token in sweep order
  SweepState final;
  SweepState pairing_with;  // dq: the gradient of the final state, or null
  float* pairing;        // dq: row sums of final state * pairing_with, (sequences, heads, value')
  float* segment_decay;  // states alone: the segment's whole decay, (sequences, heads, segments
                         // [, channels])
  SweepEnergy energy;
  float read_scale;  // o' = read_scale q' S' + pair_scale P v'
  float pair_scale;
  float add_scale;  // of k' v'^T added to the state
  bool reversed;
  bool final_of_every_segment;
  bool decay_final;  // the final state is multiplied by the decay of the sequence's first token
  int value_blocks;
};

inline constexpr int kMaxRoles = 2;

/// Byte offsets of what a block keeps in shared memory. They ride in the arguments, where reading
/// them costs no register.
struct SweepLayout {
  int value_ld;
  int decay_ld;
  int query, key, value, decay;               // one tile a stage
  int pairs;                                  // P: T for a scalar decay, else float
  int pair_scale;                             // __half: what P of a 16 x 16 block was divided by
  int table;                                  // two chunks' scalar decays
  int decayed_query, decayed_key, key_decay;  // kKeyChannel: q' P, k' R, D of each step
  int segment_decay;                          // kKeyChannel: product of the D so far
  int tail;                                   // the state's tail tiles, thread by thread
  int output;                                 // a 16 x 16 float tile a warp
  int value_rest;                             // second part of a warp's decayed v', kValueChannel
  int row_sums;                               // energies by warp and token
  int bytes;
};

struct SweepArguments {
  SweepRole roles[kMaxRoles];
  SweepLayout layout;
  DecaySource decay;
  const std::int64_t* cu_seqlens;
  int time;
  int sequences;
  int kv_heads;
  int role_count;
  int group;     // query heads a kv head
  int segments;  // parts of a sequence that run in parallel
  int stages;    // 1 or 2 stages in shared memory
  int steps;     // steps of the state in a stage
  int chunk_tokens;
};

/// Value' channels of a warp.
inline constexpr int kChannelsPerWarp = kFragmentRows;

/// How a role's work is cut into blocks on the current device.
struct SweepPlan {
  int key_columns;  // the kernel's kKey
  int warps;
  int stages;
};

/// Plan for roles with at most these many columns (ones columns counted).
template <typename T>
SweepPlan plan_sweep(SweepDecay decay, int key_columns, int value_columns);

/// Blocks along v' of a role with this many columns.
inline int value_blocks(const SweepPlan& plan, int value_columns) {
  const int channels = plan.warps * kChannelsPerWarp;
  return (value_columns + channels - 1) / channels;
}

/// Starts the sweep of `arguments`; fills in what follows from the plan: the layout, stages, steps,
/// chunk_tokens, and each role's value_blocks and unit shifts.
template <typename T>
void launch_sweep(SweepDecay decay, SweepArguments arguments, cudaStream_t stream);

}  // namespace rankone::cuda
