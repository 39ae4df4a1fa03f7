// One cell of the 2D selective scan, as forward and backward sweeps share it: a thread's view of
// the staged inputs, the advance of its states, and the order in which warps go through the grid.
//
// Work of a state and cell in the zoh form, both kinds: 2 exp2 and 28 other instructions, of which
// 10 are the series of G for small dt A; the exp unit alone would take 16 cycles a warp. Bytes: 16
// a cell and channel in float, and 16 N / channels of a warp for B and C, mostly from L1 and L2.
#pragma once

#include "primitives/opaque.cuh"
#include "selective_scan_2d_stage.cuh"

namespace rankone::cuda {

// ---- a thread's view of a staged cell ----

/// kChannels neighbouring floats.
template <int kChannels>
__device__ __forceinline__ void load_channels(const float* source, float (&values)[kChannels]) {
  if constexpr (kChannels == 4) {
    const float4 four = *reinterpret_cast<const float4*>(source);
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
  } else {
    static_assert(kChannels == 1);
    values[0] = *source;
  }
}

/// The thread's place among the states and channels of the warp.
struct ScanLane {
  int state_lanes;
  int state;    // first of the thread's two
  int channel;  // first of the thread's, in the warp

  template <int kChannels>
  __device__ __forceinline__ static ScanLane of(int state_lanes) {
    const int lane = lane_id();
    return {state_lanes, kStatesPerThread * (lane % state_lanes), lane / state_lanes * kChannels};
  }
};

/// The vectors of a cell for the thread's states, channel by channel.
template <bool kSingle, int kChannels>
class CellVectors {
 public:
  static constexpr int kVectors = kSingle ? 2 : 4;

  __device__ __forceinline__ void start(const ScanArguments& arguments, const ScanLine& line,
                                        const ScanLane& lane) {
    constexpr int kBits = 8;  // a warp has at most 64 channels
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      groups_[c] = 0;
#pragma unroll
      for (int k = 0; k < kVectors; ++k) {
        const ScanVector& vector = arguments.vectors[k];
        const int channel = min(line.channel + lane.channel + c, arguments.channels - 1);
        const int group = vector.groups == 0 ? lane.channel + c
                                             : channel / vector.channels_per_group -
                                                   line.channel / vector.channels_per_group;
        groups_[c] |= static_cast<std::uint32_t>(group) << (kBits * k);
      }
    }
  }

  /// The vectors of the thread's channel `c`; calls go through the channels in order.
  __device__ __forceinline__ void load(const ScanArguments& arguments, const ScanLayout& layout,
                                       const ScanLane& lane, const float* slot,
                                       const float* static_vectors, int c) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const ScanVector& vector = arguments.vectors[k];
      if (c > 0 && vector.local_groups == 1) continue;
      const float* base = vector.groups == 0 ? static_vectors : slot;
      values[k] = *reinterpret_cast<const float2*>(base + layout.vector_offset[k] +
                                                   group(c, k) * layout.padded_states + lane.state);
    }
  }

  __device__ __forceinline__ int group(int c, int k) const { return groups_[c] >> (8 * k) & 255; }

  float2 values[kVectors] = {};  // loaded whole with the first channel

 private:
  std::uint32_t groups_[kChannels];
};

// ---- the recurrence ----

/// Which of a thread's parameters lie in a table in shared memory, (channel of a thread, entry,
/// lane) float4, or float2 on one axis, instead of in registers. In two dimensions the warps of a
/// block share a table.
enum class ScanTable : int { kNone, kInverses, kInversesAndOthers, kAll };

template <bool kSingle, int kChannels>
inline constexpr int kParameterTableFloats = kChannels * 3 * kWarpSize * (kSingle ? 2 : 4);

/// A thread's parameters: A1 and A4, A2 and A3 in the form their factors are made from, and the
/// inverses of A1 and A4.
template <ScanForm kForm, bool kSingle, int kChannels, ScanTable kTable>
class ScanParameters {
 public:
  static constexpr int kKinds = kSingle ? 1 : 2;
  static constexpr bool kHasMatrices = kForm != ScanForm::kScalar;
  static constexpr bool kHasOther = kHasMatrices && !kSingle;
  static constexpr bool kHasInverse = kForm == ScanForm::kZoh || kForm == ScanForm::kExp ||
                                      (kForm == ScanForm::kCompanion && !kSingle);

  float gamma[kForm == ScanForm::kCompanion ? kChannels : 1];
  bool coupled[2];

  /// `table`: null where another thread fills it.
  __device__ __forceinline__ void load(const ScanArguments& arguments, const ScanLine& line,
                                       const ScanLane& lane, float* table) {
    coupled[0] = arguments.a[1].data != nullptr;
    coupled[1] = arguments.a[2].data != nullptr;
    if constexpr (kHasMatrices) load_matrices(arguments, line, lane, table);
  }

