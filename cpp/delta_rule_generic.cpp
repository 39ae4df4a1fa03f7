// The CPU delta rule for 128-bit vectors: the kernel source with this set's vectors.
#define RANKONE_ISA generic
#define RANKONE_ISA_LEVEL 0
#include "delta_rule_kernel.h"
