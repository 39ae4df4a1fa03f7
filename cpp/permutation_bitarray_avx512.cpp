// The bitarray kernels for AVX-512.
#if defined(__x86_64__)
#define RANKONE_ISA avx512
#define RANKONE_ISA_LEVEL 2
#include "permutation_bitarray_kernel.h"
#endif
