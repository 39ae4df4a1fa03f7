// Copies and fills of device memory from the host, ordered on a stream; under emulation device
// memory is the host's.
#pragma once

#include <cstddef>
#include <cstring>

#include "launch.cuh"

namespace rankone::cuda {

/// Returns when the bytes have arrived.
inline void copy_to_host(void* host, const void* device, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
#ifdef RANKONE_EMULATION
  static_cast<void>(stream);
  std::memcpy(host, device, bytes);
#else
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
#endif
}

/// Returns when `host` may be changed.
inline void copy_to_device(void* device, const void* host, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
#ifdef RANKONE_EMULATION
  static_cast<void>(stream);
  std::memcpy(device, host, bytes);
#else
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
#endif
}

inline void copy_on_device(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
#ifdef RANKONE_EMULATION
  static_cast<void>(stream);
  std::memcpy(to, from, bytes);
#else
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
#endif
}

/// Every byte becomes `byte`.
inline void fill_bytes(void* device, unsigned char byte, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
#ifdef RANKONE_EMULATION
  static_cast<void>(stream);
  std::memset(device, byte, bytes);
#else
  check(cudaMemsetAsync(device, byte, bytes, stream), "cudaMemsetAsync");
#endif
}

}  // namespace rankone::cuda
