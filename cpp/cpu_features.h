// Which of the instruction sets the CPU kernels are compiled for may run on this machine.
#pragma once

namespace rankone::cpu {

enum class InstructionSet : int { kGeneric = 0, kAvx2 = 1, kAvx512 = 2 };

/// The widest set that the processor and the operating system support, or a narrower one named in
/// the environment variable RANKONE_INSTRUCTION_SET ("generic", "avx2"), read once.
InstructionSet instruction_set();

/// "generic", "avx2" or "avx512".
const char* instruction_set_name(InstructionSet set);

}  // namespace rankone::cpu
