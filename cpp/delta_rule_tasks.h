// What the entry points of the CPU delta rule hand to the kernels of one instruction set: plain
// data, explained in delta_rule_chunk_kernel.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "linear_attention_tasks.h"
#include "rankone/delta_rule.h"

namespace rankone::cpu {

/// Largest chunk_size of a task.
inline constexpr int kMaxDeltaChunk = 64;

/// Numbers of the state's type: one a token and value head, or `width` of them.
template <typename Pointer>
struct TokenNumbers {
  Pointer data = nullptr;  // at the sequence's first token and the task's first value head
  std::int64_t time_stride = 0;
  std::int64_t head_stride = 0;
};

/// Value heads of one sequence that share the queries and keys of one head. States are dense, one
/// value head's after the other's.
struct DeltaRuleTask {
  std::int64_t length = 0;
  int chunk_size = 0;
  int value_heads = 1;
  SweepRows q, k, v;
  TokenNumbers<const void*> beta;
  DecayAxis decay = DecayAxis::kNone;  // or kScalar, or kContraction: one a key channel
  TokenNumbers<const void*> log_decay;
  bool normalizes = false;  // q and k are divided by sqrt(sum of squares + norm_eps)
  double norm_eps = 0;
  const void* initial_state = nullptr;  // null: zeros

  // Forward: the value columns of this task, whose first is a panel's.
  int column_begin = 0, column_end = 0;
  SweepOutput output;
  void* final_state = nullptr;

  // Backward. output_grad carries the scale as its factor.
  SweepRows output_grad;
  const void* final_state_grad = nullptr;  // null: zeros
  SweepOutput q_grad, k_grad, v_grad;
  /// q_grad and k_grad belong to one value head and the normalised rows: DeltaRuleSum finishes
  /// them.
  bool partial_grads = false;
  TokenNumbers<void*> beta_grad, log_decay_grad;
  void* initial_state_grad = nullptr;
};

/// The gradient of one head's queries or keys from those of its value heads.
struct DeltaRuleSum {
  std::int64_t length = 0;
  int value_heads = 1;
  SweepRows partial;  // of the state's type
  SweepRows rows;     // the queries or keys
  bool normalizes = false;
  double norm_eps = 0;
  SweepOutput grad;
};

/// One token of one sequence and value head.
struct DeltaRuleStepTask {
  SweepRows q, k, v;
  const void* beta = nullptr;
  DecayAxis decay = DecayAxis::kNone;
  const void* log_decay = nullptr;
  bool normalizes = false;
  double norm_eps = 0;
  const void* state_in = nullptr;  // null: zeros
  void* state_out = nullptr;       // may be state_in
  SweepOutput output;
};

struct DeltaRuleKernels {
  /// Bytes of workspace, 64-byte aligned, that a task of these sizes needs; and the task.
  std::size_t (*forward_workspace)(const DeltaRuleTask& task, bool float64);
  void (*forward)(const DeltaRuleTask& task, bool float64, void* workspace);
  std::size_t (*backward_workspace)(const DeltaRuleTask& task, bool float64);
  void (*backward)(const DeltaRuleTask& task, bool float64, void* workspace);
  std::size_t (*sum_workspace)(const DeltaRuleSum& task, bool float64);
  void (*sum)(const DeltaRuleSum& task, bool float64, void* workspace);
  std::size_t (*step_workspace)(const DeltaRuleStepTask& task, bool float64);
  void (*step)(const DeltaRuleStepTask& task, bool float64, void* workspace);
  /// Value columns that one panel holds.
  int (*panel_columns)(bool float64);
};

namespace generic {
extern const DeltaRuleKernels kDeltaRule;
}
namespace avx2 {
extern const DeltaRuleKernels kDeltaRule;
}
namespace avx512 {
extern const DeltaRuleKernels kDeltaRule;
}

}  // namespace rankone::cpu
