// The bitarray kernels for AVX2.
#if defined(__x86_64__)
#define RANKONE_ISA avx2
#define RANKONE_ISA_LEVEL 1
#include "permutation_bitarray_kernel.h"
#endif
