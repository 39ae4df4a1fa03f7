// The inputs of a cell of the 2D selective scan in shared memory.
//
// Staged per warp, converted to float, one cell ahead of the computation (the loads are issued
// before a cell is computed and stored to shared memory after it):
//   value rows   x, the steps (with bias and softplus), and for the forms with one factor a channel
//                those factors, each row one float per channel of the warp
//   vectors      B1, C1, B2, C2, one vector per group that the warp's channels meet
// Here, once per element, is also all that depends on the tensors' type.
#pragma once

#include "primitives/convert.cuh"
#include "primitives/exp2.cuh"
#include "primitives/warp.cuh"
#include "selective_scan_2d.cuh"

namespace rankone::cuda {

// ---- elements ----

/// The bits of an element; converted where they are used, so that a load does not wait.
__device__ __forceinline__ std::uint32_t load_bits(const void* data, std::int64_t index,
                                                   bool wide) {
  if (wide) return static_cast<const std::uint32_t*>(data)[index];
  return static_cast<const std::uint16_t*>(data)[index];
}

__device__ __forceinline__ float from_bits(std::uint32_t bits, bool wide, bool half) {
  if (wide) return as_float(bits);
  return half ? unpack<__half>(bits).x : unpack<__nv_bfloat16>(bits).x;
}

__device__ __forceinline__ void store_element(void* data, std::int64_t index, float value,
                                              bool wide, bool half) {
  if (wide) {
    static_cast<float*>(data)[index] = value;
  } else if (half) {
    static_cast<__half*>(data)[index] = from_float<__half>(value);
  } else {
    static_cast<__nv_bfloat16*>(data)[index] = from_float<__nv_bfloat16>(value);
  }
}

template <typename Pointer>
__device__ __forceinline__ std::int64_t cell_offset(const CellTensor<Pointer>& tensor, int batch,
                                                    int row, int column) {
  return batch * tensor.batch_stride + row * tensor.row_stride + column * tensor.column_stride;
}

__device__ __forceinline__ float matrix_element(const ScanMatrix& matrix, int channel, int state) {
  if (matrix.data == nullptr) return 0.0f;
  return matrix.data[channel * matrix.channel_stride + state * matrix.state_stride];
}

// ---- factors ----

/// A1 and A2 make h1, A4 and A3 make h2.
__host__ __device__ constexpr int own_matrix(int kind) { return kind == 0 ? 0 : 3; }
__host__ __device__ constexpr int other_matrix(int kind) { return kind == 0 ? 1 : 2; }

inline constexpr float kLog2e = 1.442695041f;
inline constexpr float kLn2 = 0.6931471806f;

/// |z| below which G is its series: at 0.15 the five terms leave out 1e-7 of G, and (E - 1) / A has
/// lost 3 bits.
inline constexpr float kHoldSeries = 0.15f * kLog2e;

/// E = exp(dt A) and G = (E - 1) / A from a = A log2(e) and 1/A (anything finite where A is 0).
__device__ __forceinline__ void hold_factors(float step, float a, float inverse, float& decay,
                                             float& input) {
  const float z = step * a;
  decay = flushed_exp2(z);
  float series = kLn2 * kLn2 * kLn2 * kLn2 / 120.0f;
  series = fmaf(series, z, kLn2 * kLn2 * kLn2 / 24.0f);
  series = fmaf(series, z, kLn2 * kLn2 / 6.0f);
  series = fmaf(series, z, kLn2 / 2.0f);
  series = fmaf(series, z, 1.0f);
  input = fabsf(z) < kHoldSeries ? step * series : fmaf(decay, inverse, -inverse);
}

/// The same once per cell and channel, by the library's functions.
struct ScalarFactors {
  float decay;     // of the own state
  float coupling;  // of the other state
  float input;     // of B x
};

__device__ __forceinline__ ScalarFactors scalar_factors(ScanDiscretization discretization,
                                                        float step, float own, float other,
                                                        bool coupled) {
  if (discretization == ScanDiscretization::kNone) return {own, other, 1.0f};
  const float z = step * own;
  ScalarFactors factors;
  factors.decay = expf(z);
  factors.input =
      discretization == ScanDiscretization::kMamba || z == 0.0f ? step : expm1f(z) / own;
  factors.coupling = discretization != ScanDiscretization::kExp ? factors.input * other
                     : coupled                                  ? expf(step * other)
                                                                : 0.0f;
  return factors;
}

/// The step of a cell from its raw value.
__device__ __forceinline__ float step_of(float raw, bool softplus) {
  constexpr float kLinear = 20.0f;  // from here on softplus(x) - x is below float's rounding
  if (!softplus || raw > kLinear) return raw;
  return log1pf(expf(raw));
}

// ---- places ----

enum ScanValueRow : int {
  kRowX,
  kRowStep1,
  kRowStep2,
  kRowGrad,  // backward: the gradient of y before the gate
  kRowDecay1,
  kRowCoupling1,
  kRowInput1,  // kScalar: times x
  kRowDecay2,
  kRowCoupling2,
  kRowInput2,
};

template <ScanForm kForm>
inline constexpr bool kStagesFactors = kForm == ScanForm::kScalar || kForm == ScanForm::kCompanion;

template <ScanForm kForm>
inline constexpr int kValueRows = kStagesFactors<kForm> ? 10 : 4;

/// Channels of the warp a lane stages and writes out.
template <int kChannels>
inline constexpr int kLaneChannels = kChannels == kWideChannels ? 2 : 1;

/// Sums over lanes: one row of lanes a summand, padded so that the rows start in different banks.
inline constexpr int kScratchRow = kWarpSize + 4;

/// Where a warp's staged cells lie, in floats. Every piece is a multiple of 4.
struct ScanLayout {
  int warp_channels;
  int value_pitch;
  int padded_states;
  int vector_offset[kScanVectors];  // in a slot, or in the static vectors
  int slot;
  int static_floats;

