// Packing, order and checks of states, and generators compiled for the apply kernels.
#include "permutation_states.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include "cpu_features.h"
#include "parallel.h"
#include "permutation_apply.h"

namespace rankone {
namespace {

constexpr std::int64_t kBlock = 4096;  // states a task: enough to hide the hand-out

template <typename Body>
void for_blocks(std::int64_t count, int num_threads, const Body& body) {
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  cpu::parallel_for(blocks, num_threads, [&](std::int64_t block, int) {
    body(block * kBlock, std::min(count, (block + 1) * kBlock));
  });
}

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

bool is_permutation(const std::int64_t* values, std::int64_t size) {
  std::vector<bool> seen(index(size));
  for (std::int64_t i = 0; i < size; ++i) {
    if (values[i] < 0 || values[i] >= size || seen[index(values[i])]) return false;
    seen[index(values[i])] = true;
  }
  return true;
}

/// left * right mod modulus, or mod 2^64.
std::vector<std::int64_t> product(const std::int64_t* left, const std::int64_t* right,
                                  std::int64_t n, std::int64_t modulus) {
  std::vector<std::int64_t> result(index(n * n));
  const auto m = static_cast<std::uint64_t>(modulus);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      std::uint64_t sum = 0;
      for (std::int64_t k = 0; k < n; ++k) {
        const auto a = static_cast<std::uint64_t>(left[i * n + k]);
        const auto b = static_cast<std::uint64_t>(right[k * n + j]);
        sum = modulus == 0 ? sum + a * b : (sum + a * b % m) % m;
      }
      result[index(i * n + j)] = static_cast<std::int64_t>(sum);
    }
  }
  return result;
}

bool is_identity_matrix(const std::vector<std::int64_t>& matrix, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      if (matrix[index(i * n + j)] != (i == j ? 1 : 0)) return false;
    }
  }
  return true;
}

std::vector<std::vector<std::int64_t>> canonical_generators(const GeneratorSet& set) {
  const bool matrix = set.kind == GeneratorKind::kMatrix;
  const std::int64_t width = matrix ? set.rows * set.rows : set.layout.size;
  std::vector<std::vector<std::int64_t>> result;
  for (std::int64_t g = 0; g < set.num_generators; ++g) {
    std::vector<std::int64_t> values(set.generators + g * width, set.generators + (g + 1) * width);
    if (matrix && set.modulus != 0) {
      for (std::int64_t& value : values) value = (value % set.modulus + set.modulus) % set.modulus;
    }
    result.push_back(std::move(values));
  }
  return result;
}

bool are_inverse(const GeneratorSet& set, const std::vector<std::int64_t>& a,
                 const std::vector<std::int64_t>& b) {
  if (set.kind == GeneratorKind::kMatrix) {
    return is_identity_matrix(product(a.data(), b.data(), set.rows, set.modulus), set.rows);
  }
  for (std::int64_t i = 0; i < set.layout.size; ++i) {
    if (a[index(b[index(i)])] != i) return false;
  }
  return true;
}

std::vector<std::int64_t> inverses_of(const GeneratorSet& set,
                                      const std::vector<std::vector<std::int64_t>>& generators) {
  std::vector<std::int64_t> inverses(generators.size(), -1);
  if (set.kind == GeneratorKind::kPermutation) {
    std::map<std::vector<std::int64_t>, std::int64_t> numbers;
    for (std::size_t g = 0; g < generators.size(); ++g) {
      numbers.emplace(generators[g], static_cast<std::int64_t>(g));
    }
    for (std::size_t g = 0; g < generators.size(); ++g) {
      std::vector<std::int64_t> inverse(generators[g].size());
      for (std::size_t i = 0; i < inverse.size(); ++i) {
        inverse[index(generators[g][i])] = static_cast<std::int64_t>(i);
      }
      const auto found = numbers.find(inverse);
      if (found != numbers.end()) inverses[g] = found->second;
    }
    return inverses;
  }
  for (std::size_t g = 0; g < generators.size(); ++g) {
    for (std::size_t h = 0; h < generators.size() && inverses[g] < 0; ++h) {
      if (are_inverse(set, generators[g], generators[h])) {
        inverses[g] = static_cast<std::int64_t>(h);
      }
    }
  }
  return inverses;
}

