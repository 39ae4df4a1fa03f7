// The hash engine: a level is expanded block by block, its neighbours scattered to 256 partitions
// by the top bits of their hash, and each partition made unique by one thread. Threads share
// nothing but whole chunks of candidates, so there are no atomics on data and the layers, as sets,
// do not depend on the number of threads.
#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "parallel.h"
#include "permutation_hash_set.h"
#include "permutation_search.h"
#include "permutation_states.h"
#include "permutation_tags.h"

namespace rankone::cpu {
namespace {

constexpr std::int64_t kBlockStates = 2048;  // a block and its neighbours stay in the first cache
constexpr std::size_t kChunkWords = 2048;    // 16 KB of candidates
constexpr std::size_t kSlabChunks = 64;      // chunks allocated at once
constexpr std::size_t kDefaultCandidateBytes = std::size_t{1} << 30;
/// One partition serves a small search; past this many states in a layer there are 256, and 1024
/// past the second.
constexpr std::int64_t kManyStates = 1 << 14;
constexpr std::int64_t kVeryManyStates = std::int64_t{1} << 28;

/// Chunks of candidate rows, taken and given back by threads.
class ChunkPool {
 public:
  ChunkPool(MemoryMeter* meter, std::size_t chunk_words) : meter_(meter), words_(chunk_words) {}
  ~ChunkPool() { meter_->subtract(slabs_.size() * slab_bytes()); }

  std::size_t chunk_words() const { return words_; }

  std::uint64_t* take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
      meter_->add(slab_bytes());
      slabs_.push_back(std::unique_ptr<std::uint64_t[]>(new std::uint64_t[words_ * kSlabChunks]));
      for (std::size_t i = 0; i < kSlabChunks; ++i) {
        free_.push_back(slabs_.back().get() + i * words_);
      }
    }
    std::uint64_t* chunk = free_.back();
    free_.pop_back();
    return chunk;
  }
  void give(const std::vector<std::uint64_t*>& chunks) {
    const std::lock_guard lock(mutex_);
    free_.insert(free_.end(), chunks.begin(), chunks.end());
  }

 private:
  std::size_t slab_bytes() const { return words_ * kSlabChunks * 8; }

  MemoryMeter* meter_;
  const std::size_t words_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<std::uint64_t[]>> slabs_;
  std::vector<std::uint64_t*> free_;
};

/// One worker's candidates, by bucket (a partition, or an owner's part).
class Scatter {
 public:
  Scatter(ChunkPool* pool, std::size_t buckets, std::size_t words)
      : pool_(pool), words_(words), rows_a_chunk_(pool->chunk_words() / words), buckets_(buckets) {}
  ~Scatter() { clear(); }
  Scatter(Scatter&&) = default;

  void push(std::size_t bucket, const std::uint64_t* row) {
    Bucket& target = buckets_[bucket];
    if (target.at == target.end) open(target);
    for (std::size_t i = 0; i < words_; ++i) target.at[i] = row[i];
    target.at += words_;
  }
  void push_word(std::size_t bucket, std::uint64_t word) {
    Bucket& target = buckets_[bucket];
    if (target.at == target.end) open(target);
    *target.at++ = word;
  }

  void list(std::size_t bucket, std::vector<Candidates>& lists) const {
    const Bucket& source = buckets_[bucket];
    for (std::uint64_t* chunk : source.chunks) {
      const bool last = chunk == source.chunks.back();
      const std::size_t count =
          last ? static_cast<std::size_t>(source.at - chunk) / words_ : rows_a_chunk_;
      lists.push_back({chunk, count});
    }
  }
  void clear(std::size_t bucket) {
    Bucket& source = buckets_[bucket];
    if (source.chunks.empty()) return;
    pool_->give(source.chunks);
    source = Bucket{};
  }
  void clear() {
    for (std::size_t i = 0; i < buckets_.size(); ++i) clear(i);
  }

 private:
  struct Bucket {
    std::uint64_t* at = nullptr;
    std::uint64_t* end = nullptr;
    std::vector<std::uint64_t*> chunks;
  };

  void open(Bucket& bucket) {
    std::uint64_t* chunk = pool_->take();
    bucket.chunks.push_back(chunk);
    bucket.at = chunk;
    bucket.end = chunk + rows_a_chunk_ * words_;
  }

