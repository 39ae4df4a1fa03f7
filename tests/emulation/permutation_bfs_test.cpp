// The CUDA engines of the breadth-first search and the kernels of its ops, run by the SIMT
// emulation, against a search over std::set and against the CPU's engines and operations.
#include "rankone/permutation_bfs.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpp/check.h"
#include "cpp/permutation_graphs.h"
#include "permutation_bfs_generators.cuh"
#include "permutation_bfs_ranks.cuh"
#include "permutation_bitarray_tasks.h"
#include "simt.h"

namespace {

using namespace permutation_graphs;

// ---- engines, all called alike ----

enum class Engine { kHash, kBitarray };
constexpr Engine kEngines[] = {Engine::kHash, Engine::kBitarray};

const char* name_of(Engine engine) { return engine == Engine::kHash ? "hash" : "bitarray"; }

/// Every array an allocation of its own, so that a sanitizer sees what lies beside it, filled with
/// what no engine may take for data of its own.
class TestMemory {
 public:
  explicit TestMemory(std::size_t room = SIZE_MAX) : room_(room) {}
  ~TestMemory() {
    for (const auto& [address, bytes] : held_) std::free(address);
  }
  TestMemory(const TestMemory&) = delete;
  TestMemory& operator=(const TestMemory&) = delete;

  cuda::DeviceAllocator allocator() {
    return {[this](std::size_t bytes) { return take(bytes); },
            [this](void* address) { give(address); }};
  }
  std::size_t arrays() const { return held_.size(); }
  std::size_t peak() const { return peak_; }

 private:
  void* take(std::size_t bytes) {
    if (used_ + bytes > room_) return nullptr;
    void* address = std::malloc(bytes);
    std::memset(address, 0xA5, bytes);
    held_[address] = bytes;
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return address;
  }
  void give(void* address) {
    used_ -= held_.at(address);
    held_.erase(address);
    std::free(address);
  }

