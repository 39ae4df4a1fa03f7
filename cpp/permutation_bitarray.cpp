// The bitarray engine: a level is one pass over the chunks that hold frontier states, whatever
// numbers the states.
#include <algorithm>
#include <string>
#include <vector>

#include "parallel.h"
#include "permutation_ranked_space.h"
#include "permutation_states.h"

namespace rankone::cpu {
namespace {

constexpr std::int64_t kLargestSymmetric = 15;  // 15! states: 327 GB at two bits
constexpr std::int64_t kChunkGroup = 8;         // chunks a task

/// A thread's frontier: a list and a bitmap.
std::size_t list_bytes(std::size_t chunk_words) { return chunk_words * (64 * 2 + 8); }

std::unique_ptr<RankedSpace> require_space(const BfsGraph& graph, int max_table_moves) {
  std::string obstacle;
  std::unique_ptr<RankedSpace> space = make_ranked_space(graph, max_table_moves, &obstacle);
  if (space == nullptr) throw ArgumentError("engine", "bitarray does not apply: " + obstacle);
  return space;
}

}  // namespace

std::unique_ptr<RankedSpace> make_ranked_space(const BfsGraph& graph, int max_table_moves,
                                               std::string* obstacle) {
  const GeneratorSet& set = graph.set;
  const StateLayout& layout = set.layout;
  const std::int64_t* begin = graph.start_states;
  const std::int64_t* end = begin + graph.num_start_states * layout.size;
  const auto refuse = [&](const std::string& reason) -> std::unique_ptr<RankedSpace> {
    *obstacle = reason;
    return nullptr;
  };
  if (set.kind == GeneratorKind::kMatrix) {
    std::unique_ptr<RankedSpace> space = unitriangular_space(graph);
    return space != nullptr
               ? std::move(space)
               : refuse("matrices other than upper unitriangular ones mod m, or too many of them");
  }
  if (starts_at_permutations(graph)) {
    if (layout.size > kLargestSymmetric) {
      return refuse(std::to_string(layout.size) + " elements; at most " +
                    std::to_string(kLargestSymmetric) + " can be ranked");
    }
    return symmetric_space(graph, max_table_moves, false);
  }
  if (std::all_of(begin, end, [](std::int64_t value) { return value == 0 || value == 1; })) {
    std::unique_ptr<RankedSpace> space = binary_space(graph);
    return space != nullptr ? std::move(space)
                            : refuse("0/1 words with unequal numbers of ones, or too many of them");
  }
  return refuse("the start state is no permutation of 0..n-1 and no 0/1 word");
}

std::size_t bitarray_bytes(const RankedSpace& space, int planes, int num_threads) {
  const auto words = static_cast<std::size_t>(space.chunk_words());
  return CodePlanes::bytes(space.num_chunks(), space.chunk_words(), planes) +
         space.table_bytes(num_threads) + static_cast<std::size_t>(num_threads) * list_bytes(words);
}

BitarrayEngine::BitarrayEngine(const BfsGraph& graph, RankedSpace& space, int planes,
                               std::size_t max_bytes, int num_threads)
    : layout_(graph.set.layout),
      space_(space),
      num_threads_(std::max(num_threads, 1)),
      meter_([&] {
        const std::size_t needed = bitarray_bytes(space, planes, std::max(num_threads, 1));
        if (max_bytes != 0 && needed > max_bytes) {
          throw MemoryLimitError("max_bytes: the bitarray engine needs " + std::to_string(needed) +
                                     " bytes for this graph, got " + std::to_string(max_bytes) +
                                     "; the external engine would fit",
                                 needed, max_bytes, "external");
        }
        return max_bytes;
      }()),
      planes_(space.num_chunks(), space.chunk_words(), planes, num_threads_ > 1, &meter_) {
  space_.prepare(num_threads_, &meter_);
  meter_.add(static_cast<std::size_t>(num_threads_) *
             list_bytes(static_cast<std::size_t>(space.chunk_words())));
}

std::int64_t BitarrayEngine::start(const BfsGraph& graph) {
  for (std::int64_t s = 0; s < graph.num_start_states; ++s) {
    const RankedState place = space_.rank(graph.start_states + s * layout_.size, "start_states");
    planes_.merge_bit(place.chunk, place.bit);
  }
  const std::int64_t size = planes_.next_size();
  planes_.commit(num_threads_);
  return size;
}

std::int64_t BitarrayEngine::expand(SearchControl& control) {
  struct Frontier {
    std::vector<std::uint16_t> list;
    std::vector<std::uint64_t> bitmap;
  };
  std::vector<Frontier> frontiers(static_cast<std::size_t>(num_threads_));
  const std::int64_t chunks = planes_.num_chunks();
  parallel_for((chunks + kChunkGroup - 1) / kChunkGroup, num_threads_,
               [&](std::int64_t group, int worker) {
                 control.poll(worker);
                 Frontier& frontier = frontiers[static_cast<std::size_t>(worker)];
                 frontier.list.resize(static_cast<std::size_t>(planes_.chunk_words()) * 64);
                 frontier.bitmap.resize(static_cast<std::size_t>(planes_.chunk_words()));
                 const std::int64_t last = std::min((group + 1) * kChunkGroup, chunks);
                 for (std::int64_t chunk = group * kChunkGroup; chunk < last; ++chunk) {
                   if (planes_.frontier_size(chunk) == 0) continue;
                   const std::int64_t count =
                       planes_.extract_locked(chunk, frontier.list.data(), frontier.bitmap.data());
                   space_.expand(chunk, frontier.list.data(), count, frontier.bitmap.data(),
                                 planes_, worker);
                 }
               });
  return planes_.next_size();
}

void BitarrayEngine::copy_layer(std::uint64_t* states) const {
  std::int64_t total = 0;
  std::vector<std::int64_t> values;
  for_frontier([&](std::int64_t chunk, const std::uint16_t* list, std::int64_t count) {
    values.resize(static_cast<std::size_t>(count * layout_.size));
    space_.decode(chunk, list, count, values.data());
    pack_states(layout_, count, values.data(), states + total * layout_.words(), 1);
    total += count;
  });
  sort_states(layout_, total, states, false, num_threads_);
}

std::string bitarray_obstacle(const BfsGraph& graph) {
  check_graph(graph);
  std::string obstacle;
  make_ranked_space(graph, 3, &obstacle);
  return obstacle;
}

BfsResult bfs_bitarray(const BfsGraph& graph, const BitarrayOptions& options,
                       const BfsLimits& limits, const BfsCallbacks& callbacks, int num_threads) {
  check_graph(graph);
  if (options.planes != 2 && options.planes != 3) {
    throw ArgumentError("planes", "expected 2 or 3, got " + std::to_string(options.planes));
  }
  SearchControl control(limits, callbacks);
  const std::unique_ptr<RankedSpace> space = require_space(graph, options.max_table_moves);
  BitarrayEngine engine(graph, *space, options.planes, limits.max_bytes, num_threads);
  const std::int64_t size = engine.start(graph);
  return search_levels(engine, control, {size});
}

}  // namespace rankone::cpu