  /// To be called before the channel's other members.
  __device__ __forceinline__ void select(const float* table, int c) {
    const auto* const entry = reinterpret_cast<const Entry*>(table) + 3 * c * kWarpSize + lane_id();
    if constexpr (kHasInverse && kTable >= ScanTable::kInverses) read(entry[0], inverse_[0]);
    if constexpr (kHasOther && kTable >= ScanTable::kInversesAndOthers) {
      read(entry[kWarpSize], other_[0]);
    }
    if constexpr (kHasMatrices && kTable == ScanTable::kAll) read(entry[2 * kWarpSize], own_[0]);
  }

  /// A1 or A4.
  __device__ __forceinline__ float own(int kind, int c, int i) const {
    return own_[kTable == ScanTable::kAll ? 0 : c][kind][i];
  }
  /// A2 or A3.
  __device__ __forceinline__ float other(int kind, int c, int i) const {
    if constexpr (!kHasOther) return 0.0f;
    return other_[kTable >= ScanTable::kInversesAndOthers ? 0 : c][kind][i];
  }
  /// 1 / A1 or 1 / A4, 0 for a zero.
  __device__ __forceinline__ float inverse(int kind, int c, int i) const {
    return inverse_[kTable >= ScanTable::kInverses ? 0 : c][kind][i];
  }

  /// Whether the own state's factor is exp(dt A).
  __device__ __forceinline__ static constexpr bool exponentiates(int kind) {
    return kForm != ScanForm::kNone && !(kForm == ScanForm::kCompanion && kind == 0);
  }

 private:
  using Entry = std::conditional_t<kSingle, float2, float4>;
  using Pairs = float[kKinds][2];

  __device__ __forceinline__ static void read(const float2& entry, Pairs& pairs) {
    pairs[0][0] = entry.x;
    pairs[0][1] = entry.y;
  }
  __device__ __forceinline__ static void read(const float4& entry, Pairs& pairs) {
    pairs[0][0] = entry.x;
    pairs[0][1] = entry.y;
    pairs[1][0] = entry.z;
    pairs[1][1] = entry.w;
  }
  __device__ __forceinline__ static void write(float2& entry, const Pairs& pairs) {
    entry = make_float2(pairs[0][0], pairs[0][1]);
  }
  __device__ __forceinline__ static void write(float4& entry, const Pairs& pairs) {
    entry = make_float4(pairs[0][0], pairs[0][1], pairs[1][0], pairs[1][1]);
  }

  __device__ __forceinline__ void load_matrices(const ScanArguments& arguments,
                                                const ScanLine& line, const ScanLane& lane,
                                                float* table) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const int channel = line.channel + lane.channel + c;
      if constexpr (kForm == ScanForm::kCompanion) {
        gamma[c] = channel < arguments.channels && arguments.gamma != nullptr
                       ? arguments.gamma[channel]
                       : 1.0f;
      }
      Pairs own, other, inverse;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int state = lane.state + i;
        const bool inside = channel < arguments.channels && state < arguments.states;
#pragma unroll
        for (int kind = 0; kind < kKinds; ++kind) {
          const float a =
              inside ? matrix_element(arguments.a[own_matrix(kind)], channel, state) : 0.0f;
          const float b =
              inside ? matrix_element(arguments.a[other_matrix(kind)], channel, state) : 0.0f;
          own[kind][i] = exponentiates(kind) ? a * kLog2e : a;
          other[kind][i] = kForm == ScanForm::kExp ? b * kLog2e : b;
          inverse[kind][i] = a == 0.0f ? 0.0f : 1.0f / a;
          if constexpr (kTable < ScanTable::kAll) own_[c][kind][i] = own[kind][i];
          if constexpr (kTable < ScanTable::kInversesAndOthers && kHasOther) {
            other_[c][kind][i] = other[kind][i];
          }
          if constexpr (kTable < ScanTable::kInverses) inverse_[c][kind][i] = inverse[kind][i];
        }
      }
      if (kTable == ScanTable::kNone || table == nullptr) continue;
      auto* const entry = reinterpret_cast<Entry*>(table) + 3 * c * kWarpSize + lane_id();
      write(entry[0], inverse);
      write(entry[kWarpSize], other);
      write(entry[2 * kWarpSize], own);
    }
  }

  static constexpr int kKept(ScanTable from) { return kTable < from ? kChannels : 1; }

  Pairs own_[kKept(ScanTable::kAll)];
  Pairs other_[kKept(ScanTable::kInversesAndOthers)];
  Pairs inverse_[kKept(ScanTable::kInverses)];
};

/// The states before a cell, or after it, of the thread's channel.
struct CellStates {
  float h1[2];
  float h2[2];
};