  std::map<void*, std::size_t> held_;
  std::size_t room_, used_ = 0, peak_ = 0;
};

BfsResult search(Engine engine, const BfsGraph& graph, const BfsLimits& limits,
                 const BfsCallbacks& callbacks, TestMemory& memory) {
  const cuda::DeviceAllocator allocator = memory.allocator();
  return engine == Engine::kHash ? cuda::bfs_hash(graph, limits, callbacks, allocator, nullptr)
                                 : cuda::bfs_bitarray(graph, limits, callbacks, allocator, nullptr);
}

bool applies(Engine engine, const BfsGraph& graph) {
  return engine == Engine::kHash || cuda::bitarray_obstacle(graph).empty();
}

struct Collected {
  BfsResult result;
  std::vector<States> layers;
};

template <typename Search>
Collected collect(const Search& run) {
  Collected collected;
  BfsCallbacks callbacks;
  callbacks.on_level = [&](const BfsLevel& level) {
    collected.layers.push_back(states_of(level));
    return false;
  };
  callbacks.on_last = [&](const BfsLevel& level) {
    check::that(states_of(level) == collected.layers.back(), "on_last shows the last layer");
  };
  collected.result = run(callbacks);
  return collected;
}

Collected collect(Engine engine, const BfsGraph& graph, const BfsLimits& limits = {}) {
  TestMemory memory;
  const Collected found = collect([&](const BfsCallbacks& callbacks) {
    return search(engine, graph, limits, callbacks, memory);
  });
  check::equal(memory.arrays(), std::size_t{0}, "arrays that were not given back");
  check::equal(found.result.peak_bytes, memory.peak(), "peak_bytes");
  return found;
}

Collected collect_on_cpu(const BfsGraph& graph, const BfsLimits& limits = {}) {
  return collect(
      [&](const BfsCallbacks& callbacks) { return cpu::bfs_hash(graph, limits, callbacks, 1); });
}

void expect_layers(const Collected& found, const Collected& expected, const std::string& what) {
  check::equal(text_of(found.result.layer_sizes), text_of(expected.result.layer_sizes), what);
  check::that(found.layers == expected.layers, "the layers of " + what + " differ");
  check::that(found.result.status == expected.result.status, "the status of " + what + " differs");
}

/// Two of each colour.
Vector pairs(std::int64_t n) {
  Vector colors(index(n));
  for (std::int64_t i = 0; i < n; ++i) colors[index(i)] = i / 2;
  return colors;
}

// ---- layers ----

void every_engine_equals_the_plain_search() {
  for (auto& [name, graph] : kinds_of_graph()) {
    const BfsGraph& view = graph.view();
    Graph canonical = graph;
    for (Vector& generator : canonical.generators) {
      if (graph.modulus == 0) break;
      for (std::int64_t& value : generator) {
        value = (value % graph.modulus + graph.modulus) % graph.modulus;
      }
    }
    const std::vector<States> expected = plain_search(canonical);
    for (const Engine engine : kEngines) {
      if (!applies(engine, view)) continue;
      const Collected found = collect(engine, view);
      const std::string what = name + " by " + name_of(engine);
      check::that(found.result.status == BfsStatus::kComplete, what + " completes");
      check::equal(text_of(found.result.layer_sizes), text_of(sizes_of(expected)), what);
      check::that(found.layers == expected, "the layers of " + what + " differ");
    }
  }
}

/// The inverse of an odd number mod 2^64, by Newton's iteration.
std::uint64_t odd_inverse(std::uint64_t odd) {
  std::uint64_t inverse = odd;
  for (int i = 0; i < 6; ++i) inverse *= 2 - odd * inverse;
  return inverse;
}

/// The word that cpu::mix takes to `hash`.
std::uint64_t word_of_hash(std::uint64_t hash) {
  hash ^= hash >> 29 ^ hash >> 58;
  hash *= odd_inverse(0xD6E8FEB86659FD93u);
  hash ^= hash >> 32;
  return hash * odd_inverse(0x9E3779B97F4A7C15u);
}

void states_whose_hashes_agree_are_kept_apart() {
  // Sixteen elements of four bits fill a word, so that any word is a state. These agree in the bits
  // of hash that choose a slot and in those that a slot keeps.
  for (const bool directed : {false, true}) {
    Graph graph{{rotated(16, 1)}, {}};
    if (!directed) graph.generators.push_back(rotated(16, -1));
    const Vector back = inverse(graph.generators[0]);
    for (std::uint64_t middle = 0; middle < 200; ++middle) {
      const std::uint64_t hash = 0x12345678u * (std::uint64_t{1} << 32) | middle << 24 | 0xABCDEFu;
      const std::uint64_t word = word_of_hash(hash);
      check::equal(cpu::mix(word), hash, "the inverse of the hash");
      Vector state(16);
      for (std::int64_t i = 0; i < 16; ++i) {
        state[index(i)] = static_cast<std::int64_t>(word >> (4 * i) & 15);
      }
      // Half of them are found among others of the same level, half beside those of the start.
      graph.starts.push_back(middle % 2 == 0 ? moved(graph, back, state) : state);
    }
    const std::vector<States> expected = plain_search(graph);
    check::that(expected.size() > 2, "more than the start states");
    const Collected found = collect(Engine::kHash, graph.view());
    check::equal(text_of(found.result.layer_sizes), text_of(sizes_of(expected)), "sizes");
    check::that(found.layers == expected, "layers");
  }
}

void published_growths() {
  struct Known {
    Graph graph;
    Vector growth;
  };
  std::vector<Known> known = {
      {lrx(6), {1, 3, 6, 11, 20, 35, 55, 81, 109, 128, 126, 95, 40, 6, 3, 1}},
      {lx(6), {1, 2, 3, 5, 8, 13, 20, 30, 42, 56, 73, 87, 98, 101, 85, 59, 29, 7, 1}},
      {stars(7), {1, 6, 30, 135, 460, 1110, 1689, 1254, 340, 15}},
      {pancake(8), {1, 7, 42, 251, 1191, 4281, 10561, 15011, 8520, 455}},
      {coxeter(5), {1, 4, 9, 15, 20, 22, 20, 15, 9, 4, 1}},
      {all_transpositions(5), {1, 10, 35, 50, 24}},
      {hypercube(5), {1, 5, 10, 10, 5, 1}}};
  for (Known& one : known) {
    for (const Engine engine : kEngines) {
      if (!applies(engine, one.graph.view())) continue;
      check::equal(text_of(collect(engine, one.graph.view()).result.layer_sizes),
                   text_of(one.growth), name_of(engine));
    }
  }
}

void states_of_several_chunks_are_ranked() {
  // 9 chunks searched to the end, 90 and 990 in part; prefix reversals and turns move up to four
  // values between prefix and suffix.
  BfsLimits limits;
  for (Graph graph : {lrx(9), lx(9), top_spin(9)}) {
    expect_layers(collect(Engine::kBitarray, graph.view()), collect_on_cpu(graph.view()), "n = 9");
  }
  limits.max_level = 5;
  for (Graph graph : {pancake(10), coxeter(10), lx(10)}) {
    expect_layers(collect(Engine::kBitarray, graph.view(), limits),
                  collect_on_cpu(graph.view(), limits), "n = 10");
  }
  limits.max_level = 4;
  Graph far{{rotated(11, 4), rotated(11, -4), reversed_prefix(11, 11), swapped(11, 0, 10)},
            {identity(11)}};
  expect_layers(collect(Engine::kBitarray, far.view(), limits), collect_on_cpu(far.view(), limits),
                "n = 11");
}

void any_width_of_a_permutation_is_ranked() {
  Graph graph = lrx(7);
  const Collected expected = collect_on_cpu(graph.view());
  for (const int bits : {8, 16, 64}) {
    graph.bits = bits;
    expect_layers(collect(Engine::kBitarray, graph.view()), expected, std::to_string(bits));
    expect_layers(collect(Engine::kHash, graph.view()), expected, std::to_string(bits));
  }
}

void layers_do_not_depend_on_the_schedule() {
  const std::uint64_t before = emulation::schedule_seed();
  for (Graph graph : {lrx(7), lx(7), coset(lrx(8), {0, 0, 1, 1, 2, 2, 3, 3}),
                      random_graph(24, 200, 3, false, 3), random_graph(20, 12, 3, true, 2)}) {
    const BfsGraph& view = graph.view();
    const Collected expected = collect_on_cpu(view);
    for (const std::uint64_t seed : {0, 5, 17}) {
      emulation::set_schedule_seed(seed);
      emulation::set_multiprocessors(seed == 5 ? 1 : 4);
      for (const Engine engine : kEngines) {
        if (applies(engine, view)) expect_layers(collect(engine, view), expected, name_of(engine));
      }
    }
  }
  emulation::set_multiprocessors(4);
  emulation::set_schedule_seed(before);
}

void batches_and_growing_tables_change_nothing() {
  // The smallest memory makes the smallest batches; without a limit a level is one.
  for (Graph graph :
       {lrx(8), lx(8), pancake(8), coset(lrx(12), {0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3}),
        random_graph(40, 9, 4, false, 9), random_graph(40, 9, 4, true, 9)}) {
    BfsLimits roomy, tight;
    if (graph.starts[0].size() == 12) roomy.max_level = tight.max_level = 14;
    tight.max_bytes = std::size_t{2} << 20;
    const Collected expected = collect_on_cpu(graph.view(), roomy);
    expect_layers(collect(Engine::kHash, graph.view(), roomy), expected, "one batch");
    const Collected found = collect(Engine::kHash, graph.view(), tight);
    expect_layers(found, expected, "small batches");
    check::that(found.result.peak_bytes <= tight.max_bytes, "the limit holds");
  }
}

// ---- limits ----

void limits_end_a_search_between_layers() {
  Graph graph = lrx(8);
  const BfsGraph& view = graph.view();
  const auto run = [&](Engine engine, const BfsLimits& limits) {
    return collect(engine, view, limits).result;
  };
  for (const Engine engine : kEngines) {
    BfsLimits limits;
    limits.max_level = 5;
    BfsResult result = run(engine, limits);
    check::that(result.status == BfsStatus::kMaxLevel, "max_level");
    check::equal(text_of(result.layer_sizes), text_of({1, 3, 6, 12, 23, 44}), name_of(engine));

    limits = {};
    limits.max_states = 90;
    result = run(engine, limits);
    check::that(result.status == BfsStatus::kMaxStates, "max_states");
    check::equal(result.layer_sizes.size(), std::size_t{7}, "layers to reach 90 states");

    limits = {};
    limits.max_layer_size = 79;
    result = run(engine, limits);
    check::that(result.status == BfsStatus::kMaxLayerSize, "max_layer_size");
    check::equal(result.layer_sizes.back(), std::int64_t{80}, "the layer that is not explored");
  }
}

void callbacks_stop_a_search() {
  Graph graph = lrx(7);
  for (const Engine engine : kEngines) {
    TestMemory memory;
    States last;
    BfsCallbacks callbacks;
    callbacks.on_level = [&](const BfsLevel& level) {
      check::that(level.bytes > 0 && level.bytes <= memory.peak(), "bytes");
      last = states_of(level);
      return level.level == 4;
    };
    const BfsResult result = search(engine, graph.view(), {}, callbacks, memory);
    check::that(result.status == BfsStatus::kStopped, name_of(engine));
    check::equal(result.layer_sizes.size(), std::size_t{5}, "layers");
    check::that(last == plain_search(graph)[4], "the layer it stopped at");
  }
}

void a_level_under_way_is_dropped_whole() {
  // Asked for the first time a tenth of a second in, between two launches.
  for (Graph graph : {lrx(11), lx(11), coset(lrx(24), pairs(24))}) {
    const BfsGraph& view = graph.view();
    BfsLimits batches;
    batches.max_bytes = std::size_t{64} << 20;
    for (const Engine engine : kEngines) {
      if (!applies(engine, view)) continue;
      TestMemory memory;
      Vector sizes;
      States last;
      BfsCallbacks callbacks;
      callbacks.on_level = [&](const BfsLevel& level) {
        sizes.push_back(level.size);
        return false;
      };
      callbacks.on_last = [&](const BfsLevel& level) { last = states_of(level); };
      callbacks.poll = [] { return true; };
      const BfsResult result = search(engine, view, batches, callbacks, memory);
      check::that(result.status == BfsStatus::kInterrupted, name_of(engine));
      check::equal(text_of(result.layer_sizes), text_of(sizes), "only whole layers");
      const BfsLimits same{static_cast<std::int64_t>(sizes.size()) - 1};
      const Collected expected = collect_on_cpu(view, same);
      check::equal(text_of(sizes), text_of(expected.result.layer_sizes), "sizes");
      check::that(last == expected.layers.back(), "the last whole layer is still there");
    }
  }
}

void a_time_limit_ends_a_search() {
  Graph graph = lrx(11);
  BfsLimits limits;
  limits.max_seconds = 0.15;
  for (const Engine engine : kEngines) {
    TestMemory memory;
    const BfsResult result = search(engine, graph.view(), limits, {}, memory);
    check::that(result.status == BfsStatus::kTimeLimit, name_of(engine));
    const BfsLimits same{static_cast<std::int64_t>(result.layer_sizes.size()) - 1};
    check::equal(text_of(result.layer_sizes),
                 text_of(cpu::bfs_hash(graph.view(), same, {}, 1).layer_sizes),
                 "the layers found before");
  }
}

void memory_is_bounded_and_foretold() {
  for (Graph graph : {lrx(9), lx(9), coset(lrx(24), pairs(24))}) {
    BfsLimits limits;
    limits.max_bytes = std::size_t{300} << 10;
    TestMemory memory;
    const BfsResult result = search(Engine::kHash, graph.view(), limits, {}, memory);
    check::that(result.status == BfsStatus::kMemoryLimit, "the hash engine stops");
    check::that(memory.peak() <= limits.max_bytes, "within its limit");
    const BfsLimits same{static_cast<std::int64_t>(result.layer_sizes.size()) - 1};
    check::equal(text_of(result.layer_sizes),
                 text_of(cpu::bfs_hash(graph.view(), same, {}, 1).layer_sizes),
                 "the layers found before");
  }
  // A device without room stops a search just so.
  Graph graph = lrx(9);
  TestMemory small(std::size_t{300} << 10);
  const BfsResult result = search(Engine::kHash, graph.view(), {}, {}, small);
  check::that(result.status == BfsStatus::kMemoryLimit, "no room on the device");
  check::equal(small.arrays(), std::size_t{0}, "arrays that were not given back");

  const std::size_t foretold = cuda::bfs_memory(graph.view(), 0).bitarray;
  TestMemory memory;
  const BfsResult ranked = search(Engine::kBitarray, graph.view(), {}, {}, memory);
  check::that(ranked.peak_bytes <= foretold, "the bitarray holds what was foretold");
  check::that(ranked.peak_bytes * 100 >= foretold * 95, "and not much less");
  const BfsLimits less{INT64_MAX, INT64_MAX, INT64_MAX, 0, foretold - 1};
  TestMemory unused;
  check::throws<MemoryLimitError>(
      [&] { search(Engine::kBitarray, graph.view(), less, {}, unused); },
      {"max_bytes", "bitarray", std::to_string(foretold), std::to_string(foretold - 1)});
  check::equal(unused.peak(), std::size_t{0}, "nothing was taken");
  TestMemory none(64);
  for (const Engine engine : kEngines) {
    check::throws<MemoryLimitError>([&] { search(engine, graph.view(), {}, {}, none); },
                                    {"max_bytes", "device"});
  }
}

void an_error_of_the_allocator_comes_through() {
  Graph graph = lrx(7);
  for (const Engine engine : kEngines) {
    TestMemory memory;
    int left = engine == Engine::kHash ? 9 : 5;
    const cuda::DeviceAllocator inner = memory.allocator();
    const cuda::DeviceAllocator failing{[&](std::size_t bytes) {
                                          if (left-- == 0) throw std::logic_error("no device");
                                          return inner.allocate(bytes);
                                        },
                                        inner.release};
    check::throws<std::logic_error>(
        [&] {
          if (engine == Engine::kHash) {
            cuda::bfs_hash(graph.view(), {}, {}, failing, nullptr);
          } else {
            cuda::bfs_bitarray(graph.view(), {}, {}, failing, nullptr);
          }
        },
        {"no device"});
    check::equal(memory.arrays(), std::size_t{0}, "arrays that were not given back");
  }
}

void graphs_that_cannot_be_are_refused() {
  TestMemory memory;
  Graph repeats{{{0, 0, 1}}, {{0, 1, 2}}};
  for (const Engine engine : kEngines) {
    check::throws<ArgumentError>([&] { search(engine, repeats.view(), {}, {}, memory); },
                                 {"generators", "no permutation"});
  }
  Graph binary = coset(lrx(8), {0, 0, 0, 0, 1, 1, 1, 1});
  check::throws<ArgumentError>([&] { search(Engine::kBitarray, binary.view(), {}, {}, memory); },
                               {"engine", "bitarray does not apply", "permutation"});
  check::throws<ArgumentError>(
      [&] {
        Graph large = lrx(16);
        search(Engine::kBitarray, large.view(), {}, {}, memory);
      },
      {"16 elements", "at most 15"});
  Graph matrices = special_linear2(5);
  check::that(!cuda::bitarray_obstacle(matrices.view()).empty(), "matrices are not ranked");
}

// ---- ranks ----

void ranks_are_those_of_the_cpu() {
  std::mt19937 random(4);
  for (int n = 1; n <= cuda::kMostRanked; ++n) {
    const int prefix = std::min(n, cuda::kRankPrefix);
    std::vector<std::uint8_t> values(static_cast<std::size_t>(n));
    std::iota(values.begin(), values.end(), std::uint8_t{0});
    for (int trial = 0; trial < 300; ++trial) {
      if (trial == 1) std::reverse(values.begin(), values.end());
      if (trial > 1) std::shuffle(values.begin(), values.end(), random);
      std::uint64_t state = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        state |= std::uint64_t{values[i]} << (i * cuda::kRankBits);
      }
      const cuda::Rank rank = cuda::rank_of(state, n, prefix);
      const cpu::RankedState expected =
          cpu::bitarray_kernels().rank_permutation(values.data(), n, prefix);
      check::equal(std::int64_t{rank.chunk}, expected.chunk, "chunk");
      check::equal(rank.bit, std::uint32_t{expected.bit}, "bit");
      check::equal(cuda::unrank(cuda::chunk_values(rank.chunk, n, prefix), rank.bit, prefix), state,
                   "the state of its own rank");
    }
  }
}

