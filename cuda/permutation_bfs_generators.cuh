// Generators on the device: permutations as terms that rotate and mask whole words, matrices as
// the entries of the rows that differ from the identity's. All threads of a warp apply the same
// generator at a time, so its terms are read once a warp, from the first cache.
#pragma once

#include <cstdint>
#include <vector>

#include "permutation_bfs_launch.cuh"
#include "permutation_bfs_memory.cuh"
#include "permutation_states.h"
#include "permutation_tags.h"
#include "primitives/bits.cuh"

namespace rankone::cuda {

/// new[row] += coefficient * old[column]; a row of zeros has one entry of coefficient 0.
struct MatrixEntry {
  std::int32_t row, column;
  std::uint64_t coefficient;
};

struct GeneratorView {
  const cpu::MoveTerm* terms = nullptr;  // permutations, of a generator ordered by target
  const MatrixEntry* entries = nullptr;  // matrices, of a generator ordered by row
  const int* begins = nullptr;           // (count + 1) of terms or entries
  const std::uint64_t* tags = nullptr;   // (count) what a neighbour carries
  int count = 0;
  int words = 1;
  int bits = 4;
  int columns = 1;
  std::uint64_t modulus = 0;
  std::uint64_t reciprocal = 0;  // floor((2^64 - 1) / modulus)
};

__device__ __forceinline__ std::uint64_t rotate_left(std::uint64_t word, int count) {
  return word << count | word >> ((64 - count) & 63);
}

/// A permutation on a state of one word.
__device__ __forceinline__ std::uint64_t permuted(const GeneratorView& set, int g,
                                                  std::uint64_t state) {
  std::uint64_t result = 0;
  const int end = set.begins[g + 1];
  for (int t = set.begins[g]; t < end; ++t) {
    result |= rotate_left(state, set.terms[t].rotation) & set.terms[t].mask;
  }
  return result;
}

/// A permutation on a row of words.
__device__ __forceinline__ void permute_row(const GeneratorView& set, int g,
                                            const std::uint64_t* state, std::uint64_t last_mask,
                                            std::uint64_t* out) {
  const int end = set.begins[g + 1];
  int t = set.begins[g];
  while (t < end) {
    const int target = set.terms[t].target;
    std::uint64_t word = 0;
    for (; t < end && set.terms[t].target == target; ++t) {
      const int source = set.terms[t].source;
      const std::uint64_t from =
          source + 1 == set.words ? state[source] & last_mask : state[source];
      word |= rotate_left(from, set.terms[t].rotation) & set.terms[t].mask;
    }
    out[target] = word;
  }
}

/// Element i of a state; with kOneWord the words are a register.
template <bool kOneWord>
__device__ __forceinline__ std::uint64_t state_element(const std::uint64_t* state, int bits,
                                                       int i) {
  const std::int64_t bit = static_cast<std::int64_t>(i) * bits;
  const std::uint64_t word = kOneWord ? state[0] : state[bit >> 6];
  return (word >> (bit & 63)) & cpu::low_bits(bits);
}

/// value mod modulus for value < 2^63: the quotient of the reciprocal is at most 2 too small.
__device__ __forceinline__ std::uint64_t reduced(const GeneratorView& set, std::uint64_t value) {
  value -= multiply_high(value, set.reciprocal) * set.modulus;
  if (value >= set.modulus) value -= set.modulus;
  if (value >= set.modulus) value -= set.modulus;
  return value;
}

/// A matrix on a state whose words are in `out` already, too. Both factors of a product are below
/// 2^31 and the sum is reduced, so that it stays below 2^63.
template <bool kOneWord>
__device__ __forceinline__ void multiply(const GeneratorView& set, int g,
                                         const std::uint64_t* state, std::uint64_t* out) {
  const int end = set.begins[g + 1];
  const std::uint64_t mask = cpu::low_bits(set.bits);
  int row_begin = set.begins[g];
  while (row_begin < end) {
    const int row = set.entries[row_begin].row;
    int row_end = row_begin;
    while (row_end < end && set.entries[row_end].row == row) ++row_end;
    for (int column = 0; column < set.columns; ++column) {
      std::uint64_t sum = 0;
      for (int e = row_begin; e < row_end; ++e) {
        const MatrixEntry entry = set.entries[e];
        sum += entry.coefficient *
               state_element<kOneWord>(state, set.bits, entry.column * set.columns + column);
        if (set.modulus != 0) sum = reduced(set, sum);
      }
      const std::int64_t bit = (static_cast<std::int64_t>(row) * set.columns + column) * set.bits;
      std::uint64_t& word = kOneWord ? out[0] : out[bit >> 6];
      word = (word & ~(mask << (bit & 63))) | sum << (bit & 63);
    }
    row_begin = row_end;
  }
}

/// Owns what a GeneratorView points to.
class DeviceGenerators {
 public:
  DeviceGenerators(const cpu::CompiledGenerators& set, const cpu::Tags& tags,
                   DeviceMemory* memory) {
    std::vector<cpu::MoveTerm> terms;
    std::vector<MatrixEntry> entries;
    std::vector<int> begins;
    std::vector<std::uint64_t> carried;
    const bool matrices = set.kind() == GeneratorKind::kMatrix;
    const auto mark = [&] {
      begins.push_back(static_cast<int>(matrices ? entries.size() : terms.size()));
    };
    for (std::int64_t g = 0; g < set.count(); ++g) {
      mark();
      carried.push_back(tags.of(set.inverse(g)));
      terms.insert(terms.end(), set[g].terms.begin(), set[g].terms.end());
      for (const cpu::MatrixRow& row : set[g].rows) {
        if (row.columns.empty()) entries.push_back({row.row, 0, 0});
        for (std::size_t k = 0; k < row.columns.size(); ++k) {
          entries.push_back({row.row, row.columns[k], row.coefficients[k]});
        }
      }
    }
    mark();
    terms_ = DeviceArray<cpu::MoveTerm>(memory, terms.data(), terms.size());
    entries_ = DeviceArray<MatrixEntry>(memory, entries.data(), entries.size());
    begins_ = DeviceArray<int>(memory, begins.data(), begins.size());
    tags_ = DeviceArray<std::uint64_t>(memory, carried.data(), carried.size());
    view_.terms = terms_.data();
    view_.entries = entries_.data();
    view_.begins = begins_.data();
    view_.tags = tags_.data();
    view_.count = static_cast<int>(set.count());
    view_.words = static_cast<int>(set.layout().words());
    view_.bits = set.layout().bits;
    view_.columns = static_cast<int>(set.columns());
    view_.modulus = static_cast<std::uint64_t>(set.modulus());
    view_.reciprocal = view_.modulus == 0 ? 0 : ~std::uint64_t{0} / view_.modulus;
  }

  const GeneratorView& view() const { return view_; }

 private:
  DeviceArray<cpu::MoveTerm> terms_;
  DeviceArray<MatrixEntry> entries_;
  DeviceArray<int> begins_;
  DeviceArray<std::uint64_t> tags_;
  GeneratorView view_;
};

}  // namespace rankone::cuda