namespace rankone {

BfsMemory bfs_memory(const BfsGraph& graph, std::int64_t expected_states) {
  cpu::check_graph(graph);
  BfsMemory memory;
  const std::vector<std::int64_t> inverses = inverse_generators(graph.set);
  const bool directed = std::any_of(inverses.begin(), inverses.end(),
                                    [](std::int64_t inverse) { return inverse < 0; });
  std::string obstacle;
  const std::unique_ptr<cpu::RankedSpace> space = cpu::make_ranked_space(graph, 3, &obstacle);
  if (space != nullptr) {
    memory.bitarray = cpu::bitarray_bytes(*space, 2, 1);
    memory.bitarray_codes = cpu::bitarray_bytes(*space, 3, 1);
    const auto words = static_cast<std::size_t>(space->num_chunks()) *
                       static_cast<std::size_t>(space->chunk_words());
    if (cpu::starts_at_permutations(graph)) memory.distance_table = words * (directed ? 64 : 16);
    // Every state that can be numbered is a bound where the order is not known.
    if (expected_states == 0) expected_states = static_cast<std::int64_t>(words * 64);
  }
  const auto row = static_cast<std::size_t>(graph.set.layout.words()) * 8;
  const auto states = static_cast<std::size_t>(expected_states);
  // At worst three layers hold every state; a directed search has them in a table 0.35 to 0.7 full,
  // and again in two layers. A third more for candidates.
  memory.hash = (directed ? states * 4 : states * 4 / 3) * row + (std::size_t{16} << 20);
  memory.external = (std::size_t{64} << 20) + row * (std::size_t{1} << 16);
  memory.external_disk = states * row * (directed ? 1 : 2) +
                         states / 4 * row * static_cast<std::size_t>(graph.set.num_generators);
  return memory;
}

}  // namespace rankone
