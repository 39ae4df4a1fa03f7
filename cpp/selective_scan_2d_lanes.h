// The lanes of a 2D selective scan: neighbouring channels of one batch entry, one a vector lane,
// walked over the whole grid by one thread.
//
// The grid is cut into blocks of rows x columns; a strip of columns is walked from its first row to
// its last, then the next strip. Inside a block the loop over states is the outer one: a state's
// parameters and its h1, h2 of the cell to the left stay in registers along a row, its row above
// (two vectors a column) in the first-level cache, and no array over cells and states exists. What
// a block hands on lies in two carries: the last column (rows, states) and the last row (states,
// columns of the strip). Steps, gates and B, C of a block are read once, converted, biased and kept
// in working arrays.
//
// With E = exp(dt A): exp(x) - 1 is computed without cancellation, so that G = (E - 1) / A is a
// product with 1 / A for every dt A; an |A| too small to matter is replaced by one whose inverse is
// finite.
#pragma once

#include "selective_scan_2d_arrays.h"
#include "selective_scan_2d_cells.h"
#include "selective_scan_2d_math.h"
#include "selective_scan_2d_tasks.h"
#include "tile_gemm.h"

namespace rankone::cpu::RANKONE_ISA {

/// Cells of a forward's block: more of them cost cache, fewer cost passes over the carries.
inline constexpr int kForwardCells = 64;
inline constexpr int kForwardRows = 4;
/// Vectors between one working array and the next.
inline constexpr std::int64_t kStagger = 5;

/// One block of lanes: its parameters, its carries, and the working arrays of one block of cells.
template <typename T>
class ScanLaneBlock {
 public:
  static constexpr int L = kLanes<T>;
  static constexpr int kTensors = 4;  // B1, B2, C1, C2

  /// `keeps`: the coefficients and states of a block stay, for the adjoint.
  ScanLaneBlock(const SelectiveScan2dInputs& inputs, int max_rows, int max_cells, bool keeps,
                Arena& arena)
      : inputs_(inputs), shape_(inputs.shape) {
    second_ = !inputs.single_axis;
    companion_ = inputs.structure == ScanStructure::kCompanion;
    states_ = static_cast<int>(shape_.states);
    block_rows_ = static_cast<int>(at_most_of(shape_.rows, second_ ? max_rows : 1));
    block_columns_ = static_cast<int>(at_most_of(shape_.columns, max_cells / block_rows_));
    block_rows_ = static_cast<int>(at_most_of(shape_.rows, max_cells / block_columns_));
    max_cells_ = block_rows_ * block_columns_;

    parameters_ = arena.take<T>(std::int64_t{kParameterKinds} * states_ * L);
    vectors_ = arena.take<T>(kVectors * L);
    x_ = arena.take<T>(cell_array());
    dt1_ = arena.take<T>(cell_array());
    dt2_ = arena.take<T>(cell_array());
    dt1_x_ = arena.take<T>(cell_array());
    z_ = arena.take<T>(cell_array());
    y_ = arena.take<T>(cell_array());
    padded_states_ = round_to_lanes<T>(states_);
    scalars_ = arena.take<T>(max_scalar_groups() * max_cells_ * padded_states_);
    lane_values_ =
        arena.take<T>(std::int64_t{kTensors} * max_cells_ * L * (companion_ ? states_ : 1));
    column_ = arena.take<T>(shape_.rows * states_ * 2 * L);
    row_ = arena.take<T>(second_ ? std::int64_t{states_} * block_columns_ * 2 * L : 0);
    const bool has_coefficients = has_shared_rates() || (keeps && !companion_);
    coefficients_ =
        arena.take<T>(has_coefficients ? std::int64_t{max_cells_} * kCoefficients * L : 0);
    kept_state_step_ =
        companion_ ? std::int64_t{block_rows_ + 1} * (block_columns_ + 1) * 2 * L : 0;
    kept_ =
        arena.take<T>(!keeps       ? 0
                      : companion_ ? kept_state_step_ * states_
                                   : std::int64_t{block_rows_ + 1} * (block_columns_ + 1) * 2 * L);
  }

