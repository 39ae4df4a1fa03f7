// One cell of the 2D selective scan backwards: from the adjoints of the states after a cell to
// those of the states before it and to the gradients of everything the cell reads.
//
// With l1, l2 the derivatives of the loss by h1, h2 of a cell (C g and what came from the right and
// from below), E, F, G its factors of the own state, the other state and B x:
//   to the left        l1 E1 on h1, l1 F1 on h2        above     l2 E2 on h2, l2 F2 on h1
//   B1, x              l1 G1 x, sum l1 G1 B1           C1        g h1
//   step               sum l1 (E' h1 + F' h2 + G' B x) with derivatives by the step, and so A
//
// In kScalar the sums over states of l1 h1, l1 h2 and l1 B1 are all a cell adds per state; the
// derivatives of E, F, G are taken once per channel.
#pragma once

#include "selective_scan_2d_cell.cuh"

namespace rankone::cuda {

/// |z| below which dG/dA = (dt E - G) / A is a series. At 0.35 the six terms leave out 1e-7 of it,
/// and the formula has lost 4 bits.
inline constexpr float kGradientSeries = 0.35f;

/// G and dG/dA from E = exp(z), z = dt A, and 1/A (anything finite where A is 0).
__device__ __forceinline__ void hold_gradients(float step, float z, float decay, float inverse,
                                               float& input, float& input_by_a) {
  // (exp(z) - 1 - z) / z^2, from which G = dt (1 + z phi2), dG/dA = dt^2 (1 + (z - 1) phi2).
  float phi2 = 1.0f / 5040.0f;
  phi2 = fmaf(phi2, z, 1.0f / 720.0f);
  phi2 = fmaf(phi2, z, 1.0f / 120.0f);
  phi2 = fmaf(phi2, z, 1.0f / 24.0f);
  phi2 = fmaf(phi2, z, 1.0f / 6.0f);
  phi2 = fmaf(phi2, z, 0.5f);
  const bool near = fabsf(z) < kGradientSeries;
  const float far_input = fmaf(decay, inverse, -inverse);
  input = near ? step * fmaf(z, phi2, 1.0f) : far_input;
  input_by_a =
      near ? step * step * fmaf(z - 1.0f, phi2, 1.0f) : fmaf(step, decay, -far_input) * inverse;
}

/// Derivatives of ScalarFactors.
struct ScalarGradients {
  ScalarFactors factors;
  float decay_by_step, decay_by_own;
  float coupling_by_step, coupling_by_own, coupling_by_other;
  float input_by_step, input_by_own;
};

__device__ __forceinline__ ScalarGradients scalar_gradients(ScanDiscretization discretization,
                                                            float step, float own, float other,
                                                            bool coupled) {
  ScalarGradients result{};
  result.factors = scalar_factors(discretization, step, own, other, coupled);
  const ScalarFactors& factors = result.factors;
  if (discretization == ScanDiscretization::kNone) {
    result.decay_by_own = 1.0f;
    result.coupling_by_other = 1.0f;
    return result;
  }
  result.decay_by_step = own * factors.decay;
  result.decay_by_own = step * factors.decay;
  if (discretization == ScanDiscretization::kMamba) {
    result.input_by_step = 1.0f;
  } else {
    float input;
    result.input_by_step = factors.decay;
    hold_gradients(step, step * own, factors.decay, own == 0.0f ? 0.0f : 1.0f / own, input,
                   result.input_by_own);
  }
  if (discretization == ScanDiscretization::kExp) {
    result.coupling_by_step = other * factors.coupling;
    result.coupling_by_other = step * factors.coupling;
  } else {
    result.coupling_by_step = result.input_by_step * other;
    result.coupling_by_own = result.input_by_own * other;
    result.coupling_by_other = factors.input;
  }
  return result;
}

/// Sums over the states of a channel that a cell hands to the lane that writes its gradients.
template <ScanForm kForm, bool kSingle>
struct CellSums {
  static constexpr int kKinds = kSingle ? 1 : 2;
  static constexpr int kOutput = 0;  // C1 h1 + C2 h2
  /// kScalar: of l h, l h', l B for either kind. Else the gradients of x and of the steps.
  static constexpr int kInput = 1;
  static constexpr int kCount = kForm == ScanForm::kScalar ? 1 + 3 * kKinds
                                : kForm == ScanForm::kNone ? 2
                                                           : 2 + kKinds;
  static constexpr int kStep = 2;
  /// l h, l h', l B of kind: kFirst + 3 kind and the two after it.
  static constexpr int kFirst = 1;

