// The 0/1 words of n letters with k ones, by rank in numeric order: rank = A[high half] + B[low
// half], A the words with a smaller high half, B the place of the low half among those with as many
// ones. Listed ranks ascend, so decoding walks the high halves.
#include <algorithm>
#include <bit>
#include <string>
#include <vector>

#include "permutation_ranked_space.h"
#include "permutation_states.h"

namespace rankone::cpu {
namespace {

constexpr std::int64_t kLongestWord = 40;                    // tables of 2^20 entries
constexpr std::int64_t kMostStates = std::int64_t{1} << 38;  // 69 GB at two bits
constexpr std::int64_t kChunkStates = std::int64_t{1} << 16;
constexpr std::int64_t kPushAhead = 64;

std::int64_t binomial(std::int64_t n, std::int64_t k) {
  if (k < 0 || k > n) return 0;
  std::int64_t result = 1;
  for (std::int64_t i = 1; i <= k; ++i) result = result * (n - k + i) / i;
  return result;
}

class BinarySpace final : public RankedSpace {
 public:
  BinarySpace(const BfsGraph& graph, std::int64_t ones)
      : size_(graph.set.layout.size), ones_(ones), low_bits_(static_cast<int>(size_ / 2)) {
    GeneratorSet set = graph.set;
    set.layout.bits = 1;
    generators_ = std::make_unique<CompiledGenerators>(set, false);
    total_ = binomial(size_, ones_);
  }

  std::int64_t num_chunks() const override { return (total_ + kChunkStates - 1) / kChunkStates; }
  std::int64_t chunk_words() const override { return (std::min(total_, kChunkStates) + 63) / 64; }
  std::size_t table_bytes(int num_threads) const override {
    const int high = static_cast<int>(size_) - low_bits_;
    return (std::size_t{8} << high) + (std::size_t{12} << low_bits_) +
           static_cast<std::size_t>(num_threads) * static_cast<std::size_t>(chunk_words()) * 64 *
               16;
  }
  std::int64_t num_generators() const override { return generators_->count(); }

  void prepare(int num_threads, MemoryMeter* meter) override {
    meter->add(table_bytes(num_threads));
    fill_tables();
    workspaces_.resize(static_cast<std::size_t>(num_threads));
  }

  void expand(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
              const std::uint64_t*, CodePlanes& planes, int worker) override {
    Workspace& space = workspaces_[static_cast<std::size_t>(worker)];
    space.words.resize(static_cast<std::size_t>(count));
    space.neighbors.resize(space.words.size());
    decode_words(chunk, list, count, space.words.data());
    for (std::int64_t g = 0; g < generators_->count(); ++g) {
      generators_->apply(g, count, space.words.data(), space.neighbors.data());
      for (std::int64_t first = 0; first < count; first += kPushAhead) {
        const std::int64_t batch = std::min(kPushAhead, count - first);
        RankedState ranked[kPushAhead];
        for (std::int64_t i = 0; i < batch; ++i) {
          ranked[i] = place(rank_word(space.neighbors[static_cast<std::size_t>(first + i)]));
          planes.prefetch(ranked[i].chunk, ranked[i].bit);
        }
        for (std::int64_t i = 0; i < batch; ++i) planes.merge_bit(ranked[i].chunk, ranked[i].bit);
      }
    }
  }

  RankedState rank(const std::int64_t* values, const char* argument) const override {
    std::uint64_t word = 0;
    for (std::int64_t i = 0; i < size_; ++i) {
      if (values[i] != 0 && values[i] != 1) {
        throw ArgumentError(argument, "expected 0 or 1, got " + std::to_string(values[i]));
      }
      word |= static_cast<std::uint64_t>(values[i]) << i;
    }
    if (std::popcount(word) != ones_) {
      throw ArgumentError(argument, "expected words with " + std::to_string(ones_) + " ones, got " +
                                        std::to_string(std::popcount(word)));
    }
    return place(rank_word(word));
  }

