// The working arrays of one block of cells, as the kernels over states see them: explained in
// selective_scan_2d_lanes.h.
#pragma once

#include "selective_scan_2d_math.h"
#include "selective_scan_2d_tasks.h"

namespace rankone::cpu::RANKONE_ISA {

/// Parameters of a lane block: (kind, state) vectors. The rates are A log2(e), for 2^(dt rate).
enum ScanParameterKind : int {
  kA1,
  kA2,
  kA3,
  kA4,
  kRate1,
  kRate2,
  kRate3,
  kRate4,
  kInverse1,  // 1 / A
  kInverse4,
  kStaticB1,
  kStaticB2,
  kStaticC1,
  kStaticC2,
  kParameterKinds,
};

/// What a cell's steps make of the rates: E1 = exp(dt1 A1), G1 = (E1 - 1) / A1, E2 and G2 with dt2
/// and A4, and under kExp A2' and A3'.
enum ScanCoefficient : int { kE1, kG1, kE2, kG2, kM2, kM3, kCoefficients };

/// The working arrays of one block, as the kernels over states see them.
template <typename T>
struct ScanArrays {
  int rows = 0, columns = 0, states = 0;

  // (cells) vectors.
  const T* x = nullptr;
  const T* dt1 = nullptr;
  const T* dt2 = nullptr;
  const T* dt1_x = nullptr;  // dt1 x, single_axis with kMamba only
  T* y = nullptr;            // sums over the states done so far

  // B1, B2, C1, C2 of cell c and state n: at projections[k] + n * state_step[k] + c * cell_step[k],
  // one number for all lanes, or with lane vectors a vector.
  const T* projections[4] = {};
  std::int64_t state_step[4] = {};
  std::int64_t cell_step[4] = {};

  const T* parameters = nullptr;  // (kParameterKinds, states) vectors
  const T* gamma = nullptr;       // a vector
  T has_A2 = 0, has_A3 = 0;       // 1 or 0

  T* column = nullptr;  // (rows, states, 2) vectors: h1, h2 of the cells to the left
  T* row = nullptr;     // (states, row_length, 2) vectors: of the cells above
  std::int64_t row_length = 0;

  // (cells, kCoefficients) vectors: all states' where they share one rate, else one state's.
  T* coefficients = nullptr;
  // (rows + 1, columns + 1, 2) vectors a state: h1, h2, behind a border of the cells above and
  // left.
  T* kept = nullptr;
  std::int64_t kept_state_step = 0;

  RANKONE_INLINE Vec<T> parameter(int kind, int n) const {
    return load<T>(parameters + (kind * states + n) * kLanes<T>);
  }
  RANKONE_INLINE const T* projection_at(int k, int n, int cell) const {
    return projections[k] + n * state_step[k] + cell * cell_step[k];
  }
  RANKONE_INLINE T* column_at(int r, int n) const {
    return column + (static_cast<std::int64_t>(r) * states + n) * 2 * kLanes<T>;
  }
  RANKONE_INLINE T* row_at(int n, int t) const {
    return row + (n * row_length + t) * 2 * kLanes<T>;
  }
  RANKONE_INLINE T* kept_at(int n, int r, int t) const {
    return kept + n * kept_state_step +
           (static_cast<std::int64_t>(r + 1) * (columns + 1) + t + 1) * 2 * kLanes<T>;
  }
  RANKONE_INLINE T* coefficients_at(int cell) const {
    return coefficients + static_cast<std::int64_t>(cell) * kCoefficients * kLanes<T>;
  }
};

/// What fixes the code of a kernel over states.
struct ScanVariant {
  ScanDiscretization rule = ScanDiscretization::kZoh;
  bool second = true;         // h2 exists
  bool shared_rates = false;  // one rate a channel: coefficients are made once for all states
  bool lane_vectors = false;  // B and C differ between the lanes
};

/// What the adjoint of a block reads and writes beside the ScanArrays: all of it vectors.
template <typename T>
struct AdjointArrays {
  const T* y_grad = nullptr;  // (cells), of y before the gate
  T* x_grad = nullptr;        // (cells), sums over the states done so far, without D's part
  T* dt1_grad = nullptr;      // likewise, of the steps
  T* dt2_grad = nullptr;

  // What the cells to the right and below add to the adjoints of h1 and h2.
  T* column = nullptr;  // (rows, states, 2)
  T* row = nullptr;     // (states, row_length, 2)
  std::int64_t row_length = 0;

  // Of B1, B2, C1, C2, a channel a lane: (4, product_cells) a state.
  T* products = nullptr;
  std::int64_t product_cells = 0;
  std::int64_t product_state_step = 0;

  T* slots = nullptr;  // (slot_offset(kSlotEnd)): sums over the block's cells

  RANKONE_INLINE T* column_at(int r, int n, int states) const {
    return column + (static_cast<std::int64_t>(r) * states + n) * 2 * kLanes<T>;
  }
  RANKONE_INLINE T* row_at(int n, int t) const {
    return row + (n * row_length + t) * 2 * kLanes<T>;
  }
  RANKONE_INLINE T* product_at(int k, int n, int cell) const {
    return products + n * product_state_step + (k * product_cells + cell) * kLanes<T>;
  }
  RANKONE_INLINE T* slot_at(int slot, int n, int states) const {
    return slots + (slot_offset(slot, states) + n) * kLanes<T>;
  }
};

}  // namespace rankone::cpu::RANKONE_ISA
