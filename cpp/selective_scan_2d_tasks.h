// What the entry points of the CPU 2D selective scan hand to the kernels of one instruction set:
// plain data, explained in selective_scan_2d_lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rankone/selective_scan_2d.h"

namespace rankone::cpu {

/// Neighbouring channels of one batch entry, one a vector lane.
struct ScanLanes {
  std::int64_t batch = 0;
  std::int64_t first = 0;
  int count = 0;
};

/// The lanes' scan. The inputs are in scan order: no reverse flag is set.
struct ScanForwardTask {
  const SelectiveScan2dForward* problem = nullptr;
  ScanLanes lanes;
};

/// A tensor over cells whose elements several channels share: B and C of groups, dt of heads. Its
/// gradient is summed over the channels of one task, then over tasks.
enum ScanShared : int { kSharedB1, kSharedB2, kSharedC1, kSharedC2, kSharedDt1, kSharedDt2 };
inline constexpr int kSharedTensors = 6;

/// Gradients of parameters, summed over cells and held as (slot, channel) until they are summed
/// over the batch. Those with one value a state take `states` slots each.
enum ScanSlot : int {
  kSlotA1,
  kSlotA2,
  kSlotA3,
  kSlotA4,
  kSlotB1,  // of static B and C
  kSlotB2,
  kSlotC1,
  kSlotC2,
  kSlotD,  // from here on one value a channel
  kSlotDt1Bias,
  kSlotDt2Bias,
  kSlotGamma,
  kSlotEnd,
};

// Never out of line: the linker could keep the copy compiled for the widest instruction set.
__attribute__((always_inline)) constexpr std::int64_t slot_offset(int slot, std::int64_t states) {
  return slot < kSlotD ? slot * states : kSlotD * states + (slot - kSlotD);
}

/// Consecutive lane blocks of one batch entry, one after another.
struct ScanBackwardTask {
  const SelectiveScan2dBackward* problem = nullptr;
  const ScanLanes* blocks = nullptr;
  int num_blocks = 0;
  /// Partial sums of this task: (heads or groups from first_shared on, states or 1, rows, columns),
  /// zeroed; null where channels share nothing or the gradient is not wanted.
  void* shared[kSharedTensors] = {};
  std::int64_t first_shared[kSharedTensors] = {};
  /// (slot_offset(kSlotEnd), channels) of this batch entry.
  void* slots = nullptr;
};

/// Sums the tasks' partial gradients of one shared tensor for one batch entry and row.
struct ScanSumTask {
  static constexpr int kMaxParts = 64;
  const void* parts[kMaxParts] = {};  // each at this row's first column
  std::int64_t first_shared[kMaxParts] = {};
  std::int64_t last_shared[kMaxParts] = {};
  int num_parts = 0;
  std::int64_t heads = 0;  // or groups
  int states = 1;
  std::int64_t columns = 0;
  std::int64_t state_step = 0;  // between states of a part; a head is `states` of them
  DataType dtype = DataType::kFloat32;
  MutableCells grad;  // at this batch entry and row
};

struct SelectiveScan2dKernels {
  int (*lanes)(bool float64);
  std::size_t (*forward_workspace)(const ScanForwardTask& task, bool float64);
  void (*forward)(const ScanForwardTask& task, bool float64, void* workspace);
  std::size_t (*backward_workspace)(const ScanBackwardTask& task, bool float64);
  void (*backward)(const ScanBackwardTask& task, bool float64, void* workspace);
  void (*sum)(const ScanSumTask& task, bool float64);
};

namespace generic {
extern const SelectiveScan2dKernels kSelectiveScan2d;
}
namespace avx2 {
extern const SelectiveScan2dKernels kSelectiveScan2d;
}
namespace avx512 {
extern const SelectiveScan2dKernels kSelectiveScan2d;
}

}  // namespace rankone::cpu
