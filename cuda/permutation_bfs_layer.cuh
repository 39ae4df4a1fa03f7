// One layer (or, of a directed search, all of them) as a set on the device, in two forms that the
// search treats alike:
//
//   WordLayer  states of one word with a bit to spare: the slots hold the states themselves
//   RowLayer   any states: an array of rows, and slots of 24 bits of hash and a row number
//
// Their kernels stand in permutation_bfs_words.cu and permutation_bfs_rows.cu.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "permutation_bfs_generators.cuh"
#include "permutation_bfs_slots.cuh"

namespace rankone::cuda {

/// What all layers of a search share.
struct LayerContext {
  DeviceMemory* memory;
  const DeviceGenerators* generators;
  DeviceCounter* counter;
  cpu::Tags tags;
  bool matrices;
  int words;
  int multiprocessors;
  std::int64_t batch_edges;  // most neighbours of one batch, but for a state's own

  /// Neighbours of one batch of rows, and where each of them goes.
  DeviceArray<std::uint64_t> neighbors{}, places{};
  void reserve_batch(std::int64_t edges) {
    if (static_cast<std::int64_t>(places.size()) >= edges) return;
    // Twice as much as is asked, so that slowly growing layers do not ask each time.
    const auto rows = static_cast<std::size_t>(std::max(edges, std::min(2 * edges, batch_edges)));
    neighbors = {};
    places = {};
    neighbors = DeviceArray<std::uint64_t>(memory, rows * static_cast<std::size_t>(words));
    places = DeviceArray<std::uint64_t>(memory, rows);
  }
};

class WordLayer {
 public:
  explicit WordLayer(LayerContext* context) : context_(context) {}

  std::int64_t size() const { return size_; }
  /// What an expansion walks over: slots, of which some are empty.
  std::int64_t items() const { return static_cast<std::int64_t>(slots_.size()); }

  /// Makes the table fit for so many keys more.
  void make_room(std::int64_t keys);
  /// Rows of the host, all different and none known, for which there is room.
  void insert(const std::uint64_t* rows, std::int64_t count);
  void absorb(const WordLayer& other);
  /// The neighbours of `count` items from `first` on that neither of `known` (null: none) nor this
  /// layer holds join it. There is room for all that may come.
  void take_neighbors(const WordLayer& from, std::int64_t first, std::int64_t count,
                      const WordLayer* const (&known)[2]);
  /// The states, without tags, in any order.
  void copy_to_host(std::uint64_t* rows) const;

 private:
  SlotView view() const {
    return {slots_.data(), static_cast<std::uint32_t>(slots_.size() / kLineSlots)};
  }
  void grow(std::int64_t keys);
  void insert_slots(const std::uint64_t* slots, std::int64_t count);

  LayerContext* context_;
  DeviceArray<std::uint64_t> slots_;
  std::int64_t size_ = 0;
};

class RowLayer {
 public:
  explicit RowLayer(LayerContext* context) : context_(context) {}

  std::int64_t size() const { return size_; }
  std::int64_t items() const { return size_; }

  void make_room(std::int64_t keys);
  void insert(const std::uint64_t* rows, std::int64_t count);
  void absorb(const RowLayer& other);
  void take_neighbors(const RowLayer& from, std::int64_t first, std::int64_t count,
                      const RowLayer* const (&known)[2]);
  void copy_to_host(std::uint64_t* rows) const;

 private:
  SlotView view() const {
    return {slots_.data(), static_cast<std::uint32_t>(slots_.size() / kLineSlots)};
  }
  void grow_slots(std::int64_t keys);
  void grow_rows(std::int64_t rows);
  /// So many rows from `first` on, all different and none known, get their slots.
  void place_rows(std::int64_t first, std::int64_t count);

  LayerContext* context_;
  DeviceArray<std::uint64_t> rows_, slots_;
  std::int64_t size_ = 0;
};

/// So many lines that `keys` fill them to at most 0.7. Ends the level where none are addressed.
inline std::size_t slots_for(std::int64_t keys) {
  const std::int64_t lines = (keys + kLineKeys - 1) / kLineKeys;
  if (lines >= kMostLines) throw cpu::SearchEnd{BfsStatus::kMemoryLimit};
  return static_cast<std::size_t>(lines < 1 ? 1 : lines) * kLineSlots;
}

/// Grows an array by half more than is asked where there is room for that: grow(keys) may end the
/// level.
template <typename Grow>
void grow_with_slack(std::int64_t needed, std::int64_t current, const Grow& grow) {
  if (current + current / 2 > needed) {
    try {
      grow(current + current / 2);
      return;
    } catch (const cpu::SearchEnd&) {
    }
  }
  grow(needed);
}

}  // namespace rankone::cuda