__device__ __forceinline__ float4 pack_states(const CellStates& states) {
  return make_float4(states.h1[0], states.h1[1], states.h2[0], states.h2[1]);
}
__device__ __forceinline__ CellStates unpack_states(const float4& four) {
  return {{four.x, four.y}, {four.z, four.w}};
}

/// (Comp(a) h): h_{i-1} and h_{last} of the channel, whose states lie on state_lanes lanes.
struct CompanionNeighbours {
  float previous[2];
  float last;

  __device__ __forceinline__ CompanionNeighbours(const float (&h)[2], const ScanLane& lane,
                                                 int states) {
    const float before = shuffle_up(h[1], 1, lane.state_lanes);
    previous[0] = lane.state == 0 ? 0.0f : before;
    previous[1] = h[0];
    last = shuffle_idx((states - 1) % 2 == 0 ? h[0] : h[1], (states - 1) / 2, lane.state_lanes);
  }
};

/// What the factors of one kind are made of for channel `c`: its steps, or staged factors.
template <ScanForm kForm, bool kSingle, int kChannels>
class CellFactors {
 public:
  static constexpr int kKinds = kSingle ? 1 : 2;

  __device__ __forceinline__ void load(const float* slot, const ScanLayout& layout,
                                       const ScanLane& lane) {
    const float* values = slot + lane.channel;
    if constexpr (kForm != ScanForm::kScalar) {
      load_channels(values + kRowX * layout.value_pitch, x);
    }
#pragma unroll
    for (int kind = 0; kind < kKinds; ++kind) {
      if (stages(kind)) {
        const int first = kind == 0 ? kRowDecay1 : kRowDecay2;
        load_channels(values + first * layout.value_pitch, first_[kind]);
        if (kForm == ScanForm::kScalar && !kSingle) {
          load_channels(values + (first + 1) * layout.value_pitch, second_[kind]);
        }
        load_channels(values + (first + 2) * layout.value_pitch, third_[kind]);
      } else if (kForm != ScanForm::kNone) {
        load_channels(values + (kRowStep1 + kind) * layout.value_pitch, first_[kind]);
      }
    }
  }

  /// The new state of `kind` from the own and the other state before, and B.
  template <typename Parameters>
  __device__ __forceinline__ float advance(const Parameters& parameters, int kind, int c, int i,
                                           float own, float other, float b) const {
    if constexpr (kForm == ScanForm::kScalar) {
      float h = fmaf(first_[kind][c], own, third_[kind][c] * b);
      if constexpr (!kSingle) h = fmaf(second_[kind][c], other, h);
      return h;
    } else if constexpr (kForm == ScanForm::kNone) {
      float h = fmaf(parameters.own(kind, c, i), own, x[c] * b);
      if constexpr (!kSingle) h = fmaf(parameters.other(kind, c, i), other, h);
      return h;
    } else {
      const float step = first_[kind][c];
      float decay, input;
      if constexpr (kForm == ScanForm::kMamba) {
        decay = flushed_exp2(step * parameters.own(kind, c, i));
        input = step;
      } else {
        hold_factors(step, parameters.own(kind, c, i), parameters.inverse(kind, c, i), decay,
                     input);
      }
      if constexpr (kSingle) {
        return fmaf(decay, own, input * (x[c] * b));
      } else if constexpr (kForm == ScanForm::kExp) {
        const float coupling =
            parameters.coupled[kind] ? flushed_exp2(step * parameters.other(kind, c, i)) : 0.0f;
        return fmaf(decay, own, fmaf(coupling, other, input * (x[c] * b)));
      } else {
        return fmaf(decay, own, input * fmaf(parameters.other(kind, c, i), other, x[c] * b));
      }
    }
  }

  /// The factor of the own state alone.
  template <typename Parameters>
  __device__ __forceinline__ float own_factor(const Parameters& parameters, int kind, int c,
                                              int i) const {
    if constexpr (kForm == ScanForm::kNone) {
      return parameters.own(kind, c, i);
    } else if constexpr (kForm == ScanForm::kScalar) {
      return first_[kind][c];
    } else {
      return flushed_exp2(first_[kind][c] * parameters.own(kind, c, i));
    }
  }

  /// h1 of the companion structure.
  __device__ __forceinline__ float advance_companion(float own, float drive, int c) const {
    return fmaf(first_[0][c], own, third_[0][c] * drive);
  }

  __device__ __forceinline__ static constexpr bool stages(int kind) {
    return kForm == ScanForm::kScalar || (kForm == ScanForm::kCompanion && kind == 0);
  }
  __device__ __forceinline__ float step(int kind, int c) const { return first_[kind][c]; }
  __device__ __forceinline__ float decay(int kind, int c) const { return first_[kind][c]; }
  __device__ __forceinline__ float coupling(int kind, int c) const { return second_[kind][c]; }
  __device__ __forceinline__ float input(int kind, int c) const { return third_[kind][c]; }

