// Runs a host lambda once per emulated thread: a kernel written where it is tested.
#pragma once

#include "primitives/launch.cuh"

namespace rankone::cuda {

template <typename Body>
__global__ void call_body(const Body* body) {
  (*body)();
}

/// Runs `body` in `grid` blocks of `block` threads with `shared_bytes` of shared memory each.
template <typename Body>
void run_threads(dim3 grid, dim3 block, std::size_t shared_bytes, const Body& body) {
  LaunchConfig config{grid, block, shared_bytes};
  config.name = "test_kernel";
  launch(&call_body<Body>, config, &body);
}

/// Runs `body` in one warp.
template <typename Body>
void run_warp(std::size_t shared_bytes, const Body& body) {
  run_threads(1, kWarpSize, shared_bytes, body);
}

}  // namespace rankone::cuda
