// The backward sweeps of the 2D selective scan of companion matrices and of one matrix value a
// channel.
#include "selective_scan_2d_backward.cuh"

namespace rankone::cuda {

template std::size_t backward_shared_bytes<ScanForm::kCompanion>(const ScanVariant&,
                                                                 const ScanBackwardArguments&, int,
                                                                 int);
template void launch_backward_form<ScanForm::kCompanion>(const ScanVariant&,
                                                         const ScanBackwardArguments&, int, int,
                                                         cudaStream_t);
template std::size_t backward_shared_bytes<ScanForm::kScalar>(const ScanVariant&,
                                                              const ScanBackwardArguments&, int,
                                                              int);
template void launch_backward_form<ScanForm::kScalar>(const ScanVariant&,
                                                      const ScanBackwardArguments&, int, int,
                                                      cudaStream_t);

}  // namespace rankone::cuda
