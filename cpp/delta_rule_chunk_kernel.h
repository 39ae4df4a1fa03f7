// One chunk of tokens under the delta rule, for one instruction set.
//
// With the decay products of linear_attention_decay_kernel.h (w between tokens, p from the entry, r
// to the exit, D across) and the entry state S (key_dim x value_dim), a chunk is
//   M = stril((k k^T) w)    P = tril((q k^T) w)
//   e = v - (p k) S - M u   u = beta e              by forward substitution
//   o = (p q) S + P u       S <- D S + (r k)^T u
// Everything after M and P is a product with a panel of value columns: a panel passes through all
// of it while its part of the state lies in the first-level cache. The errors e are formed before
// beta multiplies them, so a state that predicts v well loses nothing.
//
// Scalar decays take the value heads of one key head together: k k^T and q k^T are made once. A
// chunk of per-channel decays is 16 tokens, one running product a pair and channel.
#pragma once

#include "delta_rule_rows.h"
#include "delta_rule_tasks.h"
#include "linear_attention_decay_kernel.h"
#include "tile_gemm.h"

namespace rankone::cpu::RANKONE_ISA {

template <typename T>
class DeltaChunk {
 public:
  DeltaChunk(const DeltaRuleTask& task, Arena& arena)
      : task_(task),
        key_dim_(task.k.columns),
        key_stride_(round_to_lanes<T>(key_dim_)),
        capacity_(task.chunk_size),
        score_stride_(round_to_lanes<T>(capacity_)),
        decay_(decay_task(task), capacity_, per_channel() ? key_dim_ : 0, arena) {
    const std::int64_t rows = static_cast<std::int64_t>(capacity_) * key_stride_;
    const std::int64_t scores = static_cast<std::int64_t>(capacity_) * score_stride_;
    const std::int64_t token_panels = (capacity_ + kPanel<T> - 1) / kPanel<T>;
    keys_ = arena.take<T>(rows);
    queries_ = arena.take<T>(rows);
    keys_transposed_ = arena.take<T>(token_panels * key_dim_ * kPanel<T>);
    if (task.decay != DecayAxis::kNone) {
      entering_keys_ = arena.take<T>(rows);
      entering_queries_ = arena.take<T>(rows);
      leaving_keys_ = arena.take<T>(rows);
    }
    if (!per_channel()) {
      raw_key_products_ = arena.take<T>(scores);
      raw_query_products_ = arena.take<T>(scores);
    }
    negated_key_products_ = arena.take<T>(scores);
    query_products_ = arena.take<T>(scores);
    beta_ = arena.take<T>(capacity_);
    key_norms_ = arena.take<T>(capacity_);
    query_norms_ = arena.take<T>(capacity_);
    row_scratch_ = arena.take<T>(row_products_scratch<T>(capacity_));
  }

  bool per_channel() const { return task_.decay == DecayAxis::kContraction; }

  std::int64_t chunks() const { return (task_.length + capacity_ - 1) / capacity_; }

  /// Reads a chunk's keys and, for its outputs and gradients, queries.
  void enter(std::int64_t index, bool queries) {
    const std::int64_t first = index * capacity_;
    const std::int64_t left = task_.length - first;
    chunk_ = {first, left < capacity_ ? static_cast<int>(left) : capacity_, false};
    has_queries_ = queries;
    read(task_.k, keys_, key_norms_);
    pack_transpose<T>(keys_, key_stride_, chunk_.size, key_dim_, keys_transposed_);
    if (queries) read(task_.q, queries_, query_norms_);
    if (per_channel()) return;
    products(keys_, raw_key_products_);
    if (queries) products(queries_, raw_query_products_);
  }

  /// Makes what depends on a value head's beta and decays.
  void select(int head) {
    const T* beta = static_cast<const T*>(task_.beta.data) + chunk_.first * task_.beta.time_stride +
                    head * task_.beta.head_stride;
    for (int row = 0; row < chunk_.size; ++row) beta_[row] = beta[row * task_.beta.time_stride];
    decay_.prepare(chunk_, head * task_.log_decay.head_stride);
    if (per_channel()) {
      channel_products();
    } else {
      weigh(raw_key_products_, T(-1), negated_key_products_);
      if (has_queries_) weigh(raw_query_products_, T(1), query_products_);
    }
    for (int row = 0; row < chunk_.size; ++row) {
      negated_key_products_[row * score_stride_ + row] = T(0);
    }
    if (task_.decay == DecayAxis::kNone) return;
    decayed(keys_, decay_.entering, entering_keys_);
    decayed(keys_, decay_.leaving, leaving_keys_);
    if (has_queries_) decayed(queries_, decay_.entering, entering_queries_);
  }

