// Permutations by rank, a chunk at a time.
//
// rank = chunk * R! + prefix rank, R = min(8, n): the chunk numbers the values at positions R..n-1,
// the prefix rank the order of the first R values. A generator with J = {i >= R: p[i] < R} and
// K = {i < R: p[i] >= R}, |J| = |K| = j, takes the values at p[K] into the prefix and those at p[J]
// out of it. For the states of one chunk the entering values are known, so the new prefix rank is
// one table over the old, chosen by where each entering value stands among the prefix values:
// (R+1)(R+2)...(R+j) tables a generator, made when first needed. The new chunk depends on the
// leaving values alone: R!/(R-j)! targets. Dense chunks write bitmaps of their targets, which are
// merged word by word; sparse ones push bit by bit.
#include <algorithm>
#include <array>
#include <list>
#include <mutex>
#include <numeric>
#include <string>
#include <unordered_map>

#include "permutation_ranked_space.h"
#include "permutation_states.h"

namespace rankone::cpu {
namespace {

constexpr int kLongestPrefix = 8;
/// Tables kept, at most; j = 3 alone has 79 MB a generator.
constexpr std::size_t kTableCacheBytes = std::size_t{256} << 20;
/// Bitmaps of two moving values are 56 chunks: 282 KB a thread, in the second cache.
constexpr int kMostBitmapMoves = 2;
constexpr std::size_t kPushAhead = 64;

std::int64_t factorial(int n) {
  std::int64_t result = 1;
  for (int i = 2; i <= n; ++i) result *= i;
  return result;
}

using Table = std::vector<std::uint16_t>;
struct PrefixTable {
  Table ranks;
  bool identity = false;
};
using TablePointer = std::shared_ptr<const PrefixTable>;

/// Least recently used tables of all generators, by generator and pattern of the entering values.
class TableCache {
 public:
  explicit TableCache(std::size_t bytes) : max_tables_(std::max<std::size_t>(bytes / 80640, 64)) {}

  TablePointer find(std::int64_t key) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(key);
    if (found == entries_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second.place);
    return found->second.table;
  }
  void put(std::int64_t key, TablePointer table) {
    const std::lock_guard lock(mutex_);
    if (entries_.count(key) != 0) return;
    while (entries_.size() >= max_tables_) {
      entries_.erase(order_.back());
      order_.pop_back();
    }
    order_.push_front(key);
    entries_[key] = {std::move(table), order_.begin()};
  }