  RankedState neighbor(const RankedState& state, std::int64_t generator) const override {
    std::uint64_t word = 0, next = 0;
    decode_words(state.chunk, &state.bit, 1, &word);
    generators_->apply(generator, 1, &word, &next);
    return place(rank_word(next));
  }

  void decode(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
              std::int64_t* values) const override {
    std::vector<std::uint64_t> words(static_cast<std::size_t>(count));
    decode_words(chunk, list, count, words.data());
    for (const std::uint64_t word : words) {
      for (std::int64_t i = 0; i < size_; ++i) *values++ = static_cast<std::int64_t>(word >> i & 1);
    }
  }

 private:
  struct Workspace {
    std::vector<std::uint64_t> words, neighbors;
  };

  static RankedState place(std::int64_t rank) {
    return {rank / kChunkStates, static_cast<std::uint16_t>(rank % kChunkStates)};
  }

  std::int64_t rank_word(std::uint64_t word) const {
    return high_ranks_[word >> low_bits_] + low_ranks_[word & low_bits(low_bits_)];
  }

  void fill_tables() {
    const std::size_t num_low = std::size_t{1} << low_bits_;
    const std::size_t num_high = std::size_t{1} << (size_ - low_bits_);
    lows_.assign(static_cast<std::size_t>(low_bits_) + 1, {});
    low_ranks_.resize(num_low);
    for (std::size_t low = 0; low < num_low; ++low) {
      auto& same = lows_[static_cast<std::size_t>(std::popcount(low))];
      low_ranks_[low] = static_cast<std::uint32_t>(same.size());
      same.push_back(static_cast<std::uint32_t>(low));
    }
    high_ranks_.resize(num_high + 1);
    std::int64_t smaller = 0;
    for (std::size_t high = 0; high < num_high; ++high) {
      high_ranks_[high] = smaller;
      smaller += binomial_low(ones_ - std::popcount(high));
    }
    high_ranks_[num_high] = smaller;
  }
  std::int64_t binomial_low(std::int64_t ones) const {
    if (ones < 0 || ones > low_bits_) return 0;
    return static_cast<std::int64_t>(lows_[static_cast<std::size_t>(ones)].size());
  }

  void decode_words(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
                    std::uint64_t* words) const {
    if (count == 0) return;
    const std::int64_t base = chunk * kChunkStates;
    auto high = std::upper_bound(high_ranks_.begin(), high_ranks_.end(), base + list[0]) - 1;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t rank = base + list[i];
      while (high[1] <= rank) ++high;
      const auto upper = static_cast<std::uint64_t>(high - high_ranks_.begin());
      const auto& same = lows_[static_cast<std::size_t>(ones_ - std::popcount(upper))];
      words[i] = upper << low_bits_ | same[static_cast<std::size_t>(rank - *high)];
    }
  }

  const std::int64_t size_, ones_;
  const int low_bits_;
  std::int64_t total_ = 0;
  std::unique_ptr<CompiledGenerators> generators_;
  std::vector<std::int64_t> high_ranks_;          // A, and the total
  std::vector<std::uint32_t> low_ranks_;          // B
  std::vector<std::vector<std::uint32_t>> lows_;  // low halves by number of ones
  std::vector<Workspace> workspaces_;
};

}  // namespace

std::unique_ptr<RankedSpace> binary_space(const BfsGraph& graph) {
  const std::int64_t n = graph.set.layout.size;
  if (n > kLongestWord) return nullptr;
  std::int64_t ones = -1;
  for (std::int64_t s = 0; s < graph.num_start_states; ++s) {
    const std::int64_t* state = graph.start_states + s * n;
    const std::int64_t count = std::count(state, state + n, std::int64_t{1});
    if (ones >= 0 && count != ones) return nullptr;
    ones = count;
  }
  if (binomial(n, ones) > kMostStates) return nullptr;
  return std::make_unique<BinarySpace>(graph, ones);
}

}  // namespace rankone::cpu
