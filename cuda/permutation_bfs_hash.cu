// The hash engine on the device: a level is expanded in batches, each of bounded length, and what
// neither the layers that may hold it nor the layer in the making have joins that layer.
//
// Which layers may hold a neighbour: the previous and the current one where the generators are
// closed under inverses; the current one where states carry a bit for each generator that leads
// back, and none where parity tells layers apart, too; all earlier states, kept as one set, where
// the graph is directed. A table has room for all that a batch may bring before the batch starts,
// and grows by re-insertion: no batch is ever made twice, and no kernel waits for another.
#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "permutation_bfs_layer.cuh"

namespace rankone::cuda {
namespace {

/// Neighbours of one batch: some milliseconds, after which the host is asked whether to go on.
constexpr std::int64_t kBatchEdges = std::int64_t{1} << 24;
constexpr std::int64_t kFewestBatchEdges = std::int64_t{1} << 12;
/// Most bytes of a batch's neighbours, and the part of the limit that they may take.
constexpr std::size_t kBatchBytes = std::size_t{1} << 30;
constexpr std::size_t kBatchShare = 8;

/// Whether states are kept in the slots themselves: a slot is empty when all its bits are set,
/// which one spare bit of a state tells from any state.
bool fits_slots(const StateLayout& layout) {
  return layout.words() == 1 && layout.size * layout.bits < 64;
}

std::size_t bytes_per_edge(const StateLayout& layout) {
  return static_cast<std::size_t>(fits_slots(layout) ? 1 : layout.words() + 1) * 8;
}

template <typename Layer>
class HashSearch {
 public:
  HashSearch(const BfsGraph& graph, std::size_t max_bytes, const DeviceAllocator& allocator,
             cudaStream_t stream)
      : compiled_(graph.set, true),
        memory_(allocator, max_bytes, stream),
        tags_(compiled_),
        generators_(compiled_, tags_, &memory_),
        counter_(&memory_),
        context_{&memory_,
                 &generators_,
                 &counter_,
                 tags_,
                 compiled_.kind() == GeneratorKind::kMatrix,
                 static_cast<int>(compiled_.layout().words()),
                 device_limits().multiprocessors,
                 batch_edges(compiled_.layout(), max_bytes)},
        directed_(!compiled_.inverse_closed()),
        bipartite_(!directed_ && cpu::is_bipartite(graph)) {
    const std::vector<std::uint64_t> rows = cpu::packed_start_states(graph);
    const std::int64_t count = static_cast<std::int64_t>(rows.size()) / context_.words;
    current_.make_room(count);
    current_.insert(rows.data(), count);
  }

  const StateLayout& layout() const { return compiled_.layout(); }
  std::int64_t layer_size() const { return current_.size(); }
  std::size_t bytes() const { return memory_.meter.used(); }
  std::size_t peak_bytes() const { return memory_.meter.peak(); }

  void copy_layer(std::uint64_t* states) const {
    current_.copy_to_host(states);
    const auto threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    cpu::sort_states(layout(), current_.size(), states, false, threads);
  }

  std::int64_t expand(cpu::SearchControl& control) {
    next_ = Layer(&context_);
    if (directed_) known_.absorb(current_);
    const Layer* known[2] = {nullptr, nullptr};
    const bool masked = tags_.form == cpu::TagForm::kMask;
    if (directed_) {
      known[0] = &known_;
    } else {
      if (!masked || !bipartite_) known[0] = &current_;
      if (!masked) known[1] = &previous_;
    }
    const std::int64_t degree = compiled_.count();
    const std::int64_t items = current_.items();
    const std::int64_t batch = std::max<std::int64_t>(context_.batch_edges / degree, 1);
    try {
      next_.make_room(expected_size());
    } catch (const cpu::SearchEnd&) {
      // Too much expected; the batches ask for what they need.
    }
    for (std::int64_t first = 0; first < items; first += batch) {
      const std::int64_t count = std::min(batch, items - first);
      next_.make_room(std::min(count, current_.size()) * degree);
      next_.take_neighbors(current_, first, count, known);
      control.poll(0);
    }
    return next_.size();
  }

  void commit() {
    if (!directed_ && tags_.form != cpu::TagForm::kMask) {
      previous_ = std::exchange(current_, std::move(next_));
    } else {
      current_ = std::move(next_);
    }
    next_ = Layer(&context_);
  }

 private:
  static std::int64_t batch_edges(const StateLayout& layout, std::size_t max_bytes) {
    const std::size_t bytes =
        max_bytes == 0 ? kBatchBytes : std::min(kBatchBytes, max_bytes / kBatchShare);
    return std::clamp(static_cast<std::int64_t>(bytes / bytes_per_edge(layout)), kFewestBatchEdges,
                      kBatchEdges);
  }

  /// Growth slows down from level to level, in nearly all graphs.
  std::int64_t expected_size() {
    const std::int64_t size = current_.size();
    const std::int64_t before = std::exchange(size_before_, size);
    const double ratio = before > 0 ? static_cast<double>(size) / static_cast<double>(before) : 1;
    const double most = static_cast<double>(compiled_.count());
    return static_cast<std::int64_t>(static_cast<double>(size) * std::min(ratio, most)) + 1;
  }

  const cpu::CompiledGenerators compiled_;
  DeviceMemory memory_;
  const cpu::Tags tags_;
  const DeviceGenerators generators_;
  DeviceCounter counter_;
  LayerContext context_;
  const bool directed_, bipartite_;
  std::int64_t size_before_ = 0;
  Layer previous_{&context_}, current_{&context_}, next_{&context_};
  Layer known_{&context_};  // directed: every state of the layers before the current one
};

template <typename Layer>
BfsResult search(const BfsGraph& graph, const BfsLimits& limits, const BfsCallbacks& callbacks,
                 const DeviceAllocator& allocator, cudaStream_t stream) {
  cpu::SearchControl control(limits, callbacks);
  std::unique_ptr<HashSearch<Layer>> engine;
  try {
    engine = std::make_unique<HashSearch<Layer>>(graph, limits.max_bytes, allocator, stream);
  } catch (const cpu::SearchEnd&) {
    const std::string room = limits.max_bytes == 0
                                 ? "the device"
                                 : std::to_string(limits.max_bytes) + " bytes on the device";
    throw MemoryLimitError("max_bytes: the generators and " +
                               std::to_string(graph.num_start_states) +
                               " start states do not fit " + room,
                           0, limits.max_bytes, "");
  }
  return cpu::search_levels(*engine, control, {engine->layer_size()});
}

}  // namespace

BfsResult bfs_hash(const BfsGraph& graph, const BfsLimits& limits, const BfsCallbacks& callbacks,
                   const DeviceAllocator& allocator, void* stream) {
  cpu::check_graph(graph);
  const auto run = fits_slots(graph.set.layout) ? search<WordLayer> : search<RowLayer>;
  return run(graph, limits, callbacks, allocator, static_cast<cudaStream_t>(stream));
}

}  // namespace rankone::cuda