void remainders_are_exact() {
  std::mt19937_64 random(3);
  for (const std::uint64_t modulus : {std::uint64_t{2}, std::uint64_t{3}, std::uint64_t{97},
                                      (std::uint64_t{1} << 31) - 1, std::uint64_t{1} << 31}) {
    cuda::GeneratorView set;
    set.modulus = modulus;
    set.reciprocal = ~std::uint64_t{0} / modulus;
    std::vector<std::uint64_t> values = {0, 1, modulus - 1, modulus, modulus + 1, 2 * modulus - 1};
    const std::uint64_t largest = (std::uint64_t{1} << 63) - 1;
    for (std::uint64_t i = 0; i < 5; ++i) values.push_back(largest - i);
    for (int i = 0; i < 2000; ++i) {
      const std::uint64_t value = random() >> 1;
      values.insert(values.end(), {value, value / modulus * modulus});
      if (value >= modulus) values.push_back(value / modulus * modulus - 1);
    }
    for (const std::uint64_t value : values) {
      check::equal(cuda::reduced(set, value), value % modulus, "remainder");
    }
  }
}

// ---- ops ----

void packed_states_are_permuted_as_on_the_cpu() {
  std::mt19937_64 random(1);
  for (const int bits : {1, 2, 4, 8, 16, 32, 64}) {
    for (const std::int64_t n : {1, 7, 16, 33}) {
      const StateLayout layout{n, bits};
      const std::int64_t count = 37, degree = 3;
      Vector values(index(n * count)), generators;
      for (std::int64_t& value : values) {
        value = static_cast<std::int64_t>(bits == 64 ? random() : random() >> (64 - bits));
      }
      for (std::int64_t g = 0; g < degree; ++g) {
        Vector p = identity(n);
        std::shuffle(p.begin(), p.end(), random);
        generators.insert(generators.end(), p.begin(), p.end());
      }
      std::vector<std::uint64_t> states(index(count * layout.words()));
      cpu::pack_states(layout, count, values.data(), states.data(), 1);
      std::vector<std::uint64_t> expected(states.size() * index(degree)), found = expected;
      GeneratorSet set;
      set.layout = layout;
      set.num_generators = degree;
      set.generators = generators.data();
      cpu::apply_generators(set, count, states.data(), expected.data(), 1);
      std::fill(found.begin(), found.end(), 0xA5A5A5A5A5A5A5A5u);
      cuda::apply_permutations(layout, degree, generators.data(), count, states.data(),
                               found.data(), nullptr);
      check::that(found == expected, std::to_string(bits) + " bits, n = " + std::to_string(n));
    }
  }
}

