// The gradients of q, k and log_decay of the delta rule on float operands.
#include "delta_rule_gradients_kernel.cuh"

namespace rankone::cuda {

template DeltaGradientPlan plan_delta_gradients<float>(DeltaDecay, int, int);
template void launch_delta_gradients<float>(DeltaDecay, DeltaGradientArguments, cudaStream_t);

}  // namespace rankone::cuda
