// The backward of the 2D selective scan for some lane blocks of one batch entry, one after another.
//
// A first walk of the grid leaves the carries in front of every block (two vectors a state, block
// row and block column) and nothing else. Then the blocks are taken from the last to the first:
// each one's states are computed again from its carries, state by state, and its adjoint is run
// back with carries of its own. Extra memory is 2 states (1 / rows + 1 / columns of a block)
// numbers a cell and channel, for the channels of one lane block.
//
// Gradients that channels share are summed over a block's lanes, then over this task's blocks in
// their order, into partial sums that a last pass adds over tasks.
#pragma once

#include "selective_scan_2d_adjoint_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

inline constexpr int kBackwardCells = 128;
inline constexpr int kBackwardRows = 8;
/// The companion structure keeps every state of a block.
inline constexpr int kCompanionCells = 32;

template <typename T>
class ScanBackward {
 public:
  static constexpr int L = kLanes<T>;

  ScanBackward(const ScanBackwardTask& task, Arena& arena)
      : task_(task),
        problem_(*task.problem),
        inputs_(problem_.inputs),
        shape_(inputs_.shape),
        lanes_(inputs_, kBackwardRows,
               inputs_.structure == ScanStructure::kCompanion ? kCompanionCells : kBackwardCells,
               true, arena) {
    const std::int64_t states = shape_.states;
    T** const arrays[] = {&y_grad_, &gated_grad_, &x_grad_, &dt1_grad_, &dt2_grad_};
    for (T** array : arrays) {
      *array = arena.take<T>(lanes_.cell_array());
    }
    adjoint_.column = arena.take<T>(shape_.rows * states * 2 * L);
    adjoint_.row = arena.take<T>(states * lanes_.block_columns() * 2 * L);
    adjoint_.product_cells = lanes_.cell_array() / L;
    const std::int64_t products = 4 * adjoint_.product_cells * L;
    adjoint_.product_state_step = lanes_.companion() ? products : 0;
    adjoint_.products = arena.take<T>(products * (lanes_.companion() ? states : 1));
    sums_ = arena.take<T>(adjoint_.product_cells);
    num_slots_ = slot_offset(kSlotEnd, states);
    adjoint_.slots = arena.take<T>(num_slots_ * L);
    totals_ = arena.take<T>(num_slots_ * L);
    column_carry_ = lanes_.block_rows() * states * 2 * L;
    row_carry_ = lanes_.second() ? lanes_.block_columns() * states * 2 * L : 0;
    column_carries_ = arena.take<T>(lanes_.blocks() * column_carry_);
    row_carries_ = arena.take<T>((lanes_.row_blocks() - 1) * lanes_.strips() * row_carry_);
  }

  void run() {
    zero_fill(adjoint_.products,
              adjoint_.product_cells * 4 * L * (lanes_.companion() ? shape_.states : 1));
    for (int i = 0; i < task_.num_blocks; ++i) run_lanes(task_.blocks[i]);
  }