template <typename T>
void expect_hashes_of_the_cpu(std::int64_t n, std::int64_t count) {
  std::mt19937_64 random(2);
  const std::int64_t degree = 4;
  std::vector<T> states(index(n * count));
  for (T& value : states) value = static_cast<T>(random());
  Vector weights(index(n)), generators;
  for (std::int64_t& weight : weights) weight = static_cast<std::int64_t>(random());
  for (std::int64_t g = 0; g < degree; ++g) {
    Vector p = identity(n);
    std::shuffle(p.begin(), p.end(), random);
    generators.insert(generators.end(), p.begin(), p.end());
  }
  Vector expected(index(degree * count)), found(expected.size(), -1);
  cpu::hash_neighbors(n, degree, generators.data(), weights.data(), count, states.data(), sizeof(T),
                      expected.data(), 1);
  cuda::hash_neighbors(n, degree, generators.data(), weights.data(), count, states.data(),
                       sizeof(T), found.data(), nullptr);
  check::that(found == expected, std::to_string(sizeof(T)) + " bytes, n = " + std::to_string(n));
}

void linear_hashes_are_those_of_the_cpu() {
  // Tiles of all sizes, and states too long for one.
  for (const std::int64_t n : {1, 12, 54, 700}) {
    for (const std::int64_t count : {1, 300}) {
      expect_hashes_of_the_cpu<std::uint8_t>(n, count);
      expect_hashes_of_the_cpu<std::int16_t>(n, count);
      expect_hashes_of_the_cpu<std::int32_t>(n, count);
      expect_hashes_of_the_cpu<std::int64_t>(n, count);
    }
  }
}

