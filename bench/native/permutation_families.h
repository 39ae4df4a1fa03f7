// The families of generators that the searches are timed on, and what a timed search is counted as.
//
// Counters: states/s counts states found, edges/s states times generators (those that are skipped
// because they lead back count, too); peak_MB is what the engine held.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "rankone/permutation_bfs.h"

namespace rankone::bench {

using Vector = std::vector<std::int64_t>;

struct Family {
  std::string name;
  std::int64_t n;
  std::vector<Vector> generators;

  std::string title() const { return name + "-" + std::to_string(n); }
};

inline Vector identity(std::int64_t n) {
  Vector values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

inline Family make_family(const std::string& name, std::int64_t n) {
  Family family{name, n, {}};
  Vector left = identity(n), right = identity(n), exchange = identity(n);
  std::rotate(left.begin(), left.begin() + 1, left.end());
  std::rotate(right.begin(), right.end() - 1, right.end());
  std::swap(exchange[0], exchange[1]);
  if (name == "lrx") family.generators = {left, right, exchange};
  if (name == "lx") family.generators = {left, exchange};
  if (name == "top_spin") {
    Vector turn = identity(n);
    std::reverse(turn.begin(), turn.begin() + 4);
    family.generators = {left, right, turn};
  }
  for (std::int64_t i = 0; i + 1 < n; ++i) {
    Vector neighbors = identity(n), prefix = identity(n);
    std::swap(neighbors[static_cast<std::size_t>(i)], neighbors[static_cast<std::size_t>(i) + 1]);
    std::reverse(prefix.begin(), prefix.begin() + i + 2);
    if (name == "coxeter") family.generators.push_back(neighbors);
    if (name == "pancake") family.generators.push_back(prefix);
    for (std::int64_t j = i + 1; j < n && name == "all_transpositions"; ++j) {
      Vector pair = identity(n);
      std::swap(pair[static_cast<std::size_t>(i)], pair[static_cast<std::size_t>(j)]);
      family.generators.push_back(pair);
    }
  }
  return family;
}

struct Graph {
  Vector generators, start;
  BfsGraph graph;

  explicit Graph(const Family& family) : start(identity(family.n)) {
    for (const Vector& generator : family.generators) {
      generators.insert(generators.end(), generator.begin(), generator.end());
    }
    graph.set.layout = {family.n, state_bits(family.n - 1)};
    graph.set.num_generators = static_cast<std::int64_t>(family.generators.size());
    graph.set.generators = generators.data();
    graph.start_states = start.data();
    graph.num_start_states = 1;
  }
};

/// The counters of a search, and an error where it did not end by itself.
inline void count_search(benchmark::State& state, const Family& family, const BfsResult& result) {
  const double states = static_cast<double>(
      std::accumulate(result.layer_sizes.begin(), result.layer_sizes.end(), std::int64_t{0}));
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  state.counters["states/s"] = Counter(states, rate);
  state.counters["edges/s"] = Counter(states * static_cast<double>(family.generators.size()), rate);
  state.counters["peak_MB"] = static_cast<double>(result.peak_bytes) / 1e6;
  state.counters["diameter"] = static_cast<double>(result.layer_sizes.size()) - 1;
  if (result.status != BfsStatus::kComplete) state.SkipWithError("the search did not complete");
}

}  // namespace rankone::bench