/// Sorts words digit by digit, eleven bits at a time; digits that are equal in all are skipped.
void radix_sort(std::int64_t count, std::uint64_t* words) {
  constexpr int kDigitBits = 11, kDigits = 6;
  constexpr std::size_t kValues = std::size_t{1} << kDigitBits;
  std::vector<std::array<std::uint32_t, kValues>> counts(kDigits);
  for (std::int64_t i = 0; i < count; ++i) {
    for (int d = 0; d < kDigits; ++d)
      ++counts[index(d)][words[i] >> (d * kDigitBits) & (kValues - 1)];
  }
  std::vector<std::uint64_t> other(index(count));
  std::uint64_t *from = words, *to = other.data();
  for (int d = 0; d < kDigits; ++d) {
    auto& places = counts[index(d)];
    if (places[words[0] >> (d * kDigitBits) & (kValues - 1)] == count) continue;
    std::uint32_t place = 0;
    for (std::uint32_t& value : places) place += std::exchange(value, place);
    for (std::int64_t i = 0; i < count; ++i) {
      to[places[from[i] >> (d * kDigitBits) & (kValues - 1)]++] = from[i];
    }
    std::swap(from, to);
  }
  if (from != words) std::copy_n(from, count, words);
}

void sort_piece(std::array<std::uint64_t, 1>* first, std::array<std::uint64_t, 1>* last) {
  constexpr std::int64_t kRadixFrom = 1 << 13, kRadixTo = std::int64_t{1} << 31;
  const std::int64_t count = last - first;
  if (count >= kRadixFrom && count < kRadixTo) {
    radix_sort(count, first->data());
  } else {
    std::sort(first, last);
  }
}
template <typename Row>
void sort_piece(Row* first, Row* last) {
  std::sort(first, last);
}

/// Sorts rows of kWords words as sequences of words.
template <std::size_t kWords>
std::int64_t sort_fixed(std::int64_t count, std::uint64_t* words, bool unique, int num_threads) {
  using Row = std::array<std::uint64_t, kWords>;
  static_assert(sizeof(Row) == kWords * 8);
  Row* rows = reinterpret_cast<Row*>(words);
  const std::int64_t pieces = std::clamp<std::int64_t>(count / 65536, 1, num_threads);
  const auto bound = [&](std::int64_t i) { return rows + count * std::min(i, pieces) / pieces; };
  cpu::parallel_for(pieces, num_threads,
                    [&](std::int64_t i, int) { sort_piece(bound(i), bound(i + 1)); });
  for (std::int64_t width = 1; width < pieces; width *= 2) {
    cpu::parallel_for((pieces + 2 * width - 1) / (2 * width), num_threads,
                      [&](std::int64_t i, int) {
                        std::inplace_merge(bound(2 * i * width), bound((2 * i + 1) * width),
                                           bound((2 * i + 2) * width));
                      });
  }
  return unique ? std::unique(rows, rows + count) - rows : count;
}

std::int64_t sort_wide(std::int64_t count, std::int64_t width, std::uint64_t* words, bool unique) {
  std::vector<std::int64_t> order(index(count));
  for (std::int64_t i = 0; i < count; ++i) order[index(i)] = i;
  const auto compare = [&](std::int64_t a, std::int64_t b) {
    return std::lexicographical_compare(words + a * width, words + (a + 1) * width,
                                        words + b * width, words + (b + 1) * width);
  };
  std::sort(order.begin(), order.end(), compare);
  std::vector<std::uint64_t> sorted(index(count * width));
  std::int64_t left = 0;
  for (const std::int64_t row : order) {
    const std::uint64_t* source = words + row * width;
    if (unique && left > 0 &&
        std::equal(source, source + width, &sorted[index((left - 1) * width)]))
      continue;
    std::copy_n(source, width, &sorted[index(left * width)]);
    ++left;
  }
  std::copy_n(sorted.begin(), left * width, words);
  return left;
}

}  // namespace

