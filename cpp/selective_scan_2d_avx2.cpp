// The CPU 2D selective scan for AVX2 and FMA: the kernel source with this set's vectors
// (-mavx2 -mfma -mf16c).
#if defined(__x86_64__)
#define RANKONE_ISA avx2
#define RANKONE_ISA_LEVEL 1
#include "selective_scan_2d_kernel.h"
#endif
