// The sweep over a sequence, for one instruction set.
//
// One routine serves the forward and all three gradients. Over the tokens of a sequence,
// in order or reversed, it computes
//   out_i = sum_{j <= i} (x_i . y_j) w_ij z_j + (x_i p_i) M,     M <- D M + sum_j (y_j r_j) z_j^T
// with the decay products w_ij = prod_{j<u<=i}, p_i (from the chunk's start), r_j (to its end) and
// D (over all of it), and the state M (columns of y by columns of z):
//   forward     x = scale q, y = k,       z = v        M = S
//   dq          x = dO,      y = v,       z = k        M = S^T, times scale
//   dv reverse  x = k,       y = scale q, z = dO       M = dS
//   dk reverse  x = v,       y = dO,      z = scale q  M = dS^T
// In reversed order the factor that leads to a token is that of the token before it in the sweep:
// d_t multiplies the state that enters t, so its gradient meets d_t when it leaves t. A chunk of n
// tokens therefore has n + 1 steps, the first or the last of them 1, and one set of running
// products serves both directions. Every product is of factors in [0, 1]: nothing overflows, and a
// decay of 0 is an exact reset.
//
// The decay's gradient is sum_{s >= t} (q_s dq_s - k_s dk_s) + <S_T, dS_T>: the dq sweep records
// q_s dq_s, the dk sweep runs the sum from the end in double. At a decay of 0 the gradient is 0 and
// the sum starts afresh.
//
// Per-channel decays lie along y's columns (forward, dv) or z's (dq, dk) and use chunks of 16
// tokens, whose products inside the chunk are one running product a channel, kept in registers.
#pragma once

#include "linear_attention_rows.h"
#include "linear_attention_tasks.h"
#include "tile_gemm.h"

namespace rankone::cpu::RANKONE_ISA {

/// Tokens of a chunk with per-channel decays: one running product per pair is affordable up to here.
inline constexpr int kChannelChunk = 16;

/// Hands out 64-byte aligned arrays of one block; without a block it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(std::int64_t count) {
    T* result = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return result;
  }

  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

/// Stores doubles as Ts, rounded.
RANKONE_INLINE void store_rounded(double* target, Vec<double> value) {
  store<double>(target, value);
}

RANKONE_INLINE void store_rounded(float* target, Vec<double> value) {
  typedef float Rounded __attribute__((vector_size(kVectorBytes / 2)));
  const Rounded rounded = __builtin_convertvector(value, Rounded);
  std::memcpy(target, &rounded, sizeof rounded);
}

RANKONE_INLINE Vec<double> load_widened(const double* source) { return load<double>(source); }

RANKONE_INLINE Vec<double> load_widened(const float* source) {
  typedef float Narrow __attribute__((vector_size(kVectorBytes / 2)));
  Narrow narrow;
  std::memcpy(&narrow, source, sizeof narrow);
  return __builtin_convertvector(narrow, Vec<double>);
}

template <typename T>
class Sweep {
 public:
  Sweep(const SweepTask& task, Arena& arena)
      : task_(task),
        contraction_(task.x.width()),
        columns_(task.column_end - task.column_begin),
        contraction_stride_(round_to_lanes<T>(contraction_)),
        column_vectors_(vectors_for<T>(columns_)),
        column_stride_(column_vectors_ * kLanes<T>),
        panels_((column_vectors_ + kPanelVectors - 1) / kPanelVectors),
        channels_(task.decay == DecayAxis::kContraction ? contraction_
                  : task.decay == DecayAxis::kOutput    ? columns_
                                                        : 0),
        channel_stride_(round_to_lanes<T>(channels_)),
        chunk_(static_cast<int>(per_channel() ? kChannelChunk : task.chunk_size)) {
    const std::int64_t chunk = chunk_;
    const std::int64_t token_panels = (chunk + kPanel<T> - 1) / kPanel<T>;
    x_ = arena.take<T>(chunk * contraction_stride_);
    y_ = arena.take<T>(chunk * contraction_stride_);
    y_transposed_ = arena.take<T>(token_panels * contraction_ * kPanel<T>);
    z_ = arena.take<T>(panels_ * chunk * kPanel<T>);
    scores_ = arena.take<T>(chunk * score_stride());
    weights_ = arena.take<T>(chunk * score_stride());
    out_ = arena.take<T>(chunk * column_stride_);
    state_ = arena.take<T>(static_cast<std::int64_t>(panels_) * contraction_ * kPanel<T>);
    const std::int64_t width = per_channel() ? channel_stride_ : 1;
    if (per_channel()) {
      steps_ = arena.take<T>((chunk + 1) * width);
      steps_low_ = arena.take<T>((chunk + 1) * width);
    } else {
      scalar_steps_ = arena.take<double>(chunk + 1 + kLanes<double>);
    }
    entering_ = arena.take<T>(chunk * width);
    leaving_ = arena.take<T>(chunk * width);
    total_ = arena.take<T>(width);
    total_low_ = arena.take<T>(width);
    if (task.decay == DecayAxis::kContraction) {
      x_entering_ = arena.take<T>(chunk * contraction_stride_);
    }
    if (task.decay == DecayAxis::kOutput) z_leaving_ = arena.take<T>(panels_ * chunk * kPanel<T>);
    if (task.gradient != DecayGradient::kNone) running_grad_ = arena.take<double>(column_stride_);
  }