  ChunkPool* pool_;
  std::size_t words_, rows_a_chunk_;
  std::vector<Bucket> buckets_;
};

/// Layers as sets of packed states, and the two steps that make the next: expand and insert.
class LayerSets {
 public:
  LayerSets(const BfsGraph& graph, std::size_t max_bytes, int num_threads)
      : generators(graph.set, true), meter(max_bytes), num_threads(std::max(num_threads, 1)) {
    traits.words = graph.set.layout.words();
    traits.directed = !generators.inverse_closed();
    traits.tags = Tags(generators);
    traits.bipartite = !traits.directed && is_bipartite(graph);
    candidate_bytes = max_bytes != 0 ? max_bytes / 4 : kDefaultCandidateBytes;
  }
  virtual ~LayerSets() = default;

  virtual std::int64_t layer_size() const = 0;
  virtual std::int64_t next_size() const = 0;
  /// Sets the layer at hand to `rows`, in any order, all different.
  virtual void start(const std::uint64_t* rows, std::int64_t count) = 0;
  /// Candidates of the whole current layer to the next, in batches that fit candidate_bytes.
  virtual std::int64_t expand(SearchControl& control) = 0;
  virtual void commit() = 0;
  /// Neighbours of some states of the current layer, made unique, ordered by owner.
  virtual const std::uint64_t* expand_part(std::int64_t first, std::int64_t count, int world_size,
                                           std::int64_t* counts) = 0;
  virtual void insert(const std::uint64_t* rows, std::int64_t count) = 0;
  virtual std::int64_t advance() = 0;
  virtual void copy_layer(std::uint64_t* states) const = 0;

  const CompiledGenerators generators;
  MemoryMeter meter;
  SetTraits traits;
  const int num_threads;
  std::size_t candidate_bytes;
};

std::uint64_t owner_of(std::uint64_t hash, int world_size) {
  return (hash & 0xFFFFFFFFU) * static_cast<std::uint64_t>(world_size) >> 32;
}

template <typename Partition, std::size_t kWords>
class PartitionedSets final : public LayerSets {
 public:
  PartitionedSets(const BfsGraph& graph, std::size_t max_bytes, int num_threads)
      : LayerSets(graph, max_bytes, num_threads),
        pool_(&meter, chunk_words()),
        scratch_(static_cast<std::size_t>(this->num_threads)) {
    for (SlotTable& table : scratch_) table = SlotTable(&meter);
    make_partitions(0);
  }

  std::int64_t layer_size() const override {
    std::int64_t size = 0;
    for (const Partition& partition : partitions_) {
      size += static_cast<std::int64_t>(partition.current_size());
    }
    return size;
  }

  std::int64_t next_size() const override {
    std::int64_t size = 0;
    for (const Partition& partition : partitions_) {
      size += static_cast<std::int64_t>(partition.next_size());
    }
    return size;
  }

  void start(const std::uint64_t* rows, std::int64_t count) override {
    insert(rows, count);
    advance();
  }

  std::int64_t expand(SearchControl& control) override {
    try {
      const std::vector<Block> blocks = blocks_of(0, layer_size());
      const std::size_t block_bytes = static_cast<std::size_t>(kBlockStates) * words() * 8 *
                                      static_cast<std::size_t>(generators.count());
      const std::size_t batch = std::max<std::size_t>(candidate_bytes / block_bytes, 1);
      for (std::size_t first = 0; first < blocks.size(); first += batch) {
        const std::size_t last = std::min(first + batch, blocks.size());
        std::vector<Scatter> scatters = make_scatters(partitions_.size());
        expand_blocks(blocks, first, last, control,
                      [&](int worker, const std::uint64_t* row, std::uint64_t hash) {
                        push(scatters[static_cast<std::size_t>(worker)], partition_of(hash), row);
                      });
        insert_scattered(scatters, control);
      }
    } catch (const SearchEnd&) {
      for (Partition& partition : partitions_) partition.drop_next();
      throw;
    }
    return next_size();
  }

  void commit() override { advance(); }

