// The gradients of the delta rule, for one instruction set.
//
// The chunks are taken from the last to the first, with their entry states S and errors e from
// delta_rule_recall_kernel.h, their matrices from delta_rule_chunk_kernel.h, g for dO times the
// scale and dS the gradient of the state that leaves:
//   y  = P^T g + (r k) dS - M^T dv     dv = beta y          by substitution from the last token
//   dbeta = rows of y . e
//   A  = - stril(dv u^T) (of M)        B = tril(g u^T) (of P)
//   dq = p (g S^T) + (B w) k
//   dk = - p (dv S^T) + r (u dS^T) + (A w + (A w)^T) k + (B w)^T q
//   dS <- D dS + (p q)^T g - (p k)^T dv
// A decay multiplies what passes it: its gradient sums A M + B P over the pairs of tokens it lies
// between, q and k times the entering parts of their gradients from it on, k times the leaving part
// before it, and D S dS. No term is a difference, so a reset's gradient is exactly 0. Per channel
// the pairs would cost one product each: there running differences are taken, and cut at resets.
#pragma once

#include "delta_rule_chunk_kernel.h"
#include "delta_rule_recall_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

template <typename T>
class DeltaBackward {
 public:
  DeltaBackward(const DeltaRuleTask& task, Arena& arena)
      : task_(task),
        key_dim_(task.k.columns),
        value_dim_(task.v.columns),
        value_vectors_(vectors_for<T>(value_dim_)),
        value_panels_((value_vectors_ + kPanelVectors - 1) / kPanelVectors),
        key_panels_((vectors_for<T>(key_dim_) + kPanelVectors - 1) / kPanelVectors),
        capacity_(task.chunk_size),
        state_size_(static_cast<std::int64_t>(value_panels_) * key_dim_ * kPanel<T>),
        rows_size_(static_cast<std::int64_t>(value_panels_) * capacity_ * kPanel<T>),
        chunk_(task, arena),
        recall_(task, chunk_, arena) {
    const std::int64_t heads = task.value_heads;
    state_grads_ = arena.take<T>(heads * state_size_);

    const std::int64_t token_panels = (capacity_ + kPanel<T> - 1) / kPanel<T>;
    const std::int64_t key_rows = capacity_ * chunk_.key_stride();
    const std::int64_t key_state = static_cast<std::int64_t>(key_panels_) * value_dim_ * kPanel<T>;
    const std::int64_t scores = capacity_ * chunk_.score_stride();
    updates_ = arena.take<T>(rows_size_);
    output_grads_ = arena.take<T>(rows_size_);
    value_grads_ = arena.take<T>(rows_size_);
    updates_transposed_ = arena.take<T>(token_panels * value_dim_ * kPanel<T>);
    state_transposed_ = arena.take<T>(key_state);
    state_grad_transposed_ = arena.take<T>(key_state);
    key_product_grads_ = arena.take<T>(scores);
    query_product_grads_ = arena.take<T>(scores);
    query_grads_ = arena.take<T>(key_rows);
    key_grads_ = arena.take<T>(key_rows);
    const std::int64_t row_vectors =
        static_cast<std::int64_t>(round_to_lanes<T>(capacity_)) * kLanes<T>;
    error_products_ = arena.take<T>(row_vectors);
    row_sums_ = arena.take<T>(round_to_lanes<T>(capacity_));
    if (chunk_.per_channel()) {
      passing_queries_ = arena.take<T>(key_rows);
      passing_keys_ = arena.take<T>(key_rows);
      entering_terms_ = arena.take<T>(key_rows);
      leaving_terms_ = arena.take<T>(key_rows);
      earlier_ = arena.take<T>(static_cast<std::int64_t>(capacity_) * kLanes<T>);
      later_ = arena.take<T>(static_cast<std::int64_t>(capacity_) * kLanes<T>);
      return;
    }
    key_panel_rows_ = arena.take<T>(key_panels_ * capacity_ * kPanel<T>);
    query_panel_rows_ = arena.take<T>(key_panels_ * capacity_ * kPanel<T>);
    if (!wants_decay()) return;
    pair_terms_ = arena.take<T>(scores);
    entering_terms_ = arena.take<T>(row_vectors);
    leaving_terms_ = arena.take<T>(row_vectors);
  }

