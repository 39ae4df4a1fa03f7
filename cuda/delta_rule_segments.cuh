// The delta rule's time split (time_split.cuh). A segment makes of the state S before it
//
//   along time    A S + E     E: the state from zero, A: the product of its tokens' transitions
//   against time  A^T dS + Z  Z: the gradient from zero
//
// A, key_dim x key_dim, is what the sweep along time makes of the identity when it gets no values;
// it comes out of the same launch as E, from blocks of their own.
#pragma once

#include <cstdint>

#include "primitives/platform.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

/// Segments of a sequence's range and what lies in memory for them.
struct DeltaSegments {
  int count = 1;
  float* states = nullptr;       // (sequences, value_heads, count, key_dim, value_dim)
  float* transitions = nullptr;  // (sequences, value_heads, count, key_dim, key_dim)
};

/// How many segments ranges of `tokens` tokens are cut into, with memory for them.
DeltaSegments plan_delta_segments(Workspace& workspace, std::int64_t heads, std::int64_t tokens,
                                  std::int64_t key_dim, std::int64_t value_dim);

struct DeltaJoinArguments {
  float* states;             // what the segments make of zero in, what they start from out
  const float* transitions;  // A
  const float* initial;      // (sequences, value_heads, key_dim, value_dim); null: zeros
  float* final;              // after the last segment, like `initial`; null: not wanted
  std::int64_t heads;        // sequences * value_heads
  int segments;
  int key_dim;
  int value_dim;
};

/// Replaces `states` by what each segment starts from, the first one in the direction of the sweep
/// from `initial`.
void join_delta_segments(const DeltaJoinArguments& arguments, bool reversed, cudaStream_t stream);

}  // namespace rankone::cuda