  const std::uint64_t* expand_part(std::int64_t first, std::int64_t count, int world_size,
                                   std::int64_t* counts) override {
    // Sixteen parts an owner and more keep the tables small.
    const std::size_t parts = static_cast<std::size_t>(world_size) * kOwnerParts;
    std::vector<Scatter> scatters = make_scatters(parts);
    const std::vector<Block> blocks = blocks_of(first, count);
    SearchControl quiet = no_control();
    expand_blocks(blocks, 0, blocks.size(), quiet,
                  [&](int worker, const std::uint64_t* row, std::uint64_t hash) {
                    const std::uint64_t owner = owner_of(hash, world_size);
                    push(scatters[static_cast<std::size_t>(worker)],
                         owner * kOwnerParts + (hash >> (64 - kOwnerPartBits)), row);
                  });
    outbox_.clear();
    std::fill_n(counts, world_size, 0);
    SetTraits local = traits;
    local.directed = false;
    for (std::size_t part = 0; part < parts; ++part) {
      std::vector<Candidates> lists;
      for (const Scatter& scatter : scatters) scatter.list(part, lists);
      if (lists.empty()) continue;
      Partition unique(&local, &meter);
      unique.insert(lists, kOwnerPartBits, scratch_[0]);
      unique.advance();
      outbox_.append(unique.current_rows(), unique.current_size() * words());
      counts[part / kOwnerParts] += static_cast<std::int64_t>(unique.current_size());
    }
    return outbox_.data();
  }

  void insert(const std::uint64_t* rows, std::int64_t count) override {
    SearchControl control = no_control();
    const std::int64_t batch = std::max<std::int64_t>(
        static_cast<std::int64_t>(candidate_bytes / (words() * 8)), kBlockStates);
    for (std::int64_t first = 0; first < count; first += batch) {
      const std::int64_t last = std::min(first + batch, count);
      std::vector<Scatter> scatters = make_scatters(partitions_.size());
      const std::int64_t blocks = (last - first + kBlockStates - 1) / kBlockStates;
      parallel_for(blocks, num_threads, [&](std::int64_t block, int worker) {
        const std::int64_t begin = first + block * kBlockStates;
        for (std::int64_t i = begin; i < std::min(begin + kBlockStates, last); ++i) {
          const std::uint64_t* row = rows + i * static_cast<std::int64_t>(words());
          push(scatters[static_cast<std::size_t>(worker)], partition_of(hash(row)), row);
        }
      });
      insert_scattered(scatters, control);
    }
  }

  std::int64_t advance() override {
    parallel_for(static_cast<std::int64_t>(partitions_.size()), num_threads,
                 [&](std::int64_t i, int) { partitions_[static_cast<std::size_t>(i)].advance(); });
    const std::int64_t size = layer_size();
    const int wanted = size > kVeryManyStates ? 10 : size > kManyStates ? 8 : 0;
    if (wanted > partition_bits_ && has_room_to_partition()) make_partitions(wanted);
    return size;
  }

  void copy_layer(std::uint64_t* states) const override {
    std::uint64_t* out = states;
    for (const Partition& partition : partitions_) {
      std::copy_n(partition.current_rows(), partition.current_size() * words(), out);
      out += partition.current_size() * words();
    }
    const std::int64_t size = layer_size();
    for (std::int64_t i = 0; i < size; ++i) {
      states[(static_cast<std::size_t>(i) + 1) * words() - 1] &= traits.tags.key_mask;
    }
    sort_states(generators.layout(), size, states, false, num_threads);
  }

 private:
  static constexpr int kOwnerPartBits = 4;
  static constexpr std::size_t kOwnerParts = std::size_t{1} << kOwnerPartBits;

  struct Block {
    std::size_t partition;
    std::size_t first, count;
  };
  /// One worker's block of states without their tags, neighbours, and hashes.
  struct Workspace {
    std::vector<std::uint64_t> states, neighbors;
  };

  std::size_t words() const { return kWords > 0 ? kWords : static_cast<std::size_t>(traits.words); }
  std::uint64_t hash(const std::uint64_t* row) const {
    return hash_row(row, static_cast<std::int64_t>(words()), traits.tags.key_mask);
  }
  std::size_t partition_of(std::uint64_t hash) const {
    return partition_bits_ == 0 ? 0 : static_cast<std::size_t>(hash >> (64 - partition_bits_));
  }
  std::size_t chunk_words() const {
    // Every worker keeps a chunk open in every partition: with little memory they are smaller.
    std::size_t chunk = kChunkWords;
    const std::size_t open = 256 * static_cast<std::size_t>(num_threads) * 8;
    while (chunk > 64 && chunk * open > candidate_bytes / 2) chunk /= 2;
    return std::max(chunk, 16 * words());
  }
  void push(Scatter& scatter, std::size_t bucket, const std::uint64_t* row) const {
    if constexpr (kWords == 1) {
      scatter.push_word(bucket, *row);
    } else {
      scatter.push(bucket, row);
    }
  }

