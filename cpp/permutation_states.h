// Packed states as the BFS engines see them: element access, the hash, lexicographic order, and
// generators compiled to what the apply kernels read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rankone/permutation_bfs.h"

namespace rankone::cpu {

// The constexpr functions are called by device code, too.

/// Two multiply-xorshift rounds, a bijection of 64 bits. The top bits choose a partition, the bits
/// below a table slot, the low half the owner in a distributed search.
constexpr std::uint64_t mix(std::uint64_t word) {
  word *= 0x9E3779B97F4A7C15U;  // 2^64 / golden ratio
  word ^= word >> 32;
  word *= 0xD6E8FEB86659FD93U;  // odd, of high avalanche
  return word ^ (word >> 29);
}

/// The hash of a state: mix of the word, chained over words. `tags` of the last word are left out.
constexpr std::uint64_t hash_row(const std::uint64_t* row, std::int64_t words,
                                 std::uint64_t last_mask = ~std::uint64_t{0}) {
  std::uint64_t hash = 0;
  for (std::int64_t i = 0; i + 1 < words; ++i) hash = mix(hash ^ row[i]);
  return mix(hash ^ (row[words - 1] & last_mask));
}

constexpr std::uint64_t low_bits(int count) {
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

constexpr std::uint64_t element(const StateLayout& layout, const std::uint64_t* row,
                                std::int64_t i) {
  const std::int64_t bit = i * layout.bits;
  return (row[bit >> 6] >> (bit & 63)) & low_bits(layout.bits);
}

/// Reverses the order of the elements of a word, so that packed words compare as their elements do;
/// 64-bit elements are signed. Its own inverse.
inline std::uint64_t reverse_elements(std::uint64_t word, int bits) {
  if (bits == 64) return word ^ std::uint64_t{1} << 63;
  constexpr std::uint64_t kMasks[6] = {0x5555555555555555U, 0x3333333333333333U,
                                       0x0F0F0F0F0F0F0F0FU, 0x00FF00FF00FF00FFU,
                                       0x0000FFFF0000FFFFU, 0x00000000FFFFFFFFU};
  for (int level = 0, shift = 1; level < 6; ++level, shift *= 2) {
    if (shift < bits) continue;
    word = ((word >> shift) & kMasks[level]) | ((word & kMasks[level]) << shift);
  }
  return word;
}

/// Below, equal or above 0 as `left` stands before, at or after `right` lexicographically.
inline int compare_rows(const std::uint64_t* left, const std::uint64_t* right, std::int64_t words,
                        int bits) {
  for (std::int64_t i = 0; i < words; ++i) {
    if (left[i] == right[i]) continue;
    return reverse_elements(left[i], bits) < reverse_elements(right[i], bits) ? -1 : 1;
  }
  return 0;
}

/// out[target] |= rotl(in[source], rotation) & mask: the elements that move by one distance between
/// one pair of words.
struct MoveTerm {
  std::int32_t source = 0, target = 0;
  int rotation = 0;
  std::uint64_t mask = 0;
};

/// Row `row` of a product: the sum of coefficient * old[column] over the nonzero entries.
struct MatrixRow {
  std::int32_t row = 0;
  std::vector<std::int32_t> columns;
  std::vector<std::uint64_t> coefficients;
};

struct CompiledGenerator {
  std::vector<MoveTerm> terms;      // permutations, ordered by target
  std::vector<std::uint8_t> bytes;  // permutations of at most 32 elements: the one-line form
  std::vector<MatrixRow> rows;      // matrices: the rows that differ from the identity's
};

/// Generators without repeats, ready to be applied to blocks of packed states.
class CompiledGenerators {
 public:
  /// With `unique` a repeated generator is kept once; `original(i)` is its number in the set.
  CompiledGenerators(const GeneratorSet& set, bool unique);

  std::int64_t count() const { return static_cast<std::int64_t>(compiled_.size()); }
  std::int64_t original(std::int64_t i) const { return original_[static_cast<std::size_t>(i)]; }
  /// The number, among these, of the inverse of generator i; -1 where there is none.
  std::int64_t inverse(std::int64_t i) const { return inverse_[static_cast<std::size_t>(i)]; }
  bool inverse_closed() const { return inverse_closed_; }
  const StateLayout& layout() const { return layout_; }
  GeneratorKind kind() const { return kind_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return layout_.size / rows_; }
  std::int64_t modulus() const { return modulus_; }
  const CompiledGenerator& operator[](std::int64_t i) const {
    return compiled_[static_cast<std::size_t>(i)];
  }

  /// out = generator i on each of `count` states. The arrays do not overlap.
  void apply(std::int64_t i, std::int64_t count, const std::uint64_t* states,
             std::uint64_t* out) const;

 private:
  StateLayout layout_;
  GeneratorKind kind_;
  std::int64_t rows_ = 1, modulus_ = 0;
  std::vector<CompiledGenerator> compiled_;
  std::vector<std::int64_t> original_, inverse_;
  bool inverse_closed_ = false;
};

/// Sorts rows as sequences of words; with `unique`, drops repeats. Returns how many are left.
std::int64_t sort_packed(std::int64_t words, std::int64_t count, std::uint64_t* rows, bool unique,
                         int num_threads);

/// Start states, packed, sorted, without repeats.
std::vector<std::uint64_t> packed_start_states(const BfsGraph& graph);

/// A 64-bit number of everything that defines the graph.
std::uint64_t graph_fingerprint(const BfsGraph& graph);

}  // namespace rankone::cpu