  /// Reads the lanes' parameters.
  void begin(const ScanLanes& lanes) {
    lanes_ = lanes;
    const bool rated = inputs_.discretization == ScanDiscretization::kZoh ||
                       inputs_.discretization == ScanDiscretization::kExp;
    const ScanParameter* matrices[] = {&inputs_.A1, &inputs_.A2, &inputs_.A3, &inputs_.A4};
    for (int k = kA1; k <= kA4; ++k) {
      const ScanParameter& a = *matrices[k];
      const T* source = static_cast<const T*>(a.data);
      if (source != nullptr) source += lanes.first * a.channel_stride;
      load_channel_states<T>(source, a.channel_stride, a.state_stride, lanes.count, states_,
                             parameter(k), L);
      const bool own = k == kA1 ? !companion_ : k == kA4;
      for (int n = 0; n < states_; ++n) {
        // Idle lanes decay, so that no step, infinite ones included, moves them away from 0.
        Vec<T> value =
            LeadingLanes<T>(lanes.count).select(load<T>(parameter(k) + n * L), broadcast<T>(T(-1)));
        store<T>(parameter(k) + n * L, value);
        if (own && rated) {
          const Vec<T> tiny = broadcast<T>(sizeof(T) == 4 ? T(0x1p-60) : T(0x1p-500));
          value = (value < tiny && value > -tiny) ? tiny : value;
          store<T>(parameter(k) + n * L, value);
          store<T>(parameter(k == kA1 ? kInverse1 : kInverse4) + n * L, broadcast<T>(T(1)) / value);
        }
        store<T>(parameter(kRate1 + k) + n * L, value * broadcast<T>(T(kLog2E)));
      }
    }
    const ConstCells* tensors[] = {&inputs_.B1, &inputs_.B2, &inputs_.C1, &inputs_.C2};
    lane_vectors_ = false;
    for (int k = 0; k < kTensors; ++k) {
      if (!present(k)) continue;
      if (groups(k) == 0) {
        lane_vectors_ = true;
        const ConstCells& tensor = *tensors[k];
        load_channel_states<T>(
            static_cast<const T*>(tensor.data) + lanes.first * tensor.channel_stride,
            tensor.channel_stride, tensor.state_stride, lanes.count, states_,
            parameter(kStaticB1 + k), L);
      } else if (!channels(groups(k)).one_head()) {
        lane_vectors_ = true;
      }
    }
    load_vector(kSkip, inputs_.D, shape_.channels, T(0));
    load_vector(kDt1Bias, inputs_.dt1_bias, shape_.dt1_heads, T(0));
    load_vector(kDt2Bias, inputs_.dt2_bias, shape_.dt2_heads, T(0));
    load_vector(kGammaVector, inputs_.gamma, shape_.channels, T(1));
    if (inputs_.A2.data == nullptr) store<T>(vectors_ + kGammaVector * L, zero<T>());
    load_columns(inputs_.initial_states.column_h1, inputs_.initial_states.column_h2, column_);
  }

  // ---- the walk ----

  /// Elements of an array of one vector a cell. Not a multiple of 4096 bytes: the loops touch the
  /// same cell of a dozen arrays, which would fall into one set of the cache and look to the
  /// processor like loads of what was just stored.
  std::int64_t cell_array() const { return (round_to_lanes<T>(max_cells_) + kStagger) * L; }

  int row_blocks() const { return blocks_of(shape_.rows, block_rows_); }
  int strips() const { return blocks_of(shape_.columns, block_columns_); }
  int blocks() const { return row_blocks() * strips(); }
  int block_rows() const { return block_rows_; }
  int block_columns() const { return block_columns_; }

  CellBlock block(int row_block, int strip) const {
    CellBlock result;
    result.row = std::int64_t{row_block} * block_rows_;
    result.column = std::int64_t{strip} * block_columns_;
    result.rows = static_cast<int>(at_most_of(shape_.rows - result.row, block_rows_));
    result.columns = static_cast<int>(at_most_of(shape_.columns - result.column, block_columns_));
    return result;
  }

  /// The row above a strip's first.
  void begin_strip(const CellBlock& first) {
    if (!second_) return;
    load_strip(first, inputs_.initial_states.row_h1, inputs_.initial_states.row_h2, row_);
  }

  /// Reads a block's inputs.
  void stage(const CellBlock& block) {
    block_ = block;
    const int cells = block.cells();
    load_cells<T>(inputs_.x, inputs_.dtype, channels(shape_.channels), block, x_);
    if (inputs_.discretization != ScanDiscretization::kNone) {
      stage_steps(inputs_.dt1, shape_.dt1_heads, kDt1Bias, dt1_);
      if (second_) stage_steps(inputs_.dt2, shape_.dt2_heads, kDt2Bias, dt2_);
    }
    if (premultiplied()) {
      for (int c = 0; c < cells; ++c) {
        store<T>(dt1_x_ + c * L, load<T>(dt1_ + c * L) * load<T>(x_ + c * L));
      }
    }
    if (inputs_.z.data != nullptr) {
      load_cells<T>(inputs_.z, inputs_.dtype, channels(shape_.channels), block, z_);
    }
    for (int c = 0; c < cells; ++c) store<T>(y_ + c * L, zero<T>());
    stage_projections();
  }

