// The room for tags in a state, and the parity of a graph.
#include "permutation_tags.h"

#include <algorithm>
#include <vector>

namespace rankone::cpu {

Tags::Tags(const CompiledGenerators& generators) {
  const StateLayout& layout = generators.layout();
  const auto used = static_cast<int>(layout.size * layout.bits - 64 * (layout.words() - 1));
  const int spare = 64 - used - 2;
  if (!generators.inverse_closed()) return;
  int number_bits = 1;
  while ((std::int64_t{1} << number_bits) <= generators.count()) ++number_bits;
  int bits = 0;
  if (generators.count() <= spare) {
    form = TagForm::kMask;
    bits = static_cast<int>(generators.count());
  } else if (number_bits <= spare) {
    form = TagForm::kOne;
    bits = number_bits;
  } else {
    return;
  }
  shift = 63 - bits;
  key_mask = low_bits(used);
}

bool is_bipartite(const BfsGraph& graph) {
  const GeneratorSet& set = graph.set;
  if (set.kind != GeneratorKind::kPermutation || graph.num_start_states != 1) return false;
  std::vector<std::int64_t> values(graph.start_states, graph.start_states + set.layout.size);
  std::sort(values.begin(), values.end());
  if (std::adjacent_find(values.begin(), values.end()) != values.end()) return false;
  for (std::int64_t g = 0; g < set.num_generators; ++g) {
    const std::int64_t* p = set.generators + g * set.layout.size;
    std::vector<bool> seen(values.size());
    bool odd = false;
    for (std::size_t i = 0; i < values.size(); ++i) {
      for (std::size_t j = i; !seen[j]; j = static_cast<std::size_t>(p[j])) {
        seen[j] = true;
        odd ^= static_cast<std::size_t>(p[j]) != i;
      }
    }
    if (!odd) return false;
  }
  return true;
}

}  // namespace rankone::cpu
