// The CPU kernels of the 2D selective scan, for one instruction set: included once by the source of
// each.
#pragma once

#include "selective_scan_2d_backward_kernel.h"
#include "selective_scan_2d_forward_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

/// `Kernel` is ScanForward or ScanBackward.
template <typename Kernel, typename Task>
std::size_t scan_workspace(const Task& task) {
  Arena counter(nullptr);
  const Kernel kernel(task, counter);
  return counter.used();
}

template <typename Kernel, typename Task>
void run_scan(const Task& task, void* workspace) {
  const FlushToZero flush;
  Arena arena(workspace);
  Kernel(task, arena).run();
}

const SelectiveScan2dKernels kSelectiveScan2d = {
    [](bool float64) { return float64 ? kLanes<double> : kLanes<float>; },
    [](const ScanForwardTask& task, bool float64) {
      return float64 ? scan_workspace<ScanForward<double>>(task)
                     : scan_workspace<ScanForward<float>>(task);
    },
    [](const ScanForwardTask& task, bool float64, void* workspace) {
      float64 ? run_scan<ScanForward<double>>(task, workspace)
              : run_scan<ScanForward<float>>(task, workspace);
    },
    [](const ScanBackwardTask& task, bool float64) {
      return float64 ? scan_workspace<ScanBackward<double>>(task)
                     : scan_workspace<ScanBackward<float>>(task);
    },
    [](const ScanBackwardTask& task, bool float64, void* workspace) {
      float64 ? run_scan<ScanBackward<double>>(task, workspace)
              : run_scan<ScanBackward<float>>(task, workspace);
    },
    [](const ScanSumTask& task, bool float64) {
      float64 ? sum_parts<double>(task) : sum_parts<float>(task);
    },
};

}  // namespace rankone::cpu::RANKONE_ISA