  __host__ __device__ ScanLayout(const ScanArguments& arguments, int channels_per_thread,
                                 int value_rows, int vectors) {
    warp_channels = warp_channels_of(arguments.state_lanes, channels_per_thread);
    value_pitch = warp_channels < 4 ? 4 : warp_channels;
    padded_states = kStatesPerThread * arguments.state_lanes;
    slot = value_rows * value_pitch;
    static_floats = 0;
    for (int k = 0; k < vectors; ++k) {
      const ScanVector& vector = arguments.vectors[k];
      int& end = vector.groups == 0 ? static_floats : slot;
      vector_offset[k] = end;
      end += vector.local_groups * padded_states;
    }
  }
};

/// What a warp works on: all channels and states of its lanes in one row at a time.
struct ScanLine {
  int batch;
  int channel;  // first of the warp
  int first;    // column
  int length;   // columns
  int segment;
};

// ---- staging ----

/// The gradient of y before the gate, silu(z) dy.
__device__ __forceinline__ float gated_gradient(float gradient, float z, bool gated) {
  return gated ? gradient * (z / (1.0f + expf(-z))) : gradient;
}

/// Inputs of the cell ahead, in registers between `prefetch` and `commit`.
template <ScanForm kForm, bool kSingle, int kChannels>
class CellStage {
 public:
  static constexpr int kKinds = kSingle ? 1 : 2;
  static constexpr int kVectors = 2 * kKinds;
  static constexpr int kLanes = kLaneChannels<kChannels>;
  /// Elements of a vector a lane loads ahead; those of further groups, and of more than 32 states
  /// where registers are short, are loaded when they are stored.
  static constexpr int kAhead = kChannels == kWideChannels ? 1 : 2;

  __device__ __forceinline__ CellStage(const ScanArguments& arguments, const ScanLayout& layout)
      : arguments_(arguments), layout_(layout) {}