  float x[kChannels];

 private:
  float first_[kKinds][kChannels];
  float second_[kKinds][kChannels];
  float third_[kKinds][kChannels];
};

/// The states after a cell, of the thread's channel `c`: from the left neighbour's and the upper
/// one's. Collective of the warp in the companion form.
template <ScanForm kForm, bool kSingle, int kChannels, ScanTable kTable>
__device__ __forceinline__ CellStates
advance_states(const ScanParameters<kForm, kSingle, kChannels, kTable>& parameters,
               const CellFactors<kForm, kSingle, kChannels>& factors,
               const CellVectors<kSingle, kChannels>& vectors, const ScanLane& lane, int states,
               int c, const CellStates& left, const CellStates& up) {
  CellStates result{};
  const float b1[2] = {vectors.values[kVectorB1].x, vectors.values[kVectorB1].y};
  if constexpr (kForm == ScanForm::kCompanion) {
    const CompanionNeighbours of_h1(left.h1, lane, states);
    const CompanionNeighbours of_h2(left.h2, lane, states);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float drive = fmaf(parameters.own(0, c, i), of_h1.last, of_h1.previous[i]);
      if constexpr (!kSingle) {
        const float other = fmaf(parameters.other(0, c, i), of_h2.last, of_h2.previous[i]);
        if (parameters.coupled[0]) drive = fmaf(parameters.gamma[c], other, drive);
      }
      drive = fmaf(b1[i], factors.x[c], drive);
      result.h1[i] = factors.advance_companion(left.h1[i], drive, c);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      result.h1[i] = factors.advance(parameters, 0, c, i, left.h1[i], left.h2[i], b1[i]);
    }
  }
  if constexpr (!kSingle) {
    const float b2[2] = {vectors.values[kVectorB2].x, vectors.values[kVectorB2].y};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      result.h2[i] = factors.advance(parameters, 1, c, i, up.h2[i], up.h1[i], b2[i]);
    }
  }
  return result;
}

// ---- states in the caller's memory ----

/// Index of state 0 of a channel in a contiguous (places, channels, states) tensor.
__device__ __forceinline__ std::int64_t state_index(const ScanArguments& arguments,
                                                    std::int64_t place, int channel) {
  return (place * arguments.channels + channel) * arguments.states;
}

/// Two states of a thread's channel; zero outside of the tensor and where it is null.
__device__ __forceinline__ void load_states(const ScanArguments& arguments, const float* data,
                                            std::int64_t place, int channel, int state,
                                            float (&h)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool inside =
        data != nullptr && channel < arguments.channels && state + i < arguments.states;
    h[i] = inside ? data[state_index(arguments, place, channel) + state + i] : 0.0f;
  }
}

__device__ __forceinline__ void store_states(const ScanArguments& arguments, float* data,
                                             std::int64_t place, int channel, int state,
                                             const float (&h)[2]) {
  if (data == nullptr || channel >= arguments.channels) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (state + i < arguments.states) {
      data[state_index(arguments, place, channel) + state + i] = h[i];
    }
  }
}

// ---- the order of the cells ----

/// A warp's place on the wavefront. Row blocks follow one another without a gap: warp w computes
/// column t of row block b at step b * pitch + t + w.
struct ScanPosition {
  int block;
  int column;

  /// At a step of a warp; before its first cell the column is negative.
  __device__ __forceinline__ static ScanPosition at(int step, int warp, int pitch) {
    const int index = step - warp;
    const int block = index < 0 ? 0 : index / pitch;
    return {block, index - block * pitch};
  }
  __device__ __forceinline__ void advance(int pitch) {
    if (++column == pitch) {
      column = 0;
      ++block;
    }
  }
  __device__ __forceinline__ void retreat(int pitch) {
    if (--column < 0 && block > 0) {
      column = pitch - 1;
      --block;
    }
  }
};

/// The grid of one job as its warps go through it.
struct ScanGrid {
  int warps;  // rows at a time
  int row_blocks;
  int pitch;  // steps from a row block to the next one
  int steps;

  /// The last row of a block is handed to the first of the next one through memory, where it must
  /// have been written before it is fetched, at most `ahead` steps early.
  __host__ __device__ ScanGrid(bool single, int warp_count, int rows, int length, int ahead) {
    warps = single ? 1 : warp_count;
    row_blocks = single ? 1 : (rows + warps - 1) / warps;
    const int least = row_blocks > 1 ? warps + ahead : 1;
    pitch = length > least ? length : least;
    steps = row_blocks * pitch + warps - 1;
  }
};

}  // namespace rankone::cuda
