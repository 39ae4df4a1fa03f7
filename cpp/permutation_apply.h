// The kernels that apply a permutation to blocks of packed states, one set an instruction set.
#pragma once

#include <cstdint>

#include "permutation_states.h"

namespace rankone::cpu {

struct ApplyKernels {
  /// One word a state: the terms, vectorised over states.
  void (*one_word)(const CompiledGenerator& generator, std::int64_t count,
                   const std::uint64_t* states, std::uint64_t* out);
  /// A byte shuffle, for layouts that shuffle_fits; null where the set has none.
  void (*shuffle)(const CompiledGenerator& generator, const StateLayout& layout, std::int64_t count,
                  const std::uint64_t* states, std::uint64_t* out);
  /// hash_neighbors of the states [first, last), by element width 1, 2, 4, 8; `moved` (generators,
  /// size) holds the weights in the order of the old elements.
  using Hash = void (*)(std::int64_t size, std::int64_t num_generators, const std::uint64_t* moved,
                        std::int64_t count, std::int64_t first, std::int64_t last,
                        const void* states, std::uint64_t* hashes);
  Hash hash[4];
};

const ApplyKernels& apply_kernels();

/// States of at most 32 elements of 4 or 8 bits.
inline bool shuffle_fits(const StateLayout& layout) {
  return layout.size <= 32 && (layout.bits == 4 || layout.bits == 8);
}

namespace generic {
extern const ApplyKernels kApplyKernels;
}
namespace avx2 {
extern const ApplyKernels kApplyKernels;
}
namespace avx512 {
extern const ApplyKernels kApplyKernels;
}

}  // namespace rankone::cpu
