// The three CPU engines against a breadth-first search over std::set, closed forms and published
// growths. RANKONE_INSTRUCTION_SET selects the kernels under test.
#include "rankone/permutation_bfs.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "check.h"
#include "permutation_graphs.h"

namespace {

using namespace permutation_graphs;
namespace fs = std::filesystem;

// ---- engines, all called alike ----

enum class Engine { kHash, kBitarray, kThreePlanes, kDirectRanks, kExternal };

constexpr Engine kEngines[] = {Engine::kHash, Engine::kBitarray, Engine::kThreePlanes,
                               Engine::kDirectRanks, Engine::kExternal};

const char* name_of(Engine engine) {
  constexpr const char* kNames[] = {"hash", "bitarray", "bitarray of three planes",
                                    "bitarray without tables", "external"};
  return kNames[static_cast<int>(engine)];
}

/// A folder that goes with its owner.
struct Scratch {
  fs::path path;
  Scratch() {
    static int number = 0;
    path = fs::temp_directory_path() /
           ("rankone_bfs_test_" + std::to_string(::getpid()) + "_" + std::to_string(number++));
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

BfsResult search(Engine engine, const BfsGraph& graph, const BfsLimits& limits = {},
                 const BfsCallbacks& callbacks = {}, int num_threads = 1) {
  BitarrayOptions options;
  switch (engine) {
    case Engine::kHash:
      return cpu::bfs_hash(graph, limits, callbacks, num_threads);
    case Engine::kThreePlanes:
      options.planes = 3;
      break;
    case Engine::kDirectRanks:
      options.max_table_moves = -1;
      break;
    case Engine::kExternal: {
      const Scratch scratch;
      return cpu::bfs_external(graph, {scratch.path.string(), false, true, 0}, limits, callbacks,
                               num_threads);
    }
    case Engine::kBitarray:
      break;
  }
  return cpu::bfs_bitarray(graph, options, limits, callbacks, num_threads);
}

bool applies(Engine engine, const BfsGraph& graph) {
  return engine == Engine::kHash || engine == Engine::kExternal ||
         cpu::bitarray_obstacle(graph).empty();
}

struct Collected {
  BfsResult result;
  std::vector<States> layers;
};

Collected collect(Engine engine, const BfsGraph& graph, BfsLimits limits = {},
                  int num_threads = 1) {
  Collected collected;
  BfsCallbacks callbacks;
  callbacks.on_level = [&](const BfsLevel& level) {
    collected.layers.push_back(states_of(level));
    return false;
  };
  collected.result = search(engine, graph, limits, callbacks, num_threads);
  return collected;
}

void expect_growth(Graph graph, const Vector& growth, const std::string& name) {
  for (const Engine engine : kEngines) {
    const BfsGraph& view = graph.view();
    if (!applies(engine, view)) continue;
    const BfsResult result = search(engine, view);
    check::equal(std::string(bfs_status_name(result.status)), std::string("complete"), name);
    check::equal(text_of(result.layer_sizes), text_of(growth),
                 name + " by " + std::string(name_of(engine)));
  }
}

Vector product_of(const Vector& left, const Vector& right) {
  Vector result(left.size() + right.size() - 1);
  for (std::size_t i = 0; i < left.size(); ++i) {
    for (std::size_t j = 0; j < right.size(); ++j) result[i + j] += left[i] * right[j];
  }
  return result;
}

// ---- claims ----

void published_growths() {
  expect_growth(lrx(6), {1, 3, 6, 11, 20, 35, 55, 81, 109, 128, 126, 95, 40, 6, 3, 1}, "LRX-6");
  expect_growth(lrx(8), {1,    3,    6,    12,   23,   44,   80,   142,  247,  411,
                         662,  1019, 1481, 2059, 2745, 3465, 4126, 4633, 4913, 4777,
                         4163, 3079, 1612, 488,  94,   25,   6,    3,    1},
                "LRX-8");
  expect_growth(lx(6), {1, 2, 3, 5, 8, 13, 20, 30, 42, 56, 73, 87, 98, 101, 85, 59, 29, 7, 1},
                "LX-6");
  expect_growth(stars(7), {1, 6, 30, 135, 460, 1110, 1689, 1254, 340, 15}, "stars-7");
  expect_growth(pancake(8), {1, 7, 42, 251, 1191, 4281, 10561, 15011, 8520, 455}, "pancake-8");
}

void coxeter_growth_is_mahonian() {
  for (std::int64_t n = 2; n <= 9; ++n) {
    Vector growth{1};
    for (std::int64_t i = 2; i <= n; ++i) growth = product_of(growth, Vector(index(i), 1));
    expect_growth(coxeter(n), growth, "Coxeter-" + std::to_string(n));
  }
}

void transpositions_grow_as_stirling_numbers() {
  for (std::int64_t n = 2; n <= 7; ++n) {
    Vector growth{1};  // of the product of (1 + i q)
    for (std::int64_t i = 1; i < n; ++i) growth = product_of(growth, {1, i});
    expect_growth(all_transpositions(n), growth, "transpositions-" + std::to_string(n));
  }
}

void hypercube_growth_is_binomial() {
  expect_growth(hypercube(9), {1, 9, 36, 84, 126, 126, 84, 36, 9, 1}, "hypercube-9");
  expect_growth(hypercube(5), {1, 5, 10, 10, 5, 1}, "hypercube-5");
}

void known_diameters() {
  const auto last = [](Graph graph) {
    const BfsResult result = search(Engine::kBitarray, graph.view(), {}, {}, 2);
    return std::pair(static_cast<int>(result.layer_sizes.size()) - 1, result.layer_sizes.back());
  };
  check::that(last(top_spin(9)).first == 23, "TopSpin-9 has diameter 23");
  check::that(last(top_spin(10)).first == 28, "TopSpin-10 has diameter 28");
  check::that(last(lrx(9)) == std::pair(36, std::int64_t{1}),
              "LRX-9 has diameter 36, one farthest");
  check::that(last(lx(9)).first == 45, "LX-9 has diameter 45");
  check::that(last(larx(7)).first == 22, "LARX-7 has diameter 22");
  check::that(last(pancake(9)).first == 10, "pancake-9 has diameter 10");
}

void cube_layers() {
  Graph cube = cube222();
  BfsLimits limits;
  limits.max_level = 6;
  for (const Engine engine : {Engine::kHash, Engine::kExternal}) {
    const BfsResult result = search(engine, cube.view(), limits, {}, 2);
    check::equal(text_of(result.layer_sizes), text_of({1, 9, 54, 321, 1847, 9992, 50136}),
                 name_of(engine));
    check::that(result.status == BfsStatus::kMaxLevel, "the search stopped at its level");
  }
}

void matrix_growths() {
  expect_growth(special_linear2(5), {1, 4, 12, 26, 48, 26, 3}, "SL2 mod 5");
  expect_growth(unitriangular(3, 5), {1, 4, 12, 32, 62, 12, 2}, "Heisenberg mod 5");
  const Vector diameters3{4, 4, 6, 8, 10, 12}, primes{2, 3, 5, 7, 11, 13};
  for (std::size_t i = 0; i < primes.size(); ++i) {
    Graph graph = unitriangular(3, primes[i]);
    for (const Engine engine : {Engine::kHash, Engine::kBitarray}) {
      const BfsResult result = search(engine, graph.view());
      check::equal(static_cast<std::int64_t>(result.layer_sizes.size()) - 1, diameters3[i],
                   "diameter of UT_3 mod " + std::to_string(primes[i]));
    }
  }
  const Vector diameters4{8, 8, 10, 10, 13, 12};
  for (std::size_t i = 0; i < diameters4.size(); ++i) {
    Graph graph = unitriangular(4, static_cast<std::int64_t>(i) + 2);
    const BfsResult result = search(Engine::kBitarray, graph.view());
    check::equal(static_cast<std::int64_t>(result.layer_sizes.size()) - 1, diameters4[i],
                 "diameter of UT_4 mod " + std::to_string(i + 2));
  }
}

void coset_diameters() {
  const auto diameter = [](std::int64_t n, const Vector& colors) {
    Graph graph = coset(lrx(n), colors);
    const BfsResult hash = search(Engine::kHash, graph.view());
    const BfsResult bits = search(Engine::kBitarray, graph.view());
    check::equal(text_of(bits.layer_sizes), text_of(hash.layer_sizes), "growth");
    return static_cast<std::int64_t>(hash.layer_sizes.size()) - 1;
  };
  const auto halves = [](std::int64_t n) {
    Vector colors(index(n));
    std::fill(colors.begin() + n / 2, colors.end(), 1);
    return colors;
  };
  const auto alternating = [](std::int64_t n) {
    Vector colors(index(n));
    for (std::int64_t i = 1; i < n; i += 2) colors[index(i)] = 1;
    return colors;
  };
  check::equal(diameter(8, halves(8)), std::int64_t{12}, "0^4 1^4");
  check::equal(diameter(12, halves(12)), std::int64_t{26}, "0^6 1^6");
  check::equal(diameter(16, halves(16)), std::int64_t{46}, "0^8 1^8");
  check::equal(diameter(20, halves(20)), std::int64_t{72}, "0^10 1^10");
  check::equal(diameter(12, alternating(12)), std::int64_t{27}, "alternating 12");
  check::equal(diameter(20, alternating(20)), std::int64_t{75}, "alternating 20");
}

void every_engine_equals_the_plain_search() {
  for (auto& [name, graph] : kinds_of_graph()) {
    const BfsGraph& view = graph.view();
    Graph canonical = graph;
    if (graph.modulus > 0) {
      for (Vector& generator : canonical.generators) {
        for (std::int64_t& value : generator) {
          value = (value % graph.modulus + graph.modulus) % graph.modulus;
        }
      }
    }
    const std::vector<States> expected = plain_search(canonical);
    for (const Engine engine : kEngines) {
      if (!applies(engine, view)) continue;
      for (const int num_threads : {1, 3}) {
        const Collected found = collect(engine, view, {}, num_threads);
        const std::string what = name + " by " + name_of(engine);
        check::equal(text_of(found.result.layer_sizes), text_of(sizes_of(expected)), what);
        check::that(found.layers == expected, "the layers of " + what + " differ");
      }
    }
  }
}

void long_moves_are_ranked_without_tables() {
  // Prefix reversals of nine to eleven elements move one, two and three values between prefix and
  // suffix; a rotation by four moves four.
  Graph graph{{reversed_prefix(11, 9), reversed_prefix(11, 10), reversed_prefix(11, 11),
               rotated(11, 3), rotated(11, -3), swapped(11, 2, 9)},
              {identity(11)}};
  BfsLimits limits;
  limits.max_level = 7;
  const Collected expected = collect(Engine::kHash, graph.view(), limits);
  for (const Engine engine : {Engine::kBitarray, Engine::kThreePlanes, Engine::kDirectRanks}) {
    const Collected found = collect(engine, graph.view(), limits, 2);
    check::that(found.layers == expected.layers, name_of(engine));
  }
  Graph far{{rotated(12, 4), rotated(12, -4), reversed_prefix(12, 12), swapped(12, 0, 11)},
            {identity(12)}};
  limits.max_level = 9;
  const Collected far_expected = collect(Engine::kHash, far.view(), limits);
  check::that(collect(Engine::kBitarray, far.view(), limits).layers == far_expected.layers,
              "four moving values");
}

void dense_chunks_write_bitmaps() {
  // Every frontier of a complete search, sparse and dense: tables, bitmaps and single bits.
  Graph graph = pancake(10);
  const BfsResult hash = search(Engine::kHash, graph.view());
  for (const Engine engine : {Engine::kBitarray, Engine::kDirectRanks}) {
    check::equal(text_of(search(engine, graph.view(), {}, {}, 2).layer_sizes),
                 text_of(hash.layer_sizes), name_of(engine));
  }
}

void layers_do_not_depend_on_threads() {
  Graph graph = top_spin(9);
  for (const Engine engine : {Engine::kHash, Engine::kBitarray, Engine::kExternal}) {
    const Collected one = collect(engine, graph.view(), {}, 1);
    for (const int num_threads : {2, 5}) {
      check::that(collect(engine, graph.view(), {}, num_threads).layers == one.layers,
                  name_of(engine));
    }
  }
}

void growth_does_not_depend_on_the_start() {
  Graph graph = lrx(7);
  const BfsResult expected = search(Engine::kHash, graph.view());
  graph.starts = {{3, 6, 0, 5, 1, 2, 4}};
  for (const Engine engine : kEngines) {
    check::equal(text_of(search(engine, graph.view()).layer_sizes), text_of(expected.layer_sizes),
                 name_of(engine));
  }
}

void directed_growth_equals_that_of_the_inverses() {
  Graph graph = lx(8), inverted = lx(8);
  for (Vector& generator : inverted.generators) generator = inverse(generator);
  const BfsResult expected = search(Engine::kHash, graph.view());
  for (const Engine engine : kEngines) {
    check::equal(text_of(search(engine, inverted.view()).layer_sizes),
                 text_of(expected.layer_sizes), name_of(engine));
  }
}

void batches_of_candidates_change_nothing() {
  // The smallest memory that the engines take makes many batches and many runs.
  for (Graph graph :
       {lrx(9), lx(9), coset(lrx(14), {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3}), pancake(9)}) {
    BfsLimits roomy, tight;
    if (graph.starts[0].size() > 9) roomy.max_level = tight.max_level = 17;
    tight.max_bytes = std::size_t{17} << 20;
    const BfsResult expected = search(Engine::kHash, graph.view(), roomy);
    for (const Engine engine : {Engine::kHash, Engine::kExternal}) {
      const BfsResult found = search(engine, graph.view(), tight, {}, 2);
      check::equal(text_of(found.layer_sizes), text_of(expected.layer_sizes), name_of(engine));
      check::that(found.peak_bytes <= tight.max_bytes, "the limit holds");
    }
  }
}

// ---- limits ----

void limits_end_a_search_between_layers() {
  Graph graph = lrx(8);
  const Vector full = search(Engine::kHash, graph.view()).layer_sizes;
  for (const Engine engine : kEngines) {
    BfsLimits limits;
    limits.max_level = 5;
    BfsResult result = search(engine, graph.view(), limits);
    check::that(result.status == BfsStatus::kMaxLevel, "max_level");
    check::equal(text_of(result.layer_sizes), text_of({1, 3, 6, 12, 23, 44}), name_of(engine));

    limits = {};
    limits.max_states = 90;
    result = search(engine, graph.view(), limits);
    check::that(result.status == BfsStatus::kMaxStates, "max_states");
    check::equal(result.layer_sizes.size(), std::size_t{7}, "layers to reach 90 states");

    limits = {};
    limits.max_layer_size = 79;
    result = search(engine, graph.view(), limits);
    check::that(result.status == BfsStatus::kMaxLayerSize, "max_layer_size");
    check::equal(result.layer_sizes.back(), std::int64_t{80}, "the layer that is not explored");

    limits = {};
    limits.max_level = static_cast<std::int64_t>(full.size()) - 1;
    result = search(engine, graph.view(), limits);
    check::that(result.status == BfsStatus::kMaxLevel, "the last level is not known to be last");
    limits.max_level = static_cast<std::int64_t>(full.size());
    check::that(search(engine, graph.view(), limits).status == BfsStatus::kComplete,
                "one level more shows that nothing is left");
  }
}

void callbacks_stop_a_search() {
  Graph graph = lrx(8);
  for (const Engine engine : kEngines) {
    std::vector<States> seen;
    States last;
    std::int64_t total = 0;
    BfsCallbacks callbacks;
    callbacks.on_level = [&](const BfsLevel& level) {
      check::equal(level.level, static_cast<std::int64_t>(seen.size()), "level");
      seen.push_back(states_of(level));
      total += level.size;
      check::equal(level.total, total, "total");
      return level.level == 4;
    };
    callbacks.on_last = [&](const BfsLevel& level) { last = states_of(level); };
    const BfsResult result = search(engine, graph.view(), {}, callbacks);
    check::that(result.status == BfsStatus::kStopped, name_of(engine));
    check::equal(result.layer_sizes.size(), std::size_t{5}, "layers");
    check::that(last == seen.back(), "on_last shows the last layer");
  }
}

void a_level_under_way_is_dropped_whole() {
  // A poll that ends the search as soon as it is asked, which is a tenth of a second in.
  for (Graph graph : {lrx(11), lx(11), coset(lrx(24), [] {
                        Vector colors(24);
                        for (std::int64_t i = 0; i < 24; ++i) colors[index(i)] = i / 2;
                        return colors;
                      }())}) {
    const BfsGraph& view = graph.view();
    for (const Engine engine : {Engine::kHash, Engine::kBitarray, Engine::kExternal}) {
      if (!applies(engine, view)) continue;
      BfsCallbacks callbacks;
      Vector sizes;
      States last;
      callbacks.on_level = [&](const BfsLevel& level) {
        sizes.push_back(level.size);
        return false;
      };
      callbacks.on_last = [&](const BfsLevel& level) {
        last = states_of(level);
        check::equal(level.size, sizes.back(), "the last whole layer");
      };
      callbacks.poll = [] { return true; };
      const BfsResult result = search(engine, view, {}, callbacks, 2);
      check::that(result.status == BfsStatus::kInterrupted, name_of(engine));
      check::equal(text_of(result.layer_sizes), text_of(sizes), "only whole layers");
      check::that(std::is_sorted(last.begin(), last.end()) &&
                      std::adjacent_find(last.begin(), last.end()) == last.end(),
                  "its states are sorted and different");
      const BfsLimits same{static_cast<std::int64_t>(sizes.size()) - 1};
      check::equal(text_of(search(Engine::kHash, view, same).layer_sizes), text_of(sizes), "sizes");
    }
  }
}

void a_time_limit_ends_a_search() {
  Graph graph = pancake(12);
  BfsLimits limits;
  limits.max_seconds = 0.3;
  for (const Engine engine : {Engine::kHash, Engine::kBitarray, Engine::kExternal}) {
    const BfsResult result = search(engine, graph.view(), limits, {}, 2);
    check::that(result.status == BfsStatus::kTimeLimit, name_of(engine));
    check::equal(result.layer_sizes[1], std::int64_t{11}, "a layer found before");
  }
}

void memory_is_bounded_and_foretold() {
  Graph graph = lrx(11);
  BfsLimits limits;
  limits.max_bytes = std::size_t{12} << 20;
  const BfsResult result = search(Engine::kHash, graph.view(), limits, {}, 2);
  check::that(result.status == BfsStatus::kMemoryLimit, "the hash engine stops");
  check::that(result.peak_bytes <= limits.max_bytes, "within its limit");
  check::that(result.layer_sizes.size() > 10, "with the layers so far");

  const BfsMemory memory = bfs_memory(graph.view(), 0);
  check::that(memory.bitarray > 39916800 / 4 && memory.bitarray < 39916800 / 2, "two bits a state");
  const BfsResult bits = search(Engine::kBitarray, graph.view());
  check::that(bits.peak_bytes <= memory.bitarray, "the estimate holds");
  limits.max_bytes = memory.bitarray / 2;
  check::throws<MemoryLimitError>([&] { search(Engine::kBitarray, graph.view(), limits); },
                                  {"max_bytes", std::to_string(limits.max_bytes), "external"});
  limits.max_bytes = 1000;
  for (const Engine engine : {Engine::kHash, Engine::kBitarray, Engine::kExternal}) {
    check::throws<MemoryLimitError>([&] { search(engine, graph.view(), limits); },
                                    {"max_bytes", "1000"});
  }
  try {
    search(Engine::kBitarray, graph.view(), limits);
  } catch (const MemoryLimitError& error) {
    check::equal(error.fitting_engine, std::string("external"), "fitting_engine");
    check::that(error.needed_bytes > error.limit_bytes, "needed");
  }
}

// ---- the external engine ----

void a_killed_search_goes_on() {
  for (Graph graph : {lrx(8), lx(7), coset(lrx(20), [] {
                        Vector colors(20);
                        for (std::int64_t i = 0; i < 20; ++i) colors[index(i)] = i / 8;
                        return colors;
                      }())}) {
    BfsLimits limits;
    if (graph.starts[0].size() > 8) limits.max_level = 14;
    const Collected expected = collect(Engine::kHash, graph.view(), limits);
    for (const bool keep_layers : {true, false}) {
      const Scratch scratch;
      ExternalOptions options{scratch.path.string(), false, keep_layers, 0};
      // Killed in the middle of a level: by an exception that nothing expects, and half-written
      // files of that level left over.
      struct Killed {};
      BfsCallbacks callbacks;
      callbacks.on_level = [&](const BfsLevel& level) -> bool {
        if (level.level == 6) throw Killed();
        return false;
      };
      bool killed = false;
      try {
        cpu::bfs_external(graph.view(), options, limits, callbacks, 1);
      } catch (const Killed&) {
        killed = true;
      }
      check::that(killed, "the search was killed");
      std::ofstream(scratch.path / "layer_7_0.u64.part") << "half";
      std::ofstream(scratch.path / "layer_7_3.u64") << "a whole one of an older try";
      std::ofstream(scratch.path / "run_0_0.u64") << "a run";
      options.resume = true;
      std::map<std::int64_t, States> seen;
      callbacks.on_level = [&](const BfsLevel& level) {
        seen[level.level] = states_of(level);
        return false;
      };
      const BfsResult result = cpu::bfs_external(graph.view(), options, limits, callbacks, 2);
      check::equal(text_of(result.layer_sizes), text_of(expected.result.layer_sizes), "sizes");
      check::equal(seen.count(0), std::size_t{keep_layers || seen.size() == expected.layers.size()},
                   "a resumed search shows the layers that it has");
      for (const auto& [level, states] : seen) {
        check::that(states == expected.layers[index(level)], "layer " + std::to_string(level));
      }
      // Once more: nothing is left to do.
      const BfsResult again = cpu::bfs_external(graph.view(), options, limits, {}, 1);
      check::equal(text_of(again.layer_sizes), text_of(result.layer_sizes), "sizes");
      check::that(again.status == result.status, "status");
    }
  }
}

void a_manifest_belongs_to_one_graph() {
  const Scratch scratch;
  Graph graph = lrx(6), other = lx(6);
  ExternalOptions options{scratch.path.string(), true, true, 0};
  cpu::bfs_external(graph.view(), options, {}, {}, 1);
  check::throws<ArgumentError>([&] { cpu::bfs_external(other.view(), options, {}, {}, 1); },
                               {"scratch_dir", "another graph"});
  std::ofstream(scratch.path / "notes.txt") << "not ours";
  options.resume = false;
  const BfsResult fresh = cpu::bfs_external(other.view(), options, {}, {}, 1);
  check::that(fresh.status == BfsStatus::kComplete, "a new search replaces the old");
  check::that(fs::exists(scratch.path / "notes.txt"), "other files stay");
  fs::path layer;
  for (const fs::directory_entry& entry : fs::directory_iterator(scratch.path)) {
    if (entry.path().filename().string().starts_with("layer_3_")) layer = entry.path();
  }
  fs::resize_file(layer, fs::file_size(layer) + 8);
  options.resume = true;
  check::throws<Error>([&] { cpu::bfs_external(other.view(), options, {}, {}, 1); },
                       {layer.filename().string(), "missing or not of the size"});
}

void the_disk_is_checked_first() {
  const Scratch scratch;
  Graph graph = lrx(6);
  const ExternalOptions options{scratch.path.string(), false, true, std::int64_t{1} << 50};
  check::throws<ArgumentError>([&] { cpu::bfs_external(graph.view(), options, {}, {}, 1); },
                               {"scratch_dir", "bytes free"});
  check::throws<ArgumentError>(
      [&] { cpu::bfs_external(graph.view(), {"", false, true, 0}, {}, {}, 1); }, {"scratch_dir"});
  check::throws<ArgumentError>(
      [&] { cpu::bfs_external(graph.view(), {"/dev/null/x", false, true, 0}, {}, {}, 1); },
      {"scratch_dir", "cannot create"});
}

// ---- a distributed search, in one process ----

void shares_find_the_same_layers() {
  for (auto& [name, graph] : kinds_of_graph()) {
    const BfsGraph& view = graph.view();
    const Collected expected = collect(Engine::kHash, view);
    for (const int world_size : {1, 3}) {
      std::vector<std::unique_ptr<cpu::HashShare>> shares;
      for (int rank = 0; rank < world_size; ++rank) {
        shares.push_back(std::make_unique<cpu::HashShare>(view, rank, world_size, 0, 1));
      }
      for (std::size_t level = 0;; ++level) {
        States layer;
        for (const auto& share : shares) {
          std::vector<std::uint64_t> packed(index(share->layer_size() * share->words()));
          share->copy_layer(packed.data());
          for (Vector& state : unpacked(view.set.layout, packed)) layer.push_back(std::move(state));
        }
        std::sort(layer.begin(), layer.end());
        if (layer.empty()) {
          check::equal(level, expected.layers.size(), name);
          break;
        }
        check::that(layer == expected.layers[level], name + ", level " + std::to_string(level));
        for (const auto& share : shares) {
          const std::int64_t batch = 100;
          for (std::int64_t first = 0; first < share->layer_size(); first += batch) {
            Vector counts(index(world_size));
            const std::uint64_t* rows =
                share->expand(first, std::min(batch, share->layer_size() - first), counts.data());
            for (int owner = 0; owner < world_size; ++owner) {
              Vector owners(index(counts[index(owner)]));
              share->owners(rows, counts[index(owner)], owners.data());
              check::that(owners == Vector(owners.size(), owner), name + ", owners");
              shares[index(owner)]->insert(rows, counts[index(owner)]);
              rows += counts[index(owner)] * share->words();
            }
          }
        }
        for (const auto& share : shares) {
          const std::int64_t inserted = share->next_size();
          check::equal(share->advance(), inserted, name);
        }
      }
    }
  }
}

// ---- the distance table ----

void distances_equal_the_search() {
  for (Graph graph : {lrx(7), lx(7), larx(6), pancake(6), top_spin(7)}) {
    graph.starts = {graph.starts[0]};
    std::swap(graph.starts[0][1], graph.starts[0][4]);
    const BfsGraph& view = graph.view();
    // Distances lead to the start: along the inverses away from it.
    Graph inverted = graph;
    for (Vector& generator : inverted.generators) generator = inverse(generator);
    const std::vector<States> layers = plain_search(inverted);
    BfsResult result;
    const auto table = cpu::DistanceTable::build(view, {}, {}, 2, &result);
    check::equal(text_of(result.layer_sizes), text_of(sizes_of(layers)), "growth");
    const auto copy = cpu::DistanceTable::restore(view, table->codes(), table->num_words());
    for (std::size_t d = 0; d < layers.size(); ++d) {
      Vector flat;
      for (const Vector& state : layers[d]) flat.insert(flat.end(), state.begin(), state.end());
      Vector distances(layers[d].size()), again(layers[d].size());
      table->distances(static_cast<std::int64_t>(layers[d].size()), flat.data(), distances.data(),
                       2);
      copy->distances(static_cast<std::int64_t>(layers[d].size()), flat.data(), again.data(), 1);
      check::that(
          distances == Vector(layers[d].size(), static_cast<std::int64_t>(d)) && again == distances,
          "distances of layer " + std::to_string(d));
      Vector state = layers[d].front();
      const Vector path = table->path(state.data());
      check::equal(path.size(), d, "length of the path");
      for (const std::int64_t generator : path) {
        state = moved(graph, graph.generators[index(generator)], state);
      }
      check::that(state == graph.starts[0], "the path ends at the start");
    }
  }
}

void tables_know_what_cannot_be_reached() {
  Graph graph = top_spin(7);  // even permutations only
  BfsResult result;
  const auto table = cpu::DistanceTable::build(graph.view(), {}, {}, 1, &result);
  const Vector odd = swapped(7, 0, 1);
  std::int64_t distance = 0;
  table->distances(1, odd.data(), &distance, 1);
  check::equal(distance, std::int64_t{-1}, "distance of an odd permutation");
  check::throws<ArgumentError>([&] { table->path(odd.data()); }, {"state", "cannot be reached"});
  const Vector bad{0, 0, 1, 2, 3, 4, 5};
  check::throws<ArgumentError>([&] { table->distances(1, bad.data(), &distance, 1); },
                               {"states", "permutations of 0..6", "position 1"});
  check::throws<ArgumentError>(
      [&] { cpu::DistanceTable::restore(graph.view(), table->codes(), 3); }, {"codes", "3"});
  Graph words = coset(lrx(6), {0, 0, 0, 1, 1, 1});
  check::throws<ArgumentError>([&] { cpu::DistanceTable::build(words.view(), {}, {}, 1, &result); },
                               {"start_states"});
  BfsLimits limits;
  limits.max_bytes = 5000;
  check::throws<MemoryLimitError>(
      [&] { cpu::DistanceTable::build(graph.view(), limits, {}, 1, &result); }, {"max_bytes"});
}

// ---- operations on states ----

void packing_round_trips_at_every_width() {
  std::mt19937_64 engine(1);
  for (const int bits : {1, 2, 4, 8, 16, 32, 64}) {
    for (const std::int64_t size : {1, 5, 16, 17, 33, 64, 130}) {
      const StateLayout layout{size, bits};
      const std::int64_t count = 50;
      Vector values(index(count * size)), back(values.size());
      for (std::int64_t& value : values) {
        value = static_cast<std::int64_t>(engine() & (bits == 64 ? ~0ULL : (1ULL << bits) - 1));
      }
      std::vector<std::uint64_t> states(index(count * layout.words()));
      cpu::pack_states(layout, count, values.data(), states.data(), 2);
      cpu::unpack_states(layout, count, states.data(), back.data(), 2);
      check::that(values == back, "size " + std::to_string(size) + " at " + std::to_string(bits));
      const std::uint64_t second = size > 1 && bits < 64 ? states[0] >> bits : 0;
      if (size > 1 && bits < 32) {
        check::equal(second & ((1ULL << bits) - 1), static_cast<std::uint64_t>(values[1]),
                     "element 1 lies above element 0");
      }
    }
  }
  const Vector large{0, 4};
  std::uint64_t state = 0;
  check::throws<ArgumentError>([&] { cpu::pack_states({2, 2}, 1, large.data(), &state, 1); },
                               {"states", "outside 0..3"});
}

void generators_move_packed_elements() {
  std::mt19937_64 engine(2);
  for (const int bits : {1, 2, 4, 8, 16, 32}) {
    for (const std::int64_t size : {2, 7, 8, 11, 15, 16, 17, 24, 31, 32, 33, 70}) {
      Graph graph;
      for (int g = 0; g < 6; ++g) {
        Vector p = identity(size);
        std::shuffle(p.begin(), p.end(), engine);
        graph.generators.push_back(p);
      }
      graph.generators.push_back(rotated(size, 1));
      graph.generators.push_back(swapped(size, 0, size - 1));
      graph.starts = {Vector(index(size))};
      graph.bits = bits;
      const GeneratorSet& set = graph.view().set;
      const std::int64_t count = 37, words = set.layout.words();
      Vector values(index(count * size));
      for (std::int64_t& value : values) {
        value = static_cast<std::int64_t>(engine() & ((1ULL << bits) - 1));
      }
      std::vector<std::uint64_t> states(index(count * words)), out(states.size() * 8);
      cpu::pack_states(set.layout, count, values.data(), states.data(), 1);
      cpu::apply_generators(set, count, states.data(), out.data(), 1);
      const States neighbors = unpacked(set.layout, out);
      for (std::size_t g = 0; g < 8; ++g) {
        for (std::int64_t i = 0; i < count; ++i) {
          const Vector state(values.begin() + i * size, values.begin() + (i + 1) * size);
          check::that(
              neighbors[g * index(count) + index(i)] == moved(graph, graph.generators[g], state),
              "size " + std::to_string(size) + " at " + std::to_string(bits) + " bits");
        }
      }
    }
  }
}

void one_word_hashes_are_a_bijection() {
  // Inverted by its own steps, read backwards.
  std::mt19937_64 engine(3);
  const auto inverse_of = [](std::uint64_t odd) {
    std::uint64_t x = odd;
    for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
    return x;
  };
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t state = i < 4 ? static_cast<std::uint64_t>(i) - 2 : engine();
    std::uint64_t hash = 0;
    cpu::hash_states({16, 4}, 1, &state, &hash, 1);
    hash ^= hash >> 29 ^ hash >> 58;
    hash *= inverse_of(0xD6E8FEB86659FD93U);
    hash ^= hash >> 32;
    hash *= inverse_of(0x9E3779B97F4A7C15U);
    check::equal(hash, state, "the state behind a hash");
  }
}

void linear_hashes_equal_those_of_the_neighbors() {
  std::mt19937_64 engine(4);
  const std::int64_t n = 13, count = 100;
  Graph graph{
      {rotated(n, 1), reversed_prefix(n, 6), swapped(n, 2, 5), rotated(n, 5), rotated(n, -2)},
      {identity(n)}};
  graph.view();
  Vector weights(index(n)), states(index(count * n));
  for (std::int64_t& weight : weights) weight = static_cast<std::int64_t>(engine());
  for (std::int64_t& value : states) value = static_cast<std::int64_t>(engine() % 100);
  Vector hashes(5 * index(count));
  cpu::hash_neighbors(n, 5, graph.flat_generators.data(), weights.data(), count, states.data(), 8,
                      hashes.data(), 2);
  const std::vector<std::uint8_t> bytes(states.begin(), states.end());
  const std::vector<std::int16_t> shorts(states.begin(), states.end());
  const std::vector<std::int32_t> ints(states.begin(), states.end());
  Vector narrow(hashes.size());
  for (const auto& [data, width] :
       {std::pair<const void*, int>(bytes.data(), 1), {shorts.data(), 2}, {ints.data(), 4}}) {
    cpu::hash_neighbors(n, 5, graph.flat_generators.data(), weights.data(), count, data, width,
                        narrow.data(), 1);
    check::that(narrow == hashes, "elements of " + std::to_string(width) + " bytes");
  }
  for (std::size_t g = 0; g < 5; ++g) {
    for (std::int64_t i = 0; i < count; ++i) {
      const Vector neighbor = moved(graph, graph.generators[g],
                                    Vector(states.begin() + i * n, states.begin() + (i + 1) * n));
      std::uint64_t sum = 0;
      for (std::size_t k = 0; k < neighbor.size(); ++k) {
        sum += static_cast<std::uint64_t>(neighbor[k]) * static_cast<std::uint64_t>(weights[k]);
      }
      check::equal(static_cast<std::uint64_t>(hashes[g * index(count) + index(i)]), sum, "hash");
    }
  }
}

void sorting_is_lexicographic() {
  std::mt19937_64 engine(5);
  for (const auto& [size, bits] : {std::pair<std::int64_t, int>(11, 4),
                                   {40, 1},
                                   {20, 4},
                                   {9, 16},
                                   {70, 8},
                                   {2, 64},
                                   {16, 4}}) {
    const StateLayout layout{size, bits};
    const std::int64_t count = 20000;
    Vector values(index(count * size));
    // Few different values, so that there are repeats.
    for (std::int64_t& value : values) value = static_cast<std::int64_t>(engine() % 2);
    States expected;
    for (std::int64_t i = 0; i < count; ++i) {
      if (i % 2 == 1) std::copy_n(&values[index((i - 1) * size)], size, &values[index(i * size)]);
      expected.emplace_back(values.begin() + i * size, values.begin() + (i + 1) * size);
    }
    std::vector<std::uint64_t> states(index(count * layout.words()));
    cpu::pack_states(layout, count, values.data(), states.data(), 1);
    std::vector<std::uint64_t> unique = states;
    std::sort(expected.begin(), expected.end());
    cpu::sort_states(layout, count, states.data(), false, 3);
    check::that(unpacked(layout, states) == expected, "sorted");
    const std::int64_t left = cpu::sort_states(layout, count, unique.data(), true, 1);
    unique.resize(index(left * layout.words()));
    expected.erase(std::unique(expected.begin(), expected.end()), expected.end());
    check::that(unpacked(layout, unique) == expected, "without repeats");
    Vector rows(index(left));
    cpu::find_states(layout, left, unique.data(), left, unique.data(), rows.data(), 2);
    check::that(rows == identity(left), "every state is found at its row");
    const std::vector<std::uint64_t> absent(index(layout.words()),
                                            ~std::uint64_t{0} >> (bits == 1));
    std::int64_t row = 0;
    cpu::find_states(layout, left, unique.data(), 1, absent.data(), &row, 1);
    check::equal(row, std::int64_t{-1}, "row of an absent state");
  }
}

void bad_arguments_are_named() {
  const auto expect_error = [](Graph graph, const std::vector<std::string>& parts) {
    const BfsGraph& view = graph.view();
    check::throws<ArgumentError>([&] { cpu::check_graph(view); }, parts);
    check::throws<ArgumentError>([&] { cpu::bfs_hash(view, {}, {}, 1); }, parts);
    check::throws<ArgumentError>([&] { cpu::bfs_bitarray(view, {}, {}, {}, 1); }, parts);
  };
  expect_error({{{0, 0, 1}}, {{0, 1, 2}}}, {"generators", "generator 0", "no permutation"});
  expect_error({{{0, 1, 3}}, {{0, 1, 2}}}, {"generators", "0..2", "0, 1, 3"});
  expect_error({{}, {{0, 1, 2}}}, {"generators", "at least one"});
  expect_error({{{0, 1, 2}}, {{0, 1, 5}}, 2}, {"start_states", "0..3", "5"});
  expect_error({{{0, 1, 2}}, {{0, 1, 5}}, 3}, {"w", "3"});
  expect_error({{{1, 0, 0, 1}}, {{0, 1, 2}}, 0, 2, 5}, {"start_states", "multiple of 2"});
  expect_error({{{1, 0, 0, 1}}, {{0, 1}}, 0, 2, -3}, {"modulus", "-3"});
  expect_error({{{1, 0, 0, 1}}, {{0, 7}}, 0, 2, 5}, {"start_states", "0..4", "7"});
  expect_error({{{1, 0, 0, 1}}, {{0, 4}}, 2, 2, 5}, {"w", "modulus 5"});
  Graph long_one = lrx(16);
  check::throws<ArgumentError>([&] { cpu::bfs_bitarray(long_one.view(), {}, {}, {}, 1); },
                               {"bitarray", "16 elements", "at most 15"});
  Graph colors = coset(lrx(4), {0, 0, 1, 2});
  check::throws<ArgumentError>([&] { cpu::bfs_bitarray(colors.view(), {}, {}, {}, 1); },
                               {"bitarray", "no permutation"});
  Graph fine = lrx(4);
  check::throws<ArgumentError>([&] { cpu::bfs_bitarray(fine.view(), {4, 3}, {}, {}, 1); },
                               {"planes", "4"});
  check::throws<ArgumentError>([&] { cpu::HashShare(fine.view(), 2, 2, 0, 1); }, {"rank", "0..1"});
  check::throws<ArgumentError>([&] { cpu::HashShare(fine.view(), 0, 0, 0, 1); }, {"world_size"});
}

void inverses_are_found() {
  Graph graph = lx(5);
  check::that(inverse_generators(graph.view().set) == Vector{-1, 1}, "LX");
  Graph closed = lrx(5);
  check::that(inverse_generators(closed.view().set) == Vector{1, 0, 2}, "LRX");
  Graph matrices = special_linear2(7);
  check::that(inverse_generators(matrices.view().set) == Vector{1, 0, 3, 2}, "SL2");
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {
          {"published growths", published_growths},
          {"Coxeter growth is Mahonian", coxeter_growth_is_mahonian},
          {"transpositions grow as Stirling numbers", transpositions_grow_as_stirling_numbers},
          {"hypercube growth is binomial", hypercube_growth_is_binomial},
          {"known diameters", known_diameters},
          {"cube layers", cube_layers},
          {"matrix growths", matrix_growths},
          {"coset diameters", coset_diameters},
          {"every engine equals the plain search", every_engine_equals_the_plain_search},
          {"long moves are ranked without tables", long_moves_are_ranked_without_tables},
          {"dense chunks write bitmaps", dense_chunks_write_bitmaps},
          {"layers do not depend on threads", layers_do_not_depend_on_threads},
          {"growth does not depend on the start", growth_does_not_depend_on_the_start},
          {"directed growth equals that of the inverses",
           directed_growth_equals_that_of_the_inverses},
          {"batches of candidates change nothing", batches_of_candidates_change_nothing},
          {"limits end a search between layers", limits_end_a_search_between_layers},
          {"callbacks stop a search", callbacks_stop_a_search},
          {"a level under way is dropped whole", a_level_under_way_is_dropped_whole},
          {"a time limit ends a search", a_time_limit_ends_a_search},
          {"memory is bounded and foretold", memory_is_bounded_and_foretold},
          {"a killed search goes on", a_killed_search_goes_on},
          {"a manifest belongs to one graph", a_manifest_belongs_to_one_graph},
          {"the disk is checked first", the_disk_is_checked_first},
          {"shares find the same layers", shares_find_the_same_layers},
          {"distances equal the search", distances_equal_the_search},
          {"tables know what cannot be reached", tables_know_what_cannot_be_reached},
          {"packing round-trips at every width", packing_round_trips_at_every_width},
          {"generators move packed elements", generators_move_packed_elements},
          {"one-word hashes are a bijection", one_word_hashes_are_a_bijection},
          {"linear hashes equal those of the neighbors",
           linear_hashes_equal_those_of_the_neighbors},
          {"sorting is lexicographic", sorting_is_lexicographic},
          {"bad arguments are named", bad_arguments_are_named},
          {"inverses are found", inverses_are_found},
      });
}
