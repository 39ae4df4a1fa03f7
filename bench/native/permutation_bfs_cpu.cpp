// Whole searches on one thread (or --threads=N): the hash and bitarray engines over families of
// generators, the external engine on a folder, and the operations on packed states.
//
// Counters, per second of the process's own time over all threads, so that a shared machine does
// not show: states/s counts states found, edges/s states times generators (those that are skipped
// because they lead back count, too); peak_MB is what the engine held.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "rankone/permutation_bfs.h"

namespace {

using namespace rankone;
using Vector = std::vector<std::int64_t>;

int num_threads = 1;

struct Family {
  std::string name;
  std::int64_t n;
  std::vector<Vector> generators;

  std::string title() const { return name + "-" + std::to_string(n); }
};

Vector identity(std::int64_t n) {
  Vector values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

Family make_family(const std::string& name, std::int64_t n) {
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

template <typename Search>
void run_search(benchmark::State& state, const Family& family, const Search& search) {
  const Graph graph(family);
  BfsResult result;
  for (auto _ : state) result = search(graph.graph);
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

void hash_search(benchmark::State& state, const Family& family) {
  run_search(state, family,
             [](const BfsGraph& graph) { return cpu::bfs_hash(graph, {}, {}, num_threads); });
}

void bitarray_search(benchmark::State& state, const Family& family, int planes) {
  run_search(state, family, [planes](const BfsGraph& graph) {
    return cpu::bfs_bitarray(graph, {planes, 3}, {}, {}, num_threads);
  });
}

void external_search(benchmark::State& state, const Family& family) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / "rankone_bench_external";
  run_search(state, family, [&](const BfsGraph& graph) {
    return cpu::bfs_external(graph, {folder.string(), false, false, 0}, {}, {}, num_threads);
  });
  std::filesystem::remove_all(folder);
}

void apply(benchmark::State& state, const Family& family) {
  const Graph graph(family);
  const std::int64_t count = 1 << 14;
  std::vector<std::uint64_t> states(static_cast<std::size_t>(count)), out;
  for (std::uint64_t& word : states) {
    cpu::pack_states(graph.graph.set.layout, 1, graph.start.data(), &word, 1);
  }
  const std::int64_t edges = count * graph.graph.set.num_generators;
  out.resize(static_cast<std::size_t>(edges));
  for (auto _ : state) {
    cpu::apply_generators(graph.graph.set, count, states.data(), out.data(), num_threads);
    benchmark::ClobberMemory();
  }
  state.counters["edges/s"] =
      benchmark::Counter(static_cast<double>(edges), benchmark::Counter::kIsIterationInvariantRate);
}

void linear_hash(benchmark::State& state, const Family& family) {
  const Graph graph(family);
  const std::int64_t count = 1 << 14, n = family.n;
  std::vector<std::uint8_t> states(static_cast<std::size_t>(count * n));
  for (std::size_t i = 0; i < states.size(); ++i) {
    states[i] = static_cast<std::uint8_t>(i * 7 % static_cast<std::size_t>(n));
  }
  Vector weights(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<std::int64_t>(0x9E3779B97F4A7C15U * (i + 1));
  }
  const std::int64_t edges = count * graph.graph.set.num_generators;
  Vector hashes(static_cast<std::size_t>(edges));
  for (auto _ : state) {
    cpu::hash_neighbors(n, graph.graph.set.num_generators, graph.generators.data(), weights.data(),
                        count, states.data(), 1, hashes.data(), num_threads);
    benchmark::ClobberMemory();
  }
  state.counters["edges/s"] =
      benchmark::Counter(static_cast<double>(edges), benchmark::Counter::kIsIterationInvariantRate);
}

template <typename Function, typename... Arguments>
void add(const std::string& name, Function function, const Family& family, Arguments... arguments) {
  benchmark::RegisterBenchmark((name + "/" + family.title()).c_str(), function, family,
                               arguments...)
      ->MeasureProcessCPUTime()
      ->Unit(benchmark::kMillisecond);
}

void register_all() {
  const std::vector<Family> small = {
      make_family("lrx", 10),     make_family("lx", 10),
      make_family("coxeter", 10), make_family("top_spin", 11),
      make_family("pancake", 10), make_family("all_transpositions", 9)};
  const std::vector<Family> large = {make_family("lrx", 11), make_family("lx", 11),
                                     make_family("coxeter", 11)};
  for (const auto* families : {&small, &large}) {
    for (const Family& family : *families) {
      add("hash", hash_search, family);
      add("bitarray", bitarray_search, family, 2);
      add("bitarray_3_planes", bitarray_search, family, 3);
    }
  }
  add("external", external_search, small[0]);
  add("external", external_search, large[0]);
  for (const Family& family : {small[0], small[2], small[4]}) {
    add("apply", apply, family);
    add("hash_neighbors", linear_hash, family);
  }
  for (const std::int64_t n : {12, 13}) {
    const Family family = make_family("lrx", n);
    benchmark::RegisterBenchmark(("bitarray/" + family.title()).c_str(), bitarray_search, family, 2)
        ->MeasureProcessCPUTime()
        ->UseRealTime()
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) {
  constexpr std::string_view kThreads = "--threads=";
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).starts_with(kThreads)) {
      num_threads = std::max(1, std::atoi(argv[i] + kThreads.size()));
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("instruction_set", cpu::permutation_bfs_instruction_set());
  benchmark::AddCustomContext("threads", std::to_string(num_threads));
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
