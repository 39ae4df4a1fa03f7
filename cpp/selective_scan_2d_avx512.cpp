// The CPU 2D selective scan for AVX-512 (F, BW, DQ, VL): the kernel source with this set's vectors
// (-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c).
#if defined(__x86_64__)
#define RANKONE_ISA avx512
#define RANKONE_ISA_LEVEL 2
#include "selective_scan_2d_kernel.h"
#endif
