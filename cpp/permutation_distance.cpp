// Distances of all permutations from a finished bitarray search.
//
// Neighbours differ by at most one where generators are closed under inverses, so the distance mod
// 3 says which are nearer, and the distance is the number of steps down to the start. A directed
// step may lead up to any distance below one more, so the directed table holds the distance itself,
// found by a search along the inverted generators.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "parallel.h"
#include "permutation_ranked_space.h"
#include "permutation_states.h"

namespace rankone::cpu {
namespace {

constexpr std::uint8_t kFar = 255;  // unreachable
constexpr std::int64_t kBlock = 256;

int nearer_code(int code) { return code == 1 ? 3 : code - 1; }

}  // namespace

class DistanceTable::Impl {
 public:
  explicit Impl(const BfsGraph& graph) {
    check_graph(graph);
    if (!starts_at_permutations(graph)) {
      throw ArgumentError("start_states",
                          "a distance table needs permutations of 0..n-1 as start states");
    }
    const std::vector<std::int64_t> inverses = inverse_generators(graph.set);
    directed = std::any_of(inverses.begin(), inverses.end(),
                           [](std::int64_t inverse) { return inverse < 0; });
    std::string obstacle;
    space = make_ranked_space(graph, 3, &obstacle);
    if (space == nullptr) {
      throw ArgumentError("start_states", "no distance table for " + obstacle);
    }
    size = graph.set.layout.size;
    for (std::int64_t s = 0; s < graph.num_start_states; ++s) {
      starts.push_back(space->rank(graph.start_states + s * size, "start_states"));
    }
    plane_words = space->num_chunks() * space->chunk_words();
    num_words = plane_words * (directed ? 8 : 2);
  }
  ~Impl() { std::free(codes); }

  /// 0: not reached; else 1 + distance mod 3, or the distance + 1.
  int code(const RankedState& state) const {
    if (directed) {
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(codes);
      return (bytes[state.chunk * space->chunk_words() * 64 + state.bit] + 1) & 255;
    }
    const std::int64_t word = state.chunk * space->chunk_words() + (state.bit >> 6);
    const int shift = state.bit & 63;
    return static_cast<int>(codes[word] >> shift & 1) |
           static_cast<int>(codes[plane_words + word] >> shift & 1) << 1;
  }
  bool is_start(const RankedState& state) const {
    return std::any_of(starts.begin(), starts.end(), [&](const RankedState& start) {
      return start.chunk == state.chunk && start.bit == state.bit;
    });
  }
  /// Moves one step nearer and returns the generator; -1 at a start state.
  std::int64_t step(RankedState& state) const {
    if (is_start(state)) return -1;
    const int wanted = directed ? code(state) - 1 : nearer_code(code(state));
    for (std::int64_t g = 0; g < space->num_generators(); ++g) {
      const RankedState next = space->neighbor(state, g);
      if (code(next) != wanted) continue;
      state = next;
      return g;
    }
    throw Error("distance table: no neighbour is nearer; the table does not belong to this graph");
  }
  std::int64_t distance(RankedState state) const {
    const int first = code(state);
    if (first == 0) return -1;
    if (directed) return first - 1;
    std::int64_t steps = 0;
    while (step(state) >= 0) ++steps;
    return steps;
  }