 private:
  struct Entry {
    TablePointer table;
    std::list<std::int64_t>::iterator place;
  };
  const std::size_t max_tables_;
  std::mutex mutex_;
  std::list<std::int64_t> order_;
  std::unordered_map<std::int64_t, Entry> entries_;
};

/// What is known of a generator before any chunk is.
struct Plan {
  std::array<std::uint8_t, kMaxRankedSize> generator{};
  std::vector<int> leaving_from;   // prefix positions p[i] of i in J, by i
  std::vector<int> entering_from;  // suffix positions p[i] of i in K, by i
  std::vector<std::uint16_t>
      leaving;  // by prefix rank: number of the tuple of leaving order values
  std::vector<std::array<std::uint8_t, 3>> tuples;  // the tuples by number
  int moves() const { return static_cast<int>(leaving_from.size()); }
};

/// One chunk: its suffix values and, ascending, the values left for the prefix.
struct ChunkValues {
  std::array<std::uint8_t, kMaxRankedSize> suffix{}, prefix{};
};

class SymmetricSpace final : public RankedSpace {
 public:
  SymmetricSpace(const BfsGraph& graph, int max_table_moves, bool inverted)
      : size_(static_cast<int>(graph.set.layout.size)),
        prefix_(std::min(size_, kLongestPrefix)),
        prefix_states_(factorial(prefix_)),
        num_chunks_(1),
        max_table_moves_(max_table_moves) {
    for (int i = prefix_; i < size_; ++i) num_chunks_ *= i + 1;
    for (std::int64_t g = 0; g < graph.set.num_generators; ++g) {
      const std::int64_t* p = graph.set.generators + g * size_;
      Plan plan;
      for (int i = 0; i < size_; ++i) {
        const auto from = static_cast<std::size_t>(p[i]);
        if (inverted) {
          plan.generator[from] = static_cast<std::uint8_t>(i);
        } else {
          plan.generator[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(from);
        }
      }
      plans_.push_back(std::move(plan));
    }
    fill_prefix_orders();
  }

  std::int64_t num_chunks() const override { return num_chunks_; }
  std::int64_t chunk_words() const override { return (prefix_states_ + 63) / 64; }
  std::int64_t num_generators() const override { return static_cast<std::int64_t>(plans_.size()); }
  std::size_t table_bytes(int num_threads) const override {
    std::size_t tables = 0, bitmaps = 1;
    for (const Plan& plan : plans_) {
      std::size_t count = 1, targets = 1;
      int moves = 0;
      for (int i = prefix_; i < size_; ++i)
        moves += plan.generator[static_cast<std::size_t>(i)] < prefix_;
      if (moves > max_table_moves_) continue;
      for (int k = 0; k < moves; ++k) {
        count *= static_cast<std::size_t>(prefix_ + 1 + k);
        targets *= static_cast<std::size_t>(prefix_ - k);
      }
      tables += count + 1;
      if (moves <= kMostBitmapMoves) bitmaps = std::max(bitmaps, targets);
    }
    const auto states = static_cast<std::size_t>(prefix_states_);
    return std::min(tables * states * 2, kTableCacheBytes) + plans_.size() * states * 2 +
           states * 8 +
           static_cast<std::size_t>(num_threads) *
               (bitmaps * static_cast<std::size_t>(chunk_words()) * 8 + states * 16);
  }

  void prepare(int num_threads, MemoryMeter* meter) override {
    meter->add(table_bytes(num_threads));
    cache_ = std::make_unique<TableCache>(kTableCacheBytes);
    for (Plan& plan : plans_) complete(plan);
    std::size_t bitmaps = 1;
    for (const Plan& plan : plans_) {
      if (plan.moves() <= kMostBitmapMoves) bitmaps = std::max(bitmaps, plan.tuples.size());
    }
    workspaces_.resize(static_cast<std::size_t>(num_threads));
    for (Workspace& space : workspaces_) {
      space.bitmaps.assign(bitmaps * static_cast<std::size_t>(chunk_words()), 0);
    }
  }

  void expand(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
              const std::uint64_t* bitmap, CodePlanes& planes, int worker) override {
    Workspace& space = workspaces_[static_cast<std::size_t>(worker)];
    const ChunkValues values = chunk_values(chunk);
    for (std::size_t g = 0; g < plans_.size(); ++g) {
      const Plan& plan = plans_[g];
      const int moves = plan.moves();
      // Fewer states than this are ranked one by one rather than have tables and targets made.
      constexpr std::int64_t kFewest[] = {8, 16, 64, 512};
      if (moves > max_table_moves_ || count < kFewest[moves]) {
        expand_direct(plan, values, list, count, planes, space);
        continue;
      }
      const TablePointer table = table_for(static_cast<std::int64_t>(g), values);
      if (moves == 0) {
        expand_within(plan, values, *table, list, count, bitmap, planes, space);
      } else {
        expand_between(plan, values, *table, list, count, planes, space);
      }
    }
  }

  RankedState rank(const std::int64_t* values, const char* argument) const override {
    std::uint8_t state[kMaxRankedSize];
    std::uint64_t seen = 0;
    for (int i = 0; i < size_; ++i) {
      const std::int64_t value = values[i];
      if (value < 0 || value >= size_ || (seen >> value & 1) != 0) {
        throw ArgumentError(argument, "expected permutations of 0.." + std::to_string(size_ - 1) +
                                          ", got value " + std::to_string(value) + " at position " +
                                          std::to_string(i));
      }
      seen |= std::uint64_t{1} << value;
      state[i] = static_cast<std::uint8_t>(value);
    }
    return bitarray_kernels().rank_permutation(state, size_, prefix_);
  }

  RankedState neighbor(const RankedState& state, std::int64_t generator) const override {
    const ChunkValues values = chunk_values(state.chunk);
    RankedState result{};
    bitarray_kernels().rank_neighbors(
        direct_task(plans_[static_cast<std::size_t>(generator)], values), &state.bit, 1, &result);
    return result;
  }

  void decode(std::int64_t chunk, const std::uint16_t* list, std::int64_t count,
              std::int64_t* values) const override {
    const ChunkValues known = chunk_values(chunk);
    for (std::int64_t k = 0; k < count; ++k, values += size_) {
      const std::uint8_t* order = &orders_[8 * std::size_t{list[k]}];
      for (int i = 0; i < prefix_; ++i) values[i] = known.prefix[order[i]];
      for (int i = prefix_; i < size_; ++i) {
        values[i] = known.suffix[static_cast<std::size_t>(i - prefix_)];
      }
    }
  }

 private:
  struct Workspace {
    std::vector<std::uint64_t> bitmaps;
    std::vector<RankedState> ranked;
    std::vector<std::int64_t> targets;
  };

  void fill_prefix_orders() {
    orders_.resize(8 * static_cast<std::size_t>(prefix_states_));
    std::array<std::uint8_t, kLongestPrefix> order{};
    std::iota(order.begin(), order.end(), std::uint8_t{0});
    for (std::int64_t rank = 0; rank < prefix_states_; ++rank) {
      std::copy(order.begin(), order.end(), &orders_[8 * static_cast<std::size_t>(rank)]);
      std::next_permutation(order.begin(), order.begin() + prefix_);
    }
  }

  void complete(Plan& plan) {
    plan.leaving_from.clear();
    plan.entering_from.clear();
    for (int i = 0; i < size_; ++i) {
      const int from = plan.generator[static_cast<std::size_t>(i)];
      if (i >= prefix_ && from < prefix_) plan.leaving_from.push_back(from);
      if (i < prefix_ && from >= prefix_) plan.entering_from.push_back(from);
    }
    if (plan.moves() == 0 || plan.moves() > max_table_moves_) return;
    plan.leaving.resize(static_cast<std::size_t>(prefix_states_));
    std::array<int, 512> numbers;
    numbers.fill(-1);
    plan.tuples.clear();
    for (std::size_t rank = 0; rank < plan.leaving.size(); ++rank) {
      std::array<std::uint8_t, 3> tuple{};
      std::size_t code = 0;
      for (std::size_t k = 0; k < plan.leaving_from.size(); ++k) {
        tuple[k] = orders_[8 * rank + static_cast<std::size_t>(plan.leaving_from[k])];
        code = code * 8 + tuple[k];
      }
      if (numbers[code] < 0) {
        numbers[code] = static_cast<int>(plan.tuples.size());
        plan.tuples.push_back(tuple);
      }
      plan.leaving[rank] = static_cast<std::uint16_t>(numbers[code]);
    }
  }

  ChunkValues chunk_values(std::int64_t chunk) const {
    std::array<std::uint8_t, kMaxRankedSize> digits{};
    for (int i = size_ - 1; i >= prefix_; --i) {
      const int radix = size_ - (i - prefix_);
      digits[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(chunk % radix);
      chunk /= radix;
    }
    ChunkValues values;
    std::array<std::uint8_t, kMaxRankedSize> left{};
    std::iota(left.begin(), left.end(), std::uint8_t{0});
    int count = size_;
    for (int i = prefix_; i < size_; ++i) {
      const int digit = digits[static_cast<std::size_t>(i)];
      values.suffix[static_cast<std::size_t>(i - prefix_)] = left[static_cast<std::size_t>(digit)];
      std::copy(left.begin() + digit + 1, left.begin() + count, left.begin() + digit);
      --count;
    }
    std::copy_n(left.begin(), prefix_, values.prefix.begin());
    return values;
  }

  DirectTask direct_task(const Plan& plan, const ChunkValues& values) const {
    DirectTask task;
    task.size = size_;
    task.prefix = prefix_;
    task.prefix_orders = orders_.data();
    task.free_values = values.prefix.data();
    task.suffix = values.suffix.data();
    task.generator = plan.generator.data();
    return task;
  }

  void expand_direct(const Plan& plan, const ChunkValues& values, const std::uint16_t* list,
                     std::int64_t count, CodePlanes& planes, Workspace& space) const {
    space.ranked.resize(kPushAhead);
    const DirectTask task = direct_task(plan, values);
    for (std::int64_t first = 0; first < count; first += kPushAhead) {
      const auto batch = std::min<std::int64_t>(kPushAhead, count - first);
      bitarray_kernels().rank_neighbors(task, list + first, batch, space.ranked.data());
      push(space.ranked.data(), batch, planes);
    }
  }

  static void push(const RankedState* states, std::int64_t count, CodePlanes& planes) {
    for (std::int64_t i = 0; i < count; ++i) planes.prefetch(states[i].chunk, states[i].bit);
    for (std::int64_t i = 0; i < count; ++i) planes.merge_bit(states[i].chunk, states[i].bit);
  }

  /// The chunk after a generator whose leaving values are `leaving`, by position.
  std::int64_t target_chunk(const Plan& plan, const ChunkValues& values,
                            const std::array<std::uint8_t, 3>& tuple) const {
    std::uint64_t left = low_bits(size_);
    std::int64_t chunk = 0;
    std::size_t leaver = 0;
    for (int i = prefix_; i < size_; ++i) {
      const int from = plan.generator[static_cast<std::size_t>(i)];
      const unsigned value = from < prefix_
                                 ? values.prefix[tuple[leaver++]]
                                 : values.suffix[static_cast<std::size_t>(from - prefix_)];
      chunk = chunk * (size_ - (i - prefix_)) +
              __builtin_popcountll(left & low_bits(static_cast<int>(value)));
      left &= ~(std::uint64_t{1} << value);
    }
    return chunk;
  }

  void expand_within(const Plan& plan, const ChunkValues& values, const PrefixTable& table,
                     const std::uint16_t* list, std::int64_t count, const std::uint64_t* bitmap,
                     CodePlanes& planes, Workspace& space) const {
    const std::int64_t target = target_chunk(plan, values, {});
    if (table.identity) {
      std::copy_n(bitmap, chunk_words(), space.bitmaps.data());
    } else {
      bitarray_kernels().scatter(list, count, table.ranks.data(), space.bitmaps.data());
    }
    planes.merge(target, space.bitmaps.data());
  }

  void expand_between(const Plan& plan, const ChunkValues& values, const PrefixTable& table,
                      const std::uint16_t* list, std::int64_t count, CodePlanes& planes,
                      Workspace& space) const {
    space.targets.clear();
    for (const auto& tuple : plan.tuples) {
      space.targets.push_back(target_chunk(plan, values, tuple));
    }
    // Passing over the bitmaps costs about as much as pushing one bit for every 40 of their words.
    const auto targets = static_cast<std::int64_t>(plan.tuples.size());
    if (plan.moves() <= kMostBitmapMoves && count * 40 > targets * chunk_words()) {
      bitarray_kernels().scatter_many(list, count, table.ranks.data(), plan.leaving.data(),
                                      chunk_words(), space.bitmaps.data());
      for (std::int64_t k = 0; k < targets; ++k) {
        planes.merge(space.targets[static_cast<std::size_t>(k)],
                     space.bitmaps.data() + k * chunk_words());
      }
      return;
    }
    space.ranked.resize(kPushAhead);
    for (std::int64_t first = 0; first < count; first += kPushAhead) {
      const auto batch = std::min<std::int64_t>(kPushAhead, count - first);
      for (std::int64_t i = 0; i < batch; ++i) {
        const std::size_t bit = list[first + i];
        space.ranked[static_cast<std::size_t>(i)] = {space.targets[plan.leaving[bit]],
                                                     table.ranks[bit]};
      }
      push(space.ranked.data(), batch, planes);
    }
  }

  /// The table of a generator where the chunk's entering values stand as they do.
  TablePointer table_for(std::int64_t g, const ChunkValues& values) {
    const Plan& plan = plans_[static_cast<std::size_t>(g)];
    // The value of each entering element, and how many prefix values are smaller.
    std::array<int, 3> entering{}, place{};
    std::int64_t pattern = 0;
    for (std::size_t k = 0; k < plan.entering_from.size(); ++k) {
      entering[k] = values.suffix[static_cast<std::size_t>(plan.entering_from[k] - prefix_)];
      place[k] = static_cast<int>(
          std::lower_bound(values.prefix.begin(), values.prefix.begin() + prefix_, entering[k]) -
          values.prefix.begin());
      std::int64_t smaller = place[k];
      for (std::size_t other = 0; other < k; ++other) smaller += entering[other] < entering[k];
      pattern = pattern * (prefix_ + 1 + static_cast<std::int64_t>(k)) + smaller;
    }
    const std::int64_t key = g << 32 | pattern;
    if (TablePointer found = cache_->find(key)) return found;
    // Order keys: the prefix value of order r is 16 r + 15, and an entering value stands below the
    // prefix values from its place on, by its own order among those that enter there.
    std::array<int, 3> keys{};
    for (std::size_t k = 0; k < plan.entering_from.size(); ++k) {
      keys[k] = 16 * place[k];
      for (std::size_t other = 0; other < plan.entering_from.size(); ++other) {
        keys[k] += entering[other] < entering[k];
      }
    }
    auto table = std::make_shared<PrefixTable>();
    table->ranks.resize(static_cast<std::size_t>(prefix_states_));
    table->identity = true;
    for (std::size_t rank = 0; rank < table->ranks.size(); ++rank) {
      const std::uint8_t* order = &orders_[8 * rank];
      std::array<int, kLongestPrefix> next{};
      std::size_t enterer = 0;
      for (int i = 0; i < prefix_; ++i) {
        const int from = plan.generator[static_cast<std::size_t>(i)];
        next[static_cast<std::size_t>(i)] =
            from < prefix_ ? 16 * order[from] + 15 : keys[enterer++];
      }
      std::int64_t target = 0;
      for (int i = 0; i < prefix_; ++i) {
        int smaller = 0;
        for (int k = i + 1; k < prefix_; ++k) {
          smaller += next[static_cast<std::size_t>(k)] < next[static_cast<std::size_t>(i)];
        }
        target = target * (prefix_ - i) + smaller;
      }
      table->ranks[rank] = static_cast<std::uint16_t>(target);
      table->identity &= target == static_cast<std::int64_t>(rank);
    }
    cache_->put(key, table);
    return table;
  }

  const int size_, prefix_;
  const std::int64_t prefix_states_;
  std::int64_t num_chunks_;
  const int max_table_moves_;
  std::vector<Plan> plans_;
  std::vector<std::uint8_t> orders_;  // (prefix!, 8), lexicographic
  std::unique_ptr<TableCache> cache_;
  std::vector<Workspace> workspaces_;
};

}  // namespace

bool starts_at_permutations(const BfsGraph& graph) {
  if (graph.set.kind != GeneratorKind::kPermutation) return false;
  const std::int64_t n = graph.set.layout.size;
  for (std::int64_t s = 0; s < graph.num_start_states; ++s) {
    std::vector<bool> seen(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t value = graph.start_states[s * n + i];
      if (value < 0 || value >= n || seen[static_cast<std::size_t>(value)]) return false;
      seen[static_cast<std::size_t>(value)] = true;
    }
  }
  return true;
}

std::unique_ptr<RankedSpace> symmetric_space(const BfsGraph& graph, int max_table_moves,
                                             bool inverted) {
  return std::make_unique<SymmetricSpace>(graph, std::clamp(max_table_moves, -1, 3), inverted);
}

}  // namespace rankone::cpu
