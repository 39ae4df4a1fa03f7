// Graphs of every kind for the tests of the breadth-first searches, and the search over std::set
// that the engines are compared with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "rankone/permutation_bfs.h"

namespace permutation_graphs {

using namespace rankone;

using Vector = std::vector<std::int64_t>;
using States = std::vector<Vector>;

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// ---- graphs ----

/// A graph that owns its numbers. Matrices are row-major, of `rows` rows, with `modulus`.
struct Graph {
  States generators;
  States starts;
  int bits = 0;  // 0: as narrow as the start states' values allow
  std::int64_t rows = 0, modulus = 0;

  Vector flat_generators{}, flat_starts{};

  const BfsGraph& view() {
    flat_generators.clear();
    flat_starts.clear();
    for (const Vector& generator : generators) {
      flat_generators.insert(flat_generators.end(), generator.begin(), generator.end());
    }
    for (const Vector& start : starts) {
      flat_starts.insert(flat_starts.end(), start.begin(), start.end());
    }
    GeneratorSet& set = graph.set;
    set.kind = rows > 0 ? GeneratorKind::kMatrix : GeneratorKind::kPermutation;
    set.layout.size = static_cast<std::int64_t>(starts[0].size());
    set.layout.bits = bits != 0 ? bits
                      : rows == 0
                          ? state_bits(*std::max_element(flat_starts.begin(), flat_starts.end()))
                      : modulus > 0 ? state_bits(modulus - 1)
                                    : 64;
    set.num_generators = static_cast<std::int64_t>(generators.size());
    set.generators = flat_generators.data();
    set.rows = rows;
    set.modulus = modulus;
    graph.start_states = flat_starts.data();
    graph.num_start_states = static_cast<std::int64_t>(starts.size());
    return graph;
  }

