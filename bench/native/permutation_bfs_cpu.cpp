// Whole searches on one thread (or --threads=N): the hash and bitarray engines over families of
// generators, the external engine on a folder, and the operations on packed states.
//
// Counters are per second of the process's own time over all threads, so that a shared machine does
// not show.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "permutation_families.h"

namespace {

using namespace rankone;
using namespace rankone::bench;

int num_threads = 1;

template <typename Search>
void run_search(benchmark::State& state, const Family& family, const Search& search) {
  const Graph graph(family);
  BfsResult result;
  for (auto _ : state) result = search(graph.graph);
  count_search(state, family, result);
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