  void run() {
    const std::int64_t stored = static_cast<std::int64_t>(key_dim_) * value_dim_;
    const T* final_grad = static_cast<const T*>(task_.final_state_grad);
    for (int head = 0; head < task_.value_heads; ++head) {
      load_state<T>(final_grad == nullptr ? nullptr : final_grad + head * stored, key_dim_,
                    value_dim_, 0, value_dim_, state_grads_ + head * state_size_);
    }
    recall_.start();
    for (std::int64_t index = chunk_.chunks() - 1; index >= 0; --index) {
      recall_.reach(index);
      chunk_.enter(index, true);
      pack_rows();
      for (int head = 0; head < task_.value_heads; ++head) run_head(head, index);
      if (!task_.partial_grads) write_key_grads(0);
    }
    T* initial_grad = static_cast<T*>(task_.initial_state_grad);
    for (int head = 0; initial_grad != nullptr && head < task_.value_heads; ++head) {
      store_state<T>(state_grads_ + head * state_size_, key_dim_, value_dim_, 0, value_dim_,
                     initial_grad + head * stored);
    }
  }

 private:
  bool wants_decay() const { return task_.log_decay_grad.data != nullptr; }

  std::int64_t panel_rows(int panel) const {
    return static_cast<std::int64_t>(panel) * capacity_ * kPanel<T>;
  }
  std::int64_t panel_state(int panel) const {
    return static_cast<std::int64_t>(panel) * key_dim_ * kPanel<T>;
  }

  // ---- one chunk of one value head ----

  /// The keys and queries as right operands.
  void pack_rows() {
    if (chunk_.per_channel()) return;
    for (int row = 0; row < chunk_.tokens().size; ++row) {
      for (int v = 0; v < vectors_for<T>(key_dim_); ++v) {
        const std::int64_t from = row * chunk_.key_stride() + v * kLanes<T>;
        const std::int64_t to = panel_offset<T>(capacity_, row, v);
        store<T>(key_panel_rows_ + to, load<T>(chunk_.keys() + from));
        store<T>(query_panel_rows_ + to, load<T>(chunk_.queries() + from));
      }
    }
  }

  void run_head(int head, std::int64_t index) {
    const int size = chunk_.tokens().size;
    const T* entry = recall_.entry_state(index, head);
    const T* errors = recall_.errors(index, head);
    T* state_grad = state_grads_ + head * state_size_;
    chunk_.select(head);
    chunk_.read_values(task_.output_grad, head, 0, value_dim_, output_grads_);
    for (int i = 0; i < size * kLanes<T>; i += kLanes<T>) {
      store<T>(error_products_ + i, zero<T>());
    }
    for_each_panel(value_vectors_, [&](auto vectors, int panel) {
      constexpr int V = decltype(vectors)::value;
      const std::int64_t rows = panel_rows(panel);
      remake_updates<V>(errors + rows, updates_ + rows);
      value_gradients<V>(state_grad + panel_state(panel), output_grads_ + rows, errors + rows,
                         value_grads_ + rows);
      const int begin = panel * kPanel<T>;
      write_chunk<T>(task_.v_grad, chunk_.tokens(), head, begin,
                     smaller(kPanel<T>, value_dim_ - begin), value_grads_ + rows, kPanel<T>);
    });
    write_beta_gradient(head);

    transpose_panels<T>(entry, key_dim_, key_dim_, value_dim_, state_transposed_);
    transpose_panels<T>(state_grad, key_dim_, key_dim_, value_dim_, state_grad_transposed_);
    transpose_panels<T>(updates_, capacity_, size, value_dim_, updates_transposed_);
    product_gradients();
    const bool adds = head > 0 && !task_.partial_grads;
    if (chunk_.per_channel()) {
      channel_gradients(head, entry, state_grad, adds);
    } else {
      key_gradients(adds);
      if (wants_decay()) decay_gradient(head, entry, state_grad);
    }
    if (task_.partial_grads) write_key_grads(head);

    for_each_panel(value_vectors_, [&](auto vectors, int panel) {
      constexpr int V = decltype(vectors)::value;
      state_gradient<V>(output_grads_ + panel_rows(panel), value_grads_ + panel_rows(panel),
                        state_grad + panel_state(panel));
    });
  }

