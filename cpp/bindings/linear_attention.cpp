// Bindings of the linear-attention family. The argument tuples are those of
// rankone.ops._linear_attention.native_inputs; the CUDA functions also serve the host emulation.
#include "rankone/linear_attention.h"

#include "bindings.h"

namespace rankone::bindings {
namespace {

using Sizes = std::array<std::int64_t, 7>;
using Options = std::tuple<bool, int, int, int, double>;
using Tokens = std::array<TokensTuple, 4>;
using Addresses2 = std::array<std::int64_t, 2>;
using BackwardAddresses = std::array<std::int64_t, 7>;

LinearAttentionInputs inputs(const Sizes& sizes, const Options& options, const Tokens& tensors,
                             const Addresses2& optional) {
  LinearAttentionInputs inputs;
  LinearAttentionShape& shape = inputs.shape;
  shape.batch = sizes[0];
  shape.time = sizes[1];
  shape.heads = sizes[2];
  shape.kv_heads = sizes[3];
  shape.key_dim = sizes[4];
  shape.value_dim = sizes[5];
  shape.num_sequences = sizes[6];
  shape.ones_column = std::get<0>(options);
  shape.cu_seqlens = pointer<const std::int64_t>(optional[1]);
  inputs.dtype = static_cast<DataType>(std::get<1>(options));
  inputs.decay_form = static_cast<DecayForm>(std::get<2>(options));
  inputs.chunk_size = std::get<3>(options);
  inputs.scale = std::get<4>(options);
  inputs.q = tokens(tensors[0]);
  inputs.k = tokens(tensors[1]);
  inputs.v = tokens(tensors[2]);
  inputs.log_decay = tokens(tensors[3]);
  inputs.initial_state = pointer(optional[0]);
  return inputs;
}

LinearAttentionForward forward(const Sizes& sizes, const Options& options, const Tokens& tensors,
                               const Addresses2& optional, const Addresses2& results) {
  return {inputs(sizes, options, tensors, optional), pointer(results[0]), pointer(results[1])};
}

LinearAttentionBackward backward(const Sizes& sizes, const Options& options, const Tokens& tensors,
                                 const Addresses2& optional, const BackwardAddresses& addresses) {
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

LinearAttentionStep step(const Sizes& sizes, const Options& options, const Tokens& tensors,
                         const Addresses2& optional, const Addresses2& results) {
  return {inputs(sizes, options, tensors, optional), pointer(results[0]), pointer(results[1])};
}

}  // namespace

void bind_linear_attention_cpu(py::module_& module) {
  def_cpu(module, "linear_attention_forward", &forward, &cpu::linear_attention_forward);
  def_cpu(module, "linear_attention_backward", &backward, &cpu::linear_attention_backward);
  def_cpu(module, "linear_attention_step", &step, &cpu::linear_attention_step);
  module.def("linear_attention_instruction_set", &cpu::linear_attention_instruction_set);
}

#ifdef RANKONE_CUDA_LINEAR_ATTENTION
void bind_linear_attention_cuda(py::module_& module) {
  def_cuda(module, "linear_attention_forward", &forward, &cuda::linear_attention_forward,
           &cuda::linear_attention_forward_workspace);
  def_cuda(module, "linear_attention_backward", &backward, &cuda::linear_attention_backward,
           &cuda::linear_attention_backward_workspace);
  def_cuda(module, "linear_attention_step", &step, &cuda::linear_attention_step);
}
#endif

}  // namespace rankone::bindings
