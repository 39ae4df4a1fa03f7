// Picks the apply kernels of the machine's instruction set.
#include "permutation_apply.h"

#include "cpu_features.h"

namespace rankone::cpu {

const ApplyKernels& apply_kernels() {
#if defined(__x86_64__)
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return avx512::kApplyKernels;
    case InstructionSet::kAvx2:
      return avx2::kApplyKernels;
    case InstructionSet::kGeneric:
      break;
  }
#endif
  return generic::kApplyKernels;
}

}  // namespace rankone::cpu
