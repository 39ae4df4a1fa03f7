// The sweeps of causal linear attention on __half operands.
#include "linear_attention_sweep_kernel.cuh"

namespace rankone::cuda {

template SweepPlan plan_sweep<__half>(SweepDecay, int, int);
template void launch_sweep<__half>(SweepDecay, SweepArguments, cudaStream_t);

}  // namespace rankone::cuda
