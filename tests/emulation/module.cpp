// The Python module rankone_emulation: the bindings of the CUDA functions over the emulated
// kernels. It looks like rankone._native.cuda, with addresses of host memory.
#include "bindings.h"
#include "simt.h"

PYBIND11_MODULE(rankone_emulation, module) {
  namespace py = pybind11;
  py::register_exception<rankone::CudaError>(module, "CudaError", PyExc_RuntimeError);
  py::register_exception<rankone::ArgumentError>(module, "ArgumentError", PyExc_ValueError);
#ifdef RANKONE_CUDA_LINEAR_ATTENTION
  rankone::bindings::bind_linear_attention_cuda(module);
#endif
#ifdef RANKONE_CUDA_DELTA_RULE
  rankone::bindings::bind_delta_rule_cuda(module);
#endif
#ifdef RANKONE_CUDA_SELECTIVE_SCAN_2D
  rankone::bindings::bind_selective_scan_2d_cuda(module);
#endif
#ifdef RANKONE_CUDA_PERMUTATION_BFS
  rankone::bindings::bind_permutation_bfs_types(module);
  rankone::bindings::bind_permutation_bfs_cuda(module);
#endif
  module.def("set_schedule_seed", &rankone::emulation::set_schedule_seed);
  module.def("set_multiprocessors", &rankone::emulation::set_multiprocessors);
}
