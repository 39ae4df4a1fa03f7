// Checks that read the values of a CPU tensor: one pass, where torch would take several calls.
#include <cmath>
#include <limits>

#include "bindings.h"

namespace rankone::bindings {
namespace {

/// -inf for no values; NaN where any value is.
template <typename T>
double largest(const T* values, std::int64_t count) {
  T found = -std::numeric_limits<T>::infinity();
  for (std::int64_t i = 0; i < count; ++i) {
    if (values[i] <= found) continue;
    if (std::isnan(values[i])) return std::numeric_limits<double>::quiet_NaN();
    found = values[i];
  }
  return static_cast<double>(found);
}

template <typename T>
bool all_finite(const T* values, std::int64_t count) {
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) finite &= std::isfinite(values[i]);
  return finite;
}

}  // namespace

void bind_values_cpu(py::module_& module) {
  module.def("largest", [](std::int64_t address, std::int64_t count, bool float64) {
    return float64 ? largest(pointer<const double>(address), count)
                   : largest(pointer<const float>(address), count);
  });
  module.def("all_finite", [](std::int64_t address, std::int64_t count, bool float64) {
    return float64 ? all_finite(pointer<const double>(address), count)
                   : all_finite(pointer<const float>(address), count);
  });
}

}  // namespace rankone::bindings