 private:
  void run_lanes(const ScanLanes& lanes) {
    lanes_.begin(lanes);
    zero_fill(totals_, num_slots_ * L);
    walk_forward<T>(
        lanes_, lanes_.blocks() - 1,
        [&](int index, const CellBlock& block) { exchange_carries<true>(index, block); },
        [](const CellBlock&) {}, [](const CellBlock&) {});

    const ScanStates<const void*>& final_grad = problem_.final_states_grad;
    const ScanStates<void*>& initial_grad = problem_.initial_states_grad;
    lanes_.load_columns(final_grad.column_h1, final_grad.column_h2, adjoint_.column);
    int index = lanes_.blocks();
    for (int strip = lanes_.strips() - 1; strip >= 0; --strip) {
      const CellBlock first = lanes_.block(0, strip);
      if (lanes_.second()) {
        lanes_.load_strip(first, final_grad.row_h1, final_grad.row_h2, adjoint_.row);
      }
      for (int i = lanes_.row_blocks() - 1; i >= 0; --i) {
        const CellBlock block = lanes_.block(i, strip);
        exchange_carries<false>(--index, block);
        // Block by block, so that a sum over many cells is not one long chain of roundings.
        zero_fill(adjoint_.slots, num_slots_ * L);
        run_block(block);
        for (std::int64_t slot = 0; slot < num_slots_ * L; slot += L) {
          store<T>(totals_ + slot, load<T>(totals_ + slot) + load<T>(adjoint_.slots + slot));
        }
      }
      if (lanes_.second()) {
        lanes_.store_strip(first, adjoint_.row, initial_grad.row_h1, initial_grad.row_h2);
      }
    }
    lanes_.store_columns(adjoint_.column, initial_grad.column_h1, initial_grad.column_h2);

    T* slots = static_cast<T*>(task_.slots);
    for (std::int64_t slot = 0; slot < num_slots_; ++slot) {
      store_partial<T>(slots + slot * shape_.channels + lanes.first, load<T>(totals_ + slot * L),
                       lanes.count);
    }
  }

  /// Between the carries in front of a block and the memory that keeps them; the row above the
  /// grid is read again instead.
  template <bool kKeep>
  void exchange_carries(int index, const CellBlock& block) {
    const std::int64_t row_states = shape_.states * 2 * L;
    const auto exchange = [](T* carry, T* kept, std::int64_t count) {
      for (std::int64_t i = 0; i < count; i += L) {
        kKeep ? store<T>(kept + i, load<T>(carry + i)) : store<T>(carry + i, load<T>(kept + i));
      }
    };
    exchange(lanes_.column() + block.row * row_states, column_carries_ + index * column_carry_,
             block.rows * row_states);
    if (block.row > 0) {
      const std::int64_t strip = index / lanes_.row_blocks();
      exchange(lanes_.row(), row_carries_ + (index - strip - 1) * row_carry_, row_carry_);
    } else if (!kKeep) {
      lanes_.begin_strip(block);
    }
  }

  void run_block(const CellBlock& block) {
    lanes_.stage(block);
    const int cells = block.cells();
    const LaneChannels channels = lanes_.channels(shape_.channels);
    load_cells<T>(problem_.y_grad, inputs_.dtype, channels, block, y_grad_);
    if (inputs_.z.data != nullptr) {
      for (int c = 0; c < cells; ++c) {
        const Vec<T> z = load<T>(lanes_.z() + c * L), grad = load<T>(y_grad_ + c * L);
        store<T>(gated_grad_ + c * L, grad);
        store<T>(y_grad_ + c * L, grad * z * sigmoid<T>(z));
      }
    }
    zero_fill(x_grad_, std::int64_t{cells} * L);
    zero_fill(dt1_grad_, std::int64_t{cells} * L);
    zero_fill(dt2_grad_, std::int64_t{cells} * L);

    ScanArrays<T> a = lanes_.arrays();
    AdjointArrays<T> b = adjoint_;
    b.y_grad = y_grad_;
    b.x_grad = x_grad_;
    b.dt1_grad = dt1_grad_;
    b.dt2_grad = dt2_grad_;
    b.column += block.row * shape_.states * 2 * L;
    b.row_length = lanes_.block_columns();
    const auto collect = [&](int n) { collect_products(b, n); };
    if (lanes_.companion()) {
      companion_block<T, true>(lanes_.variant())(lanes_, a);
      companion_adjoint<T>(lanes_.variant())(a, b);
      for (int n = 0; n < a.states; ++n) collect(n);
    } else {
      with_code(lanes_.variant(),
                [&](auto code) { adjoint_block<T, decltype(code)>(lanes_, a, b, collect); });
    }
    finish(block, channels);
  }

