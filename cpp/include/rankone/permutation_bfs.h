// Breadth-first search over permutations and modular matrices, the fourth kernel family.
//
// A state is a vector of `size` small integers. A permutation generator p acts on positions,
//   new[i] = old[p[i]],
// a matrix generator A on a (rows, columns) state from the left, new = A old mod m. The graph has
// the states reachable from the start states as vertices and v -> g(v) as edges; layer d holds the
// states at distance d. Where the generators are closed under inverses the neighbours of layer d
// lie in layers d-1, d, d+1 and two layers are remembered; otherwise every layer is.
//
// Three engines give the same layers:
//   hash      any generators; packed states in hash tables; full keys stored and compared
//   bitarray  whole symmetric groups, 0/1 words and unitriangular matrices; 2 or 3 bits a state
//   external  any generators; sorted files, of which a level is streamed and merged
// On CUDA there are the first, and the second for symmetric groups.
//
// The graphs and their growth: arXiv 2509.19162. Packing, engines and the distance table are this
// project's own design. Results depend neither on the number of threads nor on the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "rankone/core.h"

namespace rankone {

/// Most 64-bit words of a packed state.
inline constexpr std::int64_t kMaxStateWords = 1024;

// ---- states ----

/// How a state is packed: element i in bits [i * bits, (i + 1) * bits) of a row of 64-bit words,
/// lowest bit first, unused high bits zero. `bits` divides 64, so no element straddles two words.
struct StateLayout {
  std::int64_t size = 0;  // elements of a state
  int bits = 4;           // 1, 2, 4, 8, 16, 32 or 64

