// One token under the delta rule, for one instruction set: S~ = d S, u = beta (v - S~^T k),
// S' = S~ + k u^T, o = scale S'^T q.
//
// The state passes in tiles of value columns. A tile is read from memory for the prediction S~^T k
// and from the cache for the update, and written once; a new state may replace the old one.
#pragma once

#include "delta_rule_rows.h"
#include "delta_rule_tasks.h"

namespace rankone::cpu::RANKONE_ISA {

/// A token's operands as vectors of T, padded with zeros to whole vectors.
template <typename T>
struct DeltaStepRows {
  DeltaStepRows(const DeltaRuleStepTask& task, Arena& arena)
      : q(arena.take<T>(round_to_lanes<T>(task.k.columns))),
        k(arena.take<T>(round_to_lanes<T>(task.k.columns))),
        decay(arena.take<T>(round_to_lanes<T>(task.k.columns))),
        decay_low(arena.take<T>(round_to_lanes<T>(task.k.columns))),
        v(arena.take<T>(round_to_lanes<T>(task.v.columns))),
        out(arena.take<T>(round_to_lanes<T>(task.v.columns))) {}

  T *q, *k, *decay;
  T* decay_low;  // what its rounding left out: decoding repeats it every token
  T *v, *out;
  T beta = T(0);
};

/// Columns [column, column + V * lanes); the last vector holds `last` columns.
template <typename T, int V>
void delta_step_tile(const DeltaRuleStepTask& task, const DeltaStepRows<T>& rows, int column,
                     int last) {
  const int key_dim = task.k.columns;
  const std::int64_t stride = task.v.columns;
  const T* state_in = static_cast<const T*>(task.state_in);
  if (state_in != nullptr) state_in += column;
  T* state_out = static_cast<T*>(task.state_out) + column;
  const LeadingLanes<T> valid(last);
  const bool whole = last == kLanes<T>;
  const auto decayed = [&](int c, int i) {
    const T* source = state_in + c * stride + i * kLanes<T>;
    const Vec<T> old = i + 1 < V || whole ? load<T>(source) : valid.load(source);
    return fma(broadcast<T>(rows.decay[c]), old, broadcast<T>(rows.decay_low[c]) * old);
  };

  Vec<T> update[V], out[V];
#pragma GCC unroll 4
  for (int i = 0; i < V; ++i) update[i] = out[i] = zero<T>();
  if (state_in != nullptr) {
    for (int c = 0; c < key_dim; ++c) {
      const Vec<T> key = broadcast<T>(rows.k[c]);
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) update[i] = fma(key, decayed(c, i), update[i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < V; ++i) {
    const Vec<T> error = load<T>(rows.v + column + i * kLanes<T>) - update[i];
    update[i] = broadcast<T>(rows.beta) * error;
  }
  for (int c = 0; c < key_dim; ++c) {
    const Vec<T> key = broadcast<T>(rows.k[c]), query = broadcast<T>(rows.q[c]);
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      const Vec<T> before = state_in == nullptr ? zero<T>() : decayed(c, i);
      const Vec<T> state = fma(key, update[i], before);
      T* target = state_out + c * stride + i * kLanes<T>;
      if (i + 1 < V || whole) {
        store<T>(target, state);
      } else {
        valid.store(target, state);
      }
      out[i] = fma(query, state, out[i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < V; ++i) store<T>(rows.out + column + i * kLanes<T>, out[i]);
}

template <typename T>
std::size_t delta_step_workspace(const DeltaRuleStepTask& task) {
  Arena counter(nullptr);
  const DeltaStepRows<T> rows(task, counter);
  return counter.used();
}

template <typename T>
void delta_step(const DeltaRuleStepTask& task, void* workspace) {
  constexpr int L = kLanes<T>;
  const FlushToZero flush;
  Arena arena(workspace);
  DeltaStepRows<T> rows(task, arena);
  const int key_dim = task.k.columns, columns = task.v.columns;
  const auto read = [](const SweepRows& source, T* target) {
    read_rows<T>(source, source.data, 0, 1, 0, vectors_for<T>(source.columns),
                 [&](int, int vector, Vec<T> value) { store<T>(target + vector * L, value); });
  };
  read(task.q, rows.q);
  read(task.k, rows.k);
  read(task.v, rows.v);
  if (task.normalizes) {
    T inverse[1];
    alignas(64) T scratch[row_products_scratch<T>(1)];
    normalize_rows<T>(rows.q, 1, round_to_lanes<T>(key_dim), task.norm_eps, inverse, scratch);
    normalize_rows<T>(rows.k, 1, round_to_lanes<T>(key_dim), task.norm_eps, inverse, scratch);
  }
  rows.beta = *static_cast<const T*>(task.beta);
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
  int column = 0;
  for (; column + 4 * L <= columns; column += 4 * L) delta_step_tile<T, 4>(task, rows, column, L);
  for (; column < columns; column += L) {
    delta_step_tile<T, 1>(task, rows, column, smaller(L, columns - column));
  }
  write_chunk<T>(task.output, Chunk{0, 1, false}, 0, 0, columns, rows.out, 0);
}

}  // namespace rankone::cpu::RANKONE_ISA