int state_bits(std::int64_t max_value) {
  if (max_value < 0) return 64;
  for (int bits = 1; bits < 64; bits *= 2) {
    if ((static_cast<std::uint64_t>(max_value) >> bits) == 0) return bits;
  }
  return 64;
}

const char* bfs_status_name(BfsStatus status) {
  constexpr const char* kNames[] = {"complete",       "max_level",    "max_states",
                                    "max_layer_size", "time_limit",   "stopped",
                                    "interrupted",    "memory_limit", "disk_limit"};
  return kNames[static_cast<int>(status)];
}

std::vector<std::int64_t> inverse_generators(const GeneratorSet& set) {
  return inverses_of(set, canonical_generators(set));
}

namespace cpu {

const char* permutation_bfs_instruction_set() { return instruction_set_name(instruction_set()); }

void check_graph(const BfsGraph& graph) {
  const GeneratorSet& set = graph.set;
  const StateLayout& layout = set.layout;
  const auto expect = [](bool condition, const char* argument, const std::string& message) {
    if (!condition) throw ArgumentError(argument, message);
  };
  expect(layout.size >= 1, "start_states",
         "expected states of at least one element, got " + std::to_string(layout.size));
  expect(layout.bits >= 1 && layout.bits <= 64 && (layout.bits & (layout.bits - 1)) == 0, "w",
         "expected 1, 2, 4, 8, 16, 32 or 64, got " + std::to_string(layout.bits));
  expect(layout.words() <= kMaxStateWords, "start_states",
         "a state takes " + std::to_string(layout.words()) + " words, at most " +
             std::to_string(kMaxStateWords) + " are allowed");
  expect(set.num_generators >= 1, "generators", "expected at least one, got none");
  expect(graph.num_start_states >= 1, "start_states", "expected at least one, got none");
  std::uint64_t bound = layout.bits == 64 ? 0 : std::uint64_t{1} << layout.bits;
  std::string range =
      "0.." + std::to_string(bound - 1) + ", the width of " + std::to_string(layout.bits) + " bits";
  if (set.kind == GeneratorKind::kPermutation) {
    for (std::int64_t g = 0; g < set.num_generators; ++g) {
      const std::int64_t* p = set.generators + g * layout.size;
      if (is_permutation(p, layout.size)) continue;
      std::string text;
      for (std::int64_t i = 0; i < std::min<std::int64_t>(layout.size, 20); ++i) {
        if (i > 0) text += ", ";
        text += std::to_string(p[i]);
      }
      throw ArgumentError("generators", "generator " + std::to_string(g) +
                                            " is no permutation of 0.." +
                                            std::to_string(layout.size - 1) + ": [" + text +
                                            (layout.size > 20 ? ", ...]" : "]"));
    }
  } else {
    expect(set.rows >= 1 && layout.size % set.rows == 0, "start_states",
           "expected a multiple of " + std::to_string(set.rows) + " elements, got " +
               std::to_string(layout.size));
    expect(set.modulus == 0 || (set.modulus >= 2 && set.modulus <= (std::int64_t{1} << 31)),
           "modulus", "expected 0 or 2..2^31, got " + std::to_string(set.modulus));
    if (set.modulus == 0) {
      expect(layout.bits == 64, "w",
             "expected 64 where the modulus is 0, got " + std::to_string(layout.bits));
    } else {
      expect(layout.bits >= state_bits(set.modulus - 1), "w",
             "expected at least " + std::to_string(state_bits(set.modulus - 1)) +
                 " for the modulus " + std::to_string(set.modulus) + ", got " +
                 std::to_string(layout.bits));
      bound = static_cast<std::uint64_t>(set.modulus);
      range = "0.." + std::to_string(bound - 1);
    }
  }
  if (bound == 0) return;
  for (std::int64_t i = 0; i < graph.num_start_states * layout.size; ++i) {
    const std::int64_t value = graph.start_states[i];
    expect(value >= 0 && static_cast<std::uint64_t>(value) < bound, "start_states",
           "expected values in " + range + ", got " + std::to_string(value) + " in state " +
               std::to_string(i / layout.size));
  }
}

void pack_states(const StateLayout& layout, std::int64_t count, const std::int64_t* values,
                 std::uint64_t* states, int num_threads) {
  const std::int64_t words = layout.words(), size = layout.size;
  const std::uint64_t mask = low_bits(layout.bits);
  for_blocks(count, num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      std::uint64_t* out = states + row * words;
      std::fill_n(out, words, std::uint64_t{0});
      std::uint64_t outside = 0;
      for (std::int64_t i = 0; i < size; ++i) {
        const auto value = static_cast<std::uint64_t>(values[row * size + i]);
        outside |= value & ~mask;
        const std::int64_t bit = i * layout.bits;
        out[bit >> 6] |= (value & mask) << (bit & 63);
      }
      if (outside != 0) {
        throw ArgumentError("states", "state " + std::to_string(row) + " has a value outside 0.." +
                                          std::to_string(mask) + ", the width of " +
                                          std::to_string(layout.bits) + " bits");
      }
    }
  });
}

