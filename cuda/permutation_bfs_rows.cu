// Layers of states of any width: an array of rows, and a table of slots with 24 bits of hash and a
// row number. A state is compared by all its words wherever the bits of hash agree.
//
// A batch takes three launches, so that whatever a thread compares was written whole by a launch
// before: neighbours are made (a thread each), then claim slots by their number in the batch, and
// those that won one move behind the layer's rows. Of equal neighbours one wins; the others join
// their tags to it.
#include <algorithm>
#include <utility>

#include "permutation_bfs_layer.cuh"

namespace rankone::cuda {
namespace {

/// A slot: hash bits, then a row number, or with kPending set a number in the batch.
constexpr int kNumberBits = 40;
constexpr std::uint64_t kNumberMask = (std::uint64_t{1} << kNumberBits) - 1;
constexpr std::uint64_t kPending = std::uint64_t{1} << (kNumberBits - 1);
constexpr std::int64_t kMostRows = (std::int64_t{1} << (kNumberBits - 1)) - 1;

/// Of a neighbour: to be looked up, dropped, or the slot it won.
constexpr std::uint64_t kDropped = ~std::uint64_t{0};
constexpr std::uint64_t kWaiting = kDropped - 1;

/// The low bits of the hash: the top ones chose the line, the lowest four the place in it.
__device__ __forceinline__ std::uint64_t slot_value(std::uint64_t hash, std::uint64_t number) {
  return hash << kNumberBits | number;
}
__device__ __forceinline__ bool same_hash(std::uint64_t value, std::uint64_t hash) {
  return (value ^ (hash << kNumberBits)) >> kNumberBits == 0;
}

struct RowView {
  SlotView table;
  std::uint64_t* rows = nullptr;
};

/// Tags are joined while others compare: the last word's key bits stay the same.
__device__ __forceinline__ bool equal_rows(const std::uint64_t* left, const std::uint64_t* right,
                                           int words, std::uint64_t last_mask) {
  std::uint64_t difference =
      (load_volatile(left + words - 1) ^ load_volatile(right + words - 1)) & last_mask;
  for (int i = 0; i + 1 < words; ++i) difference |= left[i] ^ right[i];
  return difference == 0;
}

__device__ bool contains(const RowView& layer, const std::uint64_t* row, std::uint64_t hash,
                         int words, std::uint64_t last_mask) {
  if (layer.table.lines == 0) return false;
  for (Probe probe(hash, layer.table.lines);; probe.advance()) {
    const std::uint64_t value = layer.table.slots[probe.slot()];
    if (value == cpu::kEmptySlot) return false;
    if (!same_hash(value, hash)) continue;
    if (equal_rows(layer.rows + (value & kNumberMask) * words, row, words, last_mask)) return true;
  }
}

struct BatchArguments {
  GeneratorView generators;
  cpu::Tags tags;
  const std::uint64_t* from;  // the rows to expand
  std::int64_t count;
  RowView known[2];
  RowView layer;
  std::int64_t layer_size;
  std::uint64_t* neighbors;  // generator-major: g * count + i
  std::uint64_t* places;
  unsigned long long* fresh;
};

template <bool kMatrices>
__global__ void __launch_bounds__(kBfsThreads)
    make_neighbors(__grid_constant__ const BatchArguments arguments) {
  const GeneratorView& generators = arguments.generators;
  const int words = generators.words;
  const std::uint64_t last_mask = arguments.tags.key_mask;
  const std::int64_t total = arguments.count * generators.count;
  for (std::int64_t c = grid_thread(); c < total; c += grid_threads()) {
    const auto g = static_cast<int>(c / arguments.count);
    const std::uint64_t* state = arguments.from + (c - g * arguments.count) * words;
    const bool back = arguments.tags.leads_back(state[words - 1], g);
    arguments.places[c] = back ? kDropped : kWaiting;
    if (back) continue;
    std::uint64_t* out = arguments.neighbors + c * words;
    if constexpr (kMatrices) {
      for (int i = 0; i < words; ++i) out[i] = i + 1 < words ? state[i] : state[i] & last_mask;
      multiply<false>(generators, g, state, out);
    } else {
      permute_row(generators, g, state, last_mask, out);
    }
    out[words - 1] |= generators.tags[g];
  }
}

__global__ void __launch_bounds__(kBfsThreads)
    claim_slots(__grid_constant__ const BatchArguments arguments) {
  const int words = arguments.generators.words;
  const std::uint64_t last_mask = arguments.tags.key_mask;
  const bool join = arguments.tags.form == cpu::TagForm::kMask;
  const std::int64_t total = arguments.count * arguments.generators.count;
  const SlotView& table = arguments.layer.table;
  for (std::int64_t c = grid_thread(); c < total; c += grid_threads()) {
    if (arguments.places[c] != kWaiting) continue;
    std::uint64_t* row = arguments.neighbors + c * words;
    const std::uint64_t hash = cpu::hash_row(row, words, last_mask);
    std::uint64_t place = kDropped;
    if (!contains(arguments.known[0], row, hash, words, last_mask) &&
        !contains(arguments.known[1], row, hash, words, last_mask)) {
      for (Probe probe(hash, table.lines);; probe.advance()) {
        std::uint64_t* slot = table.slots + probe.slot();
        std::uint64_t value = load_volatile(slot);
        if (value == cpu::kEmptySlot) {
          value = claim(slot, slot_value(hash, kPending | static_cast<std::uint64_t>(c)));
          if (value == cpu::kEmptySlot) {
            place = static_cast<std::uint64_t>(probe.slot());
            break;
          }
        }
        if (!same_hash(value, hash)) continue;
        std::uint64_t* other = (value & kPending) != 0
                                   ? arguments.neighbors + (value & (kPending - 1)) * words
                                   : arguments.layer.rows + (value & kNumberMask) * words;
        if (!equal_rows(other, row, words, last_mask)) continue;
        if (join) {
          std::uint64_t* last = other + words - 1;
          join_tags(last, load_volatile(last), load_volatile(row + words - 1) & ~last_mask);
        }
        break;
      }
    }
    arguments.places[c] = place;
  }
}

__global__ void __launch_bounds__(kBfsThreads)
    keep_winners(__grid_constant__ const BatchArguments arguments) {
  const int words = arguments.generators.words;
  const int lane = lane_id();
  const std::int64_t total = arguments.count * arguments.generators.count;
  for (std::int64_t base = grid_thread() - lane; base < total; base += grid_threads()) {
    const std::int64_t c = base + lane;
    const std::uint64_t place = c < total ? arguments.places[c] : kDropped;
    const bool won = place != kDropped;
    const unsigned winners = ballot(won);
    unsigned long long first = 0;
    if (lane == 0 && winners != 0) {
      first =
          atomic_add(arguments.fresh, static_cast<unsigned long long>(population_count(winners)));
    }
    first = shuffle_idx(first, 0);
    if (!won) continue;
    const std::uint64_t number =
        static_cast<std::uint64_t>(arguments.layer_size) + first +
        static_cast<std::uint64_t>(population_count(winners & lower_lanes(lane)));
    const std::uint64_t* row = arguments.neighbors + c * words;
    std::uint64_t* out = arguments.layer.rows + number * words;
    for (int i = 0; i < words; ++i) out[i] = row[i];
    std::uint64_t* slot = arguments.layer.table.slots + place;
    *slot = (*slot & ~kNumberMask) | number;
  }
}

struct PlaceArguments {
  RowView layer;
  std::int64_t first, count;
  int words;
  std::uint64_t last_mask;
};

/// Slots for rows that are all different and not in the table.
__global__ void __launch_bounds__(kBfsThreads)
    place_new_rows(__grid_constant__ const PlaceArguments arguments) {
  for (std::int64_t i = grid_thread(); i < arguments.count; i += grid_threads()) {
    const std::int64_t number = arguments.first + i;
    const std::uint64_t hash = cpu::hash_row(arguments.layer.rows + number * arguments.words,
                                             arguments.words, arguments.last_mask);
    const std::uint64_t value = slot_value(hash, static_cast<std::uint64_t>(number));
    for (Probe probe(hash, arguments.layer.table.lines);; probe.advance()) {
      std::uint64_t* slot = arguments.layer.table.slots + probe.slot();
      if (load_volatile(slot) != cpu::kEmptySlot) continue;
      if (claim(slot, value) == cpu::kEmptySlot) break;
    }
  }
}

}  // namespace

void RowLayer::place_rows(std::int64_t first, std::int64_t count) {
  if (count == 0) return;
  const PlaceArguments arguments{
      {view(), rows_.data()}, first, count, context_->words, context_->tags.key_mask};
  launch(place_new_rows,
         strided(count, context_->multiprocessors, 0, context_->memory->stream,
                 "permutation_bfs_place_rows"),
         arguments);
}

void RowLayer::grow_slots(std::int64_t keys) {
  // Row numbers stay, so the old table is not needed to make the new one.
  DeviceArray<std::uint64_t> slots(context_->memory, slots_for(keys));
  slots_ = std::move(slots);
  slots_.fill(0xFF);
  place_rows(0, size_);
}

void RowLayer::grow_rows(std::int64_t rows) {
  const auto words = static_cast<std::size_t>(context_->words);
  DeviceArray<std::uint64_t> larger(context_->memory, static_cast<std::size_t>(rows) * words);
  copy_on_device(larger.data(), rows_.data(), static_cast<std::size_t>(size_) * words * 8,
                 context_->memory->stream);
  rows_ = std::move(larger);
}

void RowLayer::make_room(std::int64_t keys) {
  const std::int64_t needed = size_ + keys;
  if (needed > kMostRows) throw cpu::SearchEnd{BfsStatus::kMemoryLimit};
  const std::int64_t row_room = static_cast<std::int64_t>(rows_.size()) / context_->words;
  if (needed > row_room) {
    grow_with_slack(needed, row_room, [&](std::int64_t wanted) { grow_rows(wanted); });
  }
  const auto slot_room = static_cast<std::int64_t>(slots_.size() / kLineSlots) * kLineKeys;
  if (needed > slot_room) {
    grow_with_slack(needed, slot_room, [&](std::int64_t wanted) { grow_slots(wanted); });
  }
}

void RowLayer::insert(const std::uint64_t* rows, std::int64_t count) {
  copy_to_device(rows_.data() + size_ * context_->words, rows,
                 static_cast<std::size_t>(count * context_->words) * 8, context_->memory->stream);
  place_rows(size_, count);
  size_ += count;
}

void RowLayer::absorb(const RowLayer& other) {
  make_room(other.size_);
  copy_on_device(rows_.data() + size_ * context_->words, other.rows_.data(),
                 static_cast<std::size_t>(other.size_ * context_->words) * 8,
                 context_->memory->stream);
  place_rows(size_, other.size_);
  size_ += other.size_;
}

void RowLayer::take_neighbors(const RowLayer& from, std::int64_t first, std::int64_t count,
                              const RowLayer* const (&known)[2]) {
  const GeneratorView& generators = context_->generators->view();
  const std::int64_t edges = count * generators.count;
  context_->reserve_batch(edges);
  BatchArguments arguments{};
  arguments.generators = generators;
  arguments.tags = context_->tags;
  arguments.from = from.rows_.data() + first * context_->words;
  arguments.count = count;
  for (int i = 0; i < 2; ++i) {
    if (known[i] != nullptr) arguments.known[i] = {known[i]->view(), known[i]->rows_.data()};
  }
  arguments.layer = {view(), rows_.data()};
  arguments.layer_size = size_;
  arguments.neighbors = context_->neighbors.data();
  arguments.places = context_->places.data();
  arguments.fresh = context_->counter->cleared();
  const auto start = [&](void (*kernel)(BatchArguments), const char* name) {
    launch(kernel, strided(edges, context_->multiprocessors, 0, context_->memory->stream, name),
           arguments);
  };
  start(context_->matrices ? make_neighbors<true> : make_neighbors<false>,
        "permutation_bfs_make_neighbors");
  start(claim_slots, "permutation_bfs_claim_slots");
  start(keep_winners, "permutation_bfs_keep_winners");
  size_ += context_->counter->read();
}

void RowLayer::copy_to_host(std::uint64_t* rows) const {
  const auto words = static_cast<std::size_t>(context_->words);
  cuda::copy_to_host(rows, rows_.data(), static_cast<std::size_t>(size_) * words * 8,
                     context_->memory->stream);
  for (std::int64_t i = 0; i < size_; ++i) {
    rows[(static_cast<std::size_t>(i) + 1) * words - 1] &= context_->tags.key_mask;
  }
}

}  // namespace rankone::cuda
