// The submodule rankone._native.cayley: packing, the operations on packed states, the three engines
// and the distance table. Arrays cross as numpy arrays, packed states as uint64 (count, words);
// what is returned owns its memory. Long calls run without the interpreter lock and take it for
// callbacks.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "permutation_search.h"

namespace rankone::bindings {
namespace {

void bind_states(py::module_& module) {
  module.def("bits", &state_bits, py::arg("max_value"),
             "The width w that holds 0..max_value; 64 when max_value is negative.");
  module.def(
      "pack",
      [](const Integers& values, int w, int threads) {
        expect(values.ndim() == 2, "states", "expected shape (count, n), got " + shape_of(values));
        const StateLayout layout = layout_of(values.shape(1), w);
        Words states = empty<std::uint64_t>({values.shape(0), layout.words()});
        std::uint64_t* data = states.mutable_data();
        {
          const py::gil_scoped_release unlocked;
          cpu::pack_states(layout, values.shape(0), values.data(), data, threads);
        }
        return states;
      },
      py::arg("states"), py::arg("w"), py::arg("threads") = 1,
      "int64 (count, n) to packed uint64 (count, words).");
  module.def(
      "unpack",
      [](const Words& states, std::int64_t n, int w, int threads) {
        const StateLayout layout = layout_of(n, w);
        const std::int64_t count = count_states(states, layout, "states");
        Integers values = empty<std::int64_t>({count, n});
        std::int64_t* data = values.mutable_data();
        {
          const py::gil_scoped_release unlocked;
          cpu::unpack_states(layout, count, states.data(), data, threads);
        }
        return values;
      },
      py::arg("states"), py::arg("n"), py::arg("w"), py::arg("threads") = 1,
      "Packed uint64 (count, words) to int64 (count, n).");
  module.def(
      "apply",
      [](const Words& states, const Integers& generators, std::int64_t n, int w,
         std::int64_t modulus, int threads) {
        const std::vector<std::int64_t> zeros(
            static_cast<std::size_t>(std::max<std::int64_t>(n, 1)));
        expect(generators.ndim() == 2 || generators.ndim() == 3, "generators",
               "expected shape (count, n) or (count, rows, rows), got " + shape_of(generators));
        GeneratorSet set;
        set.layout = layout_of(n, w);
        set.num_generators = generators.shape(0);
        set.generators = generators.data();
        if (generators.ndim() == 3) {
          set.kind = GeneratorKind::kMatrix;
          set.rows = generators.shape(1);
          set.modulus = modulus;
          expect(generators.shape(2) == set.rows, "generators",
                 "expected square matrices, got shape " + shape_of(generators));
        } else {
          expect(generators.shape(1) == n, "generators",
                 "expected " + std::to_string(n) + " elements each, got shape " +
                     shape_of(generators));
        }
        cpu::check_graph({set, zeros.data(), 1});
        const std::int64_t count = count_states(states, set.layout, "packed");
        Words neighbors = empty<std::uint64_t>({set.num_generators, count, set.layout.words()});
        std::uint64_t* data = neighbors.mutable_data();
        {
          const py::gil_scoped_release unlocked;
          cpu::apply_generators(set, count, states.data(), data, threads);
        }
        return neighbors;
      },
      py::arg("packed"), py::arg("generators"), py::arg("n"), py::arg("w"), py::arg("modulus") = 0,
      py::arg("threads") = 1, "Every generator on every state: uint64 (generators, count, words).");
  module.def(
      "hash_states",
      [](const Words& states, int threads) {
        expect(states.ndim() == 2 && states.shape(1) >= 1, "states",
               "expected shape (count, words), got " + shape_of(states));
        const StateLayout layout{states.shape(1), 64};
        py::array_t<std::uint64_t> hashes = empty<std::uint64_t>({states.shape(0)});
        std::uint64_t* data = hashes.mutable_data();
        {
          const py::gil_scoped_release unlocked;
          cpu::hash_states(layout, states.shape(0), states.data(), data, threads);
        }
        return hashes;
      },
      py::arg("states"), py::arg("threads") = 1,
      "uint64 (count): a bijection of the word where one word holds the state.");
  module.def(
      "hash_neighbors",
      [](const py::array& states, const Integers& generators, const Integers& weights,
         int threads) {
        const char kind = states.dtype().kind();
        const auto bytes = static_cast<int>(states.itemsize());
        if (!((kind == 'i' && bytes > 1) || (kind == 'u' && bytes == 1))) {
          throw py::type_error(
              "states: expected uint8, int16, int32 or int64, got " +
              py::cast<std::string>(py::str(static_cast<const py::object&>(states.dtype()))));
        }
        expect(states.ndim() == 2, "states", "expected shape (count, n), got " + shape_of(states));
        const std::int64_t n = states.shape(1), count = states.shape(0);
        expect(generators.ndim() == 2 && generators.shape(1) == n, "generators",
               "expected shape (count, " + std::to_string(n) + "), got " + shape_of(generators));
        expect(weights.ndim() == 1 && weights.shape(0) == n, "weights",
               "expected shape (" + std::to_string(n) + "), got " + shape_of(weights));
        expect((states.flags() & py::array::c_style) != 0, "states", "expected C-contiguous rows");
        Integers hashes = empty<std::int64_t>({generators.shape(0), count});
        std::int64_t* data = hashes.mutable_data();
        {
          const py::gil_scoped_release unlocked;
          cpu::hash_neighbors(n, generators.shape(0), generators.data(), weights.data(), count,
                              states.data(), bytes, data, threads);
        }
        return hashes;
      },
      py::arg("states"), py::arg("generators"), py::arg("weights"), py::arg("threads") = 1,
      "int64 (generators, count): sum_i weights[i] g(s)[i] mod 2^64, no neighbour being made.");
  module.def(
      "sort_states",
      [](const Words& states, std::int64_t n, int w, bool unique, int threads) {
        const StateLayout layout = layout_of(n, w);
        const std::int64_t count = count_states(states, layout, "states");
        std::vector<std::uint64_t> rows(states.data(), states.data() + states.size());
        std::int64_t left = 0;
        {
          const py::gil_scoped_release unlocked;
          left = cpu::sort_states(layout, count, rows.data(), unique, threads);
        }
        Words sorted = empty<std::uint64_t>({left, layout.words()});
        std::copy_n(rows.data(), left * layout.words(), sorted.mutable_data());
        return sorted;
      },
      py::arg("states"), py::arg("n"), py::arg("w"), py::arg("unique") = false,
      py::arg("threads") = 1, "A copy in lexicographic order of the elements.");
  module.def(
      "find_states",
      [](const Words& sorted, const Words& queries, std::int64_t n, int w, int threads) {
        const StateLayout layout = layout_of(n, w);
        const std::int64_t count = count_states(sorted, layout, "sorted");
        const std::int64_t num_queries = count_states(queries, layout, "queries");
        Integers rows = empty<std::int64_t>({num_queries});
        std::int64_t* data = rows.mutable_data();
        {
          const py::gil_scoped_release unlocked;
          cpu::find_states(layout, count, sorted.data(), num_queries, queries.data(), data,
                           threads);
        }
        return rows;
      },
      py::arg("sorted"), py::arg("queries"), py::arg("n"), py::arg("w"), py::arg("threads") = 1,
      "int64 (queries): the row of each query in what sort_states returned, -1 where absent.");
}

void bind_searches(py::module_& module) {
  bind_graph(module)
      .def("bitarray_obstacle",
           [](const Graph& self) { return cpu::bitarray_obstacle(self.graph); })
      .def(
          "memory",
          [](const Graph& self, std::int64_t expected_states) {
            const BfsMemory memory = bfs_memory(self.graph, expected_states);
            py::dict result;
            result["hash"] = memory.hash;
            result["bitarray"] = memory.bitarray;
            result["bitarray_codes"] = memory.bitarray_codes;
            result["distance_table"] = memory.distance_table;
            result["external"] = memory.external;
            result["external_disk"] = memory.external_disk;
            return result;
          },
          py::arg("expected_states") = 0, "Bytes that each engine will hold; 0: does not apply.");

  module.def(
      "bfs_hash",
      [](const Graph& graph, py::object on_level, py::object on_states,
         std::optional<std::int64_t> store, int threads, const py::kwargs& limits) {
        const BfsLimits bounds = limits_of(limits);
        return search(std::move(on_level), std::move(on_states), store, threads,
                      [&](const BfsCallbacks& callbacks) {
                        return cpu::bfs_hash(graph.graph, bounds, callbacks, threads);
                      });
      },
      py::arg("graph"), py::kw_only(), py::arg("on_level") = py::none(),
      py::arg("on_states") = py::none(), py::arg("max_layer_size_to_store") = 1000,
      py::arg("threads") = 1, kSearchDoc);
  module.def(
      "bfs_bitarray",
      [](const Graph& graph, int planes, py::object on_level, py::object on_states,
         std::optional<std::int64_t> store, int threads, const py::kwargs& limits) {
        const BfsLimits bounds = limits_of(limits);
        BitarrayOptions options;
        options.planes = planes;
        return search(std::move(on_level), std::move(on_states), store, threads,
                      [&](const BfsCallbacks& callbacks) {
                        return cpu::bfs_bitarray(graph.graph, options, bounds, callbacks, threads);
                      });
      },
      py::arg("graph"), py::kw_only(), py::arg("planes") = 2, py::arg("on_level") = py::none(),
      py::arg("on_states") = py::none(), py::arg("max_layer_size_to_store") = 1000,
      py::arg("threads") = 1, kSearchDoc);
  module.def(
      "bfs_external",
      [](const Graph& graph, const std::string& scratch_dir, bool resume, bool keep_layers,
         std::int64_t expected_states, py::object on_level, py::object on_states,
         std::optional<std::int64_t> store, int threads, const py::kwargs& limits) {
        const BfsLimits bounds = limits_of(limits);
        const ExternalOptions options{scratch_dir, resume, keep_layers, expected_states};
        return search(std::move(on_level), std::move(on_states), store, threads,
                      [&](const BfsCallbacks& callbacks) {
                        return cpu::bfs_external(graph.graph, options, bounds, callbacks, threads);
                      });
      },
      py::arg("graph"), py::arg("scratch_dir"), py::kw_only(), py::arg("resume") = false,
      py::arg("keep_layers") = true, py::arg("expected_states") = 0,
      py::arg("on_level") = py::none(), py::arg("on_states") = py::none(),
      py::arg("max_layer_size_to_store") = 1000, py::arg("threads") = 1, kSearchDoc);

  py::class_<cpu::HashShare>(
      module, "HashShare",
      "One process's share of a distributed search. A level: expand the layer in batches, send "
      "bucket r to rank r, insert what arrives, advance.")
      .def(py::init([](const Graph& graph, int rank, int world_size, std::size_t max_bytes,
                       int threads) {
             check_threads(threads);
             return std::make_unique<cpu::HashShare>(graph.graph, rank, world_size, max_bytes,
                                                     threads);
           }),
           py::arg("graph"), py::arg("rank"), py::arg("world_size"), py::arg("max_bytes") = 0,
           py::arg("threads") = 1, py::keep_alive<1, 2>())
      .def_property_readonly("layer_size", &cpu::HashShare::layer_size)
      .def_property_readonly("next_size", &cpu::HashShare::next_size)
      .def_property_readonly("words", &cpu::HashShare::words)
      .def_property_readonly("bytes", &cpu::HashShare::bytes)
      .def_property_readonly("peak_bytes", &cpu::HashShare::peak_bytes)
      .def(
          "expand",
          [](cpu::HashShare& self, std::int64_t first, std::int64_t count, int world_size) {
            expect(world_size == self.world_size(), "world_size",
                   "expected " + std::to_string(self.world_size()) + ", got " +
                       std::to_string(world_size));
            Integers counts = empty<std::int64_t>({world_size});
            std::int64_t* sizes = counts.mutable_data();
            const std::uint64_t* found = nullptr;
            {
              const py::gil_scoped_release unlocked;
              found = self.expand(first, count, sizes);
            }
            std::int64_t total = 0;
            for (int owner = 0; owner < world_size; ++owner) total += sizes[owner];
            Words states = empty<std::uint64_t>({total, self.words()});
            std::copy_n(found, total * self.words(), states.mutable_data());
            return py::make_tuple(states, counts);
          },
          py::arg("first"), py::arg("count"), py::arg("world_size"),
          "(uint64 (total, words) ordered by owner, int64 (world_size) counts)")
      .def(
          "owners",
          [](const cpu::HashShare& self, const Words& states) {
            expect(states.ndim() == 2 && states.shape(1) == self.words(), "states",
                   "expected shape (count, " + std::to_string(self.words()) + "), got " +
                       shape_of(states));
            Integers ranks = empty<std::int64_t>({states.shape(0)});
            std::int64_t* data = ranks.mutable_data();
            const std::uint64_t* rows = states.data();
            const py::gil_scoped_release unlocked;
            self.owners(rows, states.shape(0), data);
            return ranks;
          },
          py::arg("states"), "int64 (count): the rank that owns each state")
      .def(
          "insert",
          [](cpu::HashShare& self, const Words& states) {
            expect(states.ndim() == 2 && states.shape(1) == self.words(), "states",
                   "expected shape (count, " + std::to_string(self.words()) + "), got " +
                       shape_of(states));
            const std::int64_t count = states.shape(0);
            const std::uint64_t* data = states.data();
            const py::gil_scoped_release unlocked;
            self.insert(data, count);
          },
          py::arg("states"))
      .def("advance", &cpu::HashShare::advance, Released())
      .def("layer", [](const cpu::HashShare& self) {
        Words states = empty<std::uint64_t>({self.layer_size(), self.words()});
        std::uint64_t* data = states.mutable_data();
        {
          const py::gil_scoped_release unlocked;
          self.copy_layer(data);
        }
        return states;
      });
}

void bind_distance_table(py::module_& module) {
  struct Table {
    std::unique_ptr<cpu::DistanceTable> table;
    py::dict summary;
  };
  py::class_<Table>(module, "DistanceTable",
                    "The distance of every permutation to the start state, exact.")
      .def_static(
          "build",
          [](const Graph& graph, py::object on_level, int threads, const py::kwargs& limits) {
            const BfsLimits bounds = limits_of(limits);
            auto result = std::make_unique<Table>();
            result->summary = search(
                std::move(on_level), py::none(), -1, threads, [&](const BfsCallbacks& callbacks) {
                  BfsResult summary;
                  result->table =
                      cpu::DistanceTable::build(graph.graph, bounds, callbacks, threads, &summary);
                  return summary;
                });
            return result;
          },
          py::arg("graph"), py::kw_only(), py::arg("on_level") = py::none(), py::arg("threads") = 1,
          "Keyword limits as in the searches; a table is whole only when its status is complete.")
      .def_static(
          "restore",
          [](const Graph& graph, const Words& codes) {
            auto result = std::make_unique<Table>();
            result->table = cpu::DistanceTable::restore(graph.graph, codes.data(), codes.size());
            return result;
          },
          py::arg("graph"), py::arg("codes"))
      .def_property_readonly("directed", [](const Table& self) { return self.table->directed(); })
      .def_property_readonly("summary", [](const Table& self) { return self.summary; })
      .def_property_readonly(
          "codes",
          [](py::object self) {
            const auto& table = *py::cast<const Table&>(self).table;
            py::array_t<std::uint64_t> view({table.num_words()}, {8}, table.codes(), self);
            py::detail::array_proxy(view.ptr())->flags &=
                ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
            return view;
          },
          "The table itself, uint64, read-only, without a copy.")
      .def(
          "distances",
          [](const Table& self, const Integers& states, int threads) {
            expect(states.ndim() == 2 && states.shape(1) == self.table->size(), "states",
                   "expected shape (count, " + std::to_string(self.table->size()) + "), got " +
                       shape_of(states));
            check_threads(threads);
            Integers distances = empty<std::int64_t>({states.shape(0)});
            std::int64_t* data = distances.mutable_data();
            {
              const py::gil_scoped_release unlocked;
              self.table->distances(states.shape(0), states.data(), data, threads);
            }
            return distances;
          },
          py::arg("states"), py::arg("threads") = 1)
      .def(
          "path",
          [](const Table& self, const Integers& state) {
            expect(state.ndim() == 1 && state.shape(0) == self.table->size(), "state",
                   "expected shape (" + std::to_string(self.table->size()) + "), got " +
                       shape_of(state));
            return self.table->path(state.data());
          },
          py::arg("state"));
}

}  // namespace

py::class_<Graph> bind_graph(py::module_& module) {
  return py::class_<Graph>(
             module, "Graph", py::module_local(),
             "Generators, permutations (count, n) or matrices (count, rows, rows) with a "
             "modulus, and start states (count, size), all int64, of width w.")
      .def(py::init<const Integers&, const Integers&, int, std::int64_t>(), py::arg("generators"),
           py::arg("start_states"), py::arg("w"), py::arg("modulus") = 0)
      .def("inverse_generators",
           [](const Graph& self) { return inverse_generators(self.graph.set); });
}

void bind_memory_limit_error(py::module_& module) {
  static py::exception<MemoryLimitError> memory_error(module, "MemoryLimitError",
                                                      PyExc_MemoryError);
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const MemoryLimitError& error) {
      const py::object value = py::reinterpret_borrow<py::object>(memory_error)(error.what());
      value.attr("needed_bytes") = error.needed_bytes;
      value.attr("limit_bytes") = error.limit_bytes;
      value.attr("fitting_engine") = error.fitting_engine;
      PyErr_SetObject(memory_error.ptr(), value.ptr());
    }
  });
}

void bind_permutation_bfs_types(py::module_& module) {
  bind_graph(module);
  bind_memory_limit_error(module);
}

void bind_permutation_bfs_cpu(py::module_& module) {
  bind_memory_limit_error(module);
  module.def("instruction_set", &cpu::permutation_bfs_instruction_set);
  bind_states(module);
  bind_searches(module);
  bind_distance_table(module);
}

}  // namespace rankone::bindings