  /// Adds state n's gradients of B and C to where they are summed.
  void collect_products(const AdjointArrays<T>& b, int n) {
    for (int k = 0; k < 4; ++k) {
      if (!lanes_.present(k)) continue;
      const T* products = b.product_at(k, n, 0);
      if (lanes_.groups(k) == 0) {
        add_to_slot(kSlotB1 + k, n, products);
      } else {
        add_shared(kSharedB1 + k, lanes_.channels(lanes_.groups(k)), n, lanes_.states(), products);
      }
    }
  }

  void add_to_slot(int slot, int n, const T* values) {
    T* place = adjoint_.slot_at(slot, n, lanes_.states());
    Vec<T> sum = load<T>(place);
    for (int c = 0; c < lanes_.staged().cells(); ++c) sum += load<T>(values + c * L);
    store<T>(place, sum);
  }

  /// Adds values of the staged block's cells, summed over the lanes of each head.
  void add_shared(int which, const LaneChannels& lanes, int n, int states, const T* values) {
    if (task_.shared[which] == nullptr) return;
    const CellBlock& block = lanes_.staged();
    const int cells = block.cells();
    T* const partial = static_cast<T*>(task_.shared[which]);
    const auto place = [&](std::int64_t head) {
      return partial +
             (((head - task_.first_shared[which]) * states + n) * shape_.rows + block.row) *
                 shape_.columns +
             block.column;
    };
    if (lanes.one_head()) {
      for (int c = 0; c < cells; c += L) {
        Vec<T> vectors[L];
        for (int i = 0; i < L; ++i) vectors[i] = load<T>(values + (c + i) * L);
        store<T>(sums_ + c, sum_each<T>(vectors));
      }
      T* row = place(lanes.head(0));
      const T* sums = sums_;
      for (int r = 0; r < block.rows; ++r, row += shape_.columns, sums += block.columns) {
        for (int t = 0; t < block.columns; ++t) row[t] += sums[t];
      }
      return;
    }
    for (int lane = 0; lane < lanes.count; ++lane) {
      T* row = place(lanes.head(lane));
      const T* value = values + lane;
      for (int r = 0; r < block.rows; ++r, row += shape_.columns) {
        for (int t = 0; t < block.columns; ++t, value += L) row[t] += *value;
      }
    }
  }

  /// What is left once all states are through: D, the gate, the steps; and writes what a channel
  /// has for itself.
  void finish(const CellBlock& block, const LaneChannels& channels) {
    const int cells = block.cells();
    const T* x = lanes_.x();
    if (inputs_.D != nullptr) {
      const Vec<T> skip = lanes_.skip();
      T* y = lanes_.y();
      T* slot = adjoint_.slot_at(kSlotD, 0, lanes_.states());
      Vec<T> sum = load<T>(slot);
      for (int c = 0; c < cells; ++c) {
        const Vec<T> grad = load<T>(y_grad_ + c * L), input = load<T>(x + c * L);
        sum = fma(grad, input, sum);
        store<T>(x_grad_ + c * L, fma(skip, grad, load<T>(x_grad_ + c * L)));
        store<T>(y + c * L, fma(skip, input, load<T>(y + c * L)));
      }
      store<T>(slot, sum);
    }
    if (problem_.x_grad.data != nullptr) {
      store_cells<T>(problem_.x_grad, inputs_.dtype, channels, block, x_grad_);
    }
    if (inputs_.z.data != nullptr && problem_.z_grad.data != nullptr) {
      for (int c = 0; c < cells; ++c) {
        const Vec<T> z = load<T>(lanes_.z() + c * L), s = sigmoid<T>(z);
        const Vec<T> slope = s * fma(z, broadcast<T>(T(1)) - s, broadcast<T>(T(1)));
        const Vec<T> value = load<T>(lanes_.y() + c * L) * load<T>(gated_grad_ + c * L);
        store<T>(gated_grad_ + c * L, value * slope);
      }
      store_cells<T>(problem_.z_grad, inputs_.dtype, channels, block, gated_grad_);
    }
    if (inputs_.discretization == ScanDiscretization::kNone) return;
    finish_steps(block, kSharedDt1, kSlotDt1Bias, shape_.dt1_heads, lanes_.dt1(), dt1_grad_,
                 problem_.dt1_grad);
    if (lanes_.second()) {
      finish_steps(block, kSharedDt2, kSlotDt2Bias, shape_.dt2_heads, lanes_.dt2(), dt2_grad_,
                   problem_.dt2_grad);
    }
  }

