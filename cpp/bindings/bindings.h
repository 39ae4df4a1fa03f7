// What the families' binding files share. Tensors cross as addresses and strides: Python owns the
// memory and keeps it alive for the call, and has checked everything.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>

#include "rankone/core.h"

namespace rankone::bindings {

namespace py = pybind11;

/// (address, batch stride, time stride, head stride) of a (batch, time, heads, dim) tensor.
using TokensTuple = std::array<std::int64_t, 4>;

template <typename T = void>
T* pointer(std::int64_t address) {
  return reinterpret_cast<T*>(static_cast<std::intptr_t>(address));
}

inline ConstTokens tokens(const TokensTuple& tuple) {
  return {pointer<const void>(tuple[0]), tuple[1], tuple[2], tuple[3]};
}

/// Kernels run without the interpreter lock.
using Released = py::call_guard<py::gil_scoped_release>;

/// Binds a CPU function of the problem that `make` builds from a call's tuples; the last argument
/// of the call is the number of threads.
template <typename Problem, typename... Tuples>
void def_cpu(py::module_& module, const char* name, Problem (*make)(const Tuples&...),
             void (*run)(const Problem&, int)) {
  module.def(
      name,
      [make, run](const Tuples&... tuples, int num_threads) { run(make(tuples...), num_threads); },
      Released());
}

/// Binds a CUDA function; the last argument of the call is the stream.
template <typename Problem, typename... Tuples>
void def_cuda(py::module_& module, const char* name, Problem (*make)(const Tuples&...),
              void (*run)(const Problem&, void*)) {
  module.def(
      name,
      [make, run](const Tuples&... tuples, std::int64_t stream) {
        run(make(tuples...), pointer(stream));
      },
      Released());
}

/// Binds a CUDA function that takes a workspace, and with it `<name>_workspace`, its size in bytes.
template <typename Problem, typename... Tuples>
void def_cuda(py::module_& module, const char* name, Problem (*make)(const Tuples&...),
              void (*run)(const Problem&, void*, void*), std::size_t (*size)(const Problem&)) {
  module.def((std::string(name) + "_workspace").c_str(),
             [make, size](const Tuples&... tuples) { return size(make(tuples...)); });
  module.def(
      name,
      [make, run](const Tuples&... tuples, std::int64_t workspace, std::int64_t stream) {
        run(make(tuples...), pointer(workspace), pointer(stream));
      },
      Released());
}

void bind_values_cpu(py::module_& module);
void bind_linear_attention_cpu(py::module_& module);
void bind_linear_attention_cuda(py::module_& module);
void bind_delta_rule_cpu(py::module_& module);
void bind_delta_rule_cuda(py::module_& module);
void bind_selective_scan_2d_cpu(py::module_& module);
void bind_selective_scan_2d_cuda(py::module_& module);
void bind_permutation_bfs_cpu(py::module_& module);
void bind_permutation_bfs_cuda(py::module_& module);
/// The class Graph and the exception MemoryLimitError alone, for a module of CUDA functions.
void bind_permutation_bfs_types(py::module_& module);

}  // namespace rankone::bindings