  float value[kCount] = {};
};

/// A thread's sums over all cells of the gradients of A and gamma.
template <ScanForm kForm, bool kSingle, int kChannels>
struct MatrixGradients {
  static constexpr int kKinds = kSingle ? 1 : 2;
  static constexpr bool kUsed = kForm != ScanForm::kScalar;
  float own[kKinds][kUsed ? kChannels : 1][2] = {};
  float other[kKinds][kUsed ? kChannels : 1][2] = {};
  float gamma[kForm == ScanForm::kCompanion ? kChannels : 1][2] = {};
};

/// What a cell sends to its neighbours, and its part of the gradients of B1, C1, B2, C2.
struct CellAdjoint {
  CellStates left;
  CellStates up;
  float vectors[kScanVectors][2];
};

/// One kind of a cell in the forms with a factor per state: the adjoints `l` of its states, `own`
/// and `other` before it.
template <ScanForm kForm, bool kSingle, int kChannels>
__device__ __forceinline__ void adjoint_of_kind(
    const ScanParameters<kForm, kSingle, kChannels, ScanTable::kAll>& parameters,
    const CellFactors<kForm, kSingle, kChannels>& factors, int kind, int c, const float (&l)[2],
    const float (&own)[2], const float (&other)[2], const float (&b)[2],
    MatrixGradients<kForm, kSingle, kChannels>& matrices, CellSums<kForm, kSingle>& sums,
    float (&to_own)[2], float (&to_other)[2], float (&to_b)[2]) {
  using Sums = CellSums<kForm, kSingle>;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if constexpr (kForm == ScanForm::kScalar) {
      float* const sum = sums.value + Sums::kFirst + 3 * kind;
      sum[0] = fmaf(l[i], own[i], sum[0]);
      if constexpr (!kSingle) sum[1] = fmaf(l[i], other[i], sum[1]);
      sum[2] = fmaf(l[i], b[i], sum[2]);
      to_own[i] = factors.decay(kind, c) * l[i];
      if constexpr (!kSingle) to_other[i] = factors.coupling(kind, c) * l[i];
      to_b[i] = factors.input(kind, c) * l[i];
    } else if constexpr (kForm == ScanForm::kNone) {
      const float x = factors.x[c];
      const float a = parameters.own(kind, c, i);
      sums.value[Sums::kInput] = fmaf(l[i], b[i], sums.value[Sums::kInput]);
      matrices.own[kind][c][i] = fmaf(l[i], own[i], matrices.own[kind][c][i]);
      to_own[i] = a * l[i];
      if constexpr (!kSingle) {
        matrices.other[kind][c][i] = fmaf(l[i], other[i], matrices.other[kind][c][i]);
        to_other[i] = parameters.other(kind, c, i) * l[i];
      }
      to_b[i] = x * l[i];
    } else {
      const float step = factors.step(kind, c);
      const float x = factors.x[c];
      const float a = parameters.own(kind, c, i);
      const float a_other = parameters.other(kind, c, i);
      const float z = step * a;  // of base 2
      const float decay = flushed_exp2(z);
      const float weighted = decay * l[i];
      to_own[i] = weighted;
      float driven = x * b[i];
      constexpr bool kHoldsCoupling = kForm != ScanForm::kExp && !kSingle;
      if constexpr (kHoldsCoupling) driven = fmaf(a_other, other[i], driven);
      float held;           // l G
      float by_step;        // of the held part, over l
      float by_own = 0.0f;  // of l G driven by A
      if constexpr (kForm == ScanForm::kMamba) {
        held = step * l[i];
        by_step = l[i] * driven;
      } else {
        float input, input_by_a;
        hold_gradients(step, z * kLn2, decay, parameters.inverse(kind, c, i), input, input_by_a);
        held = input * l[i];
        by_step = weighted * driven;
        by_own = l[i] * driven * input_by_a;
      }
      const float past = weighted * own[i];
      by_step = fmaf(a * kLn2, past, by_step);
      matrices.own[kind][c][i] += fmaf(step, past, by_own);
      if constexpr (kHoldsCoupling) {
        matrices.other[kind][c][i] = fmaf(held, other[i], matrices.other[kind][c][i]);
        to_other[i] = a_other * held;
      } else if constexpr (!kSingle) {
        const float coupling =
            parameters.coupled[kind] ? flushed_exp2(step * a_other) * l[i] : 0.0f;
        to_other[i] = coupling;
        const float past_other = coupling * other[i];
        by_step = fmaf(a_other * kLn2, past_other, by_step);
        matrices.other[kind][c][i] = fmaf(step, past_other, matrices.other[kind][c][i]);
      }
      sums.value[Sums::kStep + kind] += by_step;
      sums.value[Sums::kInput] = fmaf(held, b[i], sums.value[Sums::kInput]);
      to_b[i] = held * x;
    }
  }
}

