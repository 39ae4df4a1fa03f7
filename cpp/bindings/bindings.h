// What the families' binding files share. Tensors cross as addresses and strides: Python owns the
// memory and keeps it alive for the call, and has checked everything.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

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

void bind_linear_attention_cpu(py::module_& module);
void bind_linear_attention_cuda(py::module_& module);

}  // namespace rankone::bindings
