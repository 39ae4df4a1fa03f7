// Upper unitriangular matrices mod m, by the mixed-radix rank of the entries above the diagonal.
#include <algorithm>
#include <string>
#include <vector>

#include "permutation_ranked_space.h"
#include "permutation_states.h"

namespace rankone::cpu {
namespace {

constexpr std::int64_t kMostStates = std::int64_t{1} << 38;  // 69 GB at two bits
constexpr std::int64_t kChunkStates = std::int64_t{1} << 16;

bool is_unitriangular(const std::int64_t* matrix, std::int64_t n, std::int64_t modulus) {
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      const std::int64_t value = (matrix[i * n + j] % modulus + modulus) % modulus;
      if (value != (i == j ? 1 : 0)) return false;
    }
  }
  return true;
}

class UnitriangularSpace final : public RankedSpace {
 public:
  explicit UnitriangularSpace(const BfsGraph& graph)
      : n_(graph.set.rows),
        digits_(n_ * (n_ - 1) / 2),
        modulus_(static_cast<std::uint64_t>(graph.set.modulus)) {
    for (std::int64_t i = 0; i < digits_; ++i) total_ *= graph.set.modulus;
    for (std::int64_t g = 0; g < graph.set.num_generators; ++g) {
      std::vector<std::uint64_t> generator;
      for (std::int64_t i = 0; i < n_ * n_; ++i) {
        const std::int64_t value = graph.set.generators[g * n_ * n_ + i];
        generator.push_back(static_cast<std::uint64_t>(
            (value % graph.set.modulus + graph.set.modulus) % graph.set.modulus));
      }
      generators_.push_back(std::move(generator));
    }
  }

  std::int64_t num_chunks() const override { return (total_ + kChunkStates - 1) / kChunkStates; }
  std::int64_t chunk_words() const override { return (std::min(total_, kChunkStates) + 63) / 64; }
  std::size_t table_bytes(int) const override { return 0; }
  std::int64_t num_generators() const override {
    return static_cast<std::int64_t>(generators_.size());
  }
  void prepare(int, MemoryMeter*) override {}

  void expand(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
              const std::uint64_t*, CodePlanes& planes, int) override {
    std::vector<std::uint64_t> matrix(static_cast<std::size_t>(n_ * n_));
    std::vector<RankedState> ranked(generators_.size());
    for (std::int64_t i = 0; i < count; ++i) {
      read(chunk * kChunkStates + list[i], matrix.data());
      for (std::size_t g = 0; g < generators_.size(); ++g) {
        ranked[g] = place(product_rank(generators_[g], matrix.data()));
        planes.prefetch(ranked[g].chunk, ranked[g].bit);
      }
      for (const RankedState& state : ranked) planes.merge_bit(state.chunk, state.bit);
    }
  }

  RankedState rank(const std::int64_t* values, const char* argument) const override {
    if (!is_unitriangular(values, n_, static_cast<std::int64_t>(modulus_))) {
      throw ArgumentError(argument, "expected an upper unitriangular matrix");
    }
    std::int64_t rank = 0;
    for (std::int64_t i = 0; i < n_; ++i) {
      for (std::int64_t j = i + 1; j < n_; ++j) {
        rank = rank * static_cast<std::int64_t>(modulus_) + values[i * n_ + j];
      }
    }
    return place(rank);
  }

  RankedState neighbor(const RankedState& state, std::int64_t generator) const override {
    std::vector<std::uint64_t> matrix(static_cast<std::size_t>(n_ * n_));
    read(state.chunk * kChunkStates + state.bit, matrix.data());
    return place(product_rank(generators_[static_cast<std::size_t>(generator)], matrix.data()));
  }

  void decode(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
              std::int64_t* values) const override {
    std::vector<std::uint64_t> matrix(static_cast<std::size_t>(n_ * n_));
    for (std::int64_t i = 0; i < count; ++i) {
      read(chunk * kChunkStates + list[i], matrix.data());
      for (const std::uint64_t value : matrix) *values++ = static_cast<std::int64_t>(value);
    }
  }

 private:
  static RankedState place(std::int64_t rank) {
    return {rank / kChunkStates, static_cast<std::uint16_t>(rank % kChunkStates)};
  }

  void read(std::int64_t rank, std::uint64_t* matrix) const {
    auto left = static_cast<std::uint64_t>(rank);
    for (std::int64_t i = n_ - 1; i >= 0; --i) {
      for (std::int64_t j = n_ - 1; j > i; --j) {
        matrix[i * n_ + j] = left % modulus_;
        left /= modulus_;
      }
      matrix[i * n_ + i] = 1;
      std::fill_n(matrix + i * n_, i, std::uint64_t{0});
    }
  }

  std::int64_t product_rank(const std::vector<std::uint64_t>& generator,
                            const std::uint64_t* matrix) const {
    std::uint64_t rank = 0;
    for (std::int64_t i = 0; i < n_; ++i) {
      const std::uint64_t* row = &generator[static_cast<std::size_t>(i * n_)];
      for (std::int64_t j = i + 1; j < n_; ++j) {
        std::uint64_t sum = 0;
        for (std::int64_t k = i; k <= j; ++k) {
          if (row[k] != 0) sum = (sum + row[k] * matrix[k * n_ + j]) % modulus_;
        }
        rank = rank * modulus_ + sum;
      }
    }
    return static_cast<std::int64_t>(rank);
  }

  const std::int64_t n_, digits_;
  const std::uint64_t modulus_;
  std::int64_t total_ = 1;
  std::vector<std::vector<std::uint64_t>> generators_;
};

}  // namespace

std::unique_ptr<RankedSpace> unitriangular_space(const BfsGraph& graph) {
  const GeneratorSet& set = graph.set;
  const std::int64_t n = set.rows;
  if (set.modulus < 2 || set.layout.size != n * n) return nullptr;
  double states = 1;
  for (std::int64_t i = 0; i < n * (n - 1) / 2; ++i) states *= static_cast<double>(set.modulus);
  if (states > static_cast<double>(kMostStates)) return nullptr;
  for (std::int64_t g = 0; g < set.num_generators; ++g) {
    if (!is_unitriangular(set.generators + g * n * n, n, set.modulus)) return nullptr;
  }
  for (std::int64_t s = 0; s < graph.num_start_states; ++s) {
    if (!is_unitriangular(graph.start_states + s * n * n, n, set.modulus)) return nullptr;
  }
  return std::make_unique<UnitriangularSpace>(graph);
}

}  // namespace rankone::cpu
