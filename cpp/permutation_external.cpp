// The external engine: layers as sorted files, of which a level is streamed.
//
// A level reads the current layer, scatters its neighbours over 16 partitions by the top bits of
// their hash, sorts them in memory and spills sorted runs; then each partition merges its runs,
// dropping repeats and what lies in the current and the previous layer (in any earlier one where
// the graph is directed, whose layers are joined in one file every 32 levels), and writes the next
// layer's file. All reading and writing is sequential. The manifest is replaced after each level,
// so a search that was killed goes on from its last layer.
#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "parallel.h"
#include "permutation_manifest.h"
#include "permutation_row_files.h"
#include "permutation_search.h"
#include "permutation_states.h"

namespace rankone::cpu {
namespace {

constexpr int kPartitionBits = kExternalPartitionBits;
constexpr std::size_t kPartitions = kExternalPartitions;
constexpr std::size_t kDefaultBytes = std::size_t{1} << 30;
constexpr std::size_t kSmallestBytes = std::size_t{16} << 20;
constexpr std::size_t kStreamBytes = std::size_t{256} << 10;
constexpr std::int64_t kBlockStates = 2048;
/// Layers of a directed graph that are kept apart: streams of a merge, open at once.
constexpr std::int64_t kLoneLayers = 32;

class ExternalEngine {
 public:
  ExternalEngine(const BfsGraph& graph, const ExternalOptions& options, std::size_t max_bytes,
                 int num_threads)
      : generators_(graph.set, true),
        words_(static_cast<std::size_t>(graph.set.layout.words())),
        folder_(options.scratch_dir),
        keeps_layers_(options.keep_layers),
        num_threads_(std::max(num_threads, 1)),
        max_bytes_(max_bytes != 0 ? max_bytes : kDefaultBytes),
        meter_(max_bytes) {
    manifest_.fingerprint = graph_fingerprint(graph);
    manifest_.words = static_cast<std::int64_t>(words_);
    manifest_.keeps_layers = keeps_layers_;
  }
  ~ExternalEngine() { remove_runs(); }

  const StateLayout& layout() const { return generators_.layout(); }
  std::size_t bytes() const { return meter_.used(); }
  std::size_t peak_bytes() const { return meter_.peak(); }
  const std::vector<std::int64_t>& layer_sizes() const { return manifest_.layer_sizes; }
  bool complete() const { return manifest_.complete; }
  bool has_layer(std::int64_t level) const { return level >= first_kept(); }

  /// Takes up the search of the manifest; false when there is none.
  bool resume() {
    const std::optional<Manifest> found = read_manifest(folder_);
    if (!found) return false;
    if (found->fingerprint != manifest_.fingerprint || found->words != manifest_.words) {
      throw ArgumentError("scratch_dir", folder_.string() + " holds the search of another graph");
    }
    manifest_ = *found;
    keeps_layers_ = manifest_.keeps_layers;
    for (std::size_t p = 0; p < kPartitions; ++p) {
      for (std::int64_t level = first_kept(); level <= last_level(); ++level) {
        check_file(layer_path(level, p), partition_size(level, p));
      }
      check_file(joined_path(manifest_.joined_level, p), joined_size(p));
    }
    remove_runs();
    return true;
  }

  void start(const BfsGraph& graph) {
    remove_search();
    const std::vector<std::uint64_t> rows = packed_start_states(graph);
    std::vector<std::vector<std::uint64_t>> parts(kPartitions);
    for (std::size_t i = 0; i < rows.size(); i += words_) {
      auto& part = parts[partition_of(&rows[i])];
      part.insert(part.end(), rows.begin() + static_cast<std::ptrdiff_t>(i),
                  rows.begin() + static_cast<std::ptrdiff_t>(i + words_));
    }
    pending_.assign(kPartitions, 0);
    for (std::size_t p = 0; p < kPartitions; ++p) {
      const auto count = static_cast<std::int64_t>(parts[p].size() / words_);
      sort_packed(static_cast<std::int64_t>(words_), count, parts[p].data(), true, 1);
      FileWriter writer(layer_path(0, p), kStreamBytes);
      writer.write(parts[p].data(), parts[p].size());
      writer.finish();
      pending_[p] = count;
    }
    record_layer();
  }

