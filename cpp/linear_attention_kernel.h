// The CPU kernels of causal linear attention, for one instruction set.
//
// One routine, the sweep, serves the forward and all three gradients. Over the tokens of a sequence,
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

#include "linear_attention_sweep.h"
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

RANKONE_INLINE std::int64_t storage_bytes(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat64:
      return 8;
    case DataType::kFloat32:
      return 4;
    default:
      return 2;
  }
}

/// `count` elements of a row from `column` on, in a full vector: past the stored columns come the
/// column of ones, if there is one, and zeros.
template <typename T, typename Storage>
RANKONE_INLINE Vec<T> load_columns(const Storage* row, int column, int columns, bool ones) {
  if (column + kLanes<T> <= columns) return load_storage<T>(row + column);
  Vec<T> value = column < columns ? load_partial<T>(row + column, columns - column) : zero<T>();
  if (ones && columns - column >= 0) value[columns - column] = T(1);
  return value;
}

/// Calls sink(row, vector, value) for the vectors of columns [begin, begin + vectors * lanes) of
/// `count` rows, scaled by rows.factor. `data` is the first row's, the next is `stride` further.
template <typename T, typename Sink>
void read_rows(const SweepRows& rows, const void* data, std::int64_t stride, int count, int begin,
               int vectors, Sink&& sink) {
  const Vec<T> factor = broadcast<T>(static_cast<T>(rows.factor));
  const bool scaled = rows.factor != 1.0;
  with_storage<T>(rows.dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::Type;
    const Storage* row = static_cast<const Storage*>(data);
    const int whole = smaller(vectors, larger(0, (rows.columns - begin) / kLanes<T>));
    for (int r = 0; r < count; ++r, row += stride) {
      for (int v = 0; v < whole; ++v) {
        const Vec<T> value = load_storage<T>(row + begin + v * kLanes<T>);
        sink(r, v, scaled ? value * factor : value);
      }
      for (int v = whole; v < vectors; ++v) {
        const Vec<T> value =
            load_columns<T>(row, begin + v * kLanes<T>, rows.columns, rows.ones_column);
        sink(r, v, scaled ? value * factor : value);
      }
    }
  });
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
    steps_ = arena.take<T>((chunk + 1 + kLanes<T>)*width);
    entering_ = arena.take<T>(chunk * width);
    leaving_ = arena.take<T>(chunk * width);
    total_ = arena.take<T>(width);
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
        RegisterTile<T, R, V> tile;
        tile.load(state + row * kPanel<T>, kPanel<T>);
        if (decay) {
          if (task_.decay == DecayAxis::kContraction) tile.scale_rows(total_ + row);
          if (task_.decay == DecayAxis::kOutput) tile.scale_elements(total_ + panel * kPanel<T>, 0);
          if (task_.decay == DecayAxis::kScalar) {
            const Vec<T> total = broadcast<T>(total_[0]);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
              for (int v = 0; v < V; ++v) tile.acc[r][v] *= total;
            }
          }
        }
        tile.multiply_add(y_ + row, 1, contraction_stride_, z, size_);
        tile.store(state + row * kPanel<T>, kPanel<T>);
      });
    });
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

  void scalar_steps() {
    const T* log_decay = static_cast<const T*>(task_.log_decay);
    const int lead = task_.reverse ? 1 : 0;
    for (int i = 0; i < size_; ++i) {
      const std::int64_t time = time_of(i);
      steps_[i + lead] = log_decay[time * task_.log_decay_stride];
    }
    for (int i = 0; i < size_; i += kLanes<T>) {
      const Vec<T> decay = exp<T>(LeadingLanes<T>(size_ - i).load(steps_ + lead + i));
      LeadingLanes<T>(size_ - i).store(steps_ + lead + i, decay);
    }
    steps_[task_.reverse ? 0 : size_] = T(1);
    T product = 1;
    for (int i = 0; i < size_; ++i) {
      product *= steps_[i];
      entering_[i] = product;
    }
    total_[0] = product * steps_[size_];
    product = 1;
    for (int i = size_ - 1; i >= 0; --i) {
      product *= steps_[i + 1];
      leaving_[i] = product;
    }
  }

  /// The lower triangle of w, or of ones when the products of this sweep's scores carry no weight.
  void scalar_weights() {
    const bool ones = task_.decay != DecayAxis::kScalar;
    for (int column = 0; column < size_; column += kLanes<T>) {
      T* weights = weights_ + column;
      clear_above(weights_, column);
      Vec<T> product = broadcast<T>(T(1));
      for (int row = column; row < size_; ++row) {
        if (!ones) {
          product = LeadingLanes<T>(row - column).multiply(product, broadcast<T>(steps_[row]));
        }
        store<T>(weights + row * score_stride(),
                 LeadingLanes<T>(row - column + 1).select(product, zero<T>()));
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
      T* target = steps_ + (i + lead) * channel_stride_;
      for (int v = 0; v < vectors; ++v) {
        store<T>(target + v * kLanes<T>,
                 exp<T>(load_columns<T>(source, v * kLanes<T>, channels_, false)));
      }
    }
    T* neutral = steps_ + (task_.reverse ? 0 : size_) * channel_stride_;
    for (int v = 0; v < vectors; ++v) store<T>(neutral + v * kLanes<T>, broadcast<T>(T(1)));

    for (int v = 0; v < vectors; ++v) {
      const int lane = v * kLanes<T>;
      Vec<T> product = broadcast<T>(T(1));
      for (int i = 0; i < size_; ++i) {
        product *= load<T>(steps_ + i * channel_stride_ + lane);
        store<T>(entering_ + i * channel_stride_ + lane, product);
      }
      store<T>(total_ + lane, product * load<T>(steps_ + size_ * channel_stride_ + lane));
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
             const int lane = vector * kLanes<T>;
             T* out = out_ + row * column_stride_ + lane;
             store<T>(out, load<T>(out) * value);
           });
      for (int row = 0; row < size_; ++row) {
        T* grad = grads + time_of(row) * task_.log_decay_grad_stride + task_.column_begin;
        const T* product = out_ + row * column_stride_;
        // Reversed, the factor of a row's own token is the step that leaves it.
        const T* decay = steps_ + (row + 1) * channel_stride_;
        for (int c = 0; c < columns_; ++c) {
          const double sum = running_grad_[c] + (static_cast<double>(grad[c]) - product[c]);
          running_grad_[c] = decay[c] == T(0) ? 0.0 : sum;
          grad[c] = static_cast<T>(running_grad_[c]);
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
      running_grad_[0] = steps_[row + 1] == T(0) ? 0.0 : sum;
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
  T* steps_ = nullptr;  // size + 1 factors, or rows of channel_stride factors
  T* entering_ = nullptr;
  T* leaving_ = nullptr;
  T* total_ = nullptr;
  double* running_grad_ = nullptr;
};

// ---- one token ----

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
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      const std::int64_t offset = c * stride + i * kLanes<T>;
      const bool full = i + 1 < V || whole;
      Vec<T> state;
      if (makes_state) {
        state = key * values[i];
        if (state_in != nullptr) {
          const Vec<T> old = full ? load<T>(state_in + offset) : valid.load(state_in + offset);
          state = fma(decay, old, state);
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
    store<T>(rows.decay + c, exp<T>(logs));
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

// ---- the table of this instruction set ----

template <typename T>
std::size_t sweep_workspace(const SweepTask& task) {
  Arena counter(nullptr);
  const Sweep<T> sweep(task, counter);
  return counter.used();
}

template <typename T>
void run_sweep(const SweepTask& task, void* workspace) {
  Arena arena(workspace);
  Sweep<T>(task, arena).run();
}

const LinearAttentionKernels kLinearAttention = {
    [](const SweepTask& task, bool float64) {
      return float64 ? sweep_workspace<double>(task) : sweep_workspace<float>(task);
    },
    [](const SweepTask& task, bool float64, void* workspace) {
      float64 ? run_sweep<double>(task, workspace) : run_sweep<float>(task, workspace);
    },
    [](const StepTask& task, bool float64) { float64 ? step<double>(task) : step<float>(task); },
    [](bool float64) { return float64 ? kPanel<double> : kPanel<float>; },
};

}  // namespace rankone::cpu::RANKONE_ISA
