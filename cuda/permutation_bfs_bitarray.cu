// The bitarray engine on the device: two bits for every permutation of at most 15 elements, found
// by rank (permutation_bfs_ranks.cuh).
//
// Two planes, `seen` and `marked`: unseen 00, done 10, current layer 11, next layer 01. During a
// level `seen` is only read, and `marked` gets bits of unseen states alone, by an atomic or whose
// result nobody waits for; so the current layer can be read from the planes while the next is
// written beside it, in any order of blocks. Between levels one pass over the planes turns the next
// layer into the current one and counts it, chunk by chunk.
//
// A block expands one chunk: the neighbours of its states lie in few other chunks, so that what is
// read of `seen` stays in the second cache. Each neighbour is ranked anew, about a hundred integer
// instructions; the CPU's tables of prefix ranks would save most of them, but the units that
// execute them wait for memory here, and the tables would take the cache that the planes need.
#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "permutation_bfs_generators.cuh"
#include "permutation_bfs_ranks.cuh"
#include "permutation_bitarray_tasks.h"
#include "permutation_ranked_space.h"
#include "primitives/warp.cuh"

namespace rankone::cuda {
namespace {

constexpr int kWordBits = 32;
/// Words that a warp turns into a list at a time.
constexpr int kListWords = kWarpSize;
/// Neighbours of one launch, if all states of its chunks were in the layer: under a second.
constexpr std::int64_t kLaunchEdges = std::int64_t{1} << 33;
/// States that are unpacked and copied to the host at a time.
constexpr std::int64_t kGatherStates = std::int64_t{1} << 18;

struct Space {
  int size = 0, prefix = 0;
  std::uint32_t chunks = 0;
  /// Words of a chunk in a plane, a multiple of four: 16 bytes are read at a time.
  int stride = 0;

