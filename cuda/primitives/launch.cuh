// Kernel launches from the host. A kernel takes one struct of arguments by value,
//
//   __global__ void __launch_bounds__(kThreads) kernel(__grid_constant__ const Arguments arguments)
//
// and is started with launch(kernel, {grid, block, shared_bytes, stream}, arguments). Launches are
// asynchronous on CUDA; under emulation the kernel has run when launch returns.
#pragma once

#include <type_traits>
#include <typeinfo>

#include "platform.cuh"
#include "rankone/core.h"

#ifndef RANKONE_EMULATION
#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <string>
#endif

namespace rankone::cuda {

struct LaunchConfig {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  /// The kernel's name in errors; its symbol when null.
  const char* name = nullptr;
};

/// Kernel parameters up to this size are guaranteed on every architecture.
inline constexpr std::size_t kMaxArgumentBytes = 4096;

#ifndef RANKONE_EMULATION

/// Throws CudaError with CUDA's message unless `status` is success. Clears the error, so that the
/// next call does not report it again.
inline void check(cudaError_t status, const std::string& operation) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw CudaError(operation,
                  std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status));
}

/// The kernel's name for an error: its symbol, or else the type of its arguments.
inline std::string kernel_name(const void* kernel, const std::type_info& arguments) {
  const auto readable = [](const char* symbol) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> text(
        abi::__cxa_demangle(symbol, nullptr, nullptr, &status), &std::free);
    return std::string(status == 0 ? text.get() : symbol);
  };
#if CUDART_VERSION >= 12030
  const char* symbol = nullptr;
  if (cudaFuncGetName(&symbol, kernel) == cudaSuccess && symbol != nullptr) return readable(symbol);
  cudaGetLastError();
#endif
  return "kernel taking " + readable(arguments.name());
}

#endif

/// Starts `kernel`. Throws CudaError, with the kernel's name, when CUDA refuses the launch.
template <typename Arguments>
void launch(void (*kernel)(Arguments), const LaunchConfig& config,
            const std::type_identity_t<Arguments>& arguments) {
  static_assert(std::is_trivially_copyable_v<Arguments>);
  static_assert(sizeof(Arguments) <= kMaxArgumentBytes);
#ifdef RANKONE_EMULATION
  const auto call = [&] { kernel(arguments); };
  using Call = decltype(call);
  emulation::launch(
      {config.grid, config.block, config.shared_bytes, config.name,
       reinterpret_cast<const void*>(kernel), &typeid(Arguments)},
      [](const void* context) { (*static_cast<Call*>(context))(); }, &call);
#else
  const void* function = reinterpret_cast<const void*>(kernel);
  const auto check_launch = [&](cudaError_t status) {
    if (status == cudaSuccess) return;
    check(status, config.name != nullptr ? config.name : kernel_name(function, typeid(Arguments)));
  };
  // Every architecture grants 48 KB without asking.
  constexpr std::size_t kDefaultSharedBytes = 48 * 1024;
  if (config.shared_bytes > kDefaultSharedBytes) {
    check_launch(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(config.shared_bytes)));
  }
  void* parameters[] = {const_cast<Arguments*>(&arguments)};
  check_launch(cudaLaunchKernel(function, config.grid, config.block, parameters,
                                config.shared_bytes, config.stream));
#endif
}

/// What the choice of a kernel variant may depend on.
struct DeviceLimits {
  int multiprocessors;
  int shared_bytes_per_block;
};

/// Limits of the current device.
inline DeviceLimits device_limits() {
#ifdef RANKONE_EMULATION
  return {emulation::multiprocessors(), emulation::kMaxSharedBytes};
#else
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  DeviceLimits limits{};
  check(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&limits.shared_bytes_per_block,
                               cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  return limits;
#endif
}

}  // namespace rankone::cuda
