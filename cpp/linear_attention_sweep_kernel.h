// The sweep over a sequence, for one instruction set.
//
// One routine serves the forward and all three gradients. Over the tokens of a sequence,
// in order or reversed, it computes
//   out_i = sum_{j <= i} (x_i . y_j) w_ij z_j + (x_i p_i) M,     M <- D M + sum_j (y_j r_j) z_j^T
// with the decay products w_ij, p_i, r_j and D of linear_attention_decay_kernel.h and the state M
// (columns of y by columns of z):
//   forward     x = scale q, y = k,       z = v        M = S
//   dq          x = dO,      y = v,       z = k        M = S^T, times scale
//   dv reverse  x = k,       y = scale q, z = dO       M = dS
//   dk reverse  x = v,       y = dO,      z = scale q  M = dS^T
// Per-channel decays lie along y's columns (forward, dv) or z's (dq, dk).
// The decay's gradient is sum_{s >= t} (q_s dq_s - k_s dk_s) + <S_T, dS_T>: the dq sweep records
// q_s dq_s, the dk sweep runs the sum from the end in double. At a decay of 0 the gradient is 0 and
// the sum starts afresh.
#pragma once

#include "linear_attention_decay_kernel.h"
#include "linear_attention_rows.h"
#include "linear_attention_tasks.h"
#include "tile_gemm.h"

namespace rankone::cpu::RANKONE_ISA {

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
        chunk_size_(per_channel() ? kChannelChunk : task.chunk_size),
        score_stride_(round_to_lanes<T>(chunk_size_)),
        decay_(task, chunk_size_,
               task.decay == DecayAxis::kContraction ? contraction_
               : task.decay == DecayAxis::kOutput    ? columns_
                                                     : 0,
               arena) {
    const std::int64_t chunk = chunk_size_;
    const std::int64_t token_panels = (chunk + kPanel<T> - 1) / kPanel<T>;
    x_ = arena.take<T>(chunk * contraction_stride_);
    y_ = arena.take<T>(chunk * contraction_stride_);
    y_transposed_ = arena.take<T>(token_panels * contraction_ * kPanel<T>);
    z_ = arena.take<T>(panels_ * chunk * kPanel<T>);
    scores_ = arena.take<T>(chunk * score_stride_);
    out_ = arena.take<T>(chunk * column_stride_);
    state_ = arena.take<T>(static_cast<std::int64_t>(panels_) * contraction_ * kPanel<T>);
    if (task.decay == DecayAxis::kContraction) {
      x_entering_ = arena.take<T>(chunk * contraction_stride_);
    }
    if (task.decay == DecayAxis::kOutput) z_leaving_ = arena.take<T>(panels_ * chunk * kPanel<T>);
    if (task.gradient != DecayGradient::kNone) running_grad_ = arena.take<double>(column_stride_);
  }

  void run() {
    load_state();
    begin_gradient();
    const std::int64_t chunks = (task_.length + chunk_size_ - 1) / chunk_size_;
    for (std::int64_t c = 0; c < chunks; ++c) run_chunk(task_.reverse ? chunks - 1 - c : c);
    end_gradient();
    store_state();
  }

 private:
  bool per_channel() const {
    return task_.decay == DecayAxis::kContraction || task_.decay == DecayAxis::kOutput;
  }

  template <typename Sink>
  void read(const SweepRows& rows, int head, int begin, int vectors, Sink&& sink) const {
    const std::int64_t offset = chunk_.time_of(0) * rows.time_stride + head * rows.head_stride;
    read_rows<T>(rows, static_cast<const char*>(rows.data) + offset * storage_bytes(rows.dtype),
                 chunk_.direction() * rows.time_stride, chunk_.size, begin, vectors, sink);
  }

  // ---- one chunk ----

