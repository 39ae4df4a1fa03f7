// The recurrence of one block of cells, and the forward of one task.
#pragma once

#include "selective_scan_2d_cell_kernel.h"
#include "selective_scan_2d_companion_kernel.h"
#include "selective_scan_2d_lanes.h"

namespace rankone::cpu::RANKONE_ISA {

/// Shared rates: the coefficients of every cell, for all states.
template <typename T, typename Code>
void share_coefficients(const ScanArrays<T>& a) {
  ScanRates<T, Code> rates;
  rates.load(a, 0);
  for (int c = 0; c < a.rows * a.columns; ++c) {
    const Vec<T> dt1 = load<T>(a.dt1 + c * kLanes<T>);
    const Vec<T> dt2 = Code::kSecond ? load<T>(a.dt2 + c * kLanes<T>) : dt1;
    ScanStep<T, Code> step;
    step.make(rates, dt1, dt2);
    step.store(a.coefficients_at(c));
  }
}

/// States n .. n + kStates - 1 of a block: advances the carries and adds to y. With kKeep (one
/// state) also writes `kept` and the coefficients, for the adjoint.
template <typename T, typename Code, bool kKeep, int kStates>
void scan_states(const ScanArrays<T>& a, int n) {
  constexpr int L = kLanes<T>;
  constexpr bool kSecond = Code::kSecond;
  ScanRates<T, Code> rates[kStates];
  Vec<T> A2[kStates] = {}, A3[kStates] = {};
  for (int u = 0; u < kStates; ++u) {
    rates[u].load(a, n + u);
    if constexpr (kSecond && !Code::kExp) {
      A2[u] = a.parameter(kA2, n + u);
      A3[u] = a.parameter(kA3, n + u);
    }
  }
  if constexpr (kKeep) keep_borders<T, kSecond>(a, n);
  for (int r = 0; r < a.rows; ++r) {
    Vec<T> h1[kStates] = {}, h2[kStates] = {};
    for (int u = 0; u < kStates; ++u) {
      h1[u] = load<T>(a.column_at(r, n + u));
      if constexpr (kSecond) h2[u] = load<T>(a.column_at(r, n + u) + L);
    }
    const int first = r * a.columns;
    const T* B1 = a.projection_at(0, n, first);
    const T* B2 = a.projection_at(1, n, first);
    const T* C1 = a.projection_at(2, n, first);
    const T* C2 = a.projection_at(3, n, first);
    for (int t = 0; t < a.columns; ++t) {
      const int c = first + t;
      const Vec<T> x = load<T>((Code::kPremultiplied ? a.dt1_x : a.x) + c * L);
      Vec<T> dt1{}, dt2{};
      if constexpr (!Code::kNone) dt1 = load<T>(a.dt1 + c * L);
      if constexpr (!Code::kNone && kSecond) dt2 = load<T>(a.dt2 + c * L);
      Vec<T> y = load<T>(a.y + c * L);
#pragma GCC unroll 4
      for (int u = 0; u < kStates; ++u) {
        ScanStep<T, Code> step;
        if constexpr (Code::kShared) {
          step.load(a.coefficients_at(c), rates[u], dt1, dt2);
        } else {
          step.make(rates[u], dt1, dt2);
          if constexpr (kKeep) step.store(a.coefficients_at(c));
        }
        const Vec<T> input1 = projection<T, Code::kLaneVectors>(B1 + u * a.state_step[0]) * x;
        if constexpr (!kSecond) {
          h1[u] = fma(step.e1, h1[u], Code::kHold ? Vec<T>(step.g1 * input1) : input1);
          y = fma(projection<T, Code::kLaneVectors>(C1 + u * a.state_step[2]), h1[u], y);
        } else {
          T* above = a.row_at(n + u, t);
          const Vec<T> above1 = load<T>(above), above2 = load<T>(above + L);
          const Vec<T> input2 = projection<T, Code::kLaneVectors>(B2 + u * a.state_step[1]) * x;
          Vec<T> from_left, from_above;
          if constexpr (Code::kExp) {
            from_left = fma(step.m2, h2[u], step.g1 * input1);
            from_above = fma(step.m3, above1, step.g2 * input2);
          } else {
            from_left = fma(A2[u], h2[u], input1);
            from_above = fma(A3[u], above1, input2);
            if constexpr (!Code::kNone) {
              from_left *= step.g1;
              from_above *= step.g2;
            }
          }
          h1[u] = fma(step.e1, h1[u], from_left);
          h2[u] = fma(step.e2, above2, from_above);
          store<T>(above, h1[u]);
          store<T>(above + L, h2[u]);
          y = fma(projection<T, Code::kLaneVectors>(C1 + u * a.state_step[2]), h1[u], y);
          y = fma(projection<T, Code::kLaneVectors>(C2 + u * a.state_step[3]), h2[u], y);
        }
        if constexpr (kKeep) {
          T* kept = a.kept_at(0, r, t);
          store<T>(kept, h1[u]);
          if constexpr (kSecond) store<T>(kept + L, h2[u]);
        }
      }
      store<T>(a.y + c * L, y);
      B1 += a.cell_step[0];
      C1 += a.cell_step[2];
      if constexpr (kSecond) {
        B2 += a.cell_step[1];
        C2 += a.cell_step[3];
      }
    }
    for (int u = 0; u < kStates; ++u) {
      store<T>(a.column_at(r, n + u), h1[u]);
      if constexpr (kSecond) store<T>(a.column_at(r, n + u) + L, h2[u]);
    }
  }
}

/// All states of the staged block.
template <typename T, typename Code>
void scan_block(ScanLaneBlock<T>& lanes, ScanArrays<T>& a) {
  // As many states at once as leave their parameters and each other's chains in registers.
  constexpr int kTogether = kVectorRegisters < 32 ? 1 : Code::kSecond ? 2 : 4;
  if constexpr (Code::kShared) share_coefficients<T, Code>(a);
  int n = 0;
  if constexpr (!Code::kLaneVectors) {
    for (; n + kTogether <= a.states; n += kTogether) {
      scan_states<T, Code, false, kTogether>(a, n);
    }
  }
  for (; n < a.states; ++n) {
    if constexpr (Code::kLaneVectors) lanes.expand_projections(n, a);
    scan_states<T, Code, false, 1>(a, n);
  }
}

/// Walks the grid for `stop` blocks: before(index, block) ahead of each one's work and of the one
/// after the last, after(block) behind it, end_of_strip(block) behind a strip's last.
template <typename T, typename Before, typename After, typename EndOfStrip>
void walk_forward(ScanLaneBlock<T>& lanes, int stop, Before&& before, After&& after,
                  EndOfStrip&& end_of_strip) {
  void (*run)(ScanLaneBlock<T>&, ScanArrays<T>&) = nullptr;
  if (lanes.companion()) {
    run = companion_block<T>(lanes.variant());
  } else {
    with_code(lanes.variant(), [&](auto code) { run = &scan_block<T, decltype(code)>; });
  }
  int index = 0;
  for (int strip = 0; strip < lanes.strips(); ++strip) {
    lanes.begin_strip(lanes.block(0, strip));
    for (int i = 0; i < lanes.row_blocks(); ++i, ++index) {
      const CellBlock block = lanes.block(i, strip);
      before(index, block);
      if (index == stop) return;
      lanes.stage(block);
      ScanArrays<T> arrays = lanes.arrays();
      run(lanes, arrays);
      after(block);
    }
    end_of_strip(lanes.block(lanes.row_blocks() - 1, strip));
  }
}

template <typename T>
class ScanForward {
 public:
  static constexpr int L = kLanes<T>;