  /// The arrays of the staged block.
  ScanArrays<T> arrays() const {
    ScanArrays<T> a;
    a.rows = block_.rows;
    a.columns = block_.columns;
    a.states = states_;
    a.x = x_;
    a.dt1 = dt1_;
    a.dt2 = dt2_;
    a.dt1_x = dt1_x_;
    a.y = y_;
    for (int k = 0; k < kTensors; ++k) {
      a.projections[k] = scalars_ + k * scalar_kind_step_;
      a.cell_step[k] = scalar_cell_step_;
      a.state_step[k] = scalar_state_step_;
    }
    a.parameters = parameters_;
    a.gamma = vectors_ + kGammaVector * L;
    a.has_A2 = inputs_.A2.data == nullptr ? T(0) : T(1);
    a.has_A3 = inputs_.A3.data == nullptr ? T(0) : T(1);
    a.column = column_ + block_.row * states_ * 2 * L;
    a.row = row_;
    a.row_length = block_columns_;
    a.coefficients = coefficients_;
    a.kept = kept_;
    a.kept_state_step = kept_state_step_;
    return a;
  }

  /// With lane vectors: makes the arrays' projections for state n, and for others only under the
  /// companion structure, which asks for all states in turn.
  void expand_projections(int n, ScanArrays<T>& a) {
    const int slot = companion_ ? n : 0;
    const std::int64_t slot_size = std::int64_t{kTensors} * max_cells_ * L;
    for (int k = 0; k < kTensors; ++k) {
      if (!present(k)) continue;
      if (groups(k) == 0) {
        a.projections[k] = parameter(kStaticB1 + k);
        a.state_step[k] = L;
        a.cell_step[k] = 0;
        continue;
      }
      const LaneChannels lanes = channels(groups(k));
      T* values = lane_values_ + slot * slot_size + std::int64_t{k} * max_cells_ * L;
      const int cells = block_.cells();
      const T* source = scalars_ + scalar_group_[k] * max_cells_ * padded_states_ + n;
      for (int lane = 0; lane < L; ++lane) {
        const std::int64_t group = lane < lanes.count ? lanes.head(lane) - lanes.head(0) : 0;
        const T* column = source + group * max_cells_ * padded_states_;
        for (int c = 0; c < cells; ++c) values[c * L + lane] = column[c * padded_states_];
      }
      a.projections[k] = values - slot * slot_size;
      a.state_step[k] = companion_ ? slot_size : 0;
      a.cell_step[k] = L;
    }
  }

  /// (rows, states, 2) vectors of column states h1, h2; null: zeros.
  void load_columns(const void* h1, const void* h2, T* column) const {
    for (std::int64_t v = 0; v < shape_.rows; ++v) {
      T* target = column + v * states_ * 2 * L;
      load_state(border_at(h1, shape_.rows, v), target, 2 * L);
      load_state(border_at(h2, shape_.rows, v), target + L, 2 * L);
    }
  }
  /// (states, block_columns, 2) vectors of a strip's row states.
  void load_strip(const CellBlock& block, const void* h1, const void* h2, T* row) const {
    const std::int64_t stride = std::int64_t{block_columns_} * 2 * L;
    for (int t = 0; t < block.columns; ++t) {
      const std::int64_t column = block.column + t;
      load_state(border_at(h1, shape_.columns, column), row + t * 2 * L, stride);
      load_state(border_at(h2, shape_.columns, column), row + (t * 2 + 1) * L, stride);
    }
  }

  /// Their inverses; null is not written.
  void store_columns(const T* column, void* h1, void* h2) const {
    for (std::int64_t v = 0; v < shape_.rows; ++v) {
      const T* source = column + v * states_ * 2 * L;
      store_state(border_at(h1, shape_.rows, v), source, 2 * L);
      if (second_) store_state(border_at(h2, shape_.rows, v), source + L, 2 * L);
    }
  }
  void store_strip(const CellBlock& block, const T* row, void* h1, void* h2) const {
    const std::int64_t stride = std::int64_t{block_columns_} * 2 * L;
    for (int t = 0; t < block.columns; ++t) {
      const std::int64_t column = block.column + t;
      store_state(border_at(h1, shape_.columns, column), row + t * 2 * L, stride);
      store_state(border_at(h2, shape_.columns, column), row + (t * 2 + 1) * L, stride);
    }
  }