  explicit Space(std::int64_t elements)
      : size(static_cast<int>(elements)), prefix(std::min(size, kRankPrefix)), chunks(1) {
    for (int i = prefix; i < size; ++i) chunks *= static_cast<std::uint32_t>(i + 1);
    const auto words = static_cast<int>((factorial(prefix) + kWordBits - 1) / kWordBits);
    stride = (words + 3) / 4 * 4;
  }
  std::size_t plane_words() const {
    return static_cast<std::size_t>(chunks) * static_cast<std::size_t>(stride);
  }
};

struct PlaneView {
  std::uint32_t* seen;
  std::uint32_t* marked;
  std::uint32_t* counts;  // states of the current layer in each chunk
};

/// Whether the state was unseen before this level.
__device__ __forceinline__ bool mark(const PlaneView& planes, const Space& space, Rank rank) {
  const std::int64_t word = static_cast<std::int64_t>(rank.chunk) * space.stride +
                            static_cast<std::int64_t>(rank.bit / kWordBits);
  const std::uint32_t bit = 1u << (rank.bit % kWordBits);
  if ((planes.seen[word] & bit) != 0) return false;
  atomic_or(planes.marked + word, bit);
  return true;
}

/// Prefix ranks of a warp's states, and the walk over the current layer of a chunk that fills them:
/// visit(bit) is called by full warps where there are enough states.
struct StateLists {
  std::uint16_t bits[kBfsWarps][kListWords * kWordBits];
};

template <typename Visit>
__device__ void for_layer_of_chunk(const PlaneView& planes, const Space& space, std::uint32_t chunk,
                                   StateLists& lists, const Visit& visit) {
  std::uint16_t* list = lists.bits[warp_id()];
  const int lane = lane_id();
  const std::int64_t base = static_cast<std::int64_t>(chunk) * space.stride;
  for (int first = warp_id() * kListWords; first < space.stride; first += kBfsWarps * kListWords) {
    const int word = first + lane;
    std::uint32_t states = 0;
    if (word < space.stride) {
      states = planes.seen[base + word] & load_volatile(planes.marked + base + word);
    }
    const int own = population_count(states);
    int end = own;  // inclusive sum over the lanes
#pragma unroll
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      const int below = shuffle_up(end, distance);
      if (lane >= distance) end += below;
    }
    const int total = shuffle_idx(end, kWarpSize - 1);
    for (int at = end - own; states != 0; states &= states - 1) {
      list[at++] = static_cast<std::uint16_t>(word * kWordBits + lowest_bit(states));
    }
    warp_sync();
    for (int i = lane; i < total; i += kWarpSize) visit(list[i]);
    warp_sync();
  }
}

struct LevelArguments {
  GeneratorView generators;
  Space space;
  PlaneView planes;
  std::uint32_t first_chunk;
  unsigned long long* total;  // of marks, repeats included; of copied states
  std::uint64_t* states;      // copies
};

__global__ void __launch_bounds__(kBfsThreads)
    expand_chunks(__grid_constant__ const LevelArguments arguments) {
  const Space& space = arguments.space;
  const std::uint32_t chunk = arguments.first_chunk + blockIdx.x;
  if (arguments.planes.counts[chunk] == 0) return;
  const ChunkValues values = chunk_values(chunk, space.size, space.prefix);
  unsigned marks = 0;
  for_layer_of_chunk(
      arguments.planes, space, chunk, shared_memory<StateLists>(), [&](std::uint32_t bit) {
        const std::uint64_t state = unrank(values, bit, space.prefix);
        for (int g = 0; g < arguments.generators.count; ++g) {
          const std::uint64_t next = permuted(arguments.generators, g, state);
          marks += mark(arguments.planes, space, rank_of(next, space.size, space.prefix));
        }
      });
  add_counts(arguments.total, marks);
}

__global__ void __launch_bounds__(kBfsThreads)
    gather_chunks(__grid_constant__ const LevelArguments arguments) {
  const Space& space = arguments.space;
  const std::uint32_t chunk = arguments.first_chunk + blockIdx.x;
  if (arguments.planes.counts[chunk] == 0) return;
  const ChunkValues values = chunk_values(chunk, space.size, space.prefix);
  for_layer_of_chunk(arguments.planes, space, chunk, shared_memory<StateLists>(),
                     [&](std::uint32_t bit) {
                       const unsigned long long place = atomic_add(arguments.total, 1ull);
                       arguments.states[place] = unrank(values, bit, space.prefix);
                     });
}

struct CommitArguments {
  PlaneView planes;
  std::uint32_t chunks;
  int stride;
  unsigned long long* total;
};

/// marked &= ~seen, seen |= marked: the next layer becomes the current one, a warp a chunk.
__global__ void __launch_bounds__(kBfsThreads)
    commit_chunks(__grid_constant__ const CommitArguments arguments) {
  const int lane = lane_id();
  const std::int64_t warps = grid_threads() / kWarpSize;
  const int quads = arguments.stride / 4;
  unsigned long long total = 0;
  for (std::int64_t chunk = grid_thread() / kWarpSize; chunk < arguments.chunks; chunk += warps) {
    auto* seen = reinterpret_cast<uint4*>(arguments.planes.seen + chunk * arguments.stride);
    auto* marked = reinterpret_cast<uint4*>(arguments.planes.marked + chunk * arguments.stride);
    int count = 0;
#pragma unroll 2
    for (int i = lane; i < quads; i += kWarpSize) {
      const uint4 marks = marked[i];
      if ((marks.x | marks.y | marks.z | marks.w) == 0) continue;
      const uint4 old = seen[i];
      const uint4 fresh =
          make_uint4(marks.x & ~old.x, marks.y & ~old.y, marks.z & ~old.z, marks.w & ~old.w);
      marked[i] = fresh;
      const int found = population_count(fresh.x) + population_count(fresh.y) +
                        population_count(fresh.z) + population_count(fresh.w);
      if (found == 0) continue;
      count += found;
      seen[i] = make_uint4(old.x | fresh.x, old.y | fresh.y, old.z | fresh.z, old.w | fresh.w);
    }
    count = warp_sum(count);
    if (lane == 0) {
      arguments.planes.counts[chunk] = static_cast<std::uint32_t>(count);
      total += static_cast<unsigned long long>(count);
    }
  }
  add_counts(arguments.total, total);
}

struct MarkArguments {
  Space space;
  PlaneView planes;
  const Rank* ranks;
  std::int64_t count;
};

__global__ void __launch_bounds__(kBfsThreads)
    mark_ranks(__grid_constant__ const MarkArguments arguments) {
  for (std::int64_t i = grid_thread(); i < arguments.count; i += grid_threads()) {
    mark(arguments.planes, arguments.space, arguments.ranks[i]);
  }
}

/// The generators as they act on words of four bits an element, whatever the graph's own width.
GeneratorSet ranked_set(const GeneratorSet& set) {
  GeneratorSet ranked = set;
  ranked.layout.bits = kRankBits;
  return ranked;
}

/// Room for as many states as are copied at a time, and for any one chunk's.
std::size_t gather_states(const Space& space) {
  const auto all = static_cast<std::size_t>(space.chunks) * factorial(space.prefix);
  return std::min(all, static_cast<std::size_t>(kGatherStates));
}

std::size_t engine_bytes(const BfsGraph& graph) {
  const Space space(graph.set.layout.size);
  const auto degree = static_cast<std::size_t>(graph.set.num_generators);
  const auto size = static_cast<std::size_t>(space.size);
  return space.plane_words() * 8 + std::size_t{space.chunks} * 4 + gather_states(space) * 8 + 8 +
         degree * (size * sizeof(cpu::MoveTerm) + 16) + 16 +
         static_cast<std::size_t>(graph.num_start_states) * sizeof(Rank);
}

class BitarraySearch {
 public:
  BitarraySearch(const BfsGraph& graph, std::size_t max_bytes, const DeviceAllocator& allocator,
                 cudaStream_t stream)
      : layout_(graph.set.layout),
        space_(layout_.size),
        memory_(allocator, max_bytes, stream),
        generators_(cpu::CompiledGenerators(ranked_set(graph.set), true), cpu::Tags(), &memory_),
        counter_(&memory_),
        multiprocessors_(device_limits().multiprocessors),
        planes_(&memory_, 2 * space_.plane_words()),
        counts_(&memory_, space_.chunks),
        gathered_(&memory_, gather_states(space_)) {
    planes_.fill(0);
    counts_.fill(0);
    std::vector<Rank> ranks;
    std::vector<std::uint8_t> state(static_cast<std::size_t>(space_.size));
    for (std::int64_t s = 0; s < graph.num_start_states; ++s) {
      for (std::size_t i = 0; i < state.size(); ++i) {
        state[i] = static_cast<std::uint8_t>(
            graph.start_states[s * layout_.size + static_cast<std::int64_t>(i)]);
      }
      const cpu::RankedState place =
          cpu::bitarray_kernels().rank_permutation(state.data(), space_.size, space_.prefix);
      ranks.push_back({static_cast<std::uint32_t>(place.chunk), place.bit});
    }
    const DeviceArray<Rank> copies(&memory_, ranks.data(), ranks.size());
    const auto count = static_cast<std::int64_t>(ranks.size());
    launch(mark_ranks, strided(count, multiprocessors_, 0, stream, "permutation_bfs_mark_ranks"),
           {space_, view(), copies.data(), count});
    turn_planes();
  }

