// The sweeps of the delta rule on bfloat16 operands.
#include "delta_rule_sweep_kernel.cuh"

namespace rankone::cuda {

template int delta_value_blocks<__nv_bfloat16>(DeltaDecay, std::int64_t, int, int);
template void launch_delta_sweep<__nv_bfloat16>(DeltaDecay, bool, DeltaSweepArguments,
                                                cudaStream_t);

}  // namespace rankone::cuda