  std::int64_t words() const { return (size * bits + 63) / 64; }
};

/// The narrowest width that holds 0..max_value (any int64 when max_value is negative).
int state_bits(std::int64_t max_value);

enum class GeneratorKind : int { kPermutation = 0, kMatrix = 1 };

/// Generators over packed states.
struct GeneratorSet {
  GeneratorKind kind = GeneratorKind::kPermutation;
  StateLayout layout;
  std::int64_t num_generators = 0;
  /// (num_generators, size) permutations in one-line form, or (num_generators, rows, rows)
  /// matrices; contiguous.
  const std::int64_t* generators = nullptr;
  std::int64_t rows = 0;     // matrices: size = rows * columns
  std::int64_t modulus = 0;  // matrices: 0 means 64-bit arithmetic with wrap-around, bits == 64
};

/// A graph: generators and where distances are counted from.
struct BfsGraph {
  GeneratorSet set;
  const std::int64_t* start_states = nullptr;  // (num_start_states, size), unpacked, contiguous
  std::int64_t num_start_states = 0;
};

// ---- searches ----

enum class BfsStatus : int {
  kComplete = 0,
  kMaxLevel = 1,
  kMaxStates = 2,
  kMaxLayerSize = 3,
  kTimeLimit = 4,
  kStopped = 5,      // on_level said so
  kInterrupted = 6,  // poll said so
  kMemoryLimit = 7,  // the next level would not have fitted max_bytes
  kDiskLimit = 8,    // the next level would not have fitted the scratch folder
};

/// "complete", "max_level", ...
const char* bfs_status_name(BfsStatus status);

/// One complete layer, as on_level sees it. Valid during the call.
struct BfsLevel {
  std::int64_t level = 0;
  std::int64_t size = 0;   // states in this layer
  std::int64_t total = 0;  // states in this and all earlier layers
  double seconds = 0;      // since the search began
  std::size_t bytes = 0;   // held by the engine now
  StateLayout layout;
  /// Writes the layer's `size` packed states, sorted lexicographically by their elements.
  std::function<void(std::uint64_t* states)> copy_states;
};

struct BfsLimits {
  std::int64_t max_level = INT64_MAX;       // the last level to compute
  std::int64_t max_states = INT64_MAX;      // stop after the level that reaches so many
  std::int64_t max_layer_size = INT64_MAX;  // a larger layer is not explored
  double max_seconds = 0;                   // 0: no limit; a level under way is dropped
  std::size_t max_bytes = 0;                // 0: no limit; candidate buffers take at most a quarter
};

struct BfsCallbacks {
  /// After each complete layer, level 0 included, on the calling thread; true stops the search.
  std::function<bool(const BfsLevel&)> on_level;
  /// The last complete layer, once, when the search ends.
  std::function<void(const BfsLevel&)> on_last;
  /// Every tenth of a second or so, on the calling thread; true drops the level under way and ends
  /// the search.
  std::function<bool()> poll;
};

struct BitarrayOptions {
  /// 2: unseen, done and two frontier codes. 3: the distance mod 3 and a frontier bit.
  int planes = 2;
  /// Chunk tables for generators that move at most so many values between prefix and suffix; more
  /// are ranked state by state. At most 3; tests lower it.
  int max_table_moves = 3;
};

struct ExternalOptions {
  std::string scratch_dir;           // created where missing
  bool resume = false;               // go on from the manifest found there
  bool keep_layers = true;           // false: a layer's files go once no later level reads them
  std::int64_t expected_states = 0;  // 0: not known; else the disk they need is checked first
};

struct BfsResult {
  BfsStatus status = BfsStatus::kComplete;
  std::vector<std::int64_t> layer_sizes;
  double seconds = 0;
  std::size_t peak_bytes = 0;  // of the engine's own arrays
};

/// A search that cannot fit its limit. Thrown before anything large is allocated.
class MemoryLimitError : public Error {
 public:
  MemoryLimitError(const std::string& message, std::size_t needed, std::size_t limit,
                   std::string engine)
      : Error(message),
        needed_bytes(needed),
        limit_bytes(limit),
        fitting_engine(std::move(engine)) {}
  std::size_t needed_bytes;
  std::size_t limit_bytes;
  std::string fitting_engine;  // the engine that would fit, "" when none would
};

/// What a search will hold, in bytes. A number of states that is not known is given as 0.
struct BfsMemory {
  std::size_t hash = 0;  // at most, a quarter of it for candidates; fewer where layers are small
  std::size_t bitarray = 0;        // two bits a state; 0: the engine does not apply
  std::size_t bitarray_codes = 0;  // three bits, while a distance table is made
  std::size_t distance_table = 0;  // two bits, or a byte where the graph is directed
  std::size_t external = 0;        // memory that it needs at least
  std::size_t external_disk = 0;
};
BfsMemory bfs_memory(const BfsGraph& graph, std::int64_t expected_states);

/// For each generator the number of its inverse, -1 where the set has none.
std::vector<std::int64_t> inverse_generators(const GeneratorSet& set);

namespace cpu {

/// "generic", "avx2" or "avx512".
const char* permutation_bfs_instruction_set();

// ---- operations on many states; rows are contiguous ----

/// values (count, size) to states (count, words). A value outside the width throws ArgumentError.
void pack_states(const StateLayout& layout, std::int64_t count, const std::int64_t* values,
                 std::uint64_t* states, int num_threads);
void unpack_states(const StateLayout& layout, std::int64_t count, const std::uint64_t* states,
                   std::int64_t* values, int num_threads);

/// neighbors (num_generators, count, words): generator-major, row g * count + j is generator g on
/// state j.
void apply_generators(const GeneratorSet& set, std::int64_t count, const std::uint64_t* states,
                      std::uint64_t* neighbors, int num_threads);

/// The search's own hash of each state: a bijection of the word where one word holds the state,
/// chained over the words otherwise.
void hash_states(const StateLayout& layout, std::int64_t count, const std::uint64_t* states,
                 std::uint64_t* hashes, int num_threads);

/// The linear hash h(s) = sum_i weights[i] s[i] mod 2^64 of every neighbour, without making one:
/// h(g(s)) = sum_k s[k] weights[g^-1[k]]. `states` (count, size) holds integers of `element_bytes`
/// 1 (unsigned), 2, 4 or 8 (signed); hashes (num_generators, count), generator-major.
void hash_neighbors(std::int64_t size, std::int64_t num_generators, const std::int64_t* generators,
                    const std::int64_t* weights, std::int64_t count, const void* states,
                    int element_bytes, std::int64_t* hashes, int num_threads);

/// Sorts states lexicographically by their elements; with `unique`, drops repeats. Returns how many
/// are left.
std::int64_t sort_states(const StateLayout& layout, std::int64_t count, std::uint64_t* states,
                         bool unique, int num_threads);

/// The row of each query in `sorted` (as sort_states leaves them), -1 where it is absent.
void find_states(const StateLayout& layout, std::int64_t count, const std::uint64_t* sorted,
                 std::int64_t num_queries, const std::uint64_t* queries, std::int64_t* rows,
                 int num_threads);

// ---- the engines ----

/// Throws ArgumentError for a generator that is no permutation, a state of the wrong values, or an
/// empty set; every engine calls it.
void check_graph(const BfsGraph& graph);

BfsResult bfs_hash(const BfsGraph& graph, const BfsLimits& limits, const BfsCallbacks& callbacks,
                   int num_threads);

/// One process's share of a search over several: it owns the states whose hash falls to `rank`.
/// A level is: expand the current layer in batches, send each bucket to its owner, insert what
/// arrives, advance once nobody has anything left.
class HashShare {
 public:
  HashShare(const BfsGraph& graph, int rank, int world_size, std::size_t max_bytes,
            int num_threads);
  ~HashShare();
  HashShare(const HashShare&) = delete;
  HashShare& operator=(const HashShare&) = delete;

  std::int64_t layer_size() const;  // of the current layer, in this share
  std::int64_t next_size() const;   // of what was inserted since the last advance, repeats dropped
  int world_size() const;
  std::int64_t words() const;
  std::size_t bytes() const;
  std::size_t peak_bytes() const;

