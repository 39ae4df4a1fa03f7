// Bindings of the linear-attention family. The argument tuples are those of
// rankone.ops._linear_attention.native_inputs; the CUDA functions also serve the host emulation.
#include "rankone/linear_attention.h"

#include "sequence.h"

namespace rankone::bindings {
namespace {

using LinearAttentionOptions = Options<bool>;
using LinearAttentionTokens = Tokens<4>;

LinearAttentionInputs inputs(const Sizes& sizes, const LinearAttentionOptions& options,
                             const LinearAttentionTokens& tensors, const Optional& optional) {
  auto inputs = sequence_inputs<LinearAttentionInputs>(sizes, options, optional,
                                                       &LinearAttentionShape::kv_heads);
  inputs.shape.ones_column = std::get<4>(options);
  inputs.q = tokens(tensors[0]);
  inputs.k = tokens(tensors[1]);
  inputs.v = tokens(tensors[2]);
  inputs.log_decay = tokens(tensors[3]);
  return inputs;
}

constexpr auto kForward =
    &with_results<LinearAttentionForward, &inputs, LinearAttentionOptions, LinearAttentionTokens>;
constexpr auto kStep =
    &with_results<LinearAttentionStep, &inputs, LinearAttentionOptions, LinearAttentionTokens>;

LinearAttentionBackward backward(const Sizes& sizes, const LinearAttentionOptions& options,
                                 const LinearAttentionTokens& tensors, const Optional& optional,
                                 const Addresses<7>& addresses) {
  LinearAttentionBackward problem;
  problem.inputs = inputs(sizes, options, tensors, optional);
  problem.output_grad = pointer(addresses[0]);
  problem.final_state_grad = pointer(addresses[1]);
  problem.q_grad = pointer(addresses[2]);
  problem.k_grad = pointer(addresses[3]);
  problem.v_grad = pointer(addresses[4]);
  problem.log_decay_grad = pointer(addresses[5]);
  problem.initial_state_grad = pointer(addresses[6]);
  return problem;
}

}  // namespace

void bind_linear_attention_cpu(py::module_& module) {
  def_cpu(module, "linear_attention_forward", kForward, &cpu::linear_attention_forward);
  def_cpu(module, "linear_attention_backward", &backward, &cpu::linear_attention_backward);
  def_cpu(module, "linear_attention_step", kStep, &cpu::linear_attention_step);
  module.def("linear_attention_instruction_set", &cpu::linear_attention_instruction_set);
}

#ifdef RANKONE_CUDA_LINEAR_ATTENTION
void bind_linear_attention_cuda(py::module_& module) {
  def_cuda(module, "linear_attention_forward", kForward, &cuda::linear_attention_forward,
           &cuda::linear_attention_forward_workspace);
  def_cuda(module, "linear_attention_backward", &backward, &cuda::linear_attention_backward,
           &cuda::linear_attention_backward_workspace);
  def_cuda(module, "linear_attention_step", kStep, &cuda::linear_attention_step);
}
#endif

}  // namespace rankone::bindings