  const StateLayout& layout() const { return layout_; }
  std::int64_t layer_size() const { return size_; }
  std::size_t bytes() const { return memory_.meter.used(); }
  std::size_t peak_bytes() const { return memory_.meter.peak(); }

  std::int64_t expand(cpu::SearchControl& control) {
    const std::int64_t edges =
        static_cast<std::int64_t>(factorial(space_.prefix)) * generators_.view().count;
    const std::int64_t group = std::max<std::int64_t>(kLaunchEdges / edges, multiprocessors_);
    const std::int64_t chunks = space_.chunks;
    LevelArguments arguments{generators_.view(), space_, view(), 0, counter_.cleared(), nullptr};
    for (std::int64_t first = 0; first < chunks; first += group) {
      arguments.first_chunk = static_cast<std::uint32_t>(first);
      launch(expand_chunks,
             blocks(std::min(group, chunks - first), "permutation_bfs_expand_chunks"), arguments);
      if (first + group < chunks) counter_.read();  // waits, so that launches do not pile up
      control.poll(0);
    }
    // A level that found nothing leaves the last layer as it is.
    return counter_.read() == 0 ? 0 : turn_planes();
  }
  /// The layer was counted as it became the current one.
  void commit() {}

  void copy_layer(std::uint64_t* states) {
    std::vector<std::uint32_t> counts(space_.chunks);
    copy_to_host(counts.data(), counts_.data(), counts.size() * 4, memory_.stream);
    const auto room = static_cast<std::int64_t>(gathered_.size());
    std::int64_t copied = 0;
    for (std::uint32_t first = 0; first < space_.chunks;) {
      if (counts[first] == 0) {
        ++first;
        continue;
      }
      std::uint32_t last = first;
      std::int64_t size = 0;
      for (; last < space_.chunks && size + counts[last] <= room; ++last) size += counts[last];
      copied += gather(first, last - first, size, states + copied * layout_.words());
      first = last;
    }
    const auto threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    cpu::sort_states(layout_, copied, states, false, threads);
  }