void no_states_are_no_work() {
  const Vector p = identity(3), weights = identity(3);
  cuda::apply_permutations({3, 4}, 1, p.data(), 0, nullptr, nullptr, nullptr);
  cuda::hash_neighbors(3, 1, p.data(), weights.data(), 0, nullptr, 1, nullptr, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {{"every engine equals the plain search", every_engine_equals_the_plain_search},
       {"states whose hashes agree are kept apart", states_whose_hashes_agree_are_kept_apart},
       {"published growths", published_growths},
       {"states of several chunks are ranked", states_of_several_chunks_are_ranked},
       {"any width of a permutation is ranked", any_width_of_a_permutation_is_ranked},
       {"layers do not depend on the schedule", layers_do_not_depend_on_the_schedule},
       {"batches and growing tables change nothing", batches_and_growing_tables_change_nothing},
       {"limits end a search between layers", limits_end_a_search_between_layers},
       {"callbacks stop a search", callbacks_stop_a_search},
       {"a level under way is dropped whole", a_level_under_way_is_dropped_whole},
       {"a time limit ends a search", a_time_limit_ends_a_search},
       {"memory is bounded and foretold", memory_is_bounded_and_foretold},
       {"an error of the allocator comes through", an_error_of_the_allocator_comes_through},
       {"graphs that cannot be are refused", graphs_that_cannot_be_are_refused},
       {"ranks are those of the CPU", ranks_are_those_of_the_cpu},
       {"remainders are exact", remainders_are_exact},
       {"packed states are permuted as on the CPU", packed_states_are_permuted_as_on_the_cpu},
       {"linear hashes are those of the CPU", linear_hashes_are_those_of_the_cpu},
       {"no states are no work", no_states_are_no_work}});
}