  std::unique_ptr<RankedSpace> space;
  bool directed = false;
  std::int64_t size = 0, plane_words = 0, num_words = 0;
  std::vector<RankedState> starts;
  std::uint64_t* codes = nullptr;
};

DistanceTable::DistanceTable() = default;
DistanceTable::~DistanceTable() = default;

std::unique_ptr<DistanceTable> DistanceTable::build(const BfsGraph& graph, const BfsLimits& limits,
                                                    const BfsCallbacks& callbacks, int num_threads,
                                                    BfsResult* result) {
  std::unique_ptr<DistanceTable> table(new DistanceTable());
  table->impl_ = std::make_unique<Impl>(graph);
  Impl& impl = *table->impl_;
  const std::unique_ptr<RankedSpace> search_space = symmetric_space(graph, 3, impl.directed);
  const std::size_t bytes = impl.directed ? static_cast<std::size_t>(impl.num_words) * 8 : 0;
  const int planes = impl.directed ? 2 : 3;
  const std::size_t needed =
      bytes + bitarray_bytes(*search_space, planes, std::max(num_threads, 1));
  if (limits.max_bytes != 0 && needed > limits.max_bytes) {
    throw MemoryLimitError("max_bytes: the distance table needs " + std::to_string(needed) +
                               " bytes while it is made, got " + std::to_string(limits.max_bytes),
                           needed, limits.max_bytes, "");
  }
  BitarrayEngine engine(graph, *search_space, planes, 0, num_threads);
  BfsCallbacks watched = callbacks;
  if (impl.directed) {
    impl.codes = static_cast<std::uint64_t*>(std::malloc(std::max<std::size_t>(bytes, 8)));
    if (impl.codes == nullptr) throw std::bad_alloc();
    std::memset(impl.codes, kFar, bytes);
    watched.on_level = [&](const BfsLevel& level) {
      if (level.level >= kFar) {
        throw Error("distance table: a distance above 254 does not fit a byte");
      }
      auto* distances = reinterpret_cast<std::uint8_t*>(impl.codes);
      engine.for_frontier([&](std::int64_t chunk, const std::uint16_t* list, std::int64_t count) {
        std::uint8_t* base = distances + chunk * search_space->chunk_words() * 64;
        for (std::int64_t i = 0; i < count; ++i)
          base[list[i]] = static_cast<std::uint8_t>(level.level);
      });
      return callbacks.on_level && callbacks.on_level(level);
    };
  }
  SearchControl control(limits, watched);
  const std::int64_t start_size = engine.start(graph);
  *result = search_levels(engine, control, {start_size});
  result->peak_bytes += bytes;
  if (!impl.directed) impl.codes = engine.planes().take_codes();
  return table;
}

std::unique_ptr<DistanceTable> DistanceTable::restore(const BfsGraph& graph,
                                                      const std::uint64_t* codes,
                                                      std::int64_t num_words) {
  std::unique_ptr<DistanceTable> table(new DistanceTable());
  table->impl_ = std::make_unique<Impl>(graph);
  Impl& impl = *table->impl_;
  if (num_words != impl.num_words) {
    throw ArgumentError("codes", "expected " + std::to_string(impl.num_words) +
                                     " words for this graph, got " + std::to_string(num_words));
  }
  const std::size_t bytes = static_cast<std::size_t>(num_words) * 8;
  impl.codes = static_cast<std::uint64_t*>(std::malloc(std::max<std::size_t>(bytes, 8)));
  if (impl.codes == nullptr) throw std::bad_alloc();
  std::copy_n(codes, num_words, impl.codes);
  return table;
}

std::int64_t DistanceTable::size() const { return impl_->size; }
bool DistanceTable::directed() const { return impl_->directed; }
const std::uint64_t* DistanceTable::codes() const { return impl_->codes; }
std::int64_t DistanceTable::num_words() const { return impl_->num_words; }

void DistanceTable::distances(std::int64_t count, const std::int64_t* states,
                              std::int64_t* distances, int num_threads) const {
  parallel_for((count + kBlock - 1) / kBlock, num_threads, [&](std::int64_t block, int) {
    for (std::int64_t i = block * kBlock; i < std::min(count, (block + 1) * kBlock); ++i) {
      distances[i] = impl_->distance(impl_->space->rank(states + i * impl_->size, "states"));
    }
  });
}

std::vector<std::int64_t> DistanceTable::path(const std::int64_t* state) const {
  RankedState place = impl_->space->rank(state, "state");
  if (impl_->code(place) == 0) {
    throw ArgumentError("state", "the start state cannot be reached from it");
  }
  std::vector<std::int64_t> steps;
  for (std::int64_t g = impl_->step(place); g >= 0; g = impl_->step(place)) steps.push_back(g);
  return steps;
}

}  // namespace rankone::cpu
