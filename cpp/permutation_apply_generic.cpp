// The apply kernels for 128-bit vectors.
#define RANKONE_ISA generic
#define RANKONE_ISA_LEVEL 0
#include "permutation_apply_kernel.h"
