// The sweeps of causal linear attention on float operands.
#include "linear_attention_sweep_kernel.cuh"

namespace rankone::cuda {

template SweepPlan plan_sweep<float>(SweepDecay, int, int);
template void launch_sweep<float>(SweepDecay, SweepArguments, cudaStream_t);

}  // namespace rankone::cuda