  BfsGraph graph{};
};

inline Vector identity(std::int64_t n) {
  Vector values(index(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

inline Vector swapped(std::int64_t n, std::int64_t i, std::int64_t j) {
  Vector p = identity(n);
  std::swap(p[index(i)], p[index(j)]);
  return p;
}

inline Vector rotated(std::int64_t n, std::int64_t by) {
  Vector p = identity(n);
  for (std::int64_t i = 0; i < n; ++i) p[index(i)] = (i + by + n) % n;
  return p;
}

inline Vector reversed_prefix(std::int64_t n, std::int64_t length) {
  Vector p = identity(n);
  std::reverse(p.begin(), p.begin() + length);
  return p;
}

inline Vector inverse(const Vector& p) {
  Vector result(p.size());
  for (std::size_t i = 0; i < p.size(); ++i) result[index(p[i])] = static_cast<std::int64_t>(i);
  return result;
}

inline Graph lrx(std::int64_t n) {
  return {{rotated(n, 1), rotated(n, -1), swapped(n, 0, 1)}, {identity(n)}};
}
inline Graph lx(std::int64_t n) { return {{rotated(n, 1), swapped(n, 0, 1)}, {identity(n)}}; }
inline Graph larx(std::int64_t n) {
  Vector cycle = identity(n);
  std::rotate(cycle.begin() + 1, cycle.begin() + 2, cycle.end());
  return {{swapped(n, 0, 1), cycle}, {identity(n)}};
}
inline Graph top_spin(std::int64_t n) {
  return {{rotated(n, 1), rotated(n, -1), reversed_prefix(n, 4)}, {identity(n)}};
}
inline Graph coxeter(std::int64_t n) {
  Graph graph{{}, {identity(n)}};
  for (std::int64_t i = 0; i + 1 < n; ++i) graph.generators.push_back(swapped(n, i, i + 1));
  return graph;
}
inline Graph all_transpositions(std::int64_t n) {
  Graph graph{{}, {identity(n)}};
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i + 1; j < n; ++j) graph.generators.push_back(swapped(n, i, j));
  }
  return graph;
}
inline Graph stars(std::int64_t n) {
  Graph graph{{}, {identity(n)}};
  for (std::int64_t i = 1; i < n; ++i) graph.generators.push_back(swapped(n, 0, i));
  return graph;
}
inline Graph pancake(std::int64_t n) {
  Graph graph{{}, {identity(n)}};
  for (std::int64_t k = 2; k <= n; ++k) graph.generators.push_back(reversed_prefix(n, k));
  return graph;
}
/// Cubes of n flipped coordinates: (i n+i) on 2n points, one state each of the corners.
inline Graph hypercube(std::int64_t n) {
  Graph graph{{}, {identity(2 * n)}};
  for (std::int64_t i = 0; i < n; ++i) graph.generators.push_back(swapped(2 * n, i, n + i));
  return graph;
}
inline Graph coset(Graph graph, Vector colors) {
  graph.starts = {std::move(colors)};
  return graph;
}

/// The 2x2x2 cube: stickers face * 4 + 2 * row + column, faces U, F, R, B, L, D, each seen from
/// outside. The quarter turns of F, R and D with their inverses and squares: the half-turn metric
/// with one corner held.
inline Graph cube222() {
  // One turn as the cycles of stickers that it moves, p[c_j] = c_{j+1}.
  const std::vector<std::vector<Vector>> turns = {
      // F: its own four, and the ring U bottom, R left, D top, L right
      {{4, 6, 7, 5}, {2, 19, 21, 8}, {3, 17, 20, 10}},
      // R: its own four, and the ring U right, F right, D right, B left
      {{8, 10, 11, 9}, {1, 5, 21, 14}, {3, 7, 23, 12}},
      // D: its own four, and the ring F bottom, L bottom, B bottom, R bottom
      {{20, 22, 23, 21}, {6, 18, 14, 10}, {7, 19, 15, 11}}};
  Vector colors(24);
  for (std::int64_t i = 0; i < 24; ++i) colors[index(i)] = i / 4;
  Graph graph{{}, {colors}};
  for (const auto& cycles : turns) {
    Vector quarter = identity(24);
    for (const Vector& cycle : cycles) {
      for (std::size_t j = 0; j < cycle.size(); ++j) {
        quarter[index(cycle[j])] = cycle[(j + 1) % cycle.size()];
      }
    }
    Vector half(24);
    for (std::size_t i = 0; i < 24; ++i) half[i] = quarter[index(quarter[i])];
    graph.generators.push_back(quarter);
    graph.generators.push_back(half);
    graph.generators.push_back(inverse(quarter));
  }
  return graph;
}

inline Vector elementary(std::int64_t n, std::int64_t i, std::int64_t j, std::int64_t value) {
  Vector matrix(index(n * n));
  for (std::int64_t k = 0; k < n; ++k) matrix[index(k * n + k)] = 1;
  matrix[index(i * n + j)] = value;
  return matrix;
}
/// I +- E_{i,i+1} mod m from the identity.
inline Graph unitriangular(std::int64_t n, std::int64_t modulus) {
  Graph graph{{}, {elementary(n, 0, 0, 1)}};
  for (std::int64_t i = 0; i + 1 < n; ++i) {
    graph.generators.push_back(elementary(n, i, i + 1, 1));
    if (modulus > 2) graph.generators.push_back(elementary(n, i, i + 1, modulus - 1));
  }
  graph.rows = n;
  graph.modulus = modulus;
  return graph;
}
/// I + E_{01}, I + E_{10} and inverses mod m.
inline Graph special_linear2(std::int64_t modulus) {
  return {{elementary(2, 0, 1, 1), elementary(2, 0, 1, modulus - 1), elementary(2, 1, 0, 1),
           elementary(2, 1, 0, modulus - 1)},
          {elementary(2, 0, 0, 1)},
          0,
          2,
          modulus};
}

/// Random permutations of n points acting on random colours; with inverses unless `directed`.
inline Graph random_graph(std::int64_t n, std::int64_t colors, int count, bool directed,
                          unsigned seed) {
  std::mt19937 engine(seed);
  Graph graph;
  for (int g = 0; g < count; ++g) {
    Vector p = identity(n);
    // Short cycles keep the orbit small.
    for (int swap = 0; swap < 2; ++swap) {
      std::swap(p[engine() % index(n)], p[engine() % index(n)]);
    }
    graph.generators.push_back(p);
    if (!directed) graph.generators.push_back(inverse(p));
  }
  Vector start(index(n));
  for (std::int64_t& value : start) value = static_cast<std::int64_t>(engine() % index(colors));
  start[0] = colors - 1;
  graph.starts = {start};
  return graph;
}

// ---- the reference ----

inline Vector moved(const Graph& graph, const Vector& generator, const Vector& state) {
  Vector result(state.size());
  if (graph.rows == 0) {
    for (std::size_t i = 0; i < state.size(); ++i) result[i] = state[index(generator[i])];
    return result;
  }
  const std::int64_t n = graph.rows, columns = static_cast<std::int64_t>(state.size()) / n;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      std::uint64_t sum = 0;
      for (std::int64_t k = 0; k < n; ++k) {
        sum += static_cast<std::uint64_t>(generator[index(i * n + k)]) *
               static_cast<std::uint64_t>(state[index(k * columns + j)]);
        if (graph.modulus > 0) sum %= static_cast<std::uint64_t>(graph.modulus);
      }
      result[index(i * columns + j)] = static_cast<std::int64_t>(sum);
    }
  }
  return result;
}

