// The submodule rankone._native.cayley: packing, the operations on packed states, the three engines
// and the distance table. Arrays cross as numpy arrays, packed states as uint64 (count, words);
// what is returned owns its memory. Long calls run without the interpreter lock and take it for
// callbacks.
#include "rankone/permutation_bfs.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>

#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"

namespace rankone::bindings {
namespace {

using Words = py::array_t<std::uint64_t, py::array::c_style>;
using Integers = py::array_t<std::int64_t, py::array::c_style>;

void expect(bool condition, const char* argument, const std::string& message) {
  if (!condition) throw ArgumentError(argument, message);
}

std::string shape_of(const py::array& array) {
  std::string text = "(";
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(array.shape(axis));
  }
  return text + ")";
}

template <typename T>
py::array_t<T> empty(std::vector<py::ssize_t> shape) {
  return py::array_t<T>(std::move(shape));
}

void check_threads(int threads) {
  expect(threads >= 1, "threads", "expected at least 1, got " + std::to_string(threads));
}

/// Rows of packed states of the layout.
std::int64_t count_states(const Words& states, const StateLayout& layout, const char* argument) {
  expect(states.ndim() == 2 && states.shape(1) == layout.words(), argument,
         "expected shape (count, " + std::to_string(layout.words()) + "), got " + shape_of(states));
  return states.shape(0);
}

StateLayout layout_of(std::int64_t size, int bits) {
  expect(size >= 1, "n", "expected at least 1, got " + std::to_string(size));
  expect(bits >= 1 && bits <= 64 && (bits & (bits - 1)) == 0, "w",
         "expected 1, 2, 4, 8, 16, 32 or 64, got " + std::to_string(bits));
  const StateLayout layout{size, bits};
  expect(layout.words() <= kMaxStateWords, "n",
         "a state takes " + std::to_string(layout.words()) + " words, at most " +
             std::to_string(kMaxStateWords) + " are allowed");
  return layout;
}

/// A graph that owns its arrays.
struct Graph {
  std::vector<std::int64_t> generators, start_states;
  BfsGraph graph;

  Graph(const Integers& generator_array, const Integers& starts, int bits, std::int64_t modulus) {
    expect(generator_array.ndim() == 2 || generator_array.ndim() == 3, "generators",
           "expected permutations (count, n) or matrices (count, n, n), got shape " +
               shape_of(generator_array));
    expect(starts.ndim() == 2, "start_states",
           "expected shape (count, size), got " + shape_of(starts));
    generators.assign(generator_array.data(), generator_array.data() + generator_array.size());
    start_states.assign(starts.data(), starts.data() + starts.size());
    GeneratorSet& set = graph.set;
    set.num_generators = generator_array.shape(0);
    set.generators = generators.data();
    set.layout = layout_of(starts.shape(1), bits);
    if (generator_array.ndim() == 3) {
      set.kind = GeneratorKind::kMatrix;
      set.rows = generator_array.shape(1);
      set.modulus = modulus;
      expect(generator_array.shape(2) == set.rows, "generators",
             "expected square matrices, got shape " + shape_of(generator_array));
    } else {
      expect(generator_array.shape(1) == set.layout.size, "start_states",
             "expected states of " + std::to_string(generator_array.shape(1)) +
                 " elements, as the generators, got " + std::to_string(set.layout.size));
    }
    graph.start_states = start_states.data();
    graph.num_start_states = starts.shape(0);
    cpu::check_graph(graph);
  }
};

/// A limit that may be 0.
template <typename Number>
Number limit_of(const std::string& name, const py::handle& value) {
  if (value < py::int_(0)) {
    throw ArgumentError(name, "expected at least 0, got " + py::cast<std::string>(py::str(value)));
  }
  return py::cast<Number>(value);
}

BfsLimits limits_of(const py::kwargs& arguments) {
  BfsLimits limits;
  for (const auto& [key, value] : arguments) {
    const std::string name = py::cast<std::string>(key);
    if (value.is_none()) continue;
    if (name == "max_level") {
      limits.max_level = limit_of<std::int64_t>(name, value);
    } else if (name == "max_states") {
      limits.max_states = limit_of<std::int64_t>(name, value);
    } else if (name == "max_layer_size") {
      limits.max_layer_size = limit_of<std::int64_t>(name, value);
    } else if (name == "max_seconds") {
      limits.max_seconds = limit_of<double>(name, value);
    } else if (name == "max_bytes") {
      limits.max_bytes = limit_of<std::size_t>(name, value);
    } else {
      throw py::type_error("unexpected keyword argument '" + name + "'");
    }
  }
  return limits;
}

/// The Python side of a search: callbacks under the interpreter lock, stored layers, and the first
/// exception that a callback raised, kept until the engine has ended.
class Observer {
 public:
  Observer(py::object on_level, py::object on_states, std::int64_t store_limit)
      : on_level_(std::move(on_level)),
        on_states_(std::move(on_states)),
        store_limit_(store_limit) {}

