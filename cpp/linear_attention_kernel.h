// The CPU kernels of linear attention, for one instruction set: included once by the source of
// each.
#pragma once

#include "linear_attention_step_kernel.h"
#include "linear_attention_sweep_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

template <typename T>
std::size_t sweep_workspace(const SweepTask& task) {
  Arena counter(nullptr);
  const Sweep<T> sweep(task, counter);
  return counter.used();
}

template <typename T>
void run_sweep(const SweepTask& task, void* workspace) {
  const FlushToZero flush;
  Arena arena(workspace);
  Sweep<T>(task, arena).run();
}

const LinearAttentionKernels kLinearAttention = {
    [](const SweepTask& task, bool float64) {
      return float64 ? sweep_workspace<double>(task) : sweep_workspace<float>(task);
    },
    [](const SweepTask& task, bool float64, void* workspace) {
      float64 ? run_sweep<double>(task, workspace) : run_sweep<float>(task, workspace);
    },
    [](const StepTask& task, bool float64) { float64 ? step<double>(task) : step<float>(task); },
    [](bool float64) { return float64 ? kPanel<double> : kPanel<float>; },
};

}  // namespace rankone::cpu::RANKONE_ISA
