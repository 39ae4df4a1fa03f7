// What the entry points of CPU linear attention hand to the kernels of one instruction set: plain
// data, explained in linear_attention_sweep_kernel.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rankone/linear_attention.h"

namespace rankone::cpu {

/// Rows of one sequence for one head and those after it: (time, group, columns), last axis dense.
struct SweepRows {
  const void* data = nullptr;  // at the sequence's first token
  std::int64_t time_stride = 0;
  std::int64_t head_stride = 0;
  DataType dtype = DataType::kFloat32;
  int columns = 0;           // stored ones
  bool ones_column = false;  // one more column, all ones
  double factor = 1.0;       // multiplies every element

  int width() const { return columns + (ones_column ? 1 : 0); }
};

struct SweepOutput {
  void* data = nullptr;  // null: not wanted
  std::int64_t time_stride = 0;
  std::int64_t head_stride = 0;
  DataType dtype = DataType::kFloat32;
  int columns = 0;  // columns past these are computed for the state alone
  double factor = 1.0;
};

/// Where the decays stand in a sweep's product of x y^T (contracted columns) and z (output
/// columns).
enum class DecayAxis : int {
  kNone,         // no decay
  kScalar,       // one factor a token, or one for all tokens (log_decay_stride 0)
  kContraction,  // one factor a token and column of x and y
  kOutput,       // one factor a token and column of z
};

/// What a sweep adds to the gradient of the log-decay. The forward-running sweep records
/// e_t = sum over heads of q_t * dq_t, the reverse one takes k_t * dk_t off and sums from the end.
enum class DecayGradient : int { kNone, kRecord, kFinish };

struct SweepTask {
  std::int64_t length = 0;
  bool reverse = false;
  int chunk_size = 64;

  SweepRows x, y, z;
  int x_heads = 1;  // heads of x (and of the output) that read one state
  int y_heads = 1;  // heads of y and z that write one state; one of the two counts is 1
  int column_begin = 0, column_end = 0;  // output columns of this task

  DecayAxis decay = DecayAxis::kNone;
  const void* log_decay = nullptr;  // of the state's type, at the sequence's first token
  std::int64_t log_decay_stride = 0;

  SweepOutput output;

  // State (contracted column r, output column c) at r * row_stride + c * column_stride.
  const void* state_in = nullptr;  // null: zeros
  void* state_out = nullptr;       // null: not wanted
  std::int64_t state_row_stride = 0, state_column_stride = 0;

  DecayGradient gradient = DecayGradient::kNone;
  SweepRows partner;               // q when recording, k when finishing; x_heads heads
  void* log_decay_grad = nullptr;  // first token's; null for a decay shared by all tokens
  std::int64_t log_decay_grad_stride = 0;
  const void* final_state_grad = nullptr;  // recording: strides as of the state; null: zero
  double* terminal = nullptr;  // <S_T, dS_T> of every output column: written when recording
  double* weighted_sum =
      nullptr;  // shared decay: sum over t of (t + 1) e_t, from one sweep to the other
  void* shared_decay_grad = nullptr;  // shared decay: the result, written when finishing
};

/// One token of one sequence and kv head.
struct StepTask {
  SweepRows q, k, v;
  int heads = 1;                       // query heads
  DecayAxis decay = DecayAxis::kNone;  // kContraction: one a key channel
  const void* log_decay = nullptr;
  const void* state_in = nullptr;  // dense (key_dim, value_columns); null: zeros
  void* state_out = nullptr;
  SweepOutput output;
};

struct LinearAttentionKernels {
  /// Bytes of workspace, 64-byte aligned, that a task of these sizes needs.
  std::size_t (*sweep_workspace)(const SweepTask& task, bool float64);
  void (*sweep)(const SweepTask& task, bool float64, void* workspace);
  void (*step)(const StepTask& task, bool float64);
  /// Output columns that one panel holds: a task's column_begin is a multiple of it.
  int (*panel_columns)(bool float64);
};

namespace generic {
extern const LinearAttentionKernels kLinearAttention;
}
namespace avx2 {
extern const LinearAttentionKernels kLinearAttention;
}
namespace avx512 {
extern const LinearAttentionKernels kLinearAttention;
}

}  // namespace rankone::cpu
