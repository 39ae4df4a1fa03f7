// What a state of a hash search carries beside its key, and what the CPU and the CUDA engine know
// of a graph before they search it.
//
// Tags lie in the spare high bits of a state's last word: the generators that lead back to the
// layer before, as a bit each where there is room (kMask), else the number of one of them (kOne).
// With kMask no neighbour is ever made that lies in the layer before, so that layer is not needed.
#pragma once

#include <cstdint>

#include "permutation_states.h"

namespace rankone::cpu {

constexpr std::uint64_t kEmptySlot = ~std::uint64_t{0};
/// The current layer's states in a one-word table; free wherever states carry tags.
constexpr std::uint64_t kKnownFlag = std::uint64_t{1} << 63;

enum class TagForm { kNone, kOne, kMask };

struct Tags {
  TagForm form = TagForm::kNone;
  int shift = 0;
  std::uint64_t key_mask = ~std::uint64_t{0};  // of the last word

  Tags() = default;
  /// One bit more than the tags stays free for kKnownFlag and one so that no slot is all ones.
  explicit Tags(const CompiledGenerators& generators);

  /// What a neighbour made by a generator whose inverse is `inverse` carries.
  constexpr std::uint64_t of(std::int64_t inverse) const {
    if (form == TagForm::kNone) return 0;
    const auto value = static_cast<std::uint64_t>(inverse);
    return form == TagForm::kMask ? std::uint64_t{1} << (shift + inverse) : (value + 1) << shift;
  }
  /// Whether generator g leads a state with this last word back.
  constexpr bool leads_back(std::uint64_t last_word, std::int64_t g) const {
    if (form == TagForm::kNone) return false;
    if (form == TagForm::kMask) return (last_word >> (shift + g) & 1) != 0;
    return (last_word & ~key_mask & ~kKnownFlag) >> shift == static_cast<std::uint64_t>(g) + 1;
  }
};

/// Whether the parity of a permutation tells its layer: every generator odd and the states all
/// different, so that no edge stays inside a layer.
bool is_bipartite(const BfsGraph& graph);

}  // namespace rankone::cpu
