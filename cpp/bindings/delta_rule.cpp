// Bindings of the delta-rule family. The argument tuples are those of
// rankone.ops._delta_rule.native_inputs; the CUDA functions also serve the host emulation.
#include "rankone/delta_rule.h"

#include "bindings.h"

namespace rankone::bindings {
namespace {

using Sizes = std::array<std::int64_t, 7>;
using Options = std::tuple<int, int, int, double, bool, double>;
using Tokens = std::array<TokensTuple, 5>;
using Addresses2 = std::array<std::int64_t, 2>;
using BackwardAddresses = std::array<std::int64_t, 8>;

DeltaRuleInputs inputs(const Sizes& sizes, const Options& options, const Tokens& tensors,
                       const Addresses2& optional) {
  DeltaRuleInputs inputs;
  DeltaRuleShape& shape = inputs.shape;
  shape.batch = sizes[0];
  shape.time = sizes[1];
  shape.heads = sizes[2];
  shape.value_heads = sizes[3];
  shape.key_dim = sizes[4];
  shape.value_dim = sizes[5];
  shape.num_sequences = sizes[6];
  shape.cu_seqlens = pointer<const std::int64_t>(optional[1]);
  inputs.dtype = static_cast<DataType>(std::get<0>(options));
  inputs.decay_form = static_cast<DecayForm>(std::get<1>(options));
  inputs.chunk_size = std::get<2>(options);
  inputs.scale = std::get<3>(options);
  inputs.use_qk_l2norm = std::get<4>(options);
  inputs.l2norm_eps = std::get<5>(options);
  inputs.q = tokens(tensors[0]);
  inputs.k = tokens(tensors[1]);
  inputs.v = tokens(tensors[2]);
  inputs.beta = tokens(tensors[3]);
  inputs.log_decay = tokens(tensors[4]);
  inputs.initial_state = pointer(optional[0]);
  return inputs;
}

DeltaRuleForward forward(const Sizes& sizes, const Options& options, const Tokens& tensors,
                         const Addresses2& optional, const Addresses2& results) {
  return {inputs(sizes, options, tensors, optional), pointer(results[0]), pointer(results[1])};
}

DeltaRuleBackward backward(const Sizes& sizes, const Options& options, const Tokens& tensors,
                           const Addresses2& optional, const BackwardAddresses& addresses) {
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

DeltaRuleStep step(const Sizes& sizes, const Options& options, const Tokens& tensors,
                   const Addresses2& optional, const Addresses2& results) {
  return {inputs(sizes, options, tensors, optional), pointer(results[0]), pointer(results[1])};
}

}  // namespace

void bind_delta_rule_cpu(py::module_& module) {
  def_cpu(module, "delta_rule_forward", &forward, &cpu::delta_rule_forward);
  def_cpu(module, "delta_rule_backward", &backward, &cpu::delta_rule_backward);
  def_cpu(module, "delta_rule_step", &step, &cpu::delta_rule_step);
}

#ifdef RANKONE_CUDA_DELTA_RULE
void bind_delta_rule_cuda(py::module_& module) {
  def_cuda(module, "delta_rule_forward", &forward, &cuda::delta_rule_forward,
           &cuda::delta_rule_forward_workspace);
  def_cuda(module, "delta_rule_backward", &backward, &cuda::delta_rule_backward,
           &cuda::delta_rule_backward_workspace);
  def_cuda(module, "delta_rule_step", &step, &cuda::delta_rule_step);
}
#endif

}  // namespace rankone::bindings
