// What the scheduler offers to the instructions built on it: a meeting of lanes in which the last
// one to arrive computes for all, and checks of shared-memory addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "simt.h"

namespace rankone::emulation {

enum class Collective : std::uint8_t {
  kWarpBarrier,
  kShuffle,
  kBallot,
  kMmaBf16,
  kMmaHalf,
  kMmaTf32,
  kLdmatrix,
  kLdmatrixTrans,
  kStmatrix,
  kStmatrixTrans,
};

/// The operands of the lanes that meet, by lane; null for lanes outside `members`.
struct Lanes {
  void* operands[kWarpSize];
  unsigned members;
};

/// Waits until all lanes in `members` of the calling warp have come with the same `kind` and
/// `variant` (what else must agree, such as the matrix count); the last to come runs `compute`,
/// which may read and write every lane's operand.
void meet(Collective kind, int variant, unsigned members, void* operand,
          void (*compute)(const Lanes&));

/// Lane of the running thread in its warp.
int current_lane();

/// Throws unless [address, address + bytes) lies in the block's shared memory and `address` is a
/// multiple of `bytes`.
void check_shared(const char* instruction, const void* address, std::size_t bytes);

/// Ends the launch with an error that names the kernel, the block and the running thread.
[[noreturn]] void fail(const std::string& message);

/// Counters of the launch under way.
Statistics& statistics();

}  // namespace rankone::emulation