  void run() {
    load_state();
    begin_gradient();
    const std::int64_t chunks = (task_.length + chunk_ - 1) / chunk_;
    for (std::int64_t c = 0; c < chunks; ++c) {
      first_ = (task_.reverse ? chunks - 1 - c : c) * chunk_;
      const std::int64_t left = task_.length - first_;
      size_ = left < chunk_ ? static_cast<int>(left) : chunk_;
      run_chunk();
    }
    end_gradient();
    store_state();
  }

 private:
  bool per_channel() const {
    return task_.decay == DecayAxis::kContraction || task_.decay == DecayAxis::kOutput;
  }
  std::int64_t score_stride() const { return round_to_lanes<T>(chunk_); }

  /// Time of the row `row` of the chunk, and the direction rows run in.
  std::int64_t time_of(int row) const {
    return task_.reverse ? first_ + size_ - 1 - row : first_ + row;
  }
  std::int64_t direction() const { return task_.reverse ? -1 : 1; }

  template <typename Sink>
  void read(const SweepRows& rows, int head, int begin, int vectors, Sink&& sink) const {
    const std::int64_t offset = time_of(0) * rows.time_stride + head * rows.head_stride;
    read_rows<T>(rows, static_cast<const char*>(rows.data) + offset * storage_bytes(rows.dtype),
                 direction() * rows.time_stride, size_, begin, vectors, sink);
  }

  T* panel_row(T* panels, int depth, int row, int vector) const {
    return panels + (static_cast<std::int64_t>(vector / kPanelVectors) * depth + row) * kPanel<T> +
           (vector % kPanelVectors) * kLanes<T>;
  }

  // ---- one chunk ----

  void run_chunk() {
    prepare_decay();
    for (int x_head = 0; x_head < task_.x_heads; ++x_head) {
      load_x(x_head);
      for (int y_head = 0; y_head < task_.y_heads; ++y_head) {
        if (x_head == 0) load_y_z(y_head);
        announce_next(x_head, y_head);
        if (task_.decay == DecayAxis::kContraction) {
          channel_scores();
        } else {
          scores();
        }
        // With several heads of y the state takes each while it is packed; the entering state has
        // been read by then, with the first.
        if (task_.decay == DecayAxis::kOutput) {
          if (y_head == 0) outputs(0, true);
          channel_outputs();
        } else {
          outputs(size_, y_head == 0);
        }
        if (x_head == task_.x_heads - 1) update_state(y_head == 0);
      }
      write_output(x_head);
      if (task_.gradient == DecayGradient::kRecord) record_gradient(x_head);
      if (task_.gradient == DecayGradient::kFinish) finish_gradient();
    }
  }

  void load_x(int head) {
    read(task_.x, head, 0, vectors_for<T>(contraction_), [&](int row, int vector, Vec<T> value) {
      store<T>(x_ + row * contraction_stride_ + vector * kLanes<T>, value);
    });
    if (task_.decay != DecayAxis::kContraction) return;
    multiply(x_, entering_, x_entering_, size_ * contraction_stride_);
  }

  void load_y_z(int head) {
    read(task_.y, head, 0, vectors_for<T>(contraction_), [&](int row, int vector, Vec<T> value) {
      store<T>(y_ + row * contraction_stride_ + vector * kLanes<T>, value);
    });
    pack_transpose<T>(y_, contraction_stride_, size_, contraction_, y_transposed_);
    if (task_.decay == DecayAxis::kContraction) {
      multiply(y_, leaving_, y_, size_ * contraction_stride_);
    } else if (task_.decay == DecayAxis::kScalar) {
      for (int row = 0; row < size_; ++row) {
        const Vec<T> factor = broadcast<T>(leaving_[row]);
        T* values = y_ + row * contraction_stride_;
        for (int c = 0; c < contraction_stride_; c += kLanes<T>) {
          store<T>(values + c, load<T>(values + c) * factor);
        }
      }
    }
    if (task_.decay == DecayAxis::kOutput) {
      read(task_.z, head, task_.column_begin, column_vectors_,
           [&](int row, int vector, Vec<T> value) {
             const T* factor = leaving_ + row * channel_stride_ + vector * kLanes<T>;
             store<T>(panel_row(z_, chunk_, row, vector), value);
             store<T>(panel_row(z_leaving_, chunk_, row, vector), value * load<T>(factor));
           });
    } else {
      read(task_.z, head, task_.column_begin, column_vectors_,
           [&](int row, int vector, Vec<T> value) {
             store<T>(panel_row(z_, chunk_, row, vector), value);
           });
    }
  }