  static SearchControl no_control() {
    static const BfsLimits limits;
    static const BfsCallbacks callbacks;
    return SearchControl(limits, callbacks);
  }

  std::vector<Scatter> make_scatters(std::size_t buckets) {
    std::vector<Scatter> scatters;
    for (int i = 0; i < num_threads; ++i) scatters.emplace_back(&pool_, buckets, words());
    return scatters;
  }

  std::vector<Block> blocks_of(std::int64_t first, std::int64_t count) const {
    std::vector<Block> blocks;
    std::int64_t begin = 0;  // of the partition, among all states of the layer
    for (std::size_t p = 0; p < partitions_.size(); ++p) {
      const auto size = static_cast<std::int64_t>(partitions_[p].current_size());
      const std::int64_t low = std::max<std::int64_t>(first - begin, 0);
      const std::int64_t high = std::min(first + count - begin, size);
      for (std::int64_t at = low; at < high; at += kBlockStates) {
        blocks.push_back({p, static_cast<std::size_t>(at),
                          static_cast<std::size_t>(std::min(kBlockStates, high - at))});
      }
      begin += size;
    }
    return blocks;
  }

  /// take(worker, row, hash) for every neighbour, but those that lead back where tags tell.
  template <typename Take>
  void expand_blocks(const std::vector<Block>& blocks, std::size_t first, std::size_t last,
                     SearchControl& control, const Take& take) {
    std::vector<Workspace> workspaces(static_cast<std::size_t>(num_threads));
    parallel_for(static_cast<std::int64_t>(last - first), num_threads,
                 [&](std::int64_t task, int worker) {
                   control.poll(worker);
                   const Block& block = blocks[first + static_cast<std::size_t>(task)];
                   Workspace& space = workspaces[static_cast<std::size_t>(worker)];
                   space.states.resize(static_cast<std::size_t>(kBlockStates) * words());
                   space.neighbors.resize(space.states.size());
                   const std::uint64_t* rows =
                       partitions_[block.partition].current_rows() + block.first * words();
                   std::copy_n(rows, block.count * words(), space.states.data());
                   for (std::size_t i = 0; i < block.count; ++i) {
                     space.states[(i + 1) * words() - 1] &= traits.tags.key_mask;
                   }
                   for (std::int64_t g = 0; g < generators.count(); ++g) {
                     generators.apply(g, static_cast<std::int64_t>(block.count),
                                      space.states.data(), space.neighbors.data());
                     take_neighbors(g, block.count, rows, space.neighbors.data(), worker, take);
                   }
                 });
  }

