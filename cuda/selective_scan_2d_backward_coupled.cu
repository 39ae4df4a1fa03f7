// The backward sweeps of the 2D selective scan with exponentials of both kinds of matrices.
#include "selective_scan_2d_backward.cuh"

namespace rankone::cuda {

template std::size_t backward_shared_bytes<ScanForm::kZoh>(const ScanVariant&,
                                                           const ScanBackwardArguments&, int, int);
template void launch_backward_form<ScanForm::kZoh>(const ScanVariant&, const ScanBackwardArguments&,
                                                   int, int, cudaStream_t);
template std::size_t backward_shared_bytes<ScanForm::kExp>(const ScanVariant&,
                                                           const ScanBackwardArguments&, int, int);
template void launch_backward_form<ScanForm::kExp>(const ScanVariant&, const ScanBackwardArguments&,
                                                   int, int, cudaStream_t);

}  // namespace rankone::cuda