  // ---- what the kernels ask ----

  ScanVariant variant() const {
    return {inputs_.discretization, second_, has_shared_rates(), lane_vectors_};
  }
  bool companion() const { return companion_; }
  bool second() const { return second_; }
  int states() const { return states_; }
  Vec<T> skip() const { return load<T>(vectors_ + kSkip * L); }
  LaneChannels channels(std::int64_t heads) const {
    return {lanes_.batch, lanes_.first, lanes_.count, heads == 0 ? 1 : shape_.channels / heads};
  }
  bool premultiplied() const {
    return !second_ && !companion_ && inputs_.discretization == ScanDiscretization::kMamba;
  }
  std::int64_t groups(int k) const {
    const std::int64_t counts[] = {shape_.B1_groups, shape_.B2_groups, shape_.C1_groups,
                                   shape_.C2_groups};
    return counts[k];
  }
  bool present(int k) const { return second_ || k == 0 || k == 2; }

  const CellBlock& staged() const { return block_; }
  T* x() const { return x_; }
  T* dt1() const { return dt1_; }
  T* dt2() const { return dt2_; }
  T* z() const { return z_; }
  T* y() const { return y_; }
  T* column() const { return column_; }
  T* row() const { return row_; }

 private:
  enum Vector : int { kSkip, kDt1Bias, kDt2Bias, kGammaVector, kVectors };

  static std::int64_t at_most_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
  static int blocks_of(std::int64_t count, int size) {
    return static_cast<int>((count + size - 1) / size);
  }

  bool has_shared_rates() const {
    if (companion_ || inputs_.discretization == ScanDiscretization::kNone) return false;
    const bool own_couplings = inputs_.discretization == ScanDiscretization::kExp;
    const auto one_rate = [&](const ScanParameter& a) {
      return a.data == nullptr || a.state_stride == 0;
    };
    return states_ > 1 && one_rate(inputs_.A1) && one_rate(inputs_.A4) &&
           (!own_couplings || (one_rate(inputs_.A2) && one_rate(inputs_.A3)));
  }

  /// Groups of scalars that a block of lanes may need: one a tensor, or as many as lanes straddle.
  std::int64_t max_scalar_groups() const {
    std::int64_t total = 0;
    for (int k = 0; k < kTensors; ++k) {
      if (groups(k) <= 1) {
        total += 1;
      } else {
        const std::int64_t per_group = shape_.channels / groups(k);
        total += at_most_of(groups(k), (L + per_group - 1) / per_group + 1);
      }
    }
    return total;
  }

  T* parameter(int kind) const { return parameters_ + std::int64_t{kind} * states_ * L; }

  void load_vector(Vector which, const void* source, std::int64_t heads, T absent) {
    const LaneChannels lanes = channels(heads);
    for (int lane = 0; lane < L; ++lane) {
      vectors_[which * L + lane] = source == nullptr ? absent
                                   : lane < lanes.count
                                       ? static_cast<const T*>(source)[lanes.head(lane)]
                                       : T(0);
    }
  }

  void stage_steps(const ConstCells& tensor, std::int64_t heads, Vector bias, T* steps) {
    load_cells<T>(tensor, inputs_.dtype, channels(heads), block_, steps);
    const Vec<T> shift = load<T>(vectors_ + bias * L);
    const int cells = block_.cells();
    if (inputs_.dt_softplus) {
      for (int c = 0; c < cells; ++c) {
        store<T>(steps + c * L, softplus<T>(load<T>(steps + c * L) + shift));
      }
    } else {
      for (int c = 0; c < cells; ++c) store<T>(steps + c * L, load<T>(steps + c * L) + shift);
    }
  }