  template <int V>
  void remake_updates(const T* errors, T* updates) const {
    for (int row = 0; row < chunk_.tokens().size; ++row) {
      const Vec<T> strength = broadcast<T>(chunk_.beta()[row]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const std::int64_t at = row * kPanel<T> + v * kLanes<T>;
        store<T>(updates + at, strength * load<T>(errors + at));
      }
    }
  }

  /// A panel of y, kept as dv = beta y and as its products with the errors.
  template <int V>
  void value_gradients(const T* state_grad, const T* output_grads, const T* errors,
                       T* value_grads) {
    const int size = chunk_.tokens().size;
    const std::int64_t stride = chunk_.score_stride();
    const T* key_products = chunk_.negated_key_products();
    for_each_row_block_reversed(size, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      RegisterTile<T, R, V> tile;
      tile.clear();
      tile.multiply_add(chunk_.leaving_keys() + row * chunk_.key_stride(), chunk_.key_stride(), 1,
                        state_grad, key_dim_);
      tile.multiply_add(chunk_.query_products() + row * stride + row, 1, stride,
                        output_grads + row * kPanel<T>, size - row);
      const int next = row + R;
      tile.multiply_add(key_products + next * stride + row, 1, stride,
                        value_grads + next * kPanel<T>, size - next);
#pragma GCC unroll 16
      for (int i = R - 1; i >= 0; --i) {
        const T* products = key_products + (row + i) * stride + row;
        const Vec<T> strength = broadcast<T>(chunk_.beta()[row + i]);
        T* error_product = error_products_ + (row + i) * kLanes<T>;
        Vec<T> sum = load<T>(error_product);
        Vec<T> grad[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const std::int64_t at = (row + i) * kPanel<T> + v * kLanes<T>;
          sum = fma(tile.acc[i][v], load<T>(errors + at), sum);
          grad[v] = strength * tile.acc[i][v];
          store<T>(value_grads + at, grad[v]);
        }
        store<T>(error_product, sum);
#pragma GCC unroll 16
        for (int r = 0; r < i; ++r) {
          const Vec<T> product = broadcast<T>(products[r]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) tile.acc[r][v] = fma(product, grad[v], tile.acc[r][v]);
        }
      }
    });
  }

  void write_beta_gradient(int head) const {
    T* grads = static_cast<T*>(task_.beta_grad.data);
    if (grads == nullptr) return;
    const std::int64_t stride = task_.beta_grad.time_stride;
    grads += chunk_.tokens().first * stride + head * task_.beta_grad.head_stride;
    sum_rows<T>(error_products_, chunk_.tokens().size, row_sums_);
    for (int row = 0; row < chunk_.tokens().size; ++row) grads[row * stride] = row_sums_[row];
  }

  /// A and B, with scalar decays times w; and A M + B P where the decay's gradient wants it.
  void product_gradients() {
    const std::int64_t stride = chunk_.score_stride();
    const bool weighs = !chunk_.per_channel();
    const bool pairs = wants_decay() && weighs;
    for_each_row_block(chunk_.tokens().size, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      for_each_panel(vectors_for<T>(row + R), [&](auto vectors, int panel) {
        constexpr int V = decltype(vectors)::value;
        const T* right =
            updates_transposed_ + static_cast<std::int64_t>(panel) * value_dim_ * kPanel<T>;
        const std::int64_t at = row * stride + panel * kPanel<T>;
        RegisterTile<T, R, V> tile;
        tile.clear();
        multiply_add_panels(tile, output_grads_, capacity_, row, right, value_dim_);
        if (pairs) {
          RegisterTile<T, R, V> terms;
          terms.load(chunk_.query_products() + at, stride);
          multiply(terms, tile);
          terms.store(pair_terms_ + at, stride);
        }
        if (weighs) weigh(tile, chunk_.decay().weights + at, stride);
        tile.store(query_product_grads_ + at, stride);

        tile.clear();
        multiply_add_panels(tile, value_grads_, capacity_, row, right, value_dim_);
        if (pairs) {
          RegisterTile<T, R, V> terms;
          terms.load(chunk_.negated_key_products() + at, stride);
          multiply(terms, tile);
          add(terms, pair_terms_ + at, stride);
          terms.store(pair_terms_ + at, stride);
        }
        if (weighs) weigh(tile, chunk_.decay().weights + at, stride);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) tile.acc[r][v] = -tile.acc[r][v];
        }
        tile.store(key_product_grads_ + at, stride);
      });
    });
    for (int row = 0; row < chunk_.tokens().size; ++row) {
      key_product_grads_[row * stride + row] = T(0);
    }
  }

  template <int R, int V>
  static RANKONE_INLINE void multiply(RegisterTile<T, R, V>& a, const RegisterTile<T, R, V>& b) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) a.acc[r][v] *= b.acc[r][v];
    }
  }

  template <int R, int V>
  static RANKONE_INLINE void add(RegisterTile<T, R, V>& tile, const T* matrix,
                                 std::int64_t stride) {
    RegisterTile<T, R, V> other;
    other.load(matrix, stride);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) tile.acc[r][v] += other.acc[r][v];
    }
  }

  /// Times w; a weight of 0 gives 0 whatever it meets.
  template <int R, int V>
  static RANKONE_INLINE void weigh(RegisterTile<T, R, V>& tile, const T* weights,
                                   std::int64_t stride) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec<T> weight = load<T>(weights + r * stride + v * kLanes<T>);
        tile.acc[r][v] = weight == zero<T>() ? zero<T>() : tile.acc[r][v] * weight;
      }
    }
  }

  /// A panel of the gradient of the entry state.
  template <int V>
  void state_gradient(const T* output_grads, const T* value_grads, T* state_grad) const {
    const int size = chunk_.tokens().size;
    const std::int64_t stride = chunk_.key_stride();
    for_each_row_block(key_dim_, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      RegisterTile<T, R, V> read;
      read.clear();
      read.multiply_add(chunk_.entering_keys() + row, 1, stride, value_grads, size);
      RegisterTile<T, R, V> tile;
      tile.load(state_grad + row * kPanel<T>, kPanel<T>);
      chunk_.decay_rows(tile, row);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) tile.acc[r][v] -= read.acc[r][v];
      }
      tile.multiply_add(chunk_.entering_queries() + row, 1, stride, output_grads, size);
      tile.store(state_grad + row * kPanel<T>, kPanel<T>);
    });
  }

  // ---- queries, keys and their decays: one factor a token ----

  void key_gradients(bool adds) {
    const int size = chunk_.tokens().size;
    const std::int64_t stride = chunk_.score_stride(), key_stride = chunk_.key_stride();
    const bool decays = task_.decay != DecayAxis::kNone;
    if (wants_decay()) {
      for (int i = 0; i < size * kLanes<T>; i += kLanes<T>) {
        store<T>(entering_terms_ + i, zero<T>());
        store<T>(leaving_terms_ + i, zero<T>());
      }
    }
    for_each_panel(vectors_for<T>(key_dim_), [&](auto vectors, int panel) {
      constexpr int V = decltype(vectors)::value;
      const std::int64_t in_state = static_cast<std::int64_t>(panel) * value_dim_ * kPanel<T>;
      const T* state = state_transposed_ + in_state;
      const T* state_grad = state_grad_transposed_ + in_state;
      const T* keys = key_panel_rows_ + panel_rows(panel);
      const T* queries = query_panel_rows_ + panel_rows(panel);
      for_each_row_block(size, [&](auto rows, int row) {
        constexpr int R = decltype(rows)::value;
        const std::int64_t at = row * key_stride + panel * kPanel<T>;
        RegisterTile<T, R, V> tile;
        tile.clear();
        multiply_add_panels(tile, output_grads_, capacity_, row, state, value_dim_);
        if (decays) tile.scale_rows(chunk_.decay().entering + row);
        if (wants_decay()) add_products(tile, queries, row, T(1), entering_terms_);
        tile.multiply_add(query_product_grads_ + row * stride, stride, 1, keys, row + R);
        store_grads(tile, query_grads_ + at, key_stride, adds);

        tile.clear();
        multiply_add_panels(tile, value_grads_, capacity_, row, state, value_dim_);
        if (decays) tile.scale_rows(chunk_.decay().entering + row);
        if (wants_decay()) add_products(tile, keys, row, T(-1), entering_terms_);
        RegisterTile<T, R, V> leaving;
        leaving.clear();
        multiply_add_panels(leaving, updates_, capacity_, row, state_grad, value_dim_);
        if (decays) leaving.scale_rows(chunk_.decay().leaving + row);
        if (wants_decay()) add_products(leaving, keys, row, T(1), leaving_terms_);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) leaving.acc[r][v] -= tile.acc[r][v];
        }
        leaving.multiply_add(key_product_grads_ + row * stride, stride, 1, keys, row + R);
        const std::int64_t transposed = row * stride + row;
        leaving.multiply_add(key_product_grads_ + transposed, 1, stride, keys + row * kPanel<T>,
                             size - row);
        leaving.multiply_add(query_product_grads_ + transposed, 1, stride,
                             queries + row * kPanel<T>, size - row);
        store_grads(leaving, key_grads_ + at, key_stride, adds);
      });
    });
  }

  /// Row by row, sums += sign * the tile's columns times those of a panel, lane by lane.
  template <int R, int V>
  static RANKONE_INLINE void add_products(const RegisterTile<T, R, V>& tile, const T* panel,
                                          int row, T sign, T* sums) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      T* target = sums + (row + r) * kLanes<T>;
      Vec<T> sum = load<T>(target);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec<T> other = load<T>(panel + (row + r) * kPanel<T> + v * kLanes<T>);
        sum = fma(tile.acc[r][v] * broadcast<T>(sign), other, sum);
      }
      store<T>(target, sum);
    }
  }

  template <int R, int V>
  static RANKONE_INLINE void store_grads(RegisterTile<T, R, V>& tile, T* target,
                                         std::int64_t stride, bool adds) {
    if (adds) add(tile, target, stride);
    tile.store(target, stride);
  }

  /// Row `row` of S dS, lane by lane.
  Vec<T> passing_row(const T* entry, const T* state_grad, int row) const {
    Vec<T> sum = zero<T>();
    for (int v = 0; v < value_vectors_; ++v) {
      const std::int64_t at = panel_offset<T>(key_dim_, row, v);
      sum = fma(load<T>(entry + at), load<T>(state_grad + at), sum);
    }
    return sum;
  }

  void decay_gradient(int head, const T* entry, const T* state_grad) {
    const int size = chunk_.tokens().size;
    const std::int64_t stride = chunk_.score_stride();
    Vec<T> through = zero<T>();
    for (int row = 0; row < key_dim_; ++row) through += passing_row(entry, state_grad, row);
    T* grads = static_cast<T*>(task_.log_decay_grad.data);
    const std::int64_t time_stride = task_.log_decay_grad.time_stride;
    grads += chunk_.tokens().first * time_stride + head * task_.log_decay_grad.head_stride;

    // A pass from the start for what leaves, one from the end for the rest.
    double leaving = static_cast<double>(chunk_.decay().total[0]) * sum_lanes<T>(through);
    double leaving_before[kMaxDeltaChunk];
    sum_rows<T>(leaving_terms_, size, row_sums_);
    for (int row = 0; row < size; ++row) {
      leaving_before[row] = leaving;
      leaving += static_cast<double>(row_sums_[row]);
    }
    // Row by row, the pairs with a later token here or after and an earlier one before.
    alignas(64) T columns[kMaxDeltaChunk] = {};
    for (int row = size - 1; row >= 0; --row) {
      Vec<T> spanning = zero<T>();
      for (int c = 0; c < row; c += kLanes<T>) {
        const LeadingLanes<T> earlier(row - c);
        const Vec<T> pairs = load<T>(pair_terms_ + row * stride + c);
        const Vec<T> sum = load<T>(columns + c) + earlier.select(pairs, zero<T>());
        store<T>(columns + c, sum);
        spanning += earlier.select(sum, zero<T>());
      }
      store<T>(leaving_terms_ + row * kLanes<T>, spanning);
    }
    double spanning[kMaxDeltaChunk];
    sum_rows<T>(leaving_terms_, size, row_sums_);
    for (int row = 0; row < size; ++row) spanning[row] = static_cast<double>(row_sums_[row]);
    sum_rows<T>(entering_terms_, size, row_sums_);
    double entering = 0;
    for (int row = size - 1; row >= 0; --row) {
      entering += static_cast<double>(row_sums_[row]);
      grads[row * time_stride] = static_cast<T>(spanning[row] + entering + leaving_before[row]);
    }
  }

  // ---- the same with a decay for each channel ----

  void channel_gradients(int head, const T* entry, const T* state_grad, bool adds) {
    const int size = chunk_.tokens().size;
    const std::int64_t stride = chunk_.key_stride();
    for_each_panel(vectors_for<T>(key_dim_), [&](auto vectors, int panel) {
      constexpr int V = decltype(vectors)::value;
      const std::int64_t in_state = static_cast<std::int64_t>(panel) * value_dim_ * kPanel<T>;
      const T* state = state_transposed_ + in_state;
      for_each_row_block(size, [&](auto rows, int row) {
        constexpr int R = decltype(rows)::value;
        const std::int64_t at = row * stride + panel * kPanel<T>;
        RegisterTile<T, R, V> query, key, leaving, terms;
        query.clear();
        multiply_add_panels(query, output_grads_, capacity_, row, state, value_dim_);
        query.scale_elements(chunk_.decay().entering + at, stride);
        terms.load(chunk_.queries() + at, stride);
        multiply(terms, query);
        query.store(passing_queries_ + at, stride);
        terms.store(entering_terms_ + at, stride);

        key.clear();
        multiply_add_panels(key, value_grads_, capacity_, row, state, value_dim_);
        key.scale_elements(chunk_.decay().entering + at, stride);
        leaving.clear();
        multiply_add_panels(leaving, updates_, capacity_, row, state_grad_transposed_ + in_state,
                            value_dim_);
        leaving.scale_elements(chunk_.decay().leaving + at, stride);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const std::int64_t lane = at + r * stride + v * kLanes<T>;
            const Vec<T> k = load<T>(chunk_.keys() + lane);
            const Vec<T> before = load<T>(entering_terms_ + lane);
            store<T>(entering_terms_ + lane, fma(-key.acc[r][v], k, before));
            store<T>(leaving_terms_ + lane, leaving.acc[r][v] * k);
            leaving.acc[r][v] -= key.acc[r][v];
          }
        }
        leaving.store(passing_keys_ + at, stride);
      });
    });
    for (int lane = 0; lane < stride; lane += kLanes<T>) {
      channel_vector(lane, adds);
      if (wants_decay()) channel_decay_gradient(head, entry, state_grad, lane);
    }
  }

  /// A vector of channels: what the products inside the chunk give, and the decays' gradient.
  void channel_vector(int lane, bool adds) {
    const int size = chunk_.tokens().size;
    const std::int64_t stride = chunk_.key_stride(), score_stride = chunk_.score_stride();
    const T* keys = chunk_.keys() + lane;
    const T* queries = chunk_.queries() + lane;
    const auto step = [&](int row) { return load<T>(chunk_.decay().channel_steps(row) + lane); };
    for (int row = 0; row < size; ++row) {
      // Horner's rule along the earlier tokens, each decay met where it is passed.
      Vec<T> key = zero<T>(), query = zero<T>();
      const T* key_grads = key_product_grads_ + row * score_stride;
      const T* query_grads = query_product_grads_ + row * score_stride;
      for (int s = 0; s < row; ++s) {
        const Vec<T> earlier = load<T>(keys + s * stride), decay = step(s);
        key = fma(key, decay, broadcast<T>(key_grads[s]) * earlier);
        query = fma(query, decay, broadcast<T>(query_grads[s]) * earlier);
      }
      key *= step(row);
      query *= step(row);
      const Vec<T> own_key = load<T>(keys + row * stride);
      const Vec<T> own_query = load<T>(queries + row * stride);
      const Vec<T> own = broadcast<T>(query_grads[row]);
      // And along the later ones.
      Vec<T> later = zero<T>();
      for (int r = size - 1; r > row; --r) {
        later = fma(broadcast<T>(key_product_grads_[r * score_stride + row]),
                    load<T>(keys + r * stride), later);
        later = fma(broadcast<T>(query_product_grads_[r * score_stride + row]),
                    load<T>(queries + r * stride), later);
        later *= step(r);
      }
      const std::int64_t at = row * stride + lane;
      store_grad(load<T>(passing_queries_ + at) + fma(own, own_key, query), query_grads_ + at,
                 adds);
      store_grad(load<T>(passing_keys_ + at) + fma(own, own_query, key) + later, key_grads_ + at,
                 adds);
      store<T>(earlier_ + row * kLanes<T>, fma(own_key, key, own_query * query));
      store<T>(later_ + row * kLanes<T>, own_key * later);
    }
  }

  static RANKONE_INLINE void store_grad(Vec<T> grad, T* target, bool adds) {
    store<T>(target, adds ? grad + load<T>(target) : grad);
  }

  void channel_decay_gradient(int head, const T* entry, const T* state_grad, int lane) {
    const int size = chunk_.tokens().size;
    const std::int64_t stride = chunk_.key_stride();
    const int channels = smaller(kLanes<T>, key_dim_ - lane);
    alignas(64) T sums[kLanes<T>] = {};
    for (int c = 0; c < channels; ++c) {
      sums[c] = static_cast<T>(sum_lanes<T>(passing_row(entry, state_grad, lane + c)));
    }
    Vec<T> leaving = load<T>(sums) * LeadingLanes<T>(channels).load(chunk_.decay().total + lane);
    for (int row = 0; row < size; ++row) {
      T* terms = leaving_terms_ + row * stride + lane;
      const Vec<T> own = load<T>(terms);
      store<T>(terms, leaving);
      leaving += own;
    }
    const std::int64_t time_stride = task_.log_decay_grad.time_stride;
    T* grads = static_cast<T*>(task_.log_decay_grad.data) + chunk_.tokens().first * time_stride +
               head * task_.log_decay_grad.head_stride + lane;
    Vec<T> entering = zero<T>(), pairs = zero<T>();
    for (int row = size - 1; row >= 0; --row) {
      entering += load<T>(entering_terms_ + row * stride + lane);
      pairs += load<T>(earlier_ + row * kLanes<T>) - load<T>(later_ + row * kLanes<T>);
      const Vec<T> decay = load<T>(chunk_.decay().channel_steps(row) + lane);
      pairs = decay == zero<T>() ? zero<T>() : pairs;
      const Vec<T> grad = pairs + entering + load<T>(leaving_terms_ + row * stride + lane);
      LeadingLanes<T>(channels).store(grads + row * time_stride, grad);
    }
  }

  // ---- queries and keys, once all value heads have added to them ----

  void write_key_grads(int head) {
    if (task_.normalizes && !task_.partial_grads) {
      const int size = chunk_.tokens().size;
      normalize_rows_gradient<T>(query_grads_, chunk_.queries(), chunk_.query_norms(), size,
                                 chunk_.key_stride(), chunk_.row_scratch());
      normalize_rows_gradient<T>(key_grads_, chunk_.keys(), chunk_.key_norms(), size,
                                 chunk_.key_stride(), chunk_.row_scratch());
    }
    write_chunk<T>(task_.q_grad, chunk_.tokens(), head, 0, key_dim_, query_grads_,
                   chunk_.key_stride());
    write_chunk<T>(task_.k_grad, chunk_.tokens(), head, 0, key_dim_, key_grads_,
                   chunk_.key_stride());
  }

  const DeltaRuleTask& task_;
  const int key_dim_, value_dim_, value_vectors_, value_panels_, key_panels_;
  const int capacity_;                         // tokens of a full chunk
  const std::int64_t state_size_, rows_size_;  // of one value head: a state, a chunk's value rows

  DeltaChunk<T> chunk_;
  DeltaRecall<T> recall_;
  T* state_grads_ = nullptr;  // of each value head, in panels

  // Value rows of one value head, in panels: u, g and dv.
  T* updates_ = nullptr;
  T* output_grads_ = nullptr;
  T* value_grads_ = nullptr;
  T* updates_transposed_ = nullptr;  // panels of tokens
  T* state_transposed_ = nullptr;    // panels of key channels
  T* state_grad_transposed_ = nullptr;
  T* key_product_grads_ = nullptr;    // [token][score_stride]: A, with scalar decays times w
  T* query_product_grads_ = nullptr;  // B
  T* query_grads_ = nullptr;          // [token][key_stride]
  T* key_grads_ = nullptr;
  T* error_products_ = nullptr;  // y . e, lane by lane
  T* row_sums_ = nullptr;
  T* key_panel_rows_ = nullptr;  // scalar decays: keys in panels of channels
  T* query_panel_rows_ = nullptr;
  T* pair_terms_ = nullptr;      // A M + B P
  T* entering_terms_ = nullptr;  // (per channel: rows of key_stride; else lane by lane)
  T* leaving_terms_ = nullptr;
  T* passing_queries_ = nullptr;  // per channel: the part of dq and dk that passes the state
  T* passing_keys_ = nullptr;
  T* earlier_ = nullptr;  // per channel, one vector of channels: products with earlier tokens
  T* later_ = nullptr;
};

}  // namespace rankone::cpu::RANKONE_ISA
