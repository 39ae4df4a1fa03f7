// What host and kernels of the 2D selective scan share: the arguments of a sweep over the grid and
// the forms its inner loop is compiled for.
//
// Rows of the grid lie on warps and columns follow one another, so the host swaps the two axes
// (and h1 with h2, which the recurrence does not notice) where there are fewer columns than rows.
//
// A thread owns 2 states of each of kChannels channels. In a warp, `state_lanes` lanes side by side
// share the states of their channels and the other lanes hold further channels, so that per cell
//   B and C are read once for kChannels channels,
//   x and the steps are read once for all states,
//   sums over states or channels are short.
// With kChannels = 4 a warp owns 128 / state_lanes channels (16 at 16 states); with 1 a quarter of
// them, which costs more per state and gives four times the blocks where those are few.
#pragma once

#include <cstdint>

#include "primitives/platform.cuh"
#include "rankone/selective_scan_2d.h"

namespace rankone::cuda {

/// Forms of the inner loop. kScalar: every A is one value a channel, so that the cell's factors are
/// made once per channel; it serves all discretisations.
enum class ScanForm : int { kZoh, kMamba, kExp, kNone, kCompanion, kScalar };

/// Forms also compiled with one channel a thread, for problems of few channels; the others always
/// run with four.
__host__ __device__ constexpr bool has_narrow_variant(ScanForm form) {
  return form == ScanForm::kZoh || form == ScanForm::kMamba || form == ScanForm::kScalar;
}

inline constexpr int kStatesPerThread = 2;
inline constexpr int kMinStateLanes = 2;
inline constexpr int kMaxScanWarps = 8;
inline constexpr int kWideChannels = 4;

/// Order of the vectors of a cell; the single-axis scan has the first two.
enum ScanVectorIndex : int { kVectorB1 = 0, kVectorC1 = 1, kVectorB2 = 2, kVectorC2 = 3 };
inline constexpr int kScanVectors = 4;

/// One of B1, C1, B2, C2.
struct ScanVector {
  ConstCells tensor;
  int groups;              // 0: static
  int channels_per_group;  // 1 for a static vector
  int local_groups;        // at most so many groups meet the channels of a warp
};

/// `data` is float; a zero state_stride is one value a channel; null is zero.
struct ScanMatrix {
  const float* data;
  std::int64_t channel_stride;
  std::int64_t state_stride;
};

struct ScanBorder {
  float* column_h1;
  float* column_h2;
  float* row_h1;
  float* row_h2;
};

/// The forward sweep. Strides of cells are those of the scan: reversed axes have negative ones.
struct ScanArguments {
  ConstCells x;
  ConstCells dt[2];
  ConstCells z;
  MutableCells y;  // null: only the states at the end of each segment are wanted
  ScanVector vectors[kScanVectors];
  ScanMatrix a[4];
  const float* skip;
  const float* bias[2];
  const float* gamma;
  ScanBorder initial;
  ScanBorder final;
  float* step_sums;   // (segments, batch, rows, channels): sums of dt1 over a segment, or null
  float* row_buffer;  // (blocks, columns + 1, kChannels, 32) float4, for more rows than warps
  int channels_per_head[2];
  int batch;
  int rows;
  int columns;
  int channels;
  int states;
  int state_lanes;
  int channel_blocks;
  int segments;  // of the columns, independent of one another
  int segment_columns;
  int jobs;  // (segment, batch, channel block); one axis: (segment, batch, row, ...)
  ScanDiscretization discretization;
  bool wide;  // elements are float, else 16 bits
  bool half;  // those are IEEE half, else bfloat16
  bool softplus;
  bool segment_ends;  // `final` has an entry for every segment
  bool lead_column;   // segments start one column early, to have its h2
};

/// Parameters with one value per channel and state whose gradients a sweep sums up: A1 to A4, gamma
/// and the static vectors in the order of ScanVectorIndex.
inline constexpr int kStateParameters = 9;
inline constexpr int kParameterGamma = 4;
inline constexpr int kParameterVectors = 5;

/// Those with one value a channel: D, the biases of both steps, and A1 to A4 of ScanForm::kScalar.
inline constexpr int kChannelParameters = 7;
inline constexpr int kParameterSkip = 0;
inline constexpr int kParameterBias = 1;
inline constexpr int kParameterMatrices = 3;

/// The backward sweep: the forward one once more with checkpoints, then back over the same cells.
struct ScanBackwardArguments {
  ScanArguments scan;  // y and `final` are not used
  ConstCells y_grad;
  MutableCells x_grad;  // each may be null
  MutableCells z_grad;
  MutableCells dt_grad[2];  // where every channel has its own step
  /// Else the gradients of the steps by channel, (batch, rows, columns, channels).
  float* step_grads[2];
  /// Sums over the channels of a warp: (batch, rows, columns, channel blocks, local groups,
  /// states).
  float* vector_grads[kScanVectors];
  ScanBorder final_grad;
  ScanBorder initial_grad;
  float* state_parameters;            // (jobs, wanted ones, warp channels, padded states)
  float* channel_parameters;          // (jobs, wanted ones, warp channels)
  float* checkpoints;                 // (blocks or warps, tiles, warps, ...)
  int state_slots[kStateParameters];  // place among the wanted ones, or -1
  int channel_slots[kChannelParameters];
  int state_parameter_count;
  int channel_parameter_count;
  int tile;   // steps between checkpoints
  int tiles;  // room for so many
};

/// Channels of a warp.
__host__ __device__ inline int warp_channels_of(int state_lanes, int channels_per_thread) {
  return kWarpSize / state_lanes * channels_per_thread;
}

/// What launch_scan_forward is compiled for.
struct ScanVariant {
  ScanForm form;
  bool single;  // h1 alone; rows are independent
  bool wide_channels;
};

/// Calls `call.template operator()<kForm>()`.
template <typename Call>
auto with_scan_form(ScanForm form, Call call) {
  switch (form) {
    case ScanForm::kZoh:
      return call.template operator()<ScanForm::kZoh>();
    case ScanForm::kMamba:
      return call.template operator()<ScanForm::kMamba>();
    case ScanForm::kExp:
      return call.template operator()<ScanForm::kExp>();
    case ScanForm::kNone:
      return call.template operator()<ScanForm::kNone>();
    case ScanForm::kCompanion:
      return call.template operator()<ScanForm::kCompanion>();
    case ScanForm::kScalar:
      break;
  }
  return call.template operator()<ScanForm::kScalar>();
}

/// Calls `call.template operator()<kSingle, kChannels>()`.
template <ScanForm kForm, typename Call>
auto with_scan_variant(const ScanVariant& variant, Call call) {
  if constexpr (has_narrow_variant(kForm)) {
    if (!variant.wide_channels) {
      return variant.single ? call.template operator()<true, 1>()
                            : call.template operator()<false, 1>();
    }
  }
  return variant.single ? call.template operator()<true, kWideChannels>()
                        : call.template operator()<false, kWideChannels>();
}

/// Blocks of `warps` warps that one multiprocessor is meant to hold.
inline constexpr int kScanForwardBlocks = 2;

std::size_t scan_forward_shared_bytes(const ScanVariant& variant, const ScanArguments& arguments,
                                      int warps);
void launch_scan_forward(const ScanVariant& variant, const ScanArguments& arguments, int warps,
                         int blocks, cudaStream_t stream);

/// Blocks of the backward sweep on a multiprocessor: of a thread's 8 states and channels in two
/// dimensions, everything it needs fits the registers of one block only.
inline constexpr int scan_backward_blocks(bool single, bool wide_channels) {
  return single || !wide_channels ? 2 : 1;
}

/// Defined for every form in selective_scan_2d_backward_*.cu.
template <ScanForm kForm>
std::size_t backward_shared_bytes(const ScanVariant& variant,
                                  const ScanBackwardArguments& arguments, int tile, int warps);
template <ScanForm kForm>
void launch_backward_form(const ScanVariant& variant, const ScanBackwardArguments& arguments,
                          int warps, int blocks, cudaStream_t stream);

}  // namespace rankone::cuda
