// The CUDA functions of the breadth-first search, which also serve the host emulation. Device
// memory is Python's: a search asks for its arrays one by one, the ops get addresses.
#include "permutation_search.h"

#ifdef RANKONE_CUDA_PERMUTATION_BFS

namespace rankone::bindings {
namespace {

/// allocate(bytes) -> address or 0, release(address), under the interpreter lock.
cuda::DeviceAllocator allocator_of(const py::object& allocate, const py::object& release) {
  return {[allocate](std::size_t bytes) {
            const py::gil_scoped_acquire lock;
            return pointer(py::cast<std::int64_t>(allocate(bytes)));
          },
          [release](void* address) {
            const py::gil_scoped_acquire lock;
            // Called while an exception may be on its way, so nothing is thrown.
            const py::error_scope kept;
            try {
              release(static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(address)));
            } catch (py::error_already_set& error) {
              error.discard_as_unraisable("rankone._native.cuda: release of device memory");
            }
          }};
}

using Engine = BfsResult (*)(const BfsGraph&, const BfsLimits&, const BfsCallbacks&,
                             const cuda::DeviceAllocator&, void*);

void def_search(py::module_& module, const char* name, Engine engine) {
  module.def(
      name,
      [engine](const Graph& graph, py::object allocate, py::object release, std::int64_t stream,
               py::object on_level, py::object on_states, std::optional<std::int64_t> store,
               const py::kwargs& limits) {
        const BfsLimits bounds = limits_of(limits);
        const cuda::DeviceAllocator allocator = allocator_of(allocate, release);
        // One thread of the host drives the device.
        py::dict summary =
            search(std::move(on_level), std::move(on_states), store, 1,
                   [&](const BfsCallbacks& callbacks) {
                     return engine(graph.graph, bounds, callbacks, allocator, pointer(stream));
                   });
        summary["instruction_set"] = "cuda";
        return summary;
      },
      py::arg("graph"), py::kw_only(), py::arg("allocate"), py::arg("release"), py::arg("stream"),
      py::arg("on_level") = py::none(), py::arg("on_states") = py::none(),
      py::arg("max_layer_size_to_store") = 1000, kSearchDoc);
}

}  // namespace

void bind_permutation_bfs_cuda(py::module_& module) {
  def_search(module, "bfs_hash", &cuda::bfs_hash);
  def_search(module, "bfs_bitarray", &cuda::bfs_bitarray);
  module.def(
      "bitarray_obstacle", [](const Graph& graph) { return cuda::bitarray_obstacle(graph.graph); },
      py::arg("graph"), "Why the bitarray engine does not apply on CUDA, or \"\".");
  module.def(
      "bfs_memory",
      [](const Graph& graph, std::int64_t expected_states) {
        const BfsMemory memory = cuda::bfs_memory(graph.graph, expected_states);
        py::dict result;
        result["hash"] = memory.hash;
        result["bitarray"] = memory.bitarray;
        return result;
      },
      py::arg("graph"), py::arg("expected_states") = 0,
      "Bytes that each engine will hold on the device; 0: does not apply.");
  module.def(
      "perm_apply",
      [](std::int64_t n, int w, std::int64_t num_generators, std::int64_t generators,
         std::int64_t count, std::int64_t states, std::int64_t neighbors, std::int64_t stream) {
        cuda::apply_permutations(layout_of(n, w), num_generators,
                                 pointer<const std::int64_t>(generators), count,
                                 pointer<const std::uint64_t>(states),
                                 pointer<std::uint64_t>(neighbors), pointer(stream));
      },
      Released());
  module.def(
      "perm_hash_neighbors",
      [](std::int64_t n, std::int64_t num_generators, std::int64_t generators, std::int64_t weights,
         std::int64_t count, std::int64_t states, int element_bytes, std::int64_t hashes,
         std::int64_t stream) {
        cuda::hash_neighbors(n, num_generators, pointer<const std::int64_t>(generators),
                             pointer<const std::int64_t>(weights), count,
                             pointer<const void>(states), element_bytes,
                             pointer<std::int64_t>(hashes), pointer(stream));
      },
      Released());
}

}  // namespace rankone::bindings

#endif
