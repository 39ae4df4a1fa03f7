// The sweeps of the delta rule on float operands.
#include "delta_rule_sweep_kernel.cuh"

namespace rankone::cuda {

template int delta_value_blocks<float>(DeltaDecay, std::int64_t, int, int);
template void launch_delta_sweep<float>(DeltaDecay, bool, DeltaSweepArguments, cudaStream_t);

}  // namespace rankone::cuda
