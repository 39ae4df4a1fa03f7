// The delta rule and its gated forms, the second kernel family.
//
// Per (sequence, value head), with d_t = exp(log_decay_t) in [0, 1] and the state S (key_dim x
// value_dim, S_0 = initial_state or 0):
//   S~_t = d_t S_{t-1}
//   u_t  = beta_t (v_t - S~_t^T k_t)     the prediction error against the decayed state
//   S_t  = S~_t + k_t u_t^T
//   o_t  = scale * S_t^T q_t
// Value head h reads the queries and keys of head h / (value_heads / heads). A per-channel decay
// multiplies row c of S by d_{t,c}.
//
// Equations: arXiv 2406.06484 (delta rule), 2412.06464 (scalar gate), 2510.26692 (channel gate).
#pragma once

#include <cstddef>
#include <cstdint>

#include "rankone/core.h"

namespace rankone {

struct DeltaRuleShape {
  std::int64_t batch = 0;
  std::int64_t time = 0;
  std::int64_t heads = 0;        // of q and k
  std::int64_t value_heads = 0;  // of v, beta, log_decay and the output; a multiple of heads
  std::int64_t key_dim = 0;
  std::int64_t value_dim = 0;
  /// As in LinearAttentionShape.
  const std::int64_t* cu_seqlens = nullptr;
  std::int64_t num_sequences = 0;

  std::int64_t group_size() const { return value_heads / heads; }
};

/// What forward and backward both read. `dtype` is that of q, k, v and the output. beta, log_decay
/// and the states are float64 when dtype is float64, else float32.
struct DeltaRuleInputs {
  DeltaRuleShape shape;
  DataType dtype = DataType::kFloat32;
  ConstTokens q;                            // (batch, time, heads, key_dim)
  ConstTokens k;                            // (batch, time, heads, key_dim)
  ConstTokens v;                            // (batch, time, value_heads, value_dim)
  ConstTokens beta;                         // (batch, time, value_heads)
  DecayForm decay_form = DecayForm::kNone;  // kNone, kPerToken or kPerChannel
  ConstTokens log_decay;                    // (batch, time, value_heads[, key_dim])
  const void* initial_state = nullptr;      // (num_sequences, value_heads, key_dim, value_dim)
  double scale = 1.0;
  /// q and k are divided by sqrt(sum of squares + l2norm_eps) over their channels first.
  bool use_qk_l2norm = false;
  double l2norm_eps = 1e-6;
  int chunk_size = 0;  // 0: the kernel's own choice; else 16, 32 or 64
};

struct DeltaRuleForward {
  DeltaRuleInputs inputs;
  void* output = nullptr;       // (batch, time, value_heads, value_dim), contiguous
  void* final_state = nullptr;  // like initial_state, or null
};

struct DeltaRuleBackward {
  DeltaRuleInputs inputs;
  const void* output_grad = nullptr;       // contiguous, inputs.dtype
  const void* final_state_grad = nullptr;  // like final_state, or null for zero
  void* q_grad = nullptr;                  // contiguous, inputs.dtype, summed over value heads
  void* k_grad = nullptr;
  void* v_grad = nullptr;
  void* beta_grad = nullptr;           // contiguous, the state's type
  void* log_decay_grad = nullptr;      // of log_decay's shape, the state's type, or null
  void* initial_state_grad = nullptr;  // like initial_state, or null when not wanted
};

/// One token per sequence. Tensors have time == 1. state_out may be state_in (initial_state).
struct DeltaRuleStep {
  DeltaRuleInputs inputs;  // initial_state is the state in; null means zeros
  void* output = nullptr;  // (batch, value_heads, value_dim), contiguous
  void* state_out = nullptr;
};

namespace cpu {

/// As cpu::linear_attention_*; the result does not depend on num_threads, bit for bit.
void delta_rule_forward(const DeltaRuleForward& problem, int num_threads);
void delta_rule_backward(const DeltaRuleBackward& problem, int num_threads);
void delta_rule_step(const DeltaRuleStep& problem, int num_threads);

}  // namespace cpu

namespace cuda {

/// As cuda::linear_attention_*. Chunks are always 16 tokens: chunk_size is checked and has no
/// effect.
void delta_rule_forward(const DeltaRuleForward& problem, void* workspace, void* stream);
void delta_rule_backward(const DeltaRuleBackward& problem, void* workspace, void* stream);
void delta_rule_step(const DeltaRuleStep& problem, void* stream);

std::size_t delta_rule_forward_workspace(const DeltaRuleForward& problem);
std::size_t delta_rule_backward_workspace(const DeltaRuleBackward& problem);

}  // namespace cuda
}  // namespace rankone
