// The CPU delta rule for AVX2 and FMA: the kernel source with this set's vectors
// (-mavx2 -mfma -mf16c).
#if defined(__x86_64__)
#define RANKONE_ISA avx2
#define RANKONE_ISA_LEVEL 1
#include "delta_rule_kernel.h"
#endif