void unpack_states(const StateLayout& layout, std::int64_t count, const std::uint64_t* states,
                   std::int64_t* values, int num_threads) {
  const std::int64_t words = layout.words(), size = layout.size;
  for_blocks(count, num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      for (std::int64_t i = 0; i < size; ++i) {
        values[row * size + i] =
            static_cast<std::int64_t>(element(layout, states + row * words, i));
      }
    }
  });
}

void apply_generators(const GeneratorSet& set, std::int64_t count, const std::uint64_t* states,
                      std::uint64_t* neighbors, int num_threads) {
  const CompiledGenerators generators(set, false);
  const std::int64_t words = set.layout.words();
  for_blocks(count, num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t g = 0; g < generators.count(); ++g) {
      generators.apply(g, last - first, states + first * words,
                       neighbors + (g * count + first) * words);
    }
  });
}

void hash_states(const StateLayout& layout, std::int64_t count, const std::uint64_t* states,
                 std::uint64_t* hashes, int num_threads) {
  const std::int64_t words = layout.words();
  for_blocks(count, num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      hashes[row] = hash_row(states + row * words, words);
    }
  });
}

std::int64_t sort_packed(std::int64_t words, std::int64_t count, std::uint64_t* rows, bool unique,
                         int num_threads) {
  if (words == 1) return sort_fixed<1>(count, rows, unique, num_threads);
  if (words == 2) return sort_fixed<2>(count, rows, unique, num_threads);
  return sort_wide(count, words, rows, unique);
}

std::int64_t sort_states(const StateLayout& layout, std::int64_t count, std::uint64_t* states,
                         bool unique, int num_threads) {
  const std::int64_t words = layout.words();
  const auto reverse = [&](std::int64_t rows) {
    for_blocks(rows, num_threads, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first * words; i < last * words; ++i) {
        states[i] = reverse_elements(states[i], layout.bits);
      }
    });
  };
  reverse(count);
  const std::int64_t left = sort_packed(words, count, states, unique, num_threads);
  reverse(left);
  return left;
}

void find_states(const StateLayout& layout, std::int64_t count, const std::uint64_t* sorted,
                 std::int64_t num_queries, const std::uint64_t* queries, std::int64_t* rows,
                 int num_threads) {
  const std::int64_t words = layout.words();
  for_blocks(num_queries, num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t query = first; query < last; ++query) {
      const std::uint64_t* wanted = queries + query * words;
      std::int64_t low = 0, high = count;
      while (low < high) {
        const std::int64_t middle = low + (high - low) / 2;
        if (compare_rows(sorted + middle * words, wanted, words, layout.bits) < 0) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      const bool found = low < count && std::equal(wanted, wanted + words, sorted + low * words);
      rows[query] = found ? low : -1;
    }
  });
}