  template <typename Take>
  void take_neighbors(std::int64_t g, std::size_t count, const std::uint64_t* rows,
                      std::uint64_t* neighbors, int worker, const Take& take) const {
    const Tags tags = traits.tags;
    const std::uint64_t tag = tags.of(generators.inverse(g));
    if constexpr (kWords == 1) {
      std::size_t kept = count;
      if (tags.form != TagForm::kNone) {
        kept = 0;
        for (std::size_t i = 0; i < count; ++i) {
          neighbors[kept] = neighbors[i];
          kept += !tags.leads_back(rows[i], g);
        }
      }
      for (std::size_t i = 0; i < kept; ++i) {
        const std::uint64_t row = neighbors[i] | tag;
        take(worker, &row, mix(neighbors[i]));
      }
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        if (tags.leads_back(rows[(i + 1) * words() - 1], g)) continue;
        std::uint64_t* row = neighbors + i * words();
        const std::uint64_t h = hash(row);
        row[words() - 1] |= tag;
        take(worker, row, h);
      }
    }
  }

  void insert_scattered(std::vector<Scatter>& scatters, SearchControl& control) {
    parallel_for(static_cast<std::int64_t>(partitions_.size()), num_threads,
                 [&](std::int64_t task, int worker) {
                   control.poll(worker);
                   const auto p = static_cast<std::size_t>(task);
                   std::vector<Candidates> lists;
                   for (const Scatter& scatter : scatters) scatter.list(p, lists);
                   if (lists.empty()) return;
                   partitions_[p].insert(lists, partition_bits_,
                                         scratch_[static_cast<std::size_t>(worker)]);
                   for (Scatter& scatter : scatters) scatter.clear(p);
                 });
  }

  /// The states lie twice in memory for a moment, with some room to grow.
  bool has_room_to_partition() const {
    return meter.limit() == 0 || meter.used() * 3 < meter.limit();
  }

  void make_partitions(int bits) {
    std::vector<Partition> old = std::move(partitions_);
    partition_bits_ = bits;
    partitions_.clear();
    for (std::size_t i = 0; i < std::size_t{1} << bits; ++i)
      partitions_.emplace_back(&traits, &meter);
    // Earlier layers come first, as RowPartition wants them.
    for (Partition& partition : old) {
      partition.drain([&](const auto& row, int layer) {
        const std::uint64_t* words = address(row);
        partitions_[partition_of(hash(words))].restore(row, layer, partition_bits_);
      });
    }
  }
  static const std::uint64_t* address(const std::uint64_t& word) { return &word; }
  static const std::uint64_t* address(const std::uint64_t* row) { return row; }

  ChunkPool pool_;
  std::vector<SlotTable> scratch_;
  std::vector<Partition> partitions_;
  int partition_bits_ = 0;
  WordBuffer outbox_;
};

std::unique_ptr<LayerSets> make_sets(const BfsGraph& graph, std::size_t max_bytes,
                                     int num_threads) {
  switch (graph.set.layout.words()) {
    case 1:
      return std::make_unique<PartitionedSets<WordPartition, 1>>(graph, max_bytes, num_threads);
    case 2:
      return std::make_unique<PartitionedSets<RowPartition<2>, 2>>(graph, max_bytes, num_threads);
    case 3:
      return std::make_unique<PartitionedSets<RowPartition<3>, 3>>(graph, max_bytes, num_threads);
    case 4:
      return std::make_unique<PartitionedSets<RowPartition<4>, 4>>(graph, max_bytes, num_threads);
    default:
      return std::make_unique<PartitionedSets<RowPartition<0>, 0>>(graph, max_bytes, num_threads);
  }
}

/// What search_levels wants of an engine.
struct HashEngine {
  LayerSets& sets;

  const StateLayout& layout() const { return sets.generators.layout(); }
  std::size_t bytes() const { return sets.meter.used(); }
  std::size_t peak_bytes() const { return sets.meter.peak(); }
  void copy_layer(std::uint64_t* states) const { sets.copy_layer(states); }
  std::int64_t expand(SearchControl& control) { return sets.expand(control); }
  void commit() { sets.commit(); }
};

std::size_t smallest_memory(const BfsGraph& graph, int num_threads) {
  const auto words = static_cast<std::size_t>(graph.set.layout.words());
  return static_cast<std::size_t>(num_threads) * 256 * std::max<std::size_t>(64, 16 * words) * 8 +
         static_cast<std::size_t>(graph.num_start_states) * words * 64 + (std::size_t{1} << 20);
}

}  // namespace

BfsResult bfs_hash(const BfsGraph& graph, const BfsLimits& limits, const BfsCallbacks& callbacks,
                   int num_threads) {
  check_graph(graph);
  const std::size_t needed = smallest_memory(graph, std::max(num_threads, 1));
  if (limits.max_bytes != 0 && limits.max_bytes < needed) {
    throw MemoryLimitError("max_bytes: the hash engine needs at least " + std::to_string(needed) +
                               " bytes for this graph on " + std::to_string(num_threads) +
                               " threads, got " + std::to_string(limits.max_bytes),
                           needed, limits.max_bytes, "");
  }
  SearchControl control(limits, callbacks);
  const std::unique_ptr<LayerSets> sets = make_sets(graph, limits.max_bytes, num_threads);
  const std::vector<std::uint64_t> start = packed_start_states(graph);
  const std::int64_t count = static_cast<std::int64_t>(start.size()) / graph.set.layout.words();
  try {
    sets->start(start.data(), count);
  } catch (const SearchEnd&) {
    throw MemoryLimitError("max_bytes: " + std::to_string(count) + " start states do not fit " +
                               std::to_string(limits.max_bytes) + " bytes",
                           sets->meter.peak(), limits.max_bytes, "external");
  }
  HashEngine engine{*sets};
  return search_levels(engine, control, {count});
}