  std::int64_t expand(SearchControl& control) {
    check_space();
    try {
      make_runs(control);
      merge_runs(control);
    } catch (...) {
      drop_level();
      throw;
    }
    for (Runs& runs : runs_) runs = Runs{};
    remove_runs();
    std::int64_t size = 0;
    for (const std::int64_t count : pending_) size += count;
    if (size == 0) {
      manifest_.complete = true;
      write_manifest(folder_, manifest_, true);
    }
    return size;
  }

  void commit() {
    const std::int64_t kept = first_kept(), joined = manifest_.joined_level;
    const bool joins = !generators_.inverse_closed() && last_level() - joined >= kLoneLayers;
    if (joins) join_layers();
    record_layer();
    for (std::size_t p = 0; p < kPartitions; ++p) {
      if (joins) fs::remove(joined_path(joined, p));
      for (std::int64_t level = kept; level < first_kept(); ++level) {
        fs::remove(layer_path(level, p));
      }
    }
  }

  void copy_layer(std::uint64_t* states) const { copy_layer(last_level(), states); }
  void copy_layer(std::int64_t level, std::uint64_t* states) const {
    std::uint64_t* out = states;
    std::int64_t total = 0;
    for (std::size_t p = 0; p < kPartitions; ++p) {
      const fs::path path = layer_path(level, p);
      const auto count = static_cast<std::size_t>(partition_size(level, p)) * words_;
      if (count == 0) continue;
      const File file = open_file(path, "rb");
      if (std::fread(out, 8, count, file.get()) != count) fail("read", path);
      out += count;
      total += partition_size(level, p);
    }
    sort_states(layout(), total, states, false, num_threads_);
  }

 private:
  /// One partition's sorted runs: files, and the last one in memory.
  struct Runs {
    std::vector<fs::path> files;
    std::vector<std::uint64_t> last;
  };

  std::int64_t last_level() const {
    return static_cast<std::int64_t>(manifest_.layer_sizes.size()) - 1;
  }
  std::int64_t partition_size(std::int64_t level, std::size_t p) const {
    return manifest_.partition_sizes[static_cast<std::size_t>(level) * kPartitions + p];
  }
  std::size_t partition_of(const std::uint64_t* row) const {
    return static_cast<std::size_t>(hash_row(row, static_cast<std::int64_t>(words_)) >>
                                    (64 - kPartitionBits));
  }
  fs::path layer_path(std::int64_t level, std::size_t p) const {
    return folder_ / ("layer_" + std::to_string(level) + "_" + std::to_string(p) + ".u64");
  }

  fs::path joined_path(std::int64_t level, std::size_t p) const {
    return folder_ / ("joined_" + std::to_string(level) + "_" + std::to_string(p) + ".u64");
  }
  /// Of the layers up to joined_level.
  std::int64_t joined_size(std::size_t p) const {
    std::int64_t size = 0;
    for (std::int64_t level = 0; level <= manifest_.joined_level; ++level) {
      size += partition_size(level, p);
    }
    return size;
  }
  /// The first layer whose files are there: all, or those that a later level reads.
  std::int64_t first_kept() const {
    if (keeps_layers_) return 0;
    const std::int64_t lone =
        generators_.inverse_closed() ? last_level() - 1 : manifest_.joined_level + 1;
    return std::clamp<std::int64_t>(lone, 0, last_level());
  }
  void check_file(const fs::path& path, std::int64_t states) const {
    if (states == 0) return;
    const auto expected = static_cast<std::uintmax_t>(states) * words_ * 8;
    if (fs::exists(path) && fs::file_size(path) == expected) return;
    throw Error("scratch_dir: " + path.string() + " is missing or not of the size " +
                std::to_string(expected) + " that the manifest says");
  }

  /// Joins the layers up to the current one; the old joined files stay until the manifest is new.
  void join_layers() {
    const std::int64_t level = last_level();
    parallel_for(kPartitions, num_threads_, [&](std::int64_t task, int) {
      const auto p = static_cast<std::size_t>(task);
      std::vector<RowStream> streams;
      open_known(p, 0, stream_bytes(kLoneLayers + 2), streams);
      StreamHeap heap(streams, words_);
      FileWriter writer(joined_path(level, p), stream_bytes(kLoneLayers + 2));
      for (; !heap.empty(); heap.advance()) writer.write(heap.row(), words_);
      writer.finish();
    });
    manifest_.joined_level = level;
  }

