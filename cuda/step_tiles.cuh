// What the kernels of one token a sequence share. The work is to read and write the state once: a
// block owns kStepColumns value columns of one (sequence, head), a thread kVector columns of every
// so many rows (4 where the state's rows are float4 and 1 elsewhere) in registers, and sums over
// key channels go through shuffles and shared memory in a fixed order. Columns are split over
// blocks so that one sequence fills the device.
#pragma once

#include <cstdint>

#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "rankone/core.h"
#include "token_tiles.cuh"

namespace rankone::cuda {

inline constexpr int kStepThreads = 256;
inline constexpr int kStepWarps = kStepThreads / kWarpSize;
/// Columns of a block: rows of 128 bytes, whole memory transactions.
inline constexpr int kStepColumns = 32;

/// Sums by warp and column.
using StepPartials = float[kStepWarps][kStepColumns];

template <int kVector>
struct StepTile {
  static constexpr int kLanesPerRow = kStepColumns / kVector;
  static constexpr int kRowsAtOnce = kStepThreads / kLanesPerRow;
  static constexpr int kRows = static_cast<int>(kMaxHeadDim) / kRowsAtOnce;  // at most

  std::int64_t batch;
  std::int64_t head;
  int column;  // first one of the calling thread
  int row;     // the thread has rows row + i * kRowsAtOnce

  /// Block `index` of (batch, heads, column blocks).
  __device__ __forceinline__ StepTile(std::int64_t index, std::int64_t heads, int columns) {
    const int column_blocks = (columns + kStepColumns - 1) / kStepColumns;
    const int first_column = static_cast<int>(index % column_blocks) * kStepColumns;
    index /= column_blocks;
    head = index % heads;
    batch = index / heads;
    row = threadIdx.x / kLanesPerRow;
    column = first_column + threadIdx.x % kLanesPerRow * kVector;
  }

  __device__ __forceinline__ int channel(int i) const { return row + i * kRowsAtOnce; }

  __device__ __forceinline__ static void load(float (&values)[kVector], const float* source) {
    if constexpr (kVector == 4) {
      const float4 four = *reinterpret_cast<const float4*>(source);
      values[0] = four.x;
      values[1] = four.y;
      values[2] = four.z;
      values[3] = four.w;
    } else {
      values[0] = *source;
    }
  }
  __device__ __forceinline__ static void store(float* destination, const float (&values)[kVector]) {
    if constexpr (kVector == 4) {
      *reinterpret_cast<float4*>(destination) =
          make_float4(values[0], values[1], values[2], values[3]);
    } else {
      *destination = values[0];
    }
  }

  /// The sum of `values` over the rows of the block for each of its columns, in every thread.
  __device__ __forceinline__ static void sum_over_rows(float (&values)[kVector],
                                                       StepPartials& partials) {
    const int local = threadIdx.x % kLanesPerRow * kVector;
    // Lanes kLanesPerRow apart have the same columns; then the warps in their order.
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
#pragma unroll
      for (int distance = kLanesPerRow; distance < kWarpSize; distance *= 2) {
        values[i] += shuffle_xor(values[i], distance);
      }
      if (lane_id() < kLanesPerRow) partials[warp_id()][local + i] = values[i];
    }
    block_sync();
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      values[i] = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kStepWarps; ++warp) values[i] += partials[warp][local + i];
    }
  }
};

/// Blocks of a step.
inline std::int64_t step_blocks(std::int64_t batch, std::int64_t heads, std::int64_t columns) {
  return batch * heads * ((columns + kStepColumns - 1) / kStepColumns);
}

/// Starts the kernel with kVector = 4 where the states' rows are whole float4, else that with 1.
/// `Arguments` has the members state_in and state_out.
template <typename Arguments>
void launch_step(void (*by_four)(Arguments), void (*by_one)(Arguments), std::int64_t columns,
                 const LaunchConfig& config, const Arguments& arguments) {
  const auto has_vectors = [columns](const void* state) {
    return rows_are_aligned(state, columns, 0, 0, 0, sizeof(float));
  };
  const bool vectors = has_vectors(arguments.state_in) && has_vectors(arguments.state_out);
  launch(vectors ? by_four : by_one, config, arguments);
}

}  // namespace rankone::cuda