  /// Neighbours of the states [first, first + count) of the current layer, local repeats dropped,
  /// ordered by owner. counts has world_size entries. Valid until the next call of expand. A state
  /// carries, in the spare high bits of its last word, the generators that lead back; senders and
  /// receivers need not know.
  const std::uint64_t* expand(std::int64_t first, std::int64_t count, std::int64_t* counts);

  /// The rank that owns each of `count` states.
  void owners(const std::uint64_t* states, std::int64_t count, std::int64_t* ranks) const;

  /// Takes states that this share owns, in any order, repeats allowed.
  void insert(const std::uint64_t* states, std::int64_t count);

  /// Makes what was inserted the current layer and returns its size.
  std::int64_t advance();

  /// The current layer, sorted lexicographically.
  void copy_layer(std::uint64_t* states) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Whether the engine applies: one reason why not, or "".
std::string bitarray_obstacle(const BfsGraph& graph);

BfsResult bfs_bitarray(const BfsGraph& graph, const BitarrayOptions& options,
                       const BfsLimits& limits, const BfsCallbacks& callbacks, int num_threads);

/// The exact distance from every permutation of n elements to the start state, in two bits (the
/// distance mod 3, where generators are closed under inverses) or one byte.
class DistanceTable {
 public:
  /// Runs a whole bitarray search. The start states must be permutations.
  static std::unique_ptr<DistanceTable> build(const BfsGraph& graph, const BfsLimits& limits,
                                              const BfsCallbacks& callbacks, int num_threads,
                                              BfsResult* result);
  /// From arrays that `codes` and `num_words` once gave.
  static std::unique_ptr<DistanceTable> restore(const BfsGraph& graph, const std::uint64_t* codes,
                                                std::int64_t num_words);
  ~DistanceTable();

  std::int64_t size() const;  // elements of a state
  bool directed() const;
  /// The table itself: two planes of num_words / 2 words, or the bytes of a directed table; states
  /// in the order of their ranks.
  const std::uint64_t* codes() const;
  std::int64_t num_words() const;

  /// distances (count): of states (count, size), values unpacked; -1 for what cannot reach the
  /// start. A state that is no permutation throws ArgumentError.
  void distances(std::int64_t count, const std::int64_t* states, std::int64_t* distances,
                 int num_threads) const;
  /// Generators that lead from `state` to the start, as few as can be.
  std::vector<std::int64_t> path(const std::int64_t* state) const;

 private:
  DistanceTable();
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Layer files: <scratch_dir>/layer_<level>_<partition>.u64, rows of little-endian words, sorted.
/// <scratch_dir>/manifest.json is replaced whole after each level.
BfsResult bfs_external(const BfsGraph& graph, const ExternalOptions& options,
                       const BfsLimits& limits, const BfsCallbacks& callbacks, int num_threads);

}  // namespace cpu

namespace cuda {

/// Where an engine's device arrays come from: the caller's allocator, so that a program has one.
struct DeviceAllocator {
  /// The address of so many bytes on the current device, a multiple of 256; null: there is no room.
  std::function<void*(std::size_t bytes)> allocate;
  /// Takes back what `allocate` gave. Kernels under way on the stream may still use it, so it is
  /// reused on that stream alone. Must not throw.
  std::function<void(void* address)> release;
};

/// As their CPU namesakes, on the current device; pointers inside `graph` are host pointers, and
/// results return to the host. Work is ordered on `stream`, in launches of bounded length between
/// which `poll` is asked. max_bytes bounds device memory.
BfsResult bfs_hash(const BfsGraph& graph, const BfsLimits& limits, const BfsCallbacks& callbacks,
                   const DeviceAllocator& allocator, void* stream);
BfsResult bfs_bitarray(const BfsGraph& graph, const BfsLimits& limits,
                       const BfsCallbacks& callbacks, const DeviceAllocator& allocator,
                       void* stream);

/// Whether the bitarray engine applies: one reason why not, or "". It ranks permutations alone.
std::string bitarray_obstacle(const BfsGraph& graph);

/// What a search will hold on the device, in bytes: the fields hash and bitarray.
BfsMemory bfs_memory(const BfsGraph& graph, std::int64_t expected_states);

/// Every permutation on every packed state, all pointers on the device: `generators`
/// (num_generators, size), `states` (count, words) and `neighbors` (num_generators, count, words).
/// A value outside a generator's 0..size-1 gives a 0.
void apply_permutations(const StateLayout& layout, std::int64_t num_generators,
                        const std::int64_t* generators, std::int64_t count,
                        const std::uint64_t* states, std::uint64_t* neighbors, void* stream);
/// As its CPU namesake, all pointers on the device. A value outside 0..size-1 counts as weight 0.
void hash_neighbors(std::int64_t size, std::int64_t num_generators, const std::int64_t* generators,
                    const std::int64_t* weights, std::int64_t count, const void* states,
                    int element_bytes, std::int64_t* hashes, void* stream);

}  // namespace cuda
}  // namespace rankone
