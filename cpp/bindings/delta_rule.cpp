// Bindings of the delta-rule family. The argument tuples are those of
// rankone.ops._delta_rule.native_inputs; the CUDA functions also serve the host emulation.
#include "rankone/delta_rule.h"

#include "sequence.h"

namespace rankone::bindings {
namespace {

using DeltaRuleOptions = Options<bool, double>;
using DeltaRuleTokens = Tokens<5>;

DeltaRuleInputs inputs(const Sizes& sizes, const DeltaRuleOptions& options,
                       const DeltaRuleTokens& tensors, const Optional& optional) {
  auto inputs =
      sequence_inputs<DeltaRuleInputs>(sizes, options, optional, &DeltaRuleShape::value_heads);
  inputs.use_qk_l2norm = std::get<4>(options);
  inputs.l2norm_eps = std::get<5>(options);
  inputs.q = tokens(tensors[0]);
  inputs.k = tokens(tensors[1]);
  inputs.v = tokens(tensors[2]);
  inputs.beta = tokens(tensors[3]);
  inputs.log_decay = tokens(tensors[4]);
  return inputs;
}

constexpr auto kForward =
    &with_results<DeltaRuleForward, &inputs, DeltaRuleOptions, DeltaRuleTokens>;
constexpr auto kStep = &with_results<DeltaRuleStep, &inputs, DeltaRuleOptions, DeltaRuleTokens>;

DeltaRuleBackward backward(const Sizes& sizes, const DeltaRuleOptions& options,
                           const DeltaRuleTokens& tensors, const Optional& optional,
                           const Addresses<8>& addresses) {
  DeltaRuleBackward problem;
  problem.inputs = inputs(sizes, options, tensors, optional);
  problem.output_grad = pointer(addresses[0]);
  problem.final_state_grad = pointer(addresses[1]);
  problem.q_grad = pointer(addresses[2]);
  problem.k_grad = pointer(addresses[3]);
  problem.v_grad = pointer(addresses[4]);
  problem.beta_grad = pointer(addresses[5]);
  problem.log_decay_grad = pointer(addresses[6]);
  problem.initial_state_grad = pointer(addresses[7]);
  return problem;
}

}  // namespace

void bind_delta_rule_cpu(py::module_& module) {
  def_cpu(module, "delta_rule_forward", kForward, &cpu::delta_rule_forward);
  def_cpu(module, "delta_rule_backward", &backward, &cpu::delta_rule_backward);
  def_cpu(module, "delta_rule_step", kStep, &cpu::delta_rule_step);
}

#ifdef RANKONE_CUDA_DELTA_RULE
void bind_delta_rule_cuda(py::module_& module) {
  def_cuda(module, "delta_rule_forward", kForward, &cuda::delta_rule_forward,
           &cuda::delta_rule_forward_workspace);
  def_cuda(module, "delta_rule_backward", &backward, &cuda::delta_rule_backward,
           &cuda::delta_rule_backward_workspace);
  def_cuda(module, "delta_rule_step", kStep, &cuda::delta_rule_step);
}
#endif

}  // namespace rankone::bindings
