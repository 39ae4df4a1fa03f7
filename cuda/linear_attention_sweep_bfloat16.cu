// The sweeps of causal linear attention on __nv_bfloat16 operands.
#include "linear_attention_sweep_kernel.cuh"

namespace rankone::cuda {

template SweepPlan plan_sweep<__nv_bfloat16>(SweepDecay, int, int);
template void launch_sweep<__nv_bfloat16>(SweepDecay, SweepArguments, cudaStream_t);

}  // namespace rankone::cuda
