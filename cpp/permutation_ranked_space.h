// What the bitarray engine walks: the states that can be, numbered without gaps.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "permutation_code_planes.h"
#include "rankone/permutation_bfs.h"

namespace rankone::cpu {

/// A numbering of all states, in chunks of at most 65536, and the generators' action on it.
class RankedSpace {
 public:
  virtual ~RankedSpace() = default;

  virtual std::int64_t num_chunks() const = 0;
  virtual std::int64_t chunk_words() const = 0;
  /// Tables and workspaces, beside the planes.
  virtual std::size_t table_bytes(int num_threads) const = 0;
  virtual std::int64_t num_generators() const = 0;

  /// Allocates what `expand` needs.
  virtual void prepare(int num_threads, MemoryMeter* meter) = 0;
  /// Pushes the neighbours of the listed states of a chunk; `bitmap` holds them, too.
  virtual void expand(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
                      const std::uint64_t* bitmap, CodePlanes& planes, int worker) = 0;

  /// The place of a state of unpacked values, which is checked: throws ArgumentError(argument).
  virtual RankedState rank(const std::int64_t* values, const char* argument) const = 0;
  /// Neighbour `generator` of a state, by places.
  virtual RankedState neighbor(const RankedState& state, std::int64_t generator) const = 0;
  /// Unpacked values of listed states.
  virtual void decode(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
                      std::int64_t* values) const = 0;
};

/// All permutations of 0..n-1; `max_table_moves` as in BitarrayOptions. With `inverted`, the
/// inverses of the generators act.
std::unique_ptr<RankedSpace> symmetric_space(const BfsGraph& graph, int max_table_moves,
                                             bool inverted);
/// All 0/1 words with as many ones as the start states.
std::unique_ptr<RankedSpace> binary_space(const BfsGraph& graph);
/// All upper unitriangular matrices mod m.
std::unique_ptr<RankedSpace> unitriangular_space(const BfsGraph& graph);

/// The space of a graph, or null with the reason in `obstacle`.
std::unique_ptr<RankedSpace> make_ranked_space(const BfsGraph& graph, int max_table_moves,
                                               std::string* obstacle);

/// Words of the graph's start states are a permutation of 0..n-1 each.
bool starts_at_permutations(const BfsGraph& graph);

/// Everything an engine over the space holds.
std::size_t bitarray_bytes(const RankedSpace& space, int planes, int num_threads);

/// The engine over a space, for the search itself and for distance tables.
class BitarrayEngine {
 public:
  BitarrayEngine(const BfsGraph& graph, RankedSpace& space, int planes, std::size_t max_bytes,
                 int num_threads);

  const StateLayout& layout() const { return layout_; }
  std::size_t bytes() const { return meter_.used(); }
  std::size_t peak_bytes() const { return meter_.peak(); }
  std::int64_t start(const BfsGraph& graph);
  std::int64_t expand(SearchControl& control);
  void commit() { planes_.commit(num_threads_); }
  void copy_layer(std::uint64_t* states) const;

  CodePlanes& planes() { return planes_; }
  /// visit(chunk, list, count) for every chunk that has states of the current layer.
  template <typename Visit>
  void for_frontier(const Visit& visit) const {
    std::vector<std::uint16_t> list(static_cast<std::size_t>(planes_.chunk_words()) * 64);
    for (std::int64_t chunk = 0; chunk < planes_.num_chunks(); ++chunk) {
      if (planes_.frontier_size(chunk) == 0) continue;
      visit(chunk, list.data(), planes_.extract(chunk, list.data(), nullptr));
    }
  }

 private:
  const StateLayout layout_;
  RankedSpace& space_;
  const int num_threads_;
  MemoryMeter meter_;
  CodePlanes planes_;
};

}  // namespace rankone::cpu
