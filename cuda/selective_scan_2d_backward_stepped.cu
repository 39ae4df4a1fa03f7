// The backward sweeps of the 2D selective scan of the mamba discretisation and of discrete
// parameters.
#include "selective_scan_2d_backward.cuh"

namespace rankone::cuda {

template std::size_t backward_shared_bytes<ScanForm::kMamba>(const ScanVariant&,
                                                             const ScanBackwardArguments&, int,
                                                             int);
template void launch_backward_form<ScanForm::kMamba>(const ScanVariant&,
                                                     const ScanBackwardArguments&, int, int,
                                                     cudaStream_t);
template std::size_t backward_shared_bytes<ScanForm::kNone>(const ScanVariant&,
                                                            const ScanBackwardArguments&, int, int);
template void launch_backward_form<ScanForm::kNone>(const ScanVariant&,
                                                    const ScanBackwardArguments&, int, int,
                                                    cudaStream_t);

}  // namespace rankone::cuda
