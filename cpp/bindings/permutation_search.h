// What the bindings of the searches share, CPU and CUDA: arrays that cross as numpy arrays, the
// class Graph, limits as keywords, and callbacks into Python.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/numpy.h>

#include <exception>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "rankone/permutation_bfs.h"

namespace rankone::bindings {

using Words = py::array_t<std::uint64_t, py::array::c_style>;
using Integers = py::array_t<std::int64_t, py::array::c_style>;

inline void expect(bool condition, const char* argument, const std::string& message) {
  if (!condition) throw ArgumentError(argument, message);
}

inline std::string shape_of(const py::array& array) {
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

inline void check_threads(int threads) {
  expect(threads >= 1, "threads", "expected at least 1, got " + std::to_string(threads));
}

/// Rows of packed states of the layout.
inline std::int64_t count_states(const Words& states, const StateLayout& layout,
                                 const char* argument) {
  expect(states.ndim() == 2 && states.shape(1) == layout.words(), argument,
         "expected shape (count, " + std::to_string(layout.words()) + "), got " + shape_of(states));
  return states.shape(0);
}

inline StateLayout layout_of(std::int64_t size, int bits) {
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

inline BfsLimits limits_of(const py::kwargs& arguments) {
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

inline constexpr const char* kSearchDoc = R"(
max_layer_size_to_store: None stores every layer, a number those of at most so many states and the
first and the last, -1 none. Limits (None: no limit): max_level, max_states, max_layer_size,
max_seconds, max_bytes. on_level(level, size, seconds) and on_states(level, packed) may return True
to stop. Returns a dict: status, layer_sizes, layers {level: uint64 (size, words), sorted
lexicographically}, seconds, peak_bytes, threads, instruction_set.)";

/// The class Graph, local to the module.
py::class_<Graph> bind_graph(py::module_& module);
/// The exception MemoryLimitError of the module, a MemoryError.
void bind_memory_limit_error(py::module_& module);

}  // namespace rankone::bindings
