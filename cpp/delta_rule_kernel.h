// The CPU kernels of the delta rule, for one instruction set: included once by the source of each.
#pragma once

#include "delta_rule_backward_kernel.h"
#include "delta_rule_forward_kernel.h"
#include "delta_rule_step_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

/// `Kernel` is DeltaForward or DeltaBackward.
template <typename Kernel>
std::size_t delta_workspace(const DeltaRuleTask& task) {
  Arena counter(nullptr);
  const Kernel kernel(task, counter);
  return counter.used();
}

template <typename Kernel>
void run_delta(const DeltaRuleTask& task, void* workspace) {
  const FlushToZero flush;
  Arena arena(workspace);
  Kernel(task, arena).run();
}

/// The rows of a sum: a gradient and a normalised row.
template <typename T>
std::size_t sum_workspace(const DeltaRuleSum& task) {
  Arena counter(nullptr);
  for (int rows = 0; rows < 2; ++rows) counter.take<T>(round_to_lanes<T>(task.rows.columns));
  return counter.used();
}

template <typename T>
void sum_value_heads(const DeltaRuleSum& task, void* workspace) {
  const FlushToZero flush;
  constexpr int L = kLanes<T>;
  const int columns = task.rows.columns;
  const std::int64_t stride = round_to_lanes<T>(columns);
  Arena arena(workspace);
  T* grad = arena.take<T>(stride);
  T* unit = arena.take<T>(stride);
  alignas(64) T scratch[row_products_scratch<T>(1)];
  for (std::int64_t time = 0; time < task.length; ++time) {
    const Chunk token{time, 1, false};
    for (int head = 0; head < task.value_heads; ++head) {
      read_chunk<T>(task.partial, token, head, 0, columns, [&](int, int vector, Vec<T> value) {
        T* target = grad + vector * L;
        store<T>(target, head == 0 ? value : value + load<T>(target));
      });
    }
    if (task.normalizes) {
      read_chunk<T>(task.rows, token, 0, 0, columns,
                    [&](int, int vector, Vec<T> value) { store<T>(unit + vector * L, value); });
      T inverse[1];
      normalize_rows<T>(unit, 1, stride, task.norm_eps, inverse, scratch);
      normalize_rows_gradient<T>(grad, unit, inverse, 1, stride, scratch);
    }
    write_chunk<T>(task.grad, token, 0, 0, columns, grad, 0);
  }
}

const DeltaRuleKernels kDeltaRule = {
    [](const DeltaRuleTask& task, bool float64) {
      return float64 ? delta_workspace<DeltaForward<double>>(task)
                     : delta_workspace<DeltaForward<float>>(task);
    },
    [](const DeltaRuleTask& task, bool float64, void* workspace) {
      float64 ? run_delta<DeltaForward<double>>(task, workspace)
              : run_delta<DeltaForward<float>>(task, workspace);
    },
    [](const DeltaRuleTask& task, bool float64) {
      return float64 ? delta_workspace<DeltaBackward<double>>(task)
                     : delta_workspace<DeltaBackward<float>>(task);
    },
    [](const DeltaRuleTask& task, bool float64, void* workspace) {
      float64 ? run_delta<DeltaBackward<double>>(task, workspace)
              : run_delta<DeltaBackward<float>>(task, workspace);
    },
    [](const DeltaRuleSum& task, bool float64) {
      return float64 ? sum_workspace<double>(task) : sum_workspace<float>(task);
    },
    [](const DeltaRuleSum& task, bool float64, void* workspace) {
      float64 ? sum_value_heads<double>(task, workspace) : sum_value_heads<float>(task, workspace);
    },
    [](const DeltaRuleStepTask& task, bool float64) {
      return float64 ? delta_step_workspace<double>(task) : delta_step_workspace<float>(task);
    },
    [](const DeltaRuleStepTask& task, bool float64, void* workspace) {
      float64 ? delta_step<double>(task, workspace) : delta_step<float>(task, workspace);
    },
    [](bool float64) { return float64 ? kPanel<double> : kPanel<float>; },
};

}  // namespace rankone::cpu::RANKONE_ISA