  /// Stores the static vectors of the warp's channels; `part` of `parts` threads.
  __device__ __forceinline__ void store_static(const ScanLine& line, float* shared, int part,
                                               int parts) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const ScanVector& vector = arguments_.vectors[k];
      if (vector.groups != 0) continue;
      const int total = layout_.warp_channels * layout_.padded_states;
      for (int e = part; e < total; e += parts) {
        const int channel = line.channel + e / layout_.padded_states;
        const int state = e % layout_.padded_states;
        shared[layout_.vector_offset[k] + e] =
            channel < arguments_.channels && state < arguments_.states
                ? static_cast<const float*>(
                      vector.tensor.data)[channel * vector.tensor.channel_stride +
                                          state * vector.tensor.state_stride]
                : 0.0f;
      }
    }
  }

  __device__ __forceinline__ void prefetch(const ScanLine& line, int row, int column) {
    const bool wide = arguments_.wide;
#pragma unroll
    for (int j = 0; j < kLanes; ++j) {
      if (!is_inside(line, j)) continue;
      const int channel = channel_of(line, j);
      x_[j] = load_bits(arguments_.x.data,
                        cell_offset(arguments_.x, line.batch, row, column) +
                            channel * arguments_.x.channel_stride,
                        wide);
      if constexpr (kForm != ScanForm::kNone) {
#pragma unroll
        for (int kind = 0; kind < kKinds; ++kind) {
          const ConstCells& step = arguments_.dt[kind];
          if (step.data == nullptr) continue;
          step_[kind][j] =
              load_bits(step.data,
                        cell_offset(step, line.batch, row, column) +
                            channel / arguments_.channels_per_head[kind] * step.channel_stride,
                        wide);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        vector_[k][i] = load_vector(line, k, row, column, lane_id() + i * kWarpSize);
      }
    }
    row_ = row;
    column_ = column;
  }

  /// Also the gradient of y, which `commit_gradient` then stores.
  __device__ __forceinline__ void prefetch_gradient(const ConstCells& y_grad, const ScanLine& line,
                                                    int row, int column) {
#pragma unroll
    for (int j = 0; j < kLanes; ++j) {
      if (!is_inside(line, j)) continue;
      const int channel = channel_of(line, j);
      gradient_[j] =
          load_bits(y_grad.data,
                    cell_offset(y_grad, line.batch, row, column) + channel * y_grad.channel_stride,
                    arguments_.wide);
      if (arguments_.z.data == nullptr) continue;
      gate_[j] = load_bits(arguments_.z.data,
                           cell_offset(arguments_.z, line.batch, row, column) +
                               channel * arguments_.z.channel_stride,
                           arguments_.wide);
    }
  }

  __device__ __forceinline__ void commit_gradient(const ScanLine& line, float* slot) {
#pragma unroll
    for (int j = 0; j < kLanes; ++j) {
      const int own = lane_id() + j * kWarpSize;
      if (own >= layout_.warp_channels) continue;
      const float gradient = from_bits(gradient_[j], arguments_.wide, arguments_.half);
      const float z = from_bits(gate_[j], arguments_.wide, arguments_.half);
      slot[kRowGrad * layout_.value_pitch + own] =
          is_inside(line, j) ? gated_gradient(gradient, z, arguments_.z.data != nullptr) : 0.0f;
    }
  }

  __device__ __forceinline__ void commit(const ScanLine& line, float* slot) {
    const bool wide = arguments_.wide;
    const bool half = arguments_.half;
#pragma unroll
    for (int j = 0; j < kLanes; ++j) {
      const int own = lane_id() + j * kWarpSize;
      if (own >= layout_.warp_channels) continue;
      const bool inside = is_inside(line, j);
      const float x = inside ? from_bits(x_[j], wide, half) : 0.0f;
      float* values = slot + own;
      values[kRowX * layout_.value_pitch] = x;
      if constexpr (kForm != ScanForm::kNone) {
#pragma unroll
        for (int kind = 0; kind < kKinds; ++kind) {
          float step = 0.0f;
          if (inside && arguments_.dt[kind].data != nullptr) {
            step = step_of(from_bits(step_[kind][j], wide, half) + bias(line, kind, j),
                           arguments_.softplus);
          }
          values[(kRowStep1 + kind) * layout_.value_pitch] = step;
          if constexpr (kForm == ScanForm::kScalar) {
            const ScalarFactors factors = scalar_factors(
                arguments_.discretization, step, scalar_matrix(line, own_matrix(kind), j),
                scalar_matrix(line, other_matrix(kind), j),
                arguments_.a[other_matrix(kind)].data != nullptr);
            store_factors(values, kind, factors.decay, factors.coupling, factors.input * x);
          } else if constexpr (kForm == ScanForm::kCompanion) {
            if (kind == 0) store_factors(values, 0, expf(-step), 0.0f, -expm1f(-step));
          }
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const ScanVector& vector = arguments_.vectors[k];
      if (vector.groups == 0) continue;
      const int total = vector.local_groups * layout_.padded_states;
      float* target = slot + layout_.vector_offset[k];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int e = lane_id() + i * kWarpSize;
        if (e < total) target[e] = from_bits(vector_[k][i], wide, half);
      }
      for (int e = lane_id() + kAhead * kWarpSize; e < total; e += kWarpSize) {
        target[e] = from_bits(load_vector(line, k, row_, column_, e), wide, half);
      }
    }
  }

  /// kScalar: matrix `i` of the lane's j-th channel.
  __device__ __forceinline__ float scalar_matrix(const ScanLine& line, int i, int j) const {
    return is_inside(line, j) ? matrix_element(arguments_.a[i], channel_of(line, j), 0) : 0.0f;
  }

  __device__ __forceinline__ int channel_of(const ScanLine& line, int j) const {
    return line.channel + lane_id() + j * kWarpSize;
  }
  /// Whether the lane's j-th channel is one of the warp's and of the tensor's.
  __device__ __forceinline__ bool is_inside(const ScanLine& line, int j) const {
    return lane_id() + j * kWarpSize < layout_.warp_channels &&
           channel_of(line, j) < arguments_.channels;
  }

 private:
  // A channel's parameters are read again in every cell: they stay in L1, and registers are short.
  __device__ __forceinline__ float bias(const ScanLine& line, int kind, int j) const {
    const float* const data = arguments_.bias[kind];
    return data == nullptr ? 0.0f : data[channel_of(line, j) / arguments_.channels_per_head[kind]];
  }

  __device__ __forceinline__ void store_factors(float* values, int kind, float decay,
                                                float coupling, float input) {
    const int first = kind == 0 ? kRowDecay1 : kRowDecay2;
    values[first * layout_.value_pitch] = decay;
    values[(first + 1) * layout_.value_pitch] = coupling;
    values[(first + 2) * layout_.value_pitch] = input;
  }

  __device__ __forceinline__ std::uint32_t load_vector(const ScanLine& line, int k, int row,
                                                       int column, int element) const {
    const ScanVector& vector = arguments_.vectors[k];
    const int group = element / layout_.padded_states + line.channel / vector.channels_per_group;
    const int state = element % layout_.padded_states;
    // Zero bits are zero in every type.
    if (vector.tensor.data == nullptr || group >= vector.groups || state >= arguments_.states ||
        element >= vector.local_groups * layout_.padded_states) {
      return 0;
    }
    return load_bits(vector.tensor.data,
                     cell_offset(vector.tensor, line.batch, row, column) +
                         group * vector.tensor.channel_stride + state * vector.tensor.state_stride,
                     arguments_.wide);
  }

  const ScanArguments& arguments_;
  const ScanLayout& layout_;
  std::uint32_t x_[kLanes] = {};
  std::uint32_t step_[kKinds][kLanes] = {};
  std::uint32_t vector_[kVectors][kAhead] = {};
  std::uint32_t gradient_[kLanes] = {};
  std::uint32_t gate_[kLanes] = {};
  int row_ = 0;
  int column_ = 0;
};

}  // namespace rankone::cuda