/// h1 of the companion structure: (Comp(a)^T q)_i = q_{i+1}, and sum a q for the last state.
template <bool kSingle, int kChannels>
__device__ __forceinline__ void adjoint_of_companion(
    const ScanParameters<ScanForm::kCompanion, kSingle, kChannels, ScanTable::kAll>& parameters,
    const CellFactors<ScanForm::kCompanion, kSingle, kChannels>& factors, const ScanLane& lane,
    int states, int c, const float (&l)[2], const CellStates& left, const float (&b)[2],
    MatrixGradients<ScanForm::kCompanion, kSingle, kChannels>& matrices,
    CellSums<ScanForm::kCompanion, kSingle>& sums, CellStates& to_left, float (&to_b)[2]) {
  using Sums = CellSums<ScanForm::kCompanion, kSingle>;
  const float decay = factors.decay(0, c);
  const float x = factors.x[c];
  const float held[2] = {factors.input(0, c) * l[0], factors.input(0, c) * l[1]};
  const float after = shuffle_down(held[0], 1, lane.state_lanes);
  const bool is_end = lane.state + kStatesPerThread == kStatesPerThread * lane.state_lanes;
  const float next[2] = {held[1], is_end ? 0.0f : after};
  const CompanionNeighbours of_h1(left.h1, lane, states);
  const CompanionNeighbours of_h2(left.h2, lane, states);
  float own_sum = 0.0f, other_sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    own_sum = fmaf(parameters.own(0, c, i), held[i], own_sum);
    if constexpr (!kSingle) other_sum = fmaf(parameters.other(0, c, i), held[i], other_sum);
  }
  own_sum = warp_sum(own_sum, lane.state_lanes);
  if constexpr (!kSingle) other_sum = warp_sum(other_sum, lane.state_lanes);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool is_last = lane.state + i == states - 1;
    float drive = fmaf(parameters.own(0, c, i), of_h1.last, of_h1.previous[i]);
    to_left.h1[i] = fmaf(decay, l[i], next[i] + (is_last ? own_sum : 0.0f));
    matrices.own[0][c][i] = fmaf(held[i], of_h1.last, matrices.own[0][c][i]);
    to_left.h2[i] = 0.0f;
    if (!kSingle && parameters.coupled[0]) {
      const float gamma = parameters.gamma[c];
      const float other = fmaf(parameters.other(0, c, i), of_h2.last, of_h2.previous[i]);
      drive = fmaf(gamma, other, drive);
      to_left.h2[i] = gamma * (next[i] + (is_last ? other_sum : 0.0f));
      matrices.other[0][c][i] = fmaf(gamma * held[i], of_h2.last, matrices.other[0][c][i]);
      matrices.gamma[c][i] = fmaf(held[i], other, matrices.gamma[c][i]);
    }
    drive = fmaf(x, b[i], drive);
    sums.value[Sums::kStep] += decay * l[i] * (drive - left.h1[i]);
    sums.value[Sums::kInput] = fmaf(held[i], b[i], sums.value[Sums::kInput]);
    to_b[i] = held[i] * x;
  }
}

/// The whole cell for the thread's channel `c`. `after` are the states of the cell, `right` and
/// `below` what its neighbours there sent. Collective of the warp in the companion form.
template <ScanForm kForm, bool kSingle, int kChannels>
__device__ __forceinline__ CellAdjoint adjoint_of_cell(
    const ScanParameters<kForm, kSingle, kChannels, ScanTable::kAll>& parameters,
    const CellFactors<kForm, kSingle, kChannels>& factors,
    const CellVectors<kSingle, kChannels>& vectors, const ScanLane& lane, int states, int c,
    float gradient, const CellStates& left, const CellStates& up, const CellStates& after,
    const CellStates& right, const CellStates& below,
    MatrixGradients<kForm, kSingle, kChannels>& matrices, CellSums<kForm, kSingle>& sums) {
  using Sums = CellSums<kForm, kSingle>;
  CellAdjoint result{};
  const auto pair = [&](int k, float (&values)[2]) {
    values[0] = vectors.values[k].x;
    values[1] = vectors.values[k].y;
  };
  float b[2], weights[2], l[2];
  pair(kVectorB1, b);
  pair(kVectorC1, weights);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    l[i] = right.h1[i];
    if constexpr (!kSingle) l[i] += below.h1[i];
    l[i] = fmaf(weights[i], gradient, l[i]);
    result.vectors[kVectorC1][i] = gradient * after.h1[i];
    sums.value[Sums::kOutput] = fmaf(weights[i], after.h1[i], sums.value[Sums::kOutput]);
  }
  if constexpr (kForm == ScanForm::kCompanion) {
    adjoint_of_companion<kSingle, kChannels>(parameters, factors, lane, states, c, l, left, b,
                                             matrices, sums, result.left,
                                             result.vectors[kVectorB1]);
  } else {
    adjoint_of_kind<kForm, kSingle, kChannels>(parameters, factors, 0, c, l, left.h1, left.h2, b,
                                               matrices, sums, result.left.h1, result.left.h2,
                                               result.vectors[kVectorB1]);
  }
  if constexpr (!kSingle) {
    pair(kVectorB2, b);
    pair(kVectorC2, weights);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      l[i] = fmaf(weights[i], gradient, right.h2[i] + below.h2[i]);
      result.vectors[kVectorC2][i] = gradient * after.h2[i];
      sums.value[Sums::kOutput] = fmaf(weights[i], after.h2[i], sums.value[Sums::kOutput]);
    }
    adjoint_of_kind<kForm, kSingle, kChannels>(parameters, factors, 1, c, l, up.h2, up.h1, b,
                                               matrices, sums, result.up.h2, result.up.h1,
                                               result.vectors[kVectorB2]);
  }
  return result;
}

}  // namespace rankone::cuda