  BfsCallbacks callbacks() {
    BfsCallbacks result;
    result.on_level = [this](const BfsLevel& level) { return guarded([&] { return see(level); }); };
    result.on_last = [this](const BfsLevel& level) {
      guarded([&] {
        if (store_limit_ >= 0 && layers_.count(level.level) == 0) store(level);
        return false;
      });
    };
    result.poll = [this] {
      return guarded([&] {
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        return false;
      });
    };
    return result;
  }

  py::dict finish(const BfsResult& result, int num_threads) {
    BfsStatus status = result.status;
    if (error_) {
      try {
        std::rethrow_exception(error_);
      } catch (const py::error_already_set& error) {
        if (!error.matches(PyExc_KeyboardInterrupt)) throw;
        status = BfsStatus::kInterrupted;
      }
    }
    py::dict layers;
    for (auto& [level, states] : layers_) layers[py::int_(level)] = states;
    py::dict summary;
    summary["status"] = bfs_status_name(status);
    summary["layer_sizes"] = result.layer_sizes;
    summary["layers"] = layers;
    summary["seconds"] = result.seconds;
    summary["peak_bytes"] = result.peak_bytes;
    summary["threads"] = num_threads;
    summary["instruction_set"] = cpu::permutation_bfs_instruction_set();
    return summary;
  }

 private:
  template <typename Call>
  bool guarded(const Call& call) {
    const py::gil_scoped_acquire lock;
    try {
      return call();
    } catch (...) {
      if (!error_) error_ = std::current_exception();
      return true;
    }
  }

  Words states_of(const BfsLevel& level) {
    Words states = empty<std::uint64_t>({level.size, level.layout.words()});
    std::uint64_t* data = states.mutable_data();
    const py::gil_scoped_release unlocked;
    level.copy_states(data);
    return states;
  }

  void store(const BfsLevel& level) { layers_.emplace(level.level, states_of(level)); }

  bool see(const BfsLevel& level) {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    const bool first = level.level == 0;
    if (store_limit_ == kStoreAll || (store_limit_ >= 0 && (first || level.size <= store_limit_))) {
      store(level);
    }
    bool stop = false;
    if (!on_level_.is_none()) {
      stop = truth(on_level_(level.level, level.size, level.seconds));
    }
    if (!on_states_.is_none()) {
      const auto stored = layers_.find(level.level);
      stop |= truth(
          on_states_(level.level, stored != layers_.end() ? stored->second : states_of(level)));
    }
    return stop;
  }

  static bool truth(const py::object& value) { return !value.is_none() && py::cast<bool>(value); }

 public:
  static constexpr std::int64_t kStoreAll = INT64_MAX;

 private:
  py::object on_level_, on_states_;
  std::int64_t store_limit_;
  std::map<std::int64_t, Words> layers_;
  std::exception_ptr error_;
};

template <typename Search>
py::dict search(py::object on_level, py::object on_states,
                std::optional<std::int64_t> max_layer_size_to_store, int num_threads,
                const Search& run) {
  check_threads(num_threads);
  Observer observer(std::move(on_level), std::move(on_states),
                    max_layer_size_to_store.value_or(Observer::kStoreAll));
  const BfsCallbacks callbacks = observer.callbacks();
  BfsResult result;
  {
    const py::gil_scoped_release unlocked;
    result = run(callbacks);
  }
  return observer.finish(result, num_threads);
}

constexpr const char* kSearchDoc = R"(
max_layer_size_to_store: None stores every layer, a number those of at most so many states and the
first and the last, -1 none. Limits (None: no limit): max_level, max_states, max_layer_size,
max_seconds, max_bytes. on_level(level, size, seconds) and on_states(level, packed) may return True
to stop. Returns a dict: status, layer_sizes, layers {level: uint64 (size, words), sorted
lexicographically}, seconds, peak_bytes, threads, instruction_set.)";

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
  py::class_<Graph>(module, "Graph",
                    "Generators, permutations (count, n) or matrices (count, rows, rows) with a "
                    "modulus, and start states (count, size), all int64, of width w.")
      .def(py::init<const Integers&, const Integers&, int, std::int64_t>(), py::arg("generators"),
           py::arg("start_states"), py::arg("w"), py::arg("modulus") = 0)
      .def("inverse_generators",
           [](const Graph& self) { return inverse_generators(self.graph.set); })
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

void bind_permutation_bfs_cpu(py::module_& module) {
  static py::exception<MemoryLimitError> memory_error(module, "MemoryLimitError",
                                                      PyExc_MemoryError);
  py::register_exception_translator([](std::exception_ptr pointer) {
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
  module.def("instruction_set", &cpu::permutation_bfs_instruction_set);
  bind_states(module);
  bind_searches(module);
  bind_distance_table(module);
}

}  // namespace rankone::bindings
