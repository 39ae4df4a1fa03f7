// Open addressing in lines of 128 bytes: a key's hash names a line and where in it to begin; the
// line is walked around before the next one is. Tables are never more than 0.7 full, so a walk
// ends.
#pragma once

#include <cstdint>

#include "permutation_tags.h"
#include "primitives/bits.cuh"
#include "primitives/warp.cuh"

namespace rankone::cuda {

inline constexpr int kLineSlots = 16;
inline constexpr int kLineKeys = 11;  // of 16
inline constexpr std::int64_t kMostLines = std::int64_t{1} << 32;

struct SlotView {
  std::uint64_t* slots = nullptr;
  std::uint32_t lines = 0;  // 0: no table, which contains nothing
};

/// The slots that a hash may lie in, one after another.
class Probe {
 public:
  __device__ Probe(std::uint64_t hash, std::uint32_t lines)
      : line_(static_cast<std::uint32_t>((hash >> 32) * lines >> 32)),
        lines_(lines),
        first_(static_cast<int>(hash % kLineSlots)) {}

  __device__ std::int64_t slot() const {
    return static_cast<std::int64_t>(line_) * kLineSlots + (first_ + step_) % kLineSlots;
  }
  __device__ void advance() {
    if (++step_ < kLineSlots) return;
    step_ = 0;
    line_ = line_ + 1 == lines_ ? 0 : line_ + 1;
  }

 private:
  std::uint32_t line_, lines_;
  int first_, step_ = 0;
};

__device__ __forceinline__ std::uint64_t claim(std::uint64_t* slot, std::uint64_t value) {
  return atomic_compare_exchange(reinterpret_cast<unsigned long long*>(slot),
                                 static_cast<unsigned long long>(cpu::kEmptySlot),
                                 static_cast<unsigned long long>(value));
}

/// Joins the tags of a state that is found again to those it has. Bits can be joined; of several
/// numbers (kOne) the first stays.
__device__ __forceinline__ void join_tags(std::uint64_t* last_word, std::uint64_t known,
                                          std::uint64_t tags) {
  if ((known & tags) == tags) return;
  atomic_or(reinterpret_cast<unsigned long long*>(last_word),
            static_cast<unsigned long long>(tags));
}

}  // namespace rankone::cuda