 private:
  PlaneView view() const {
    return {planes_.data(), planes_.data() + space_.plane_words(), counts_.data()};
  }
  LaunchConfig blocks(std::int64_t count, const char* name) const {
    return {dim3(static_cast<unsigned>(count)), dim3(kBfsThreads), sizeof(StateLists),
            memory_.stream, name};
  }

  std::int64_t turn_planes() {
    const CommitArguments arguments{view(), space_.chunks, space_.stride, counter_.cleared()};
    launch(commit_chunks,
           strided(std::int64_t{space_.chunks} * kWarpSize, multiprocessors_, 0, memory_.stream,
                   "permutation_bfs_commit_chunks"),
           arguments);
    return size_ = counter_.read();
  }

  std::int64_t gather(std::uint32_t first, std::uint32_t chunks, std::int64_t size,
                      std::uint64_t* states) {
    launch(gather_chunks, blocks(chunks, "permutation_bfs_gather_chunks"),
           {generators_.view(), space_, view(), first, counter_.cleared(), gathered_.data()});
    std::vector<std::uint64_t> packed(static_cast<std::size_t>(size));
    copy_to_host(packed.data(), gathered_.data(), packed.size() * 8, memory_.stream);
    std::vector<std::int64_t> values(static_cast<std::size_t>(size * layout_.size));
    cpu::unpack_states({layout_.size, kRankBits}, size, packed.data(), values.data(), 1);
    cpu::pack_states(layout_, size, values.data(), states, 1);
    return size;
  }

  const StateLayout layout_;
  const Space space_;
  DeviceMemory memory_;
  const DeviceGenerators generators_;
  DeviceCounter counter_;
  const int multiprocessors_;
  DeviceArray<std::uint32_t> planes_, counts_;
  DeviceArray<std::uint64_t> gathered_;
  std::int64_t size_ = 0;
};

}  // namespace

std::string bitarray_obstacle(const BfsGraph& graph) {
  cpu::check_graph(graph);
  if (!cpu::starts_at_permutations(graph)) {
    return "on CUDA it ranks permutations alone, and the start state is no permutation of 0..n-1";
  }
  if (graph.set.layout.size > kMostRanked) {
    return std::to_string(graph.set.layout.size) + " elements; at most " +
           std::to_string(kMostRanked) + " can be ranked";
  }
  return "";
}

BfsMemory bfs_memory(const BfsGraph& graph, std::int64_t expected_states) {
  BfsMemory memory;
  if (bitarray_obstacle(graph).empty()) {
    memory.bitarray = engine_bytes(graph);
    if (expected_states == 0) {
      const Space space(graph.set.layout.size);
      expected_states = std::int64_t{space.chunks} * factorial(space.prefix);
    }
  }
  const std::vector<std::int64_t> inverses = inverse_generators(graph.set);
  const bool directed = std::any_of(inverses.begin(), inverses.end(),
                                    [](std::int64_t inverse) { return inverse < 0; });
  const auto words = static_cast<std::size_t>(graph.set.layout.words());
  // A slot is used to 11/16 and a table made half again too large; several words have rows, too.
  const std::size_t bytes = 18 + (words > 1 ? 12 * words : 0);
  // At worst three layers hold every state; a directed search has those of a layer twice.
  memory.hash = static_cast<std::size_t>(expected_states) * bytes * (directed ? 2 : 1) +
                (std::size_t{16} << 20);
  return memory;
}

BfsResult bfs_bitarray(const BfsGraph& graph, const BfsLimits& limits,
                       const BfsCallbacks& callbacks, const DeviceAllocator& allocator,
                       void* stream) {
  const std::string obstacle = bitarray_obstacle(graph);
  if (!obstacle.empty()) throw ArgumentError("engine", "bitarray does not apply: " + obstacle);
  const std::size_t needed = engine_bytes(graph);
  const auto refuse = [&](const std::string& got) {
    throw MemoryLimitError("max_bytes: the bitarray engine needs " + std::to_string(needed) +
                               " bytes on the device for this graph, got " + got,
                           needed, limits.max_bytes, "");
  };
  if (limits.max_bytes != 0 && needed > limits.max_bytes) refuse(std::to_string(limits.max_bytes));
  cpu::SearchControl control(limits, callbacks);
  std::unique_ptr<BitarraySearch> engine;
  try {
    engine = std::make_unique<BitarraySearch>(graph, limits.max_bytes, allocator,
                                              static_cast<cudaStream_t>(stream));
  } catch (const cpu::SearchEnd&) {
    refuse("a device without that room");
  }
  return cpu::search_levels(*engine, control, {engine->layer_size()});
}

}  // namespace rankone::cuda
