// The gradients of q, k and log_decay of the delta rule on bfloat16 operands.
#include "delta_rule_gradients_kernel.cuh"

namespace rankone::cuda {

template DeltaGradientPlan plan_delta_gradients<__nv_bfloat16>(DeltaDecay, int, int);
template void launch_delta_gradients<__nv_bfloat16>(DeltaDecay, DeltaGradientArguments,
                                                    cudaStream_t);

}  // namespace rankone::cuda
