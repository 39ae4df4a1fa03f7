// The CPU kernels of linear attention, for one instruction set: included once by the source of
// each.
#pragma once

#include <new>
#include <type_traits>

#include "linear_attention_step_kernel.h"
#include "linear_attention_sweep_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

static_assert(std::is_trivially_destructible_v<Sweep<float>>, "sweeps are left in their workspace");

template <typename T>
std::size_t sweep_workspace(const SweepTask& task) {
  Arena counter(nullptr);
  counter.take<Sweep<T>>(1);
  const Sweep<T> sweep(task, counter);
  return counter.used();
}

/// Takes the sweeps through the sequence chunk by chunk, in step: their heads' rows lie beside each
/// other in memory.
template <typename T>
void run_sweeps(const SweepTask* tasks, int count, void* workspace) {
  const FlushToZero flush;
  Arena arena(workspace);
  Sweep<T>* sweeps[kMaxSweeps] = {};
  for (int i = 0; i < count; ++i) {
    sweeps[i] = new (arena.take<Sweep<T>>(1)) Sweep<T>(tasks[i], arena);
    sweeps[i]->begin();
  }
  const std::int64_t chunks = count > 0 ? sweeps[0]->chunks() : 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int i = 0; i < count; ++i) sweeps[i]->run_chunk(chunk);
  }
  for (int i = 0; i < count; ++i) sweeps[i]->end();
}

const LinearAttentionKernels kLinearAttention = {
    [](const SweepTask& task, bool float64) {
      return float64 ? sweep_workspace<double>(task) : sweep_workspace<float>(task);
    },
    [](const SweepTask* tasks, int count, bool float64, void* workspace) {
      float64 ? run_sweeps<double>(tasks, count, workspace)
              : run_sweeps<float>(tasks, count, workspace);
    },
    [](const StepTask& task, bool float64) { float64 ? step<double>(task) : step<float>(task); },
    [](bool float64) { return float64 ? kPanel<double> : kPanel<float>; },
};

}  // namespace rankone::cpu::RANKONE_ISA