  /// Streams of the joined layers and of the layers past them, from `first` on.
  void open_known(std::size_t p, std::int64_t first, std::size_t buffer,
                  std::vector<RowStream>& streams) const {
    streams.reserve(streams.size() + static_cast<std::size_t>(last_level() - first) + 2);
    if (joined_size(p) > 0 && first == 0) {
      streams.emplace_back(joined_path(manifest_.joined_level, p), words_, buffer, true);
    }
    for (std::int64_t level = std::max(first, manifest_.joined_level + 1); level <= last_level();
         ++level) {
      if (partition_size(level, p) == 0) continue;
      streams.emplace_back(layer_path(level, p), words_, buffer, true);
    }
  }
  /// Read and write buffers of one merge take at most a quarter of the memory.
  std::size_t stream_bytes(std::size_t num_streams) const {
    return std::clamp<std::size_t>(
        max_bytes_ / 4 / num_streams / static_cast<std::size_t>(num_threads_), 4096, kStreamBytes);
  }

  void record_layer() {
    std::int64_t size = 0;
    for (const std::int64_t count : pending_) size += count;
    manifest_.layer_sizes.push_back(size);
    manifest_.partition_sizes.insert(manifest_.partition_sizes.end(), pending_.begin(),
                                     pending_.end());
    write_manifest(folder_, manifest_, is_large(size));
  }
  bool is_large(std::int64_t states) const {
    return static_cast<std::size_t>(states) * words_ * 8 >= kDurableBytes;
  }

  /// Files of this engine's names that start so, and nothing else in the folder.
  void remove_files(const std::vector<std::string>& prefixes) const {
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_, ignored)) {
      const std::string name = entry.path().filename().string();
      const bool ours = name.ends_with(".u64") || name.ends_with(".u64.part");
      for (const std::string& prefix : prefixes) {
        if (ours && name.starts_with(prefix)) fs::remove(entry.path(), ignored);
      }
    }
  }
  void remove_runs() const { remove_files({"run_"}); }
  void remove_search() const {
    fs::remove(folder_ / kManifestName);
    remove_files({"run_", "layer_", "joined_"});
  }
  void drop_level() {
    for (Runs& runs : runs_) runs = Runs{};
    meter_.subtract(held_);
    held_ = 0;
    remove_runs();
    remove_files({"layer_" + std::to_string(last_level() + 1) + "_"});
  }

  void check_space() const {
    const std::uintmax_t needed =
        static_cast<std::uintmax_t>(manifest_.layer_sizes.back()) * words_ * 8;
    std::error_code error;
    const fs::space_info space = fs::space(folder_, error);
    if (!error && space.available < needed) throw SearchEnd{BfsStatus::kDiskLimit};
  }

  /// Neighbours of a batch lie twice in memory, scattered and being sorted: together a quarter.
  std::size_t batch_states() const {
    const std::size_t state_bytes = static_cast<std::size_t>(generators_.count()) * words_ * 8 * 2;
    return std::max<std::size_t>(max_bytes_ / 4 / state_bytes, 1024);
  }

  void hold(std::size_t bytes) {
    meter_.add(bytes);
    held_ += bytes;
  }

  void make_runs(SearchControl& control) {
    runs_.assign(kPartitions, Runs{});
    const std::int64_t level = last_level();
    const std::size_t batch = batch_states();
    std::vector<std::uint64_t> states;
    std::size_t left = 0;
    for (std::size_t p = 0; p < kPartitions; ++p) {
      left += static_cast<std::size_t>(partition_size(level, p));
    }
    hold(std::min(batch, left) * words_ * 8 *
         (1 + 2 * static_cast<std::size_t>(generators_.count())));
    int round = 0;
    const auto flush = [&] {
      if (states.empty()) return;
      left -= states.size() / words_;
      make_round(states, round++, left == 0, control);
      states.clear();
    };
    for (std::size_t p = 0; p < kPartitions; ++p) {
      if (partition_size(level, p) == 0) continue;
      RowStream stream(layer_path(level, p), words_, kStreamBytes, false);
      for (; !stream.done(); stream.next()) {
        states.insert(states.end(), stream.row(), stream.row() + words_);
        if (states.size() == batch * words_) flush();
      }
    }
    flush();
  }

