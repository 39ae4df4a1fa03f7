#include "cpu_features.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace rankone::cpu {
namespace {

InstructionSet supported() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512) return InstructionSet::kAvx512;
  if (avx2) return InstructionSet::kAvx2;
#endif
  return InstructionSet::kGeneric;
}

InstructionSet detect() {
  const InstructionSet widest = supported();
  const char* requested = std::getenv("RANKONE_INSTRUCTION_SET");
  if (requested == nullptr) return widest;
  for (const InstructionSet set : {InstructionSet::kGeneric, InstructionSet::kAvx2}) {
    if (set < widest && std::strcmp(requested, instruction_set_name(set)) == 0) return set;
  }
  return widest;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet set = detect();
  return set;
}

const char* instruction_set_name(InstructionSet set) {
  switch (set) {
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kGeneric:
      break;
  }
  return "generic";
}

}  // namespace rankone::cpu
