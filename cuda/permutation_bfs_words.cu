// Layers of one-word states: tables of the states themselves, filled by compare-and-swap.
//
// A warp gathers the states of a stretch of slots in shared memory, so that all its lanes have one;
// each lane then makes its state's neighbours in registers, one generator after another, looks them
// up in the layers that may hold them and inserts what is new. A state may be found by several
// threads at once: the first claims the slot, the others join their tags to it. Nothing waits for
// another thread, so blocks may run in any order.
#include <algorithm>
#include <utility>

#include "permutation_bfs_layer.cuh"

namespace rankone::cuda {
namespace {

constexpr std::int64_t kCopyWords = std::int64_t{1} << 20;  // 8 MB of host memory

struct ExpandArguments {
  GeneratorView generators;
  cpu::Tags tags;
  const std::uint64_t* from;
  std::int64_t count;
  SlotView known[2];
  SlotView layer;
  unsigned long long* fresh;
};

struct ExpandShared {
  std::uint64_t states[kBfsWarps][2 * kWarpSize];
};

__device__ bool contains(const SlotView& table, std::uint64_t key, std::uint64_t hash,
                         std::uint64_t key_mask) {
  if (table.lines == 0) return false;
  for (Probe probe(hash, table.lines);; probe.advance()) {
    const std::uint64_t value = table.slots[probe.slot()];
    if (value == cpu::kEmptySlot) return false;
    if (((value ^ key) & key_mask) == 0) return true;
  }
}

/// Whether the key is new. If not, with `join` its tags are joined to those of the state there.
__device__ bool insert_key(const SlotView& table, std::uint64_t key, std::uint64_t tags,
                           std::uint64_t hash, std::uint64_t key_mask, bool join) {
  for (Probe probe(hash, table.lines);; probe.advance()) {
    std::uint64_t* slot = table.slots + probe.slot();
    std::uint64_t value = load_volatile(slot);
    if (value == cpu::kEmptySlot) {
      value = claim(slot, key | tags);
      if (value == cpu::kEmptySlot) return true;
    }
    if (((value ^ key) & key_mask) != 0) continue;
    if (join) join_tags(slot, value, tags);
    return false;
  }
}

template <bool kMatrices>
__device__ unsigned insert_neighbors(const ExpandArguments& arguments, std::uint64_t state) {
  const GeneratorView& generators = arguments.generators;
  const std::uint64_t key_mask = arguments.tags.key_mask;
  const std::uint64_t key = state & key_mask;
  unsigned fresh = 0;
  for (int g = 0; g < generators.count; ++g) {
    if (arguments.tags.leads_back(state, g)) continue;
    std::uint64_t next = key;
    if constexpr (kMatrices) {
      multiply<true>(generators, g, &key, &next);
    } else {
      next = permuted(generators, g, key);
    }
    const std::uint64_t hash = cpu::mix(next);
    if (contains(arguments.known[0], next, hash, key_mask)) continue;
    if (contains(arguments.known[1], next, hash, key_mask)) continue;
    fresh += insert_key(arguments.layer, next, generators.tags[g], hash, key_mask,
                        arguments.tags.form == cpu::TagForm::kMask);
  }
  return fresh;
}

template <bool kMatrices>
__global__ void __launch_bounds__(kBfsThreads)
    expand_words(__grid_constant__ const ExpandArguments arguments) {
  std::uint64_t* states = shared_memory<ExpandShared>().states[warp_id()];
  const int lane = lane_id();
  const std::int64_t stride = grid_threads();
  unsigned long long fresh = 0;
  int waiting = 0;
  for (std::int64_t base = grid_thread() - lane; base < arguments.count; base += stride) {
    const std::uint64_t value =
        base + lane < arguments.count ? arguments.from[base + lane] : cpu::kEmptySlot;
    const unsigned full = ballot(value != cpu::kEmptySlot);
    if (value != cpu::kEmptySlot) {
      states[waiting + population_count(full & lower_lanes(lane))] = value;
    }
    waiting += population_count(full);
    warp_sync();
    if (waiting < kWarpSize) continue;
    waiting -= kWarpSize;
    fresh += insert_neighbors<kMatrices>(arguments, states[waiting + lane]);
    warp_sync();
  }
  if (lane < waiting) fresh += insert_neighbors<kMatrices>(arguments, states[lane]);
  warp_sync();
  add_counts(arguments.fresh, fresh);
}

struct InsertArguments {
  const std::uint64_t* from;
  std::int64_t count;
  SlotView table;
  std::uint64_t key_mask;
};

/// States that are all different and not in the table, with their tags.
__global__ void __launch_bounds__(kBfsThreads)
    insert_words(__grid_constant__ const InsertArguments arguments) {
  for (std::int64_t i = grid_thread(); i < arguments.count; i += grid_threads()) {
    const std::uint64_t value = arguments.from[i];
    if (value == cpu::kEmptySlot) continue;
    const std::uint64_t key = value & arguments.key_mask;
    insert_key(arguments.table, key, value & ~arguments.key_mask, cpu::mix(key), arguments.key_mask,
               false);
  }
}

}  // namespace

void WordLayer::insert_slots(const std::uint64_t* slots, std::int64_t count) {
  if (count == 0) return;
  const InsertArguments arguments{slots, count, view(), context_->tags.key_mask};
  launch(insert_words,
         strided(count, context_->multiprocessors, 0, context_->memory->stream,
                 "permutation_bfs_insert_words"),
         arguments);
}

void WordLayer::grow(std::int64_t keys) {
  DeviceArray<std::uint64_t> old =
      std::exchange(slots_, DeviceArray<std::uint64_t>(context_->memory, slots_for(keys)));
  slots_.fill(0xFF);
  insert_slots(old.data(), static_cast<std::int64_t>(old.size()));
}

void WordLayer::make_room(std::int64_t keys) {
  const auto room = static_cast<std::int64_t>(slots_.size() / kLineSlots) * kLineKeys;
  if (size_ + keys <= room) return;
  grow_with_slack(size_ + keys, room, [&](std::int64_t wanted) { grow(wanted); });
}

void WordLayer::insert(const std::uint64_t* rows, std::int64_t count) {
  const DeviceArray<std::uint64_t> copies(context_->memory, rows, static_cast<std::size_t>(count));
  insert_slots(copies.data(), count);
  size_ += count;
}

void WordLayer::absorb(const WordLayer& other) {
  make_room(other.size_);
  insert_slots(other.slots_.data(), static_cast<std::int64_t>(other.slots_.size()));
  size_ += other.size_;
}

void WordLayer::take_neighbors(const WordLayer& from, std::int64_t first, std::int64_t count,
                               const WordLayer* const (&known)[2]) {
  ExpandArguments arguments{};
  arguments.generators = context_->generators->view();
  arguments.tags = context_->tags;
  arguments.from = from.slots_.data() + first;
  arguments.count = count;
  for (int i = 0; i < 2; ++i) {
    if (known[i] != nullptr) arguments.known[i] = known[i]->view();
  }
  arguments.layer = view();
  arguments.fresh = context_->counter->cleared();
  launch(context_->matrices ? expand_words<true> : expand_words<false>,
         strided(count, context_->multiprocessors, sizeof(ExpandShared), context_->memory->stream,
                 "permutation_bfs_expand_words"),
         arguments);
  size_ += context_->counter->read();
}

void WordLayer::copy_to_host(std::uint64_t* rows) const {
  std::vector<std::uint64_t> piece;
  const auto slots = static_cast<std::int64_t>(slots_.size());
  for (std::int64_t first = 0; first < slots; first += kCopyWords) {
    piece.resize(static_cast<std::size_t>(std::min(kCopyWords, slots - first)));
    cuda::copy_to_host(piece.data(), slots_.data() + first, piece.size() * 8,
                       context_->memory->stream);
    for (const std::uint64_t value : piece) {
      if (value != cpu::kEmptySlot) *rows++ = value & context_->tags.key_mask;
    }
  }
}

}  // namespace rankone::cuda
