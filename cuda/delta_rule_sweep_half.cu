// The sweeps of the delta rule on __half operands.
#include "delta_rule_sweep_kernel.cuh"

namespace rankone::cuda {

template int delta_value_blocks<__half>(DeltaDecay, std::int64_t, int, int);
template void launch_delta_sweep<__half>(DeltaDecay, bool, DeltaSweepArguments, cudaStream_t);

}  // namespace rankone::cuda