  void run_chunk(std::int64_t index) {
    const std::int64_t first = index * chunk_size_;
    const std::int64_t left = task_.length - first;
    chunk_ = {first, left < chunk_size_ ? static_cast<int>(left) : chunk_size_, task_.reverse};
    decay_.prepare(chunk_);
    for (int x_head = 0; x_head < task_.x_heads; ++x_head) {
      load_x(x_head);
      for (int y_head = 0; y_head < task_.y_heads; ++y_head) {
        if (x_head == 0) load_y_z(y_head);
        announce_next(x_head, y_head);
        if (task_.decay == DecayAxis::kContraction) {
          decay_.channel_scores(x_, contraction_stride_, y_transposed_, chunk_.size, scores_,
                                score_stride_);
        } else {
          scores();
        }
        // With several heads of y the state takes each while it is packed; the entering state has
        // been read by then, with the first.
        if (task_.decay == DecayAxis::kOutput) {
          if (y_head == 0) outputs(0, true);
          decay_.channel_outputs(scores_, score_stride_, z_, chunk_size_, chunk_.size, out_,
                                 column_stride_);
        } else {
          outputs(chunk_.size, y_head == 0);
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
    multiply(x_, decay_.entering, x_entering_, chunk_.size * contraction_stride_);
  }

  void load_y_z(int head) {
    read(task_.y, head, 0, vectors_for<T>(contraction_), [&](int row, int vector, Vec<T> value) {
      store<T>(y_ + row * contraction_stride_ + vector * kLanes<T>, value);
    });
    pack_transpose<T>(y_, contraction_stride_, chunk_.size, contraction_, y_transposed_);
    if (task_.decay == DecayAxis::kContraction) {
      multiply(y_, decay_.leaving, y_, chunk_.size * contraction_stride_);
    } else if (task_.decay == DecayAxis::kScalar) {
      for (int row = 0; row < chunk_.size; ++row) {
        const Vec<T> factor = broadcast<T>(decay_.leaving[row]);
        T* values = y_ + row * contraction_stride_;
        for (int c = 0; c < contraction_stride_; c += kLanes<T>) {
          store<T>(values + c, load<T>(values + c) * factor);
        }
      }
    }
    if (task_.decay == DecayAxis::kOutput) {
      read(task_.z, head, task_.column_begin, column_vectors_,
           [&](int row, int vector, Vec<T> value) {
             const T* factor = decay_.leaving + row * decay_.channel_stride() + vector * kLanes<T>;
             store<T>(z_ + panel_offset<T>(chunk_size_, row, vector), value);
             store<T>(z_leaving_ + panel_offset<T>(chunk_size_, row, vector),
                      value * load<T>(factor));
           });
    } else {
      read(task_.z, head, task_.column_begin, column_vectors_,
           [&](int row, int vector, Vec<T> value) {
             store<T>(z_ + panel_offset<T>(chunk_size_, row, vector), value);
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
    for_each_row_block(chunk_.size, [&](auto rows, int row) {
      constexpr int R = decltype(rows)::value;
      for_each_panel(vectors_for<T>(row + R), [&](auto vectors, int panel) {
        constexpr int V = decltype(vectors)::value;
        upcoming_.prefetch();
        RegisterTile<T, R, V> tile;
        tile.clear();
        tile.multiply_add(
            x_ + row * contraction_stride_, contraction_stride_, 1,
            y_transposed_ + static_cast<std::int64_t>(panel) * contraction_ * kPanel<T>,
            contraction_);
        const std::int64_t offset = row * score_stride_ + panel * kPanel<T>;
        RegisterTile<T, R, V> weights;
        weights.load(decay_.weights + offset, score_stride_);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const Vec<T> w = weights.acc[r][v];
            tile.acc[r][v] = w == zero<T>() ? zero<T>() : tile.acc[r][v] * w;
          }
        }
        tile.store(scores_ + offset, score_stride_);
      });
    });
  }

  /// out = p (x M) when `entering`, else what out holds; plus scores z over the first `depth`
  /// tokens.
  void outputs(int depth, bool entering) {
    const T* x = task_.decay == DecayAxis::kContraction ? x_entering_ : x_;
    for_each_panel(column_vectors_, [&](auto vectors, int panel) {
      constexpr int V = decltype(vectors)::value;
      const T* z = z_ + static_cast<std::int64_t>(panel) * chunk_size_ * kPanel<T>;
      const T* state = state_ + static_cast<std::int64_t>(panel) * contraction_ * kPanel<T>;
      T* out = out_ + panel * kPanel<T>;
      for_each_row_block(chunk_.size, [&](auto rows, int row) {
        constexpr int R = decltype(rows)::value;
        upcoming_.prefetch();
        RegisterTile<T, R, V> tile;
        if (entering) {
          tile.clear();
          tile.multiply_add(x + row * contraction_stride_, contraction_stride_, 1, state,
                            contraction_);
          if (task_.decay == DecayAxis::kScalar) tile.scale_rows(decay_.entering + row);
          if (task_.decay == DecayAxis::kOutput) {
            tile.scale_elements(decay_.entering + row * decay_.channel_stride() + panel * kPanel<T>,
                                decay_.channel_stride());
          }
        } else {
          tile.load(out + row * column_stride_, column_stride_);
        }
        tile.multiply_add(scores_ + row * score_stride_, score_stride_, 1, z,
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
      const T* z = z_panels + static_cast<std::int64_t>(panel) * chunk_size_ * kPanel<T>;
      T* state = state_ + static_cast<std::int64_t>(panel) * contraction_ * kPanel<T>;
      for_each_row_block(contraction_, [&](auto rows, int row) {
        constexpr int R = decltype(rows)::value;
        upcoming_.prefetch();
        RegisterTile<T, R, V> tile;
        tile.load(state + row * kPanel<T>, kPanel<T>);
        if (decay) {
          if (task_.decay == DecayAxis::kContraction) {
            decay_tile(
                tile, [&](int r, int) { return broadcast<T>(decay_.total[row + r]); },
                [&](int r, int) { return broadcast<T>(decay_.total_low[row + r]); });
          }
          if (task_.decay == DecayAxis::kOutput) {
            const int lane = panel * kPanel<T>;
            decay_tile(
                tile, [&](int, int v) { return load<T>(decay_.total + lane + v * kLanes<T>); },
                [&](int, int v) { return load<T>(decay_.total_low + lane + v * kLanes<T>); });
          }
          if (task_.decay == DecayAxis::kScalar) {
            decay_tile(
                tile, [&](int, int) { return broadcast<T>(decay_.total[0]); },
                [&](int, int) { return broadcast<T>(decay_.total_low[0]); });
          }
        }
        tile.multiply_add(y_ + row, 1, contraction_stride_, z, chunk_.size);
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

  /// What the next head or chunk reads, and where this one writes.
  void announce_next(int x_head, int y_head) {
    const bool more_x = x_head + 1 < task_.x_heads, more_y = y_head + 1 < task_.y_heads;
    const std::int64_t now = chunk_.time_of(0);
    const std::int64_t next = now + chunk_.direction() * chunk_.size;
    const std::int64_t left = task_.reverse ? next + 1 : task_.length - next;
    const int next_size = left < chunk_size_ ? static_cast<int>(left) : chunk_size_;
    const auto add = [&](const SweepRows& rows, int head, bool in_chunk, int begin, int width) {
      upcoming_.add(rows, in_chunk ? now : next, chunk_.direction(), head, begin, width,
                    in_chunk ? chunk_.size : next_size);
    };
    upcoming_.clear();
    if (!more_y) {
      add(task_.x, more_x ? x_head + 1 : 0, more_x, 0, contraction_);
      const SweepOutput& output = task_.output;
      if (output.data != nullptr) {
        add({output.data, output.time_stride, output.head_stride, output.dtype, output.columns},
            x_head, true, task_.column_begin, columns_);
      }
      if (task_.gradient != DecayGradient::kNone) {
        add(task_.partner, x_head, true, task_.column_begin, columns_);
      }
    }
    if (!more_x) {
      add(task_.y, more_y ? y_head + 1 : 0, more_y, 0, contraction_);
      add(task_.z, more_y ? y_head + 1 : 0, more_y, task_.column_begin, columns_);
      if (per_channel() && !more_y) {
        const bool outputs = task_.decay == DecayAxis::kOutput;
        const DataType type = sizeof(T) == 8 ? DataType::kFloat64 : DataType::kFloat32;
        const int begin = outputs ? task_.column_begin : 0;
        const int width = outputs ? columns_ : contraction_;
        add({task_.log_decay, task_.log_decay_stride, 0, type, begin + width}, 0, false, begin,
            width);
      }
    }
    upcoming_.spread((contraction_ + 2 * chunk_.size) / kTileRows * panels_ + 1);
  }

  // ---- output, decay gradient, state in memory ----

  void write_output(int head) {
    const SweepOutput& output = task_.output;
    if (output.factor != 1.0) {
      const Vec<T> factor = broadcast<T>(static_cast<T>(output.factor));
      for (std::int64_t i = 0; i < chunk_.size * std::int64_t{column_stride_}; i += kLanes<T>) {
        store<T>(out_ + i, load<T>(out_ + i) * factor);
      }
    }
    if (output.data == nullptr) return;
    const int columns = smaller(task_.column_end, output.columns) - task_.column_begin;
    with_storage<T>(output.dtype, [&](auto tag) {
      using Storage = typename decltype(tag)::Type;
      const std::int64_t offset =
          chunk_.time_of(0) * output.time_stride + head * output.head_stride + task_.column_begin;
      Storage* target = static_cast<Storage*>(output.data) + offset;
      for (int row = 0; row < chunk_.size;
           ++row, target += chunk_.direction() * output.time_stride) {
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
             T* grad = grads + chunk_.time_of(row) * task_.log_decay_grad_stride +
                       task_.column_begin + lane;
             const LeadingLanes<T> valid(columns_ - lane);
             const Vec<T> before = head == 0 ? zero<T>() : valid.load(grad);
             valid.store(grad, fma(value, load<T>(out_ + row * column_stride_ + lane), before));
           });
      return;
    }
    token_products(head, [&](int row, double product) {
      if (grads == nullptr) {
        *task_.weighted_sum += static_cast<double>(chunk_.time_of(row) + 1) * product;
        return;
      }
      T& grad = grads[chunk_.time_of(row) * task_.log_decay_grad_stride];
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
      for (int row = 0; row < chunk_.size; ++row) {
        T* grad = grads + chunk_.time_of(row) * task_.log_decay_grad_stride + task_.column_begin;
        const T* product = out_ + row * column_stride_;
        const T* decay = decay_.channel_decays(row);
        for (int lane = 0; lane < columns_; lane += kLanes<T>) {
          const LeadingLanes<T> valid(columns_ - lane);
          alignas(64) T terms[kLanes<T>];
          store<T>(terms, valid.load(grad + lane));
#pragma GCC unroll 2
          for (int half = 0; half < kLanes<T>; half += kLanes<double>) {
            double* running = running_grad_ + lane + half;
            const Vec<double> term =
                load_widened(terms + half) - load_widened(product + lane + half);
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
        *task_.weighted_sum -= static_cast<double>(chunk_.time_of(row) + 1) * product;
        return;
      }
      T& grad = grads[chunk_.time_of(row) * task_.log_decay_grad_stride];
      const double sum = running_grad_[0] + (static_cast<double>(grad) - product);
      running_grad_[0] = decay_.resets(row) ? 0.0 : sum;
      grad = static_cast<T>(running_grad_[0]);
    });
  }

  void end_gradient() {
    if (task_.gradient == DecayGradient::kRecord) {
      const T* final_grad = static_cast<const T*>(task_.final_state_grad);
      for (int c = 0; c < columns_; ++c) {
        double sum = 0;
        for (int r = 0; final_grad != nullptr && r < contraction_; ++r) {
          const std::int64_t offset =
              r * task_.state_row_stride + (task_.column_begin + c) * task_.state_column_stride;
          sum += static_cast<double>(
                     state_[panel_offset<T>(contraction_, r, c / kLanes<T>) + c % kLanes<T>]) *
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
        store<T>(state_ + panel_offset<T>(contraction_, r, v), value);
      }
    }
  }

  void store_state() {
    T* target = static_cast<T*>(task_.state_out);
    if (target == nullptr) return;
    for (int r = 0; r < contraction_; ++r) {
      for (int v = 0; v < column_vectors_; ++v) {
        const int column = v * kLanes<T>;
        const T* values = state_ + panel_offset<T>(contraction_, r, v);
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
  const int chunk_size_;
  const std::int64_t score_stride_;

  Chunk chunk_;
  ChunkDecay<T> decay_;
  UpcomingRows upcoming_;

  T* x_ = nullptr;             // [token][contraction_stride]
  T* x_entering_ = nullptr;    // x p
  T* y_ = nullptr;             // y r, as x
  T* y_transposed_ = nullptr;  // y^T in panels of tokens
  T* z_ = nullptr;             // panels of columns, [panel][chunk_size][kPanel]
  T* z_leaving_ = nullptr;     // z r
  T* scores_ = nullptr;        // [token][score_stride]
  T* out_ = nullptr;           // [token][column_stride]
  T* state_ = nullptr;         // panels of columns, [panel][contraction][kPanel]
  double* running_grad_ = nullptr;
};

}  // namespace rankone::cpu::RANKONE_ISA
