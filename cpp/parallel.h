// A small persistent thread pool for the CPU kernels.
//
// The threads sleep on a condition variable between calls and never spin: the caller's own runtime
// (an OpenMP pool, a data loader) shares the cores. A second caller, a nested call and a forked
// child are all safe; the first two run their work on the calling thread alone.
#pragma once

#include <cstdint>
#include <type_traits>

namespace rankone::cpu {

/// `worker` is in [0, num_threads) and unique among the threads of one call: it may index a
/// per-thread workspace.
using ParallelBody = void (*)(void* context, std::int64_t task, int worker);

void parallel_for(std::int64_t num_tasks, int num_threads, ParallelBody body, void* context);

/// Calls `body(task, worker)` once for each task in [0, num_tasks) with at most `num_threads`
/// threads, the caller among them; tasks are handed out in ascending order. The first exception
/// stops the handing out and is rethrown here once every thread has left `body`.
template <typename Body>
void parallel_for(std::int64_t num_tasks, int num_threads, Body&& body) {
  using Target = std::remove_reference_t<Body>;
  parallel_for(
      num_tasks, num_threads,
      [](void* context, std::int64_t task, int worker) {
        (*static_cast<Target*>(context))(task, worker);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace rankone::cpu