  void finish_steps(const CellBlock& block, int which, int slot, std::int64_t heads, const T* steps,
                    T* grads, const MutableCells& target) {
    const int cells = block.cells();
    if (inputs_.dt_softplus) {
      for (int c = 0; c < cells; ++c) {
        store<T>(grads + c * L, load<T>(grads + c * L) * softplus_slope<T>(load<T>(steps + c * L)));
      }
    }
    add_to_slot(slot, 0, grads);
    const LaneChannels lanes = lanes_.channels(heads);
    if (lanes.per_head == 1) {
      if (target.data != nullptr) store_cells<T>(target, inputs_.dtype, lanes, block, grads);
    } else {
      add_shared(which, lanes, 0, 1, grads);
    }
  }

  static void zero_fill(T* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += L) store<T>(values + i, zero<T>());
  }

  const ScanBackwardTask& task_;
  const SelectiveScan2dBackward& problem_;
  const SelectiveScan2dInputs& inputs_;
  const SelectiveScan2dShape& shape_;
  ScanLaneBlock<T> lanes_;
  AdjointArrays<T> adjoint_;
  T *y_grad_, *gated_grad_, *x_grad_, *dt1_grad_, *dt2_grad_;
  T* sums_;
  T* totals_;
  std::int64_t num_slots_, column_carry_, row_carry_;
  T *column_carries_, *row_carries_;
};

/// Adds the parts of one row and writes it, in any storage type and layout.
template <typename T>
void sum_parts(const ScanSumTask& task) {
  const FlushToZero flush;
  constexpr int L = kLanes<T>;
  with_storage<T>(task.dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::Type;
    for (std::int64_t head = 0; head < task.heads; ++head) {
      for (std::int64_t t = 0; t < task.columns; t += L) {
        const int columns =
            smaller(L, static_cast<int>(task.columns - t < L ? task.columns - t : L));
        for (int n = 0; n < task.states; n += L) {
          const int states = smaller(L, task.states - n);
          Vec<T> block[L] = {};
          for (int part = 0; part < task.num_parts; ++part) {
            if (head < task.first_shared[part] || head > task.last_shared[part]) continue;
            const T* source =
                static_cast<const T*>(task.parts[part]) +
                ((head - task.first_shared[part]) * task.states + n) * task.state_step + t;
            for (int i = 0; i < states; ++i, source += task.state_step) {
              block[i] += load_partial<T>(source, columns);
            }
          }
          Storage* target = static_cast<Storage*>(task.grad.data) + t * task.grad.column_stride +
                            head * task.grad.channel_stride + n * task.grad.state_stride;
          if (task.grad.state_stride == 1 && states > 1) {
            transpose_block<T>(block);
            for (int j = 0; j < columns; ++j) {
              store_partial<T>(target + j * task.grad.column_stride, block[j], states);
            }
          } else if (task.grad.column_stride == 1) {
            for (int i = 0; i < states; ++i) {
              store_partial<T>(target + i * task.grad.state_stride, block[i], columns);
            }
          } else {
            for (int i = 0; i < states; ++i) {
              for (int j = 0; j < columns; ++j) {
                store_one<T>(target + j * task.grad.column_stride + i * task.grad.state_stride,
                             T(block[i][j]));
              }
            }
          }
        }
      }
    }
  });
}

}  // namespace rankone::cpu::RANKONE_ISA