// ---- generators ----

CompiledGenerators::CompiledGenerators(const GeneratorSet& set, bool unique)
    : layout_(set.layout),
      kind_(set.kind),
      rows_(set.kind == GeneratorKind::kMatrix ? set.rows : 1),
      modulus_(set.modulus) {
  std::vector<std::vector<std::int64_t>> kept;
  std::map<std::vector<std::int64_t>, std::int64_t> seen;
  std::int64_t number = 0;
  for (std::vector<std::int64_t>& values : canonical_generators(set)) {
    const bool first = seen.emplace(values, number).second;
    if (first || !unique) {
      original_.push_back(number);
      kept.push_back(std::move(values));
    }
    ++number;
  }
  inverse_ = inverses_of(set, kept);
  inverse_closed_ =
      std::none_of(inverse_.begin(), inverse_.end(), [](std::int64_t i) { return i < 0; });
  for (const std::vector<std::int64_t>& values : kept) {
    CompiledGenerator generator;
    if (kind_ == GeneratorKind::kPermutation) {
      std::map<std::array<std::int64_t, 3>, std::uint64_t> masks;
      for (std::int64_t i = 0; i < layout_.size; ++i) {
        const std::int64_t to = i * layout_.bits, from = values[index(i)] * layout_.bits;
        masks[{to >> 6, from >> 6, (to - from) & 63}] |= low_bits(layout_.bits) << (to & 63);
      }
      for (const auto& [key, mask] : masks) {
        generator.terms.push_back({static_cast<std::int32_t>(key[1]),
                                   static_cast<std::int32_t>(key[0]), static_cast<int>(key[2]),
                                   mask});
      }
      if (layout_.size <= 32) generator.bytes.assign(values.begin(), values.end());
    } else {
      for (std::int64_t r = 0; r < rows_; ++r) {
        MatrixRow row;
        row.row = static_cast<std::int32_t>(r);
        for (std::int64_t c = 0; c < rows_; ++c) {
          const std::int64_t value = values[index(r * rows_ + c)];
          if (value == 0) continue;
          row.columns.push_back(static_cast<std::int32_t>(c));
          row.coefficients.push_back(static_cast<std::uint64_t>(value));
        }
        const bool identity =
            row.columns.size() == 1 && row.columns[0] == r && row.coefficients[0] == 1;
        if (!identity) generator.rows.push_back(std::move(row));
      }
    }
    compiled_.push_back(std::move(generator));
  }
}

namespace {

void apply_terms(const CompiledGenerator& generator, std::int64_t words, std::int64_t count,
                 const std::uint64_t* states, std::uint64_t* out) {
  for (std::int64_t row = 0; row < count; ++row, states += words, out += words) {
    std::fill_n(out, words, std::uint64_t{0});
    for (const MoveTerm& term : generator.terms) {
      const std::uint64_t word = states[term.source];
      const int left = term.rotation, right = (64 - term.rotation) & 63;
      out[term.target] |= (word << left | word >> right) & term.mask;
    }
  }
}

void apply_matrix(const CompiledGenerators& set, const CompiledGenerator& generator,
                  std::int64_t count, const std::uint64_t* states, std::uint64_t* out) {
  const StateLayout& layout = set.layout();
  const std::int64_t words = layout.words(), columns = set.columns();
  const auto modulus = static_cast<std::uint64_t>(set.modulus());
  const std::uint64_t mask = low_bits(layout.bits);
  for (std::int64_t row = 0; row < count; ++row, states += words, out += words) {
    std::copy_n(states, words, out);
    for (const MatrixRow& product : generator.rows) {
      for (std::int64_t column = 0; column < columns; ++column) {
        std::uint64_t sum = 0;
        for (std::size_t k = 0; k < product.columns.size(); ++k) {
          const std::uint64_t value =
              element(layout, states, product.columns[k] * columns + column);
          sum += product.coefficients[k] * value;  // both below 2^31, the sum reduced: below 2^63
          if (modulus != 0) sum %= modulus;
        }
        const std::int64_t bit = (product.row * columns + column) * layout.bits;
        std::uint64_t& word = out[bit >> 6];
        word = (word & ~(mask << (bit & 63))) | sum << (bit & 63);
      }
    }
  }
}

}  // namespace

