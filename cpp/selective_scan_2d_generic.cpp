// The CPU 2D selective scan for 128-bit vectors: the kernel source with this set's vectors.
#define RANKONE_ISA generic
#define RANKONE_ISA_LEVEL 0
#include "selective_scan_2d_kernel.h"