  /// Sorted runs of the neighbours of `states`, kept in memory when they are the level's last.
  void make_round(const std::vector<std::uint64_t>& states, int round, bool last,
                  SearchControl& control) {
    const auto count = static_cast<std::int64_t>(states.size() / words_);
    std::vector<std::vector<std::vector<std::uint64_t>>> scattered(
        static_cast<std::size_t>(num_threads_),
        std::vector<std::vector<std::uint64_t>>(kPartitions));
    parallel_for((count + kBlockStates - 1) / kBlockStates, num_threads_,
                 [&](std::int64_t block, int worker) {
                   control.poll(worker);
                   auto& parts = scattered[static_cast<std::size_t>(worker)];
                   const std::int64_t first = block * kBlockStates;
                   const std::int64_t rows = std::min(kBlockStates, count - first);
                   std::vector<std::uint64_t> neighbors(static_cast<std::size_t>(rows) * words_);
                   for (std::int64_t g = 0; g < generators_.count(); ++g) {
                     generators_.apply(g, rows, &states[static_cast<std::size_t>(first) * words_],
                                       neighbors.data());
                     for (std::size_t i = 0; i < neighbors.size(); i += words_) {
                       auto& part = parts[partition_of(&neighbors[i])];
                       for (std::size_t k = 0; k < words_; ++k) part.push_back(neighbors[i + k]);
                     }
                   }
                 });
    parallel_for(kPartitions, num_threads_, [&](std::int64_t task, int worker) {
      control.poll(worker);
      const auto p = static_cast<std::size_t>(task);
      std::vector<std::uint64_t> rows;
      for (auto& parts : scattered) {
        rows.insert(rows.end(), parts[p].begin(), parts[p].end());
        parts[p] = {};
      }
      const std::int64_t kept =
          sort_packed(static_cast<std::int64_t>(words_),
                      static_cast<std::int64_t>(rows.size() / words_), rows.data(), true, 1);
      rows.resize(static_cast<std::size_t>(kept) * words_);
      if (last) {
        runs_[p].last = std::move(rows);
        return;
      }
      const fs::path path =
          folder_ / ("run_" + std::to_string(p) + "_" + std::to_string(round) + ".u64");
      FileWriter writer(path, kStreamBytes);
      writer.write(rows.data(), rows.size());
      writer.finish();
      runs_[p].files.push_back(path);
    });
  }

  void merge_runs(SearchControl& control) {
    pending_.assign(kPartitions, 0);
    parallel_for(kPartitions, num_threads_, [&](std::int64_t task, int worker) {
      control.poll(worker);
      const auto p = static_cast<std::size_t>(task);
      pending_[p] = merge_partition(p, worker, control);
    });
    meter_.subtract(held_);
    held_ = 0;
  }

  std::int64_t merge_partition(std::size_t p, int worker, SearchControl& control) {
    const std::int64_t level = last_level();
    const std::int64_t first_known =
        generators_.inverse_closed() ? std::max<std::int64_t>(level - 1, 0) : 0;
    const Runs& runs = runs_[p];
    if (runs.files.empty() && runs.last.empty()) return 0;
    const std::size_t num_streams =
        runs.files.size() + static_cast<std::size_t>(level - first_known) + 3;
    const std::size_t buffer = stream_bytes(num_streams);
    std::vector<RowStream> streams;
    streams.reserve(num_streams);
    open_known(p, first_known, buffer, streams);
    for (const fs::path& path : runs.files) streams.emplace_back(path, words_, buffer, false);
    streams.emplace_back(runs.last.data(), runs.last.size() / words_, words_);

    // The least row first; among equal rows those that are known, whose streams come first.
    StreamHeap heap(streams, words_);
    FileWriter writer(layer_path(level + 1, p), buffer);
    std::vector<std::uint64_t> newest(words_);
    bool any = false;
    std::int64_t count = 0, steps = 0;
    for (; !heap.empty(); heap.advance()) {
      if ((++steps & 0xFFFF) == 0) control.poll(worker);
      const std::uint64_t* row = heap.row();
      if (any && std::equal(newest.begin(), newest.end(), row)) continue;
      std::copy_n(row, words_, newest.begin());
      any = true;
      if (heap.known()) continue;
      writer.write(row, words_);
      ++count;
    }
    writer.finish();
    return count;
  }

