// CPU linear attention for 128-bit vectors: the kernel source with this set's vectors.
#define RANKONE_ISA generic
#define RANKONE_ISA_LEVEL 0
#include "linear_attention_kernel.h"
