// The module rankone._native: one submodule of kernels a device, and what was built in.
#include "bindings.h"

namespace {

namespace py = pybind11;

void register_errors(py::module_& module) {
  py::register_exception<rankone::CudaError>(module, "CudaError", PyExc_RuntimeError);
  py::register_exception<rankone::ArgumentError>(module, "ArgumentError", PyExc_ValueError);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native kernels of rankone. Called by rankone.ops, which checks its arguments.";
  register_errors(module);
  module.attr("version") = RANKONE_VERSION;
  module.attr("cuda_targets") = RANKONE_CUDA_TARGETS;

  py::module_ cpu = module.def_submodule("cpu", "CPU kernels.");
  rankone::bindings::bind_values_cpu(cpu);
  rankone::bindings::bind_linear_attention_cpu(cpu);
  rankone::bindings::bind_delta_rule_cpu(cpu);
  rankone::bindings::bind_selective_scan_2d_cpu(cpu);
  py::module_ cayley =
      module.def_submodule("cayley", "Breadth-first search over permutations and matrices, CPU.");
  rankone::bindings::bind_permutation_bfs_cpu(cayley);
#ifdef RANKONE_WITH_CUDA
  module.attr("has_cuda") = true;
  py::module_ cuda = module.def_submodule("cuda", "CUDA kernels.");
#ifdef RANKONE_CUDA_LINEAR_ATTENTION
  rankone::bindings::bind_linear_attention_cuda(cuda);
#endif
#ifdef RANKONE_CUDA_DELTA_RULE
  rankone::bindings::bind_delta_rule_cuda(cuda);
#endif
#ifdef RANKONE_CUDA_SELECTIVE_SCAN_2D
  rankone::bindings::bind_selective_scan_2d_cuda(cuda);
#endif
#ifdef RANKONE_CUDA_PERMUTATION_BFS
  rankone::bindings::bind_permutation_bfs_cuda(cuda);
  cuda.attr("Graph") = cayley.attr("Graph");
#endif
#else
  module.attr("has_cuda") = false;
#endif
}