  /// Reads rows of value columns from `begin` on into panels.
  void read_values(const SweepRows& rows, int head, int begin, int columns, T* panels) const {
    read_chunk<T>(rows, chunk_, head, begin, columns, [&](int row, int vector, Vec<T> value) {
      store<T>(panels + panel_offset<T>(capacity_, row, vector), value);
    });
  }

  /// The errors and updates of a panel of values, itself panels of tokens. errors may be null.
  template <int V>
  void solve(const T* state, const T* values, T* errors, T* updates) const {
    for_each_row_block(chunk_.size, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      RegisterTile<T, R, V> tile;
      tile.clear();
      tile.multiply_add(entering_keys() + row * key_stride_, key_stride_, 1, state, key_dim_);
      RegisterTile<T, R, V> value;
      value.load(values + row * kPanel<T>, kPanel<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) tile.acc[r][v] = value.acc[r][v] - tile.acc[r][v];
      }
      const T* products = negated_key_products_ + row * score_stride_;
      tile.multiply_add(products, score_stride_, 1, updates, row);
      RegisterTile<T, R, V> update;
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const Vec<T> strength = broadcast<T>(beta_[row + i]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) update.acc[i][v] = strength * tile.acc[i][v];
#pragma GCC unroll 16
        for (int r = i + 1; r < R; ++r) {
          const Vec<T> product = broadcast<T>(products[r * score_stride_ + row + i]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            tile.acc[r][v] = fma(product, update.acc[i][v], tile.acc[r][v]);
          }
        }
      }
      if (errors != nullptr) tile.store(errors + row * kPanel<T>, kPanel<T>);
      update.store(updates + row * kPanel<T>, kPanel<T>);
    });
  }

  /// A panel of outputs, in panels of tokens. Nothing of a later token enters, not even times 0.
  template <int V>
  void outputs(const T* state, const T* updates, T* out) const {
    for_each_row_block(chunk_.size, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      RegisterTile<T, R, V> tile;
      tile.clear();
      tile.multiply_add(entering_queries() + row * key_stride_, key_stride_, 1, state, key_dim_);
      const T* products = query_products_ + row * score_stride_;
      tile.multiply_add(products, score_stride_, 1, updates, row);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        Vec<T> update[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
          update[v] = load<T>(updates + (row + i) * kPanel<T> + v * kLanes<T>);
#pragma GCC unroll 16
        for (int r = i; r < R; ++r) {
          const Vec<T> product = broadcast<T>(products[r * score_stride_ + row + i]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) tile.acc[r][v] = fma(product, update[v], tile.acc[r][v]);
        }
      }
      tile.store(out + row * kPanel<T>, kPanel<T>);
    });
  }

  /// A panel of the state leaves the chunk.
  template <int V>
  void advance(const T* updates, T* state) const {
    for_each_row_block(key_dim_, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      RegisterTile<T, R, V> tile;
      tile.load(state + row * kPanel<T>, kPanel<T>);
      decay_rows(tile, row);
      tile.multiply_add(leaving_keys() + row, 1, key_stride_, updates, chunk_.size);
      tile.store(state + row * kPanel<T>, kPanel<T>);
    });
  }

  /// Rows of a state from `row` on times D, which comes in two parts: its rounding would repeat
  /// chunk after chunk where decays are constant.
  template <int R, int V>
  RANKONE_INLINE void decay_rows(RegisterTile<T, R, V>& tile, int row) const {
    if (task_.decay == DecayAxis::kNone) return;
    const int stride = per_channel() ? 1 : 0;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<T> high = broadcast<T>(decay_.total[(row + r) * stride]);
      const Vec<T> low = broadcast<T>(decay_.total_low[(row + r) * stride]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec<T> state = tile.acc[r][v];
        tile.acc[r][v] = fma(high, state, low * state);
      }
    }
  }

  const Chunk& tokens() const { return chunk_; }
  const ChunkDecay<T>& decay() const { return decay_; }
  std::int64_t key_stride() const { return key_stride_; }
  std::int64_t score_stride() const { return score_stride_; }

  // Rows of key_stride, and what made them unit vectors.
  const T* keys() const { return keys_; }
  const T* queries() const { return queries_; }
  const T* key_norms() const { return key_norms_; }
  const T* query_norms() const { return query_norms_; }
  const T* entering_keys() const { return decaying() ? entering_keys_ : keys_; }
  const T* entering_queries() const { return decaying() ? entering_queries_ : queries_; }
  const T* leaving_keys() const { return decaying() ? leaving_keys_ : keys_; }
  // Rows of score_stride: zeros above the diagonal as far as a register tile reaches.
  const T* negated_key_products() const { return negated_key_products_; }  // -M
  const T* query_products() const { return query_products_; }              // P
  const T* beta() const { return beta_; }
  /// For row_products of up to a chunk's rows.
  T* row_scratch() const { return row_scratch_; }

 private:
  static SweepTask decay_task(const DeltaRuleTask& task) {
    SweepTask decay;
    decay.decay = task.decay;
    decay.log_decay = task.log_decay.data;
    decay.log_decay_stride = task.log_decay.time_stride;
    return decay;
  }

  bool decaying() const { return task_.decay != DecayAxis::kNone; }

  void read(const SweepRows& rows, T* target, T* norms) {
    read_chunk<T>(rows, chunk_, 0, 0, key_dim_, [&](int row, int vector, Vec<T> value) {
      store<T>(target + row * key_stride_ + vector * kLanes<T>, value);
    });
    if (!task_.normalizes) return;
    normalize_rows<T>(target, chunk_.size, key_stride_, task_.norm_eps, norms, row_scratch_);
  }

  /// left k^T on and below the diagonal.
  void products(const T* left, T* result) const {
    for_each_row_block(chunk_.size, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      for_each_panel(vectors_for<T>(row + R), [&](auto vectors, int panel) {
        constexpr int V = decltype(vectors)::value;
        RegisterTile<T, R, V> tile;
        tile.clear();
        tile.multiply_add(
            left + row * key_stride_, key_stride_, 1,
            keys_transposed_ + static_cast<std::int64_t>(panel) * key_dim_ * kPanel<T>, key_dim_);
        tile.store(result + row * score_stride_ + panel * kPanel<T>, score_stride_);
      });
    });
  }

  /// Times sign * w. A weight of 0 gives 0 whatever the product, so that nothing of a later token
  /// reaches an earlier one.
  void weigh(const T* raw, T sign, T* result) const {
    const Vec<T> signs = broadcast<T>(sign);
    for (int row = 0; row < chunk_.size; ++row) {
      const std::int64_t offset = row * score_stride_;
      const int reached = smaller(row + kTileRows, chunk_.size);
      for (int column = 0; column < reached; column += kLanes<T>) {
        const Vec<T> weight = load<T>(decay_.weights + offset + column);
        const Vec<T> product = load<T>(raw + offset + column) * weight;
        store<T>(result + offset + column, weight == zero<T>() ? zero<T>() : product * signs);
      }
    }
  }

  void channel_products() {
    decay_.channel_scores(keys_, key_stride_, keys_transposed_, chunk_.size, negated_key_products_,
                          score_stride_);
    for (int row = 0; row < chunk_.size; ++row) {
      T* products = negated_key_products_ + row * score_stride_;
      const int reached = smaller(row + kTileRows, chunk_.size);
      for (int c = 0; c < reached; c += kLanes<T>) store<T>(products + c, -load<T>(products + c));
    }
    if (!has_queries_) return;
    decay_.channel_scores(queries_, key_stride_, keys_transposed_, chunk_.size, query_products_,
                          score_stride_);
  }

  /// Rows times one factor a token or one a token and channel.
  void decayed(const T* rows, const T* factors, T* result) const {
    for (int row = 0; row < chunk_.size; ++row) {
      for (int c = 0; c < key_stride_; c += kLanes<T>) {
        const std::int64_t at = row * key_stride_ + c;
        const Vec<T> factor = per_channel() ? load<T>(factors + at) : broadcast<T>(factors[row]);
        store<T>(result + at, load<T>(rows + at) * factor);
      }
    }
  }

  const DeltaRuleTask& task_;
  const int key_dim_;
  const std::int64_t key_stride_;
  const int capacity_;  // tokens of a full chunk
  const std::int64_t score_stride_;

  Chunk chunk_;
  ChunkDecay<T> decay_;
  bool has_queries_ = false;

  T* keys_ = nullptr;  // [token][key_stride]
  T* queries_ = nullptr;
  T* keys_transposed_ = nullptr;  // panels of tokens
  T* entering_keys_ = nullptr;    // p k
  T* entering_queries_ = nullptr;
  T* leaving_keys_ = nullptr;      // r k
  T* raw_key_products_ = nullptr;  // [token][score_stride]
  T* raw_query_products_ = nullptr;
  T* negated_key_products_ = nullptr;
  T* query_products_ = nullptr;
  T* beta_ = nullptr;
  T* key_norms_ = nullptr;
  T* query_norms_ = nullptr;
  T* row_scratch_ = nullptr;
};

}  // namespace rankone::cpu::RANKONE_ISA