/// The layers, each in lexicographic order.
inline std::vector<States> plain_search(const Graph& graph, std::size_t max_layers = SIZE_MAX) {
  std::set<Vector> seen(graph.starts.begin(), graph.starts.end());
  std::vector<States> layers{States(seen.begin(), seen.end())};
  while (layers.size() < max_layers) {
    std::set<Vector> next;
    for (const Vector& state : layers.back()) {
      for (const Vector& generator : graph.generators) {
        Vector neighbor = moved(graph, generator, state);
        if (seen.insert(neighbor).second) next.insert(std::move(neighbor));
      }
    }
    if (next.empty()) break;
    layers.emplace_back(next.begin(), next.end());
  }
  return layers;
}

inline Vector sizes_of(const std::vector<States>& layers) {
  Vector sizes;
  for (const States& layer : layers) sizes.push_back(static_cast<std::int64_t>(layer.size()));
  return sizes;
}

inline States unpacked(const StateLayout& layout, const std::vector<std::uint64_t>& packed) {
  const auto count = static_cast<std::int64_t>(packed.size()) / layout.words();
  Vector values(index(count * layout.size));
  cpu::unpack_states(layout, count, packed.data(), values.data(), 1);
  States states;
  for (std::int64_t i = 0; i < count; ++i) {
    states.emplace_back(values.begin() + i * layout.size, values.begin() + (i + 1) * layout.size);
  }
  return states;
}

inline States states_of(const BfsLevel& level) {
  std::vector<std::uint64_t> packed(index(level.size * level.layout.words()));
  level.copy_states(packed.data());
  return unpacked(level.layout, packed);
}

inline std::string text_of(const Vector& values) {
  std::ostringstream text;
  for (const std::int64_t value : values) text << value << ' ';
  return text.str();
}