  ScanForward(const ScanForwardTask& task, Arena& arena)
      : task_(task), lanes_(task.problem->inputs, kForwardRows, kForwardCells, false, arena) {}

  void run() {
    const SelectiveScan2dForward& problem = *task_.problem;
    const SelectiveScan2dInputs& inputs = problem.inputs;
    lanes_.begin(task_.lanes);
    walk_forward<T>(
        lanes_, lanes_.blocks(), [](int, const CellBlock&) {},
        [&](const CellBlock& block) {
          finish(block.cells(), inputs.D != nullptr, inputs.z.data != nullptr);
          store_cells<T>(problem.y, inputs.dtype, lanes_.channels(inputs.shape.channels), block,
                         lanes_.y());
        },
        [&](const CellBlock& block) {
          lanes_.store_strip(block, lanes_.row(), problem.final_states.row_h1,
                             problem.final_states.row_h2);
        });
    lanes_.store_columns(lanes_.column(), problem.final_states.column_h1,
                         problem.final_states.column_h2);
  }

 private:
  /// y = (y + D x) silu(z).
  void finish(int cells, bool skips, bool gated) {
    T* y = lanes_.y();
    if (skips) {
      const Vec<T> skip = lanes_.skip();
      for (int c = 0; c < cells; ++c) {
        store<T>(y + c * L, fma(skip, load<T>(lanes_.x() + c * L), load<T>(y + c * L)));
      }
    }
    if (gated) {
      for (int c = 0; c < cells; ++c) {
        const Vec<T> z = load<T>(lanes_.z() + c * L);
        store<T>(y + c * L, load<T>(y + c * L) * z * sigmoid<T>(z));
      }
    }
  }

  const ScanForwardTask& task_;
  ScanLaneBlock<T> lanes_;
};

}  // namespace rankone::cpu::RANKONE_ISA