// ---- a share of a distributed search ----

class HashShare::Impl {
 public:
  Impl(const BfsGraph& graph, int rank, int world_size, std::size_t max_bytes, int num_threads)
      : world_size(world_size), sets(make_sets(graph, max_bytes, num_threads)) {
    const std::vector<std::uint64_t> start = packed_start_states(graph);
    const std::int64_t words = graph.set.layout.words();
    std::vector<std::uint64_t> own;
    for (auto row = start.begin(); row != start.end(); row += words) {
      if (owner_of(hash_row(&*row, words), world_size) == static_cast<std::uint64_t>(rank)) {
        own.insert(own.end(), row, row + words);
      }
    }
    sets->start(own.data(), static_cast<std::int64_t>(own.size()) / words);
  }

  const int world_size;
  const std::unique_ptr<LayerSets> sets;
};

namespace {

[[noreturn]] void throw_share_limit(const LayerSets& sets) {
  throw MemoryLimitError("max_bytes: this level needs more than " +
                             std::to_string(sets.meter.limit()) + " bytes in this process",
                         sets.meter.peak(), sets.meter.limit(), "external");
}

}  // namespace

HashShare::HashShare(const BfsGraph& graph, int rank, int world_size, std::size_t max_bytes,
                     int num_threads) {
  check_graph(graph);
  if (world_size < 1) {
    throw ArgumentError("world_size", "expected at least 1, got " + std::to_string(world_size));
  }
  if (rank < 0 || rank >= world_size) {
    throw ArgumentError(
        "rank", "expected 0.." + std::to_string(world_size - 1) + ", got " + std::to_string(rank));
  }
  const std::size_t needed = smallest_memory(graph, std::max(num_threads, 1));
  if (max_bytes != 0 && max_bytes < needed) {
    throw MemoryLimitError("max_bytes: a share needs at least " + std::to_string(needed) +
                               " bytes for this graph, got " + std::to_string(max_bytes),
                           needed, max_bytes, "");
  }
  try {
    impl_ = std::make_unique<Impl>(graph, rank, world_size, max_bytes, num_threads);
  } catch (const SearchEnd&) {
    throw MemoryLimitError(
        "max_bytes: the start states do not fit " + std::to_string(max_bytes) + " bytes", max_bytes,
        max_bytes, "");
  }
}

HashShare::~HashShare() = default;

std::int64_t HashShare::layer_size() const { return impl_->sets->layer_size(); }
std::int64_t HashShare::next_size() const { return impl_->sets->next_size(); }
int HashShare::world_size() const { return impl_->world_size; }
std::int64_t HashShare::words() const { return impl_->sets->traits.words; }
std::size_t HashShare::bytes() const { return impl_->sets->meter.used(); }
std::size_t HashShare::peak_bytes() const { return impl_->sets->meter.peak(); }

const std::uint64_t* HashShare::expand(std::int64_t first, std::int64_t count,
                                       std::int64_t* counts) {
  if (first < 0 || count < 0 || first + count > layer_size()) {
    throw ArgumentError(
        "first", "expected states within the layer of " + std::to_string(layer_size()) + ", got " +
                     std::to_string(first) + " and " + std::to_string(count) + " more");
  }
  try {
    return impl_->sets->expand_part(first, count, impl_->world_size, counts);
  } catch (const SearchEnd&) {
    throw_share_limit(*impl_->sets);
  }
}

void HashShare::owners(const std::uint64_t* states, std::int64_t count, std::int64_t* ranks) const {
  const std::uint64_t key_mask = impl_->sets->traits.tags.key_mask;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t hash = hash_row(states + i * words(), words(), key_mask);
    ranks[i] = static_cast<std::int64_t>(owner_of(hash, impl_->world_size));
  }
}

void HashShare::insert(const std::uint64_t* states, std::int64_t count) {
  try {
    impl_->sets->insert(states, count);
  } catch (const SearchEnd&) {
    throw_share_limit(*impl_->sets);
  }
}

std::int64_t HashShare::advance() { return impl_->sets->advance(); }
void HashShare::copy_layer(std::uint64_t* states) const { impl_->sets->copy_layer(states); }

}  // namespace rankone::cpu