  static void multiply(const T* a, const T* b, T* product, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += kLanes<T>) {
      store<T>(product + i, load<T>(a + i) * load<T>(b + i));
    }
  }

  /// scores_ij = (x_i . y_j) w_ij on and below the diagonal. A weight of 0 gives 0 whatever the
  /// product, so that nothing of a later token reaches an earlier one.
  void scores() {
    for_each_row_block(size_, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      for_each_panel(vectors_for<T>(row + R), [&](auto vectors, int panel) {
        constexpr int V = decltype(vectors)::value;
        prefetch_some();
        RegisterTile<T, R, V> tile;
        tile.clear();
        tile.multiply_add(x_ + row * contraction_stride_, contraction_stride_, 1,
                          y_transposed_ + static_cast<std::int64_t>(panel) * contraction_ * kPanel<T>,
                          contraction_);
        const std::int64_t offset = row * score_stride() + panel * kPanel<T>;
        RegisterTile<T, R, V> weights;
        weights.load(weights_ + offset, score_stride());
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const Vec<T> w = weights.acc[r][v];
            tile.acc[r][v] = w == zero<T>() ? zero<T>() : tile.acc[r][v] * w;
          }
        }
        tile.store(scores_ + offset, score_stride());
      });
    });
  }

  /// out = p (x M) when `entering`, else what out holds; plus scores z over the first `depth` tokens.
  void outputs(int depth, bool entering) {
    const T* x = task_.decay == DecayAxis::kContraction ? x_entering_ : x_;
    for_each_panel(column_vectors_, [&](auto vectors, int panel) {
      constexpr int V = decltype(vectors)::value;
      const T* z = z_ + static_cast<std::int64_t>(panel) * chunk_ * kPanel<T>;
      const T* state = state_ + static_cast<std::int64_t>(panel) * contraction_ * kPanel<T>;
      T* out = out_ + panel * kPanel<T>;
      for_each_row_block(size_, [&](auto rows, int row) {
        constexpr int R = decltype(rows)::value;
        prefetch_some();
        RegisterTile<T, R, V> tile;
        if (entering) {
          tile.clear();
          tile.multiply_add(x + row * contraction_stride_, contraction_stride_, 1, state,
                            contraction_);
          if (task_.decay == DecayAxis::kScalar) tile.scale_rows(entering_ + row);
          if (task_.decay == DecayAxis::kOutput) {
            tile.scale_elements(entering_ + row * channel_stride_ + panel * kPanel<T>,
                                channel_stride_);
          }
        } else {
          tile.load(out + row * column_stride_, column_stride_);
        }
        tile.multiply_add(scores_ + row * score_stride(), score_stride(), 1, z,
                          smaller(depth, row + R));
        tile.store(out + row * column_stride_, column_stride_);
      });
    });
  }

  /// M <- D M + (r y)^T z, or the product alone added when the decay has been applied before.
  void update_state(bool decay) {
    const T* z_panels = task_.decay == DecayAxis::kOutput ? z_leaving_ : z_;
    for_each_panel(column_vectors_, [&](auto vectors, int panel) {
      constexpr int V = decltype(vectors)::value;
      const T* z = z_panels + static_cast<std::int64_t>(panel) * chunk_ * kPanel<T>;
      T* state = state_ + static_cast<std::int64_t>(panel) * contraction_ * kPanel<T>;
      for_each_row_block(contraction_, [&](auto rows, int row) {
        constexpr int R = decltype(rows)::value;
        prefetch_some();
        RegisterTile<T, R, V> tile;
        tile.load(state + row * kPanel<T>, kPanel<T>);
        if (decay) {
          if (task_.decay == DecayAxis::kContraction) {
            decay_tile(tile, [&](int r, int) { return broadcast<T>(total_[row + r]); },
                       [&](int r, int) { return broadcast<T>(total_low_[row + r]); });
          }
          if (task_.decay == DecayAxis::kOutput) {
            const int lane = panel * kPanel<T>;
            decay_tile(tile, [&](int, int v) { return load<T>(total_ + lane + v * kLanes<T>); },
                       [&](int, int v) { return load<T>(total_low_ + lane + v * kLanes<T>); });
          }
          if (task_.decay == DecayAxis::kScalar) {
            decay_tile(tile, [&](int, int) { return broadcast<T>(total_[0]); },
                       [&](int, int) { return broadcast<T>(total_low_[0]); });
          }
        }
        tile.multiply_add(y_ + row, 1, contraction_stride_, z, size_);
        tile.store(state + row * kPanel<T>, kPanel<T>);
      });
    });
  }

  /// D comes in two parts: its rounding would repeat chunk after chunk where decays are constant.
  template <int R, int V, typename High, typename Low>
  static RANKONE_INLINE void decay_tile(RegisterTile<T, R, V>& tile, High&& high, Low&& low) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec<T> state = tile.acc[r][v];
        tile.acc[r][v] = fma(high(r, v), state, low(r, v) * state);
      }
    }
  }

  // ---- what the next chunk or head will read ----

  /// Rows that are read (or written) next. They lie far apart, each a few cache lines, where the
  /// hardware's prefetching helps little; every register tile asks for some while it computes.
  struct Upcoming {
    const char* row;
    std::int64_t stride;
    int bytes;
  };

  void announce_next(int x_head, int y_head) {
    upcoming_count_ = 0;
    const bool next_x = x_head + 1 < task_.x_heads, next_y = y_head + 1 < task_.y_heads;
    if (!next_y) announce(task_.x, next_x ? x_head + 1 : 0, !next_x, 0, contraction_);
    if (!next_x) {
      announce(task_.y, next_y ? y_head + 1 : 0, !next_y, 0, contraction_);
      announce(task_.z, next_y ? y_head + 1 : 0, !next_y, task_.column_begin, columns_);
    }
    if (!next_y && task_.output.data != nullptr) {
      SweepRows output;
      output.data = task_.output.data;
      output.time_stride = task_.output.time_stride;
      output.head_stride = task_.output.head_stride;
      output.dtype = task_.output.dtype;
      output.columns = task_.output.columns;
      announce(output, x_head, false, task_.column_begin, columns_);
    }
    if (task_.gradient != DecayGradient::kNone) {
      announce(task_.partner, x_head, false, task_.column_begin, columns_);
    }
    if (per_channel() && !next_x && !next_y) {
      SweepRows decays;
      decays.data = task_.log_decay;
      decays.time_stride = task_.log_decay_stride;
      decays.dtype = sizeof(T) == sizeof(double) ? DataType::kFloat64 : DataType::kFloat32;
      decays.columns = task_.decay == DecayAxis::kOutput ? task_.column_end : contraction_;
      announce(decays, 0, true, task_.decay == DecayAxis::kOutput ? task_.column_begin : 0,
               channels_);
    }
    const int tiles = (contraction_ + 2 * size_) / kTileRows * panels_ + 1;
    upcoming_per_tile_ = (upcoming_count_ * chunk_ + tiles - 1) / tiles;
    upcoming_index_ = upcoming_row_ = 0;
  }

  void announce(const SweepRows& rows, int head, bool next_chunk, int begin, int width) {
    const std::int64_t element = storage_bytes(rows.dtype);
    const std::int64_t time = time_of(0) + (next_chunk ? direction() * size_ : 0);
    if (time < 0 || time >= task_.length) return;
    const int columns = smaller(width, rows.columns - begin);
    if (columns <= 0) return;
    upcoming_[upcoming_count_++] = {
        static_cast<const char*>(rows.data) +
            (time * rows.time_stride + head * rows.head_stride + begin) * element,
        direction() * rows.time_stride * element, static_cast<int>(columns * element)};
  }

  RANKONE_INLINE void prefetch_some() {
    constexpr int kCacheLine = 64;
    for (int i = 0; i < upcoming_per_tile_ && upcoming_index_ < upcoming_count_; ++i) {
      const Upcoming& next = upcoming_[upcoming_index_];
      const char* row = next.row + upcoming_row_ * next.stride;
      for (int byte = 0; byte < next.bytes; byte += kCacheLine) __builtin_prefetch(row + byte, 0, 2);
      if (++upcoming_row_ == chunk_) {
        upcoming_row_ = 0;
        ++upcoming_index_;
      }
    }
  }

  // ---- decays inside a chunk ----

  void prepare_decay() {
    switch (task_.decay) {
      case DecayAxis::kNone:
        if (weights_size_ < size_) scalar_weights();
        break;
      case DecayAxis::kScalar:
        if (task_.log_decay_stride == 0 && weights_size_ == size_) break;
        scalar_steps();
        scalar_weights();
        break;
      case DecayAxis::kContraction:
      case DecayAxis::kOutput:
        channel_steps();
        if (task_.decay == DecayAxis::kOutput && weights_size_ < size_) scalar_weights();
        break;
    }
  }

  /// Products of scalar decays are made in double: where decays are constant, the rounding of one
  /// would be repeated by all.
  void scalar_steps() {
    const T* log_decay = static_cast<const T*>(task_.log_decay);
    double* steps = scalar_steps_ + (task_.reverse ? 1 : 0);
    for (int i = 0; i < size_; ++i) {
      steps[i] = static_cast<double>(log_decay[time_of(i) * task_.log_decay_stride]);
    }
    for (int i = 0; i < size_; i += kLanes<double>) {
      const LeadingLanes<double> valid(size_ - i);
      valid.store(steps + i, exp<double>(valid.load(steps + i)));
    }
    scalar_steps_[task_.reverse ? 0 : size_] = 1;
    double product = 1;
    for (int i = 0; i < size_; ++i) {
      product *= scalar_steps_[i];
      entering_[i] = static_cast<T>(product);
    }
    product *= scalar_steps_[size_];
    total_[0] = static_cast<T>(product);
    total_low_[0] = static_cast<T>(product - static_cast<double>(total_[0]));
    product = 1;
    for (int i = size_ - 1; i >= 0; --i) {
      product *= scalar_steps_[i + 1];
      leaving_[i] = static_cast<T>(product);
    }
  }

  /// The lower triangle of w, or of ones when the products of this sweep's scores carry no weight.
  void scalar_weights() {
    constexpr int kColumns = kLanes<double>;
    const bool ones = task_.decay != DecayAxis::kScalar;
    for (int column = 0; column < size_; column += kColumns) {
      T* weights = weights_ + column;
      const int aligned = column / kLanes<T> * kLanes<T>;
      for (int row = larger(0, aligned - kTileRows); row < column; ++row) {
        store_rounded(weights + row * score_stride(), zero<double>());
      }
      Vec<double> product = broadcast<double>(1);
      int row = column;
      for (; row < smaller(column + kColumns, size_); ++row) {
        const Vec<double> factor = broadcast<double>(ones ? 1 : scalar_steps_[row]);
        product = LeadingLanes<double>(row - column).multiply(product, factor);
        store_rounded(weights + row * score_stride(),
                      LeadingLanes<double>(row - column + 1).select(product, zero<double>()));
      }
      for (; row < size_; ++row) {
        product *= broadcast<double>(ones ? 1 : scalar_steps_[row]);
        store_rounded(weights + row * score_stride(), product);
      }
    }
    weights_size_ = size_;
  }

  /// Zeros above the diagonal's block in a vector of columns: register tiles that reach into these
  /// columns start at most kTileRows - 1 rows above them.
  void clear_above(T* matrix, int column) const {
    for (int row = larger(0, column - kTileRows); row < column; ++row) {
      store<T>(matrix + row * score_stride() + column, zero<T>());
    }
  }

  void channel_steps() {
    const int begin = task_.decay == DecayAxis::kOutput ? task_.column_begin : 0;
    const int vectors = channel_stride_ / kLanes<T>;
    const int lead = task_.reverse ? 1 : 0;
    for (int i = 0; i < size_; ++i) {
      const std::int64_t time = time_of(i);
      const T* source =
          static_cast<const T*>(task_.log_decay) + time * task_.log_decay_stride + begin;
      const std::int64_t target = (i + lead) * channel_stride_;
      for (int v = 0; v < vectors; ++v) {
        const int lane = v * kLanes<T>;
        Vec<T> low;
        store<T>(steps_ + target + lane,
                 exp<T>(load_columns<T>(source, lane, channels_, false), low));
        store<T>(steps_low_ + target + lane, low);
      }
    }
    const std::int64_t neutral = (task_.reverse ? 0 : size_) * channel_stride_;
    for (int lane = 0; lane < channel_stride_; lane += kLanes<T>) {
      store<T>(steps_ + neutral + lane, broadcast<T>(T(1)));
      store<T>(steps_low_ + neutral + lane, zero<T>());
    }

    for (int v = 0; v < vectors; ++v) {
      const int lane = v * kLanes<T>;
      Vec<T> product = broadcast<T>(T(1)), low = zero<T>();
      for (int i = 0; i <= size_; ++i) {
        const Vec<T> step = load<T>(steps_ + i * channel_stride_ + lane);
        const Vec<T> step_low = load<T>(steps_low_ + i * channel_stride_ + lane);
        const Vec<T> next = product * step;
        low = fma(product, step_low, fma(low, step, product_error<T>(product, step, next)));
        product = next;
        if (i < size_) store<T>(entering_ + i * channel_stride_ + lane, product);
      }
      store<T>(total_ + lane, product);
      store<T>(total_low_ + lane, low);
      product = broadcast<T>(T(1));
      for (int i = size_ - 1; i >= 0; --i) {
        product *= load<T>(steps_ + (i + 1) * channel_stride_ + lane);
        store<T>(leaving_ + i * channel_stride_ + lane, product);
      }
    }
  }

  /// Rows whose accumulators a channel kernel keeps in registers beside its running products.
  static constexpr int kChannelRows = kVectorRegisters / 2;

  /// scores_ij = sum_c x_ic y_jc w_ijc with lanes over j: the running product of column j starts as
  /// y_jc and takes the factor of row i in the lanes j < i.
  void channel_scores() {
    for (int column = 0; column < size_; column += kLanes<T>) {
      clear_above(scores_, column);
      for (int row = column / kChannelRows * kChannelRows; row < size_; row += kChannelRows) {
        if (row + kChannelRows <= size_) {
          channel_score_block<kChannelRows>(column, row);
        } else {
          for (int r = row; r < size_; ++r) channel_score_block<1>(column, r);
        }
      }
    }
  }

  template <int R>
  void channel_score_block(int column, int row) {
    // Channels taken together share the lane masks and overlap their chains of products.
    constexpr int kTogether = 4;
    Vec<T> acc[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = zero<T>();
    const T* y = y_transposed_ +
                 static_cast<std::int64_t>(column / kPanel<T>)*contraction_ * kPanel<T> +
                 column % kPanel<T>;
    int channel = 0;
    for (; channel + kTogether <= contraction_; channel += kTogether) {
      channel_score_terms<R, kTogether>(acc, y, column, row, channel);
    }
    for (; channel < contraction_; ++channel) {
      channel_score_terms<R, 1>(acc, y, column, row, channel);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      store<T>(scores_ + (row + r) * score_stride() + column,
               LeadingLanes<T>(row + r - column + 1).select(acc[r], zero<T>()));
    }
  }

  template <int R, int N>
  RANKONE_INLINE void channel_score_terms(Vec<T> (&acc)[R], const T* y, int column, int row,
                                          int channel) const {
    Vec<T> product[N];
#pragma GCC unroll 4
    for (int c = 0; c < N; ++c) product[c] = load<T>(y + (channel + c) * kPanel<T>);
    for (int i = column + 1; i < row; ++i) {
      const LeadingLanes<T> past(i - column);
#pragma GCC unroll 4
      for (int c = 0; c < N; ++c) {
        product[c] = past.multiply(product[c],
                                   broadcast<T>(steps_[i * channel_stride_ + channel + c]));
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const LeadingLanes<T> past(row + r - column);
      const T* factor = steps_ + (row + r) * channel_stride_ + channel;
      const T* x = x_ + (row + r) * contraction_stride_ + channel;
#pragma GCC unroll 4
      for (int c = 0; c < N; ++c) {
        product[c] = past.multiply(product[c], broadcast<T>(factor[c]));
        acc[r] = fma(broadcast<T>(x[c]), product[c], acc[r]);
      }
    }
  }

  /// out_ic += sum_{j <= i} scores_ij z_jc w_ijc with lanes over c: the running product of token j
  /// starts as z_jc and takes the factor of each later row.
  void channel_outputs() {
    for (int vector = 0; vector < column_vectors_; ++vector) {
      for (int row = 0; row < size_; row += kChannelRows) {
        if (row + kChannelRows <= size_) {
          channel_output_block<kChannelRows>(vector, row);
        } else {
          for (int r = row; r < size_; ++r) channel_output_block<1>(vector, r);
        }
      }
    }
  }

  template <int R>
  void channel_output_block(int vector, int row) {
    const int lane = vector * kLanes<T>;
    T* out = out_ + row * column_stride_ + lane;
    const T* steps = steps_ + lane;
    const T* scores = scores_ + row * score_stride();
    Vec<T> acc[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = load<T>(out + r * column_stride_);
    for (int j = 0; j < row; ++j) {
      Vec<T> product = load<T>(panel_row(z_, chunk_, j, vector));
      for (int i = j + 1; i < row; ++i) product *= load<T>(steps + i * channel_stride_);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        product *= load<T>(steps + (row + r) * channel_stride_);
        acc[r] = fma(broadcast<T>(scores[r * score_stride() + j]), product, acc[r]);
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) {
      Vec<T> product = load<T>(panel_row(z_, chunk_, row + j, vector));
#pragma GCC unroll 16
      for (int r = j; r < R; ++r) {
        if (r > j) product *= load<T>(steps + (row + r) * channel_stride_);
        acc[r] = fma(broadcast<T>(scores[r * score_stride() + row + j]), product, acc[r]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) store<T>(out + r * column_stride_, acc[r]);
  }

  // ---- output, decay gradient, state in memory ----

  void write_output(int head) {
    const SweepOutput& output = task_.output;
    if (output.factor != 1.0) {
      const Vec<T> factor = broadcast<T>(static_cast<T>(output.factor));
      for (std::int64_t i = 0; i < size_ * std::int64_t{column_stride_}; i += kLanes<T>) {
        store<T>(out_ + i, load<T>(out_ + i) * factor);
      }
    }
    if (output.data == nullptr) return;
    const int columns = smaller(task_.column_end, output.columns) - task_.column_begin;
    with_storage<T>(output.dtype, [&](auto tag) {
      using Storage = typename decltype(tag)::Type;
      const std::int64_t offset =
          time_of(0) * output.time_stride + head * output.head_stride + task_.column_begin;
      Storage* target = static_cast<Storage*>(output.data) + offset;
      for (int row = 0; row < size_; ++row, target += direction() * output.time_stride) {
        const T* source = out_ + row * column_stride_;
        int column = 0;
        for (; column + kLanes<T> <= columns; column += kLanes<T>) {
          store_storage<T>(target + column, load<T>(source + column));
        }
        if (column < columns) {
          store_partial<T>(target + column, load<T>(source + column), columns - column);
        }
      }
    });
  }

  void begin_gradient() {
    if (task_.gradient != DecayGradient::kFinish) return;
    if (per_channel()) {
      for (int c = 0; c < columns_; ++c) running_grad_[c] = task_.terminal[task_.column_begin + c];
    } else {
      running_grad_[0] = 0;
      for (int c = 0; c < columns_; ++c) running_grad_[0] += task_.terminal[c];
    }
  }

  /// The gradient's row of a token and, per token, the sum over columns of partner * out.
  void record_gradient(int head) {
    T* grads = static_cast<T*>(task_.log_decay_grad);
    if (per_channel()) {
      read(task_.partner, head, task_.column_begin, column_vectors_,
           [&](int row, int vector, Vec<T> value) {
             const int lane = vector * kLanes<T>;
             T* grad = grads + time_of(row) * task_.log_decay_grad_stride + task_.column_begin + lane;
             const LeadingLanes<T> valid(columns_ - lane);
             const Vec<T> before = head == 0 ? zero<T>() : valid.load(grad);
             valid.store(grad, fma(value, load<T>(out_ + row * column_stride_ + lane), before));
           });
      return;
    }
    token_products(head, [&](int row, double product) {
      if (grads == nullptr) {
        *task_.weighted_sum += static_cast<double>(time_of(row) + 1) * product;
        return;
      }
      T& grad = grads[time_of(row) * task_.log_decay_grad_stride];
      grad = static_cast<T>(head == 0 ? product : static_cast<double>(grad) + product);
    });
  }

  template <typename Sink>
  void token_products(int head, Sink&& sink) {
    Vec<T> sum = zero<T>();
    read(task_.partner, head, task_.column_begin, column_vectors_,
         [&](int row, int vector, Vec<T> value) {
           sum = fma(value, load<T>(out_ + row * column_stride_ + vector * kLanes<T>), sum);
           if (vector + 1 < column_vectors_) return;
           sink(row, sum_lanes<T>(sum));
           sum = zero<T>();
         });
  }

  void finish_gradient() {
    T* grads = static_cast<T*>(task_.log_decay_grad);
    if (per_channel()) {
      read(task_.partner, 0, task_.column_begin, column_vectors_,
           [&](int row, int vector, Vec<T> value) {
             T* out = out_ + row * column_stride_ + vector * kLanes<T>;
             store<T>(out, load<T>(out) * value);
           });
      for (int row = 0; row < size_; ++row) {
        T* grad = grads + time_of(row) * task_.log_decay_grad_stride + task_.column_begin;
        const T* product = out_ + row * column_stride_;
        // Reversed, the factor of a row's own token is the step that leaves it.
        const T* decay = steps_ + (row + 1) * channel_stride_;
        for (int lane = 0; lane < columns_; lane += kLanes<T>) {
          const LeadingLanes<T> valid(columns_ - lane);
          alignas(64) T terms[kLanes<T>];
          store<T>(terms, valid.load(grad + lane));
#pragma GCC unroll 2
          for (int half = 0; half < kLanes<T>; half += kLanes<double>) {
            double* running = running_grad_ + lane + half;
            const Vec<double> term = load_widened(terms + half) -
                                     load_widened(product + lane + half);
            const Vec<double> sum = load<double>(running) + term;
            const Vec<double> kept =
                load_widened(decay + lane + half) == zero<double>() ? zero<double>() : sum;
            store<double>(running, kept);
            store_rounded(terms + half, kept);
          }
          valid.store(grad + lane, load<T>(terms));
        }
      }
      return;
    }
    token_products(0, [&](int row, double product) {
      if (grads == nullptr) {
        *task_.weighted_sum -= static_cast<double>(time_of(row) + 1) * product;
        return;
      }
      T& grad = grads[time_of(row) * task_.log_decay_grad_stride];
      const double sum = running_grad_[0] + (static_cast<double>(grad) - product);
      running_grad_[0] = static_cast<T>(scalar_steps_[row + 1]) == T(0) ? 0.0 : sum;
      grad = static_cast<T>(running_grad_[0]);
    });
  }

  void end_gradient() {
    if (task_.gradient == DecayGradient::kRecord) {
      const T* final_grad = static_cast<const T*>(task_.final_state_grad);
      for (int c = 0; c < columns_; ++c) {
        double sum = 0;
        for (int r = 0; final_grad != nullptr && r < contraction_; ++r) {
          const std::int64_t offset = r * task_.state_row_stride +
                                      (task_.column_begin + c) * task_.state_column_stride;
          sum += static_cast<double>(
                     panel_row(state_, contraction_, r, c / kLanes<T>)[c % kLanes<T>]) *
                 static_cast<double>(final_grad[offset]);
        }
        task_.terminal[task_.column_begin + c] = sum;
      }
    }
    if (task_.gradient == DecayGradient::kFinish && task_.shared_decay_grad != nullptr) {
      const Vec<T> decay = exp<T>(broadcast<T>(*static_cast<const T*>(task_.log_decay)));
      const double sum = *task_.weighted_sum + static_cast<double>(task_.length) * running_grad_[0];
      *static_cast<T*>(task_.shared_decay_grad) = decay[0] == T(0) ? T(0) : static_cast<T>(sum);
    }
  }

  void load_state() {
    const T* source = static_cast<const T*>(task_.state_in);
    for (int r = 0; r < contraction_; ++r) {
      for (int v = 0; v < column_vectors_; ++v) {
        const int column = v * kLanes<T>;
        const int valid = smaller(kLanes<T>, columns_ - column);
        Vec<T> value = zero<T>();
        if (source != nullptr) {
          const T* first = source + r * task_.state_row_stride +
                           (task_.column_begin + column) * task_.state_column_stride;
          if (task_.state_column_stride == 1) {
            value = LeadingLanes<T>(valid).load(first);
          } else {
            for (int i = 0; i < valid; ++i) value[i] = first[i * task_.state_column_stride];
          }
        }
        store<T>(panel_row(state_, contraction_, r, v), value);
      }
    }
  }

  void store_state() {
    T* target = static_cast<T*>(task_.state_out);
    if (target == nullptr) return;
    for (int r = 0; r < contraction_; ++r) {
      for (int v = 0; v < column_vectors_; ++v) {
        const int column = v * kLanes<T>;
        const T* values = panel_row(state_, contraction_, r, v);
        T* first = target + r * task_.state_row_stride +
                   (task_.column_begin + column) * task_.state_column_stride;
        for (int i = 0; i < smaller(kLanes<T>, columns_ - column); ++i) {
          first[i * task_.state_column_stride] = values[i];
        }
      }
    }
  }

  const SweepTask& task_;
  const int contraction_, columns_;
  const std::int64_t contraction_stride_;
  const int column_vectors_, column_stride_, panels_;
  const int channels_;
  const std::int64_t channel_stride_;
  const int chunk_;

  std::int64_t first_ = 0;  // first token of the chunk, in time
  int size_ = 0;            // tokens of the chunk
  int weights_size_ = 0;    // tokens for which weights_ stands

  static constexpr int kUpcoming = 6;  // x, y, z, the output, its partner and the decays
  Upcoming upcoming_[kUpcoming];
  int upcoming_count_ = 0, upcoming_per_tile_ = 0;
  int upcoming_index_ = 0, upcoming_row_ = 0;

  T* x_ = nullptr;             // [token][contraction_stride]
  T* x_entering_ = nullptr;    // x p
  T* y_ = nullptr;             // y r, as x
  T* y_transposed_ = nullptr;  // y^T in panels of tokens
  T* z_ = nullptr;             // panels of columns, [panel][chunk][kPanel]
  T* z_leaving_ = nullptr;     // z r
  T* scores_ = nullptr;        // [token][score_stride]
  T* weights_ = nullptr;
  T* out_ = nullptr;    // [token][column_stride]
  T* state_ = nullptr;  // panels of columns, [panel][contraction][kPanel]
  // Products of decays: one a token, or rows of channel_stride ones.
  double* scalar_steps_ = nullptr;  // size + 1
  T* steps_ = nullptr;              // size + 1 rows
  T* steps_low_ = nullptr;          // what their rounding left out
  T* entering_ = nullptr;           // p
  T* leaving_ = nullptr;            // r
  T* total_ = nullptr;              // D
  T* total_low_ = nullptr;
  double* running_grad_ = nullptr;
};

}  // namespace rankone::cpu::RANKONE_ISA