/// Graphs of every kind, with few states.
inline std::vector<std::pair<std::string, Graph>> kinds_of_graph() {
  std::vector<std::pair<std::string, Graph>> graphs;
  graphs.emplace_back("LRX-5", lrx(5));
  graphs.emplace_back("LX-6, directed", lx(6));
  graphs.emplace_back("LARX-6, directed", larx(6));
  graphs.emplace_back("Coxeter-6", coxeter(6));
  graphs.emplace_back("transpositions-6", all_transpositions(6));
  graphs.emplace_back("pancake-7", pancake(7));
  graphs.emplace_back("one element", Graph{{{0}}, {{0}}});
  graphs.emplace_back("a generator that does nothing",
                      Graph{{identity(4), rotated(4, 1)}, {identity(4)}});
  Graph repeated = lrx(5);
  repeated.generators.push_back(repeated.generators[0]);
  repeated.generators.push_back(repeated.generators[2]);
  graphs.emplace_back("repeated generators", repeated);
  graphs.emplace_back("coset of four colours", coset(lrx(8), {0, 0, 1, 1, 2, 2, 3, 3}));
  graphs.emplace_back("directed coset", coset(lx(9), {0, 0, 0, 1, 1, 1, 2, 2, 2}));
  graphs.emplace_back("0/1 words", coset(lrx(13), {0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1}));
  graphs.emplace_back("directed 0/1 words", coset(lx(11), {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1}));
  Graph several = lrx(6);
  several.starts.push_back({5, 4, 3, 2, 1, 0});
  several.starts.push_back({1, 0, 2, 3, 4, 5});
  several.starts.push_back(several.starts[0]);
  graphs.emplace_back("several start states", several);
  graphs.emplace_back("two words", random_graph(24, 6, 3, false, 1));
  graphs.emplace_back("two words, directed", random_graph(20, 12, 3, true, 2));
  graphs.emplace_back("three words", random_graph(24, 200, 3, false, 3));
  graphs.emplace_back("four words", random_graph(60, 9, 3, false, 4));
  graphs.emplace_back("fifteen words", random_graph(120, 200, 3, false, 5));
  graphs.emplace_back("fifteen words, directed", random_graph(120, 200, 4, true, 6));
  // All sixteen values, so that no bit is left for tags.
  graphs.emplace_back("a full word", random_graph(16, 16, 3, false, 7));
  graphs.emplace_back("a full word, directed", random_graph(16, 16, 3, true, 8));
  Graph ones{{rotated(64, 1), rotated(64, -1)}, {Vector(64, 1), Vector(64, 0)}};
  ones.starts[1][3] = 1;
  graphs.emplace_back("a state of ones only", ones);
  Graph directed_ones{{rotated(64, 1)}, ones.starts};
  graphs.emplace_back("a state of ones only, directed", directed_ones);
  // Sixty bits of a word: room for the number of one generator that leads back, and for none.
  Vector few(15);
  few[3] = 8;
  few[4] = 9;
  few[9] = 9;
  graphs.emplace_back("room for one generator back", coset(lrx(15), few));
  graphs.emplace_back("room for no generator back", coset(coxeter(15), few));
  // A long directed search: its layers are joined more than once.
  graphs.emplace_back("a long directed graph", Graph{{rotated(90, 1)}, {swapped(90, 0, 1)}});
  graphs.emplace_back("UT_3 mod 4", unitriangular(3, 4));
  graphs.emplace_back("UT_3 mod 2", unitriangular(3, 2));
  graphs.emplace_back("SL2 mod 7", special_linear2(7));
  Graph vectors = special_linear2(11);
  vectors.starts = {{3, 5}};  // a column vector
  graphs.emplace_back("SL2 mod 11 on vectors", vectors);
  Graph large = special_linear2(5);
  large.modulus = std::int64_t{1} << 31;
  large.generators = {{-1, 0, 0, -1}, {0, large.modulus - 1, 1, 0}};
  graphs.emplace_back("modulus 2^31", large);
  Graph wrapping{{{-1, 0, 0, 1}, {1, 0, 0, -1}, {0, 1, 1, 0}}, {{5, -7}}, 0, 2, 0};
  graphs.emplace_back("64-bit arithmetic", wrapping);
  Graph singular{{{0, 1, 0, 0}, {0, 0, 1, 0}}, {{1, 1}}, 0, 2, 5};
  graphs.emplace_back("singular matrices", singular);
  return graphs;
}

}  // namespace permutation_graphs
