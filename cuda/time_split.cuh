// The time split of the sequence kernels: with too few blocks to fill the device, a first pass
// makes the state of each segment of a sequence from zero, a join turns them into the states the
// segments start from, and the main pass runs all segments at once. Here is when that pays, and
// where time is cut.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "primitives/launch.cuh"
#include "primitives/platform.cuh"

namespace rankone::cuda {

/// Segments of a sequence are whole multiples of this many tokens. One number for all kernels:
/// passes that share the states of segments must cut time at the same places. A multiple of every
/// stage and of every group of tokens with a state in memory, so that only the last one of a
/// sequence is ragged.
inline constexpr int kSegmentUnit = 64;

struct TimeSegment {
  int first;
  int last;
};

/// Segment `segment` of positions 0..length.
__device__ __forceinline__ TimeSegment cut_time(int length, int segment, int segments) {
  const int units = (length + kSegmentUnit - 1) / kSegmentUnit;
  const int share = (units + segments - 1) / segments;
  return {min(min(segment * share, units) * kSegmentUnit, length),
          min(min((segment + 1) * share, units) * kSegmentUnit, length)};
}

/// What a split run costs, in the time of an unsplit run's tokens.
struct SplitCost {
  double work;              // of a token, both passes
  double turn;              // of a segment in the join, which takes them one after another
  std::int64_t min_tokens;  // of a segment: shorter ones are all start-up
};

/// Segments for sequences of `tokens` tokens whose unsplit run has `blocks` blocks: as many as
/// there are idle multiprocessors for, but not past the smallest work * tokens / n + turn * n; one
/// where that is not less than `tokens`.
inline int choose_segments(std::int64_t blocks, std::int64_t tokens, const SplitCost& cost) {
  if (blocks == 0 || tokens == 0) return 1;
  const auto time = static_cast<double>(tokens);
  std::int64_t segments =
      std::min<std::int64_t>(device_limits().multiprocessors / blocks, tokens / cost.min_tokens);
  if (cost.turn > 0.0) {
    segments =
        std::min(segments, static_cast<std::int64_t>(std::sqrt(cost.work * time / cost.turn)));
  }
  if (segments < 2) return 1;
  const auto count = static_cast<double>(segments);
  return cost.work * time / count + cost.turn * count < time ? static_cast<int>(segments) : 1;
}

}  // namespace rankone::cuda