  const CompiledGenerators generators_;
  const std::size_t words_;
  const fs::path folder_;
  bool keeps_layers_;
  const int num_threads_;
  const std::size_t max_bytes_;
  MemoryMeter meter_;
  Manifest manifest_;
  std::vector<Runs> runs_;
  std::vector<std::int64_t> pending_;  // states of the next layer, by partition
  std::size_t held_ = 0;
};

void prepare_folder(const ExternalOptions& options, std::size_t needed_bytes) {
  if (options.scratch_dir.empty())
    throw ArgumentError("scratch_dir", "expected a folder, got \"\"");
  std::error_code error;
  fs::create_directories(options.scratch_dir, error);
  if (error || !fs::is_directory(options.scratch_dir)) {
    throw ArgumentError("scratch_dir", "cannot create the folder " + options.scratch_dir +
                                           (error ? ": " + error.message() : ""));
  }
  const fs::space_info space = fs::space(options.scratch_dir, error);
  if (!error && space.available < needed_bytes) {
    throw ArgumentError("scratch_dir",
                        options.scratch_dir + " has " + std::to_string(space.available) +
                            " bytes free, the search needs about " + std::to_string(needed_bytes));
  }
}

}  // namespace

BfsResult bfs_external(const BfsGraph& graph, const ExternalOptions& options,
                       const BfsLimits& limits, const BfsCallbacks& callbacks, int num_threads) {
  check_graph(graph);
  if (limits.max_bytes != 0 && limits.max_bytes < kSmallestBytes) {
    throw MemoryLimitError("max_bytes: the external engine needs at least " +
                               std::to_string(kSmallestBytes) + " bytes, got " +
                               std::to_string(limits.max_bytes),
                           kSmallestBytes, limits.max_bytes, "");
  }
  const BfsMemory memory =
      options.expected_states > 0 ? bfs_memory(graph, options.expected_states) : BfsMemory{};
  prepare_folder(options, memory.external_disk);
  ExternalEngine engine(graph, options, limits.max_bytes, num_threads);
  const bool resumed = options.resume && engine.resume();
  if (!resumed) {
    try {
      engine.start(graph);
    } catch (const SearchEnd&) {
      throw Error("scratch_dir: no space left in " + options.scratch_dir);
    }
  }

  SearchControl control(limits, callbacks);
  const std::vector<std::int64_t> sizes = engine.layer_sizes();
  const auto describe = [&](std::int64_t level) {
    BfsLevel result;
    result.level = level;
    result.size = sizes[static_cast<std::size_t>(level)];
    for (std::int64_t i = 0; i <= level; ++i) result.total += sizes[static_cast<std::size_t>(i)];
    result.seconds = control.seconds();
    result.bytes = engine.bytes();
    result.layout = engine.layout();
    result.copy_states = [&engine, level](std::uint64_t* states) {
      engine.copy_layer(level, states);
    };
    return result;
  };
  // A resumed search shows the layers that it finds, as if it had just made them.
  const auto last = static_cast<std::int64_t>(sizes.size()) - 1;
  bool stopped = false;
  for (std::int64_t level = 0; level < last + (engine.complete() ? 1 : 0); ++level) {
    if (!stopped && engine.has_layer(level) && callbacks.on_level) {
      stopped = callbacks.on_level(describe(level));
    }
  }
  if (!engine.complete() && !stopped) return search_levels(engine, control, sizes);
  if (callbacks.on_last) callbacks.on_last(describe(last));
  BfsResult result;
  result.status = stopped ? BfsStatus::kStopped : BfsStatus::kComplete;
  result.layer_sizes = sizes;
  result.seconds = control.seconds();
  return result;
}

}  // namespace rankone::cpu
