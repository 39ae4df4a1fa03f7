// What the native CPU benchmarks share: data, the rate of the kernels' own register tile as their
// yardstick, counters, and a main with --threads=N.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "rankone/linear_attention.h"

// The vectors that this file's own flags allow; compile it with -march=native.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define RANKONE_ISA_LEVEL 2
#elif defined(__AVX2__) && defined(__FMA__)
#define RANKONE_ISA_LEVEL 1
#else
#define RANKONE_ISA_LEVEL 0
#endif
#define RANKONE_ISA tile
#include "tile_gemm.h"

namespace rankone::bench {

namespace tile = rankone::cpu::tile;
using Floats = std::vector<float>;

inline int num_threads = 1;
inline double measured_tile_rate = 0;

inline const char* name_of(DecayForm form) {
  constexpr const char* kNames[] = {"none", "head", "token", "channel"};
  return kNames[static_cast<int>(form)];
}

inline Floats random_values(std::int64_t count, float low, float high, unsigned seed) {
  std::minstd_rand engine(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  Floats values(static_cast<std::size_t>(count));
  for (float& value : values) value = uniform(engine);
  return values;
}

/// The rate of the kernels' own register tile on a panel that stays in the first-level cache: what
/// any product built from it can reach at most.
inline double tile_rate() {
  using Tile = tile::RegisterTile<float, tile::kTileRows, tile::kPanelVectors>;
  constexpr int kRows = tile::kTileRows, kDepth = 128, kRepeats = 4000, kRounds = 20;
  const Floats left = random_values(kRows * kDepth, -1, 1, 7);
  const Floats panel = random_values(kDepth * tile::kPanel<float>, -1, 1, 8);
  Floats result(kRows * tile::kPanel<float>);
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      Tile product;
      product.clear();
      product.multiply_add(left.data(), kDepth, 1, panel.data(), kDepth);
      product.store(result.data(), tile::kPanel<float>);
      benchmark::ClobberMemory();
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * kRepeats * kRows * kDepth * tile::kPanel<float> / seconds);
  }
  return best;
}

/// flop/s, bytes/s and the share of the tile's rate for work of that size an iteration.
inline void count(benchmark::State& state, double flops, double bytes) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  state.counters["flop/s"] = Counter(flops, rate);
  state.counters["bytes/s"] = Counter(bytes, rate);
  state.counters["of_tile"] = Counter(flops / measured_tile_rate / num_threads, rate);
}

/// Reads --threads=N, measures the tile, and runs what `register_all` registers.
inline int run(int argc, char** argv, void (*register_all)()) {
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
  measured_tile_rate = tile_rate();
  benchmark::AddCustomContext("instruction_set", cpu::linear_attention_instruction_set());
  benchmark::AddCustomContext("threads", std::to_string(num_threads));
  benchmark::AddCustomContext("tile_gflops", std::to_string(measured_tile_rate / 1e9));
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace rankone::bench