void CompiledGenerators::apply(std::int64_t i, std::int64_t count, const std::uint64_t* states,
                               std::uint64_t* out) const {
  const CompiledGenerator& generator = (*this)[i];
  if (kind_ == GeneratorKind::kMatrix) {
    apply_matrix(*this, generator, count, states, out);
    return;
  }
  const ApplyKernels& kernels = apply_kernels();
  const std::int64_t words = layout_.words();
  // A shuffle costs about as much as two terms.
  if (kernels.shuffle != nullptr && shuffle_fits(layout_) && generator.terms.size() > 2) {
    kernels.shuffle(generator, layout_, count, states, out);
  } else if (words == 1) {
    kernels.one_word(generator, count, states, out);
  } else {
    apply_terms(generator, words, count, states, out);
  }
}

std::vector<std::uint64_t> packed_start_states(const BfsGraph& graph) {
  const StateLayout& layout = graph.set.layout;
  std::vector<std::uint64_t> states(index(graph.num_start_states * layout.words()));
  pack_states(layout, graph.num_start_states, graph.start_states, states.data(), 1);
  const std::int64_t left = sort_states(layout, graph.num_start_states, states.data(), true, 1);
  states.resize(index(left * layout.words()));
  return states;
}

std::uint64_t graph_fingerprint(const BfsGraph& graph) {
  const GeneratorSet& set = graph.set;
  std::uint64_t hash = 1;
  const auto add = [&](std::uint64_t value) { hash = mix(hash ^ value) + value; };
  for (const std::int64_t value : {static_cast<std::int64_t>(set.kind), set.layout.size,
                                   static_cast<std::int64_t>(set.layout.bits), set.num_generators,
                                   set.rows, set.modulus, graph.num_start_states}) {
    add(static_cast<std::uint64_t>(value));
  }
  for (const std::vector<std::int64_t>& generator : canonical_generators(set)) {
    for (const std::int64_t value : generator) add(static_cast<std::uint64_t>(value));
  }
  for (const std::uint64_t word : packed_start_states(graph)) add(word);
  return hash;
}

void hash_neighbors(std::int64_t size, std::int64_t num_generators, const std::int64_t* generators,
                    const std::int64_t* weights, std::int64_t count, const void* states,
                    int element_bytes, std::int64_t* hashes, int num_threads) {
  std::vector<std::uint64_t> moved(index(num_generators * size));
  for (std::int64_t g = 0; g < num_generators; ++g) {
    const std::int64_t* p = generators + g * size;
    if (!is_permutation(p, size)) {
      throw ArgumentError("generators", "generator " + std::to_string(g) +
                                            " is no permutation of 0.." + std::to_string(size - 1));
    }
    for (std::int64_t i = 0; i < size; ++i) {
      moved[index(g * size + p[i])] = static_cast<std::uint64_t>(weights[i]);
    }
  }
  const int width = element_bytes == 1 ? 0 : element_bytes == 2 ? 1 : element_bytes == 4 ? 2 : 3;
  const ApplyKernels::Hash hash = apply_kernels().hash[width];
  for_blocks(count, num_threads, [&](std::int64_t first, std::int64_t last) {
    hash(size, num_generators, moved.data(), count, first, last, states,
         reinterpret_cast<std::uint64_t*>(hashes));
  });
}

}  // namespace cpu
}  // namespace rankone