  /// Copies B and C. Where the lanes share them: as (cell, tensor, state), or where columns are the
  /// contiguous axis as (state, tensor, cell). With lane vectors: as (group, cell, state).
  void stage_projections() {
    const ConstCells* tensors[] = {&inputs_.B1, &inputs_.B2, &inputs_.C1, &inputs_.C2};
    const bool by_columns =
        !lane_vectors_ && inputs_.B1.column_stride == 1 && inputs_.B1.state_stride != 1;
    scalar_kind_step_ = by_columns ? max_cells_ : padded_states_;
    scalar_cell_step_ = by_columns ? 1 : kTensors * padded_states_;
    scalar_state_step_ = by_columns ? kTensors * max_cells_ : 1;
    std::int64_t group = 0;
    for (int k = 0; k < kTensors; ++k) {
      if (!present(k) || groups(k) == 0) continue;
      const LaneChannels lanes = channels(groups(k));
      if (!lane_vectors_) {
        copy_projection(*tensors[k], lanes.head(0), scalars_ + k * scalar_kind_step_,
                        scalar_cell_step_, scalar_state_step_);
        continue;
      }
      scalar_group_[k] = group;
      for (std::int64_t g = lanes.head(0); g <= lanes.head(lanes.count - 1); ++g, ++group) {
        copy_projection(*tensors[k], g, scalars_ + group * max_cells_ * padded_states_,
                        padded_states_, 1);
      }
    }
  }

  void copy_projection(const ConstCells& tensor, std::int64_t group, T* target,
                       std::int64_t cell_step, std::int64_t state_step) {
    with_storage<T>(inputs_.dtype, [&](auto tag) {
      using Storage = typename decltype(tag)::Type;
      const Storage* data = static_cast<const Storage*>(tensor.data) +
                            lanes_.batch * tensor.batch_stride + block_.row * tensor.row_stride +
                            block_.column * tensor.column_stride + group * tensor.channel_stride;
      for (int r = 0; r < block_.rows; ++r, data += tensor.row_stride) {
        T* row = target + r * block_.columns * cell_step;
        if (state_step == 1 && tensor.state_stride == 1) {
          for (int t = 0; t < block_.columns; ++t) {
            const Storage* source = data + t * tensor.column_stride;
            for (int n = 0; n < states_; n += L) {
              store<T>(row + t * cell_step + n, n + L <= states_
                                                    ? load_storage<T>(source + n)
                                                    : load_partial<T>(source + n, states_ - n));
            }
          }
        } else if (cell_step == 1 && tensor.column_stride == 1) {
          for (int n = 0; n < states_; ++n) {
            const Storage* source = data + n * tensor.state_stride;
            for (int t = 0; t < block_.columns; t += L) {
              const int left = smaller(L, block_.columns - t);
              store_partial<T>(row + n * state_step + t, load_partial<T>(source + t, left), left);
            }
          }
        } else {
          for (int t = 0; t < block_.columns; ++t) {
            for (int n = 0; n < states_; ++n) {
              row[t * cell_step + n * state_step] =
                  load_one<T>(data + t * tensor.column_stride + n * tensor.state_stride);
            }
          }
        }
      }
    });
  }

  /// The lanes' first channel at one cell of a border's states.
  const T* border_at(const void* states, std::int64_t length, std::int64_t cell) const {
    return states == nullptr ? nullptr : static_cast<const T*>(states) + border(length, cell);
  }
  T* border_at(void* states, std::int64_t length, std::int64_t cell) const {
    return states == nullptr ? nullptr : static_cast<T*>(states) + border(length, cell);
  }
  std::int64_t border(std::int64_t length, std::int64_t cell) const {
    return ((lanes_.batch * length + cell) * shape_.channels + lanes_.first) * states_;
  }

  void load_state(const T* source, T* target, std::int64_t stride) const {
    load_channel_states<T>(source, states_, 1, lanes_.count, states_, target, stride);
  }
  void store_state(T* target, const T* source, std::int64_t stride) const {
    if (target == nullptr) return;
    store_transposed<T>(target, states_, lanes_.count, states_, source, stride);
  }

  const SelectiveScan2dInputs& inputs_;
  const SelectiveScan2dShape& shape_;
  bool second_, companion_, lane_vectors_ = false;
  int states_, padded_states_ = 0;
  int block_rows_, block_columns_, max_cells_;
  ScanLanes lanes_;
  CellBlock block_;
  std::int64_t scalar_kind_step_ = 0, scalar_cell_step_ = 0, scalar_state_step_ = 0;
  std::int64_t scalar_group_[kTensors] = {};

  T* parameters_;
  T* vectors_;
  T *x_, *dt1_, *dt2_, *dt1_x_, *z_, *y_;
  T* scalars_;
  T* lane_values_;
  T* column_;
  T* row_;
  T* coefficients_;
  T* kept_;
  std::int64_t kept_state_step_;
};

}  // namespace rankone::cpu::RANKONE_ISA
