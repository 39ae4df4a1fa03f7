// One token of linear attention, for one instruction set: S' = d S + k v^T, o = scale q S'.
//
// The state is read and written once, in tiles of value columns kept in registers while the key
// channels pass; with more than kStepHeads query heads a state, the later ones read the new state
// back from the cache.
#pragma once

#include "linear_attention_rows.h"
#include "linear_attention_tasks.h"

namespace rankone::cpu::RANKONE_ISA {

/// Query heads whose outputs one pass over the state accumulates.
inline constexpr int kStepHeads = 4;

/// A token's operands as vectors of T, padded to whole vectors; `out` is what the step makes.
template <typename T>
struct StepRows {
  static constexpr int kWidth = static_cast<int>(kMaxHeadDim) + kLanes<T>;  // and a ones column
  alignas(64) T q[kStepHeads][kWidth];
  alignas(64) T k[kWidth];
  alignas(64) T v[kWidth];
  alignas(64) T decay[kWidth];
  alignas(64) T decay_low[kWidth];  // what its rounding left out: decoding repeats it every token
  alignas(64) T out[kStepHeads][kWidth];
};

/// Columns [column, column + V * lanes) of the new state and of H heads' outputs; the last vector
/// holds `last` columns. The first heads of a token make the new state, later ones read it.
template <typename T, int V, int H>
void step_tile(const StepTask& task, StepRows<T>& rows, bool makes_state, int column, int last) {
  const int key_dim = task.k.columns;
  const std::int64_t stride = task.v.width();
  const T* state_in = static_cast<const T*>(task.state_in);
  if (state_in != nullptr) state_in += column;
  T* state_out = static_cast<T*>(task.state_out) + column;
  const LeadingLanes<T> valid(last);
  const bool whole = last == kLanes<T>;

  Vec<T> values[V];
  Vec<T> acc[H][V];
#pragma GCC unroll 4
  for (int i = 0; i < V; ++i) {
    values[i] = load<T>(rows.v + column + i * kLanes<T>);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) acc[h][i] = zero<T>();
  }
  for (int c = 0; c < key_dim; ++c) {
    const Vec<T> key = broadcast<T>(rows.k[c]);
    const Vec<T> decay = broadcast<T>(rows.decay[c]);
    const Vec<T> decay_low = broadcast<T>(rows.decay_low[c]);
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      const std::int64_t offset = c * stride + i * kLanes<T>;
      const bool full = i + 1 < V || whole;
      Vec<T> state;
      if (makes_state) {
        state = key * values[i];
        if (state_in != nullptr) {
          const Vec<T> old = full ? load<T>(state_in + offset) : valid.load(state_in + offset);
          state = fma(decay, old, fma(decay_low, old, state));
        }
        if (full) {
          store<T>(state_out + offset, state);
        } else {
          valid.store(state_out + offset, state);
        }
      } else {
        state = full ? load<T>(state_out + offset) : valid.load(state_out + offset);
      }
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h) {
        acc[h][i] = fma(broadcast<T>(rows.q[h][c]), state, acc[h][i]);
      }
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h) {
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) store<T>(rows.out[h] + column + i * kLanes<T>, acc[h][i]);
  }
}

template <typename T, int H>
void step_heads(const StepTask& task, StepRows<T>& rows, bool makes_state) {
  constexpr int L = kLanes<T>;
  const int columns = task.v.width();
  int column = 0;
  for (; column + 4 * L <= columns; column += 4 * L) {
    step_tile<T, 4, H>(task, rows, makes_state, column, L);
  }
  for (; column < columns; column += L) {
    step_tile<T, 1, H>(task, rows, makes_state, column, smaller(L, columns - column));
  }
}

template <typename T>
void step(const StepTask& task) {
  constexpr int L = kLanes<T>;
  const FlushToZero flush;
  StepRows<T> rows;
  const auto read = [](const SweepRows& source, int head, T* target) {
    const char* data = static_cast<const char*>(source.data) +
                       head * source.head_stride * storage_bytes(source.dtype);
    read_rows<T>(source, data, 0, 1, 0, vectors_for<T>(source.width()),
                 [&](int, int vector, Vec<T> value) { store<T>(target + vector * L, value); });
  };
  const int key_dim = task.k.columns;
  read(task.k, 0, rows.k);
  read(task.v, 0, rows.v);
  const T* log_decay = static_cast<const T*>(task.log_decay);
  for (int c = 0; c < key_dim; c += L) {
    Vec<T> logs = zero<T>();
    if (task.decay == DecayAxis::kScalar) logs = broadcast<T>(*log_decay);
    if (task.decay == DecayAxis::kContraction) {
      logs = load_columns<T>(log_decay, c, key_dim, false);
    }
    Vec<T> low;
    store<T>(rows.decay + c, exp<T>(logs, low));
    store<T>(rows.decay_low + c, low);
  }
  for (int head = 0; head < task.heads;) {
    const int left = task.heads - head;
    const int heads = left >= kStepHeads ? kStepHeads : left >= 2 ? 2 : 1;
    for (int h = 0; h < heads; ++h) read(task.q, head + h, rows.q[h]);
    if (heads == kStepHeads) step_heads<T, kStepHeads>(task, rows, head == 0);
    if (heads == 2) step_heads<T, 2>(task, rows, head == 0);
    if (heads == 1) step_heads<T, 1>(task, rows, head == 0);
    with_storage<T>(task.output.dtype, [&](auto tag) {
      using Storage = typename decltype(tag)::Type;
      for (int h = 0; h < heads; ++h) {
        Storage* target =
            static_cast<Storage*>(task.output.data) + (head + h) * task.output.head_stride;
        for (int column = 0; column < task.output.columns; column += L) {
          const Vec<T> value = load<T>(rows.out[h] + column);
          store_partial<T>(target + column, value, smaller(L, task.output.columns - column));
        }
      }
    });
    head += heads;
  }
}

}  // namespace rankone::cpu::RANKONE_ISA
