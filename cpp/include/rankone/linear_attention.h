// Causal linear attention with decay, the first kernel family.
//
// Per (sequence, kv head), with d_t = exp(log_decay_t) in [0, 1]:
//   S_t = d_t S_{t-1} + k_t v_t^T        (key_dim x value_dim, S_0 = initial_state or 0)
//   o_t = scale * q_t S_t                (query head h reads kv head h / (heads / kv_heads))
// The decay of step t multiplies the old state before k_t v_t^T is added. A per-channel decay
// multiplies row c of S by d_{t,c}. With `ones_column` the values carry one more column, all ones,
// which is never stored in v: its outputs are q_t . z_t of the normalised form.
//
// Equations: arXiv 2401.04658 (constant decay); the gated forms follow the gated-linear-attention
// literature; the running-product treatment of decays and the decay gradient are derived here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rankone/core.h"

namespace rankone {

struct LinearAttentionShape {
  std::int64_t batch = 0;
  std::int64_t time = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t key_dim = 0;
  std::int64_t value_dim = 0;  // columns stored in v, without the ones column
  bool ones_column = false;
  /// Packed sequences: offsets (num_sequences + 1) with batch == 1, on the device of the tensors;
  /// null means one sequence a batch entry and num_sequences == batch.
  const std::int64_t* cu_seqlens = nullptr;
  std::int64_t num_sequences = 0;

  std::int64_t value_columns() const { return value_dim + (ones_column ? 1 : 0); }
  std::int64_t group_size() const { return heads / kv_heads; }
};

/// What forward and backward both read. `dtype` is that of q, k, v. log_decay and the states are
/// float64 when dtype is float64, else float32.
struct LinearAttentionInputs {
  LinearAttentionShape shape;
  DataType dtype = DataType::kFloat32;
  ConstTokens q;  // (batch, time, heads, key_dim)
  ConstTokens k;  // (batch, time, kv_heads, key_dim)
  ConstTokens v;  // (batch, time, kv_heads, value_dim)
  DecayForm decay_form = DecayForm::kNone;
  ConstTokens log_decay;                // kPerHead: data alone is read
  const void* initial_state = nullptr;  // (num_sequences, kv_heads, key_dim, value_columns) or null
  double scale = 1.0;
  int chunk_size = 0;  // 0: the kernel's own choice; else 16, 32, 64 or 128
};

struct LinearAttentionForward {
  LinearAttentionInputs inputs;
  /// (batch, time, heads, value_columns), contiguous; of inputs.dtype, but with a ones column of
  /// the state's type, so that the quotient is rounded once.
  void* output = nullptr;
  void* final_state = nullptr;  // (num_sequences, kv_heads, key_dim, value_columns) or null
};

struct LinearAttentionBackward {
  LinearAttentionInputs inputs;
  /// (batch, time, heads, value_columns), contiguous, of the same type as the forward's output.
  const void* output_grad = nullptr;
  const void* final_state_grad = nullptr;  // like final_state, or null for zero
  void* q_grad = nullptr;                  // contiguous, inputs.dtype
  void* k_grad = nullptr;                  // contiguous, inputs.dtype
  void* v_grad = nullptr;                  // contiguous, inputs.dtype
  /// State's type, or null when not wanted. kPerToken (batch, time, kv_heads); kPerChannel (batch,
  /// time, kv_heads, key_dim); kPerHead (num_sequences, kv_heads): summed over time, not over
  /// sequences.
  void* log_decay_grad = nullptr;
  void* initial_state_grad = nullptr;  // like initial_state, or null when not wanted
};

/// One token per sequence: S' = d S + k v^T, o = scale * q S'. Tensors have time == 1; the state in
/// and out are (batch, kv_heads, key_dim, value_columns); state_in null means zeros. state_out may
/// not alias state_in.
struct LinearAttentionStep {
  LinearAttentionInputs inputs;  // initial_state is the state in
  void* output = nullptr;        // (batch, heads, value_columns), contiguous
  void* state_out = nullptr;
};

namespace cpu {

/// Float32, float64, float16 and bfloat16 (the last two computed in float32). `num_threads` bounds
/// the threads used; the result does not depend on it, bit for bit. Extra memory is
/// O(num_threads * (chunk * dims + key_dim * value_dim)).
void linear_attention_forward(const LinearAttentionForward& problem, int num_threads);
void linear_attention_backward(const LinearAttentionBackward& problem, int num_threads);
void linear_attention_step(const LinearAttentionStep& problem, int num_threads);

/// The instruction set the kernels run with here: "avx512", "avx2" or "generic".
const char* linear_attention_instruction_set();

}  // namespace cpu

namespace cuda {

/// Float16, bfloat16 and float32 on the current device and the given stream (a cudaStream_t).
/// `workspace` is device memory of at least the size the matching function below returns for the
/// same problem (0 bytes: may be null). Nothing synchronises; errors of the launch are thrown as
/// CudaError.
void linear_attention_forward(const LinearAttentionForward& problem, void* workspace, void* stream);
void linear_attention_backward(const LinearAttentionBackward& problem, void* workspace,
                               void* stream);
void linear_attention_step(const LinearAttentionStep& problem, void* stream);

std::size_t linear_attention_forward_workspace(const LinearAttentionForward& problem);
std::size_t linear_attention_backward_workspace(const LinearAttentionBackward& problem);

}  // namespace cuda
}  // namespace rankone
