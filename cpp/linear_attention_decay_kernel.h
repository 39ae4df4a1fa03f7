// The decays of one chunk of tokens: their products, and the chunk's inner sums where each channel
// has a decay of its own.
//
// In reversed order the factor that leads to a token is that of the token before it in the sweep:
// d_t multiplies the state that enters t, so a gradient meets d_t when it leaves t. A chunk of n
// tokens therefore has n + 1 steps, the last (reversed: the first) of them 1, and one set of
// running products serves both directions:
//   w_ij = prod_{j<u<=i}   p_i = prod_{u<=i}   r_j = prod_{u>j}   D = all
// Every product is of factors in [0, 1]: nothing overflows, and a decay of 0 is an exact reset.
//
// Rounding is kept from repeating itself where decays are constant over thousands of tokens: scalar
// products are made in double, and D comes in two parts.
#pragma once

#include "linear_attention_rows.h"
#include "linear_attention_tasks.h"
#include "tile_gemm.h"

namespace rankone::cpu::RANKONE_ISA {

/// Tokens of a chunk with per-channel decays: one running product a pair and channel is affordable
/// up to here.
inline constexpr int kChannelChunk = 16;

template <typename T>
class ChunkDecay {
 public:
  /// `channels` columns, from the task's first on, have decays of their own; 0 for scalar decays.
  ChunkDecay(const SweepTask& task, int chunk_size, int channels, Arena& arena)
      : axis_(task.decay),
        first_head_(static_cast<const T*>(task.log_decay)),
        log_decay_(first_head_),
        log_decay_stride_(task.log_decay_stride),
        channels_(channels),
        channel_begin_(task.decay == DecayAxis::kOutput ? task.column_begin : 0),
        channel_stride_(round_to_lanes<T>(channels)),
        weight_stride_(round_to_lanes<T>(chunk_size)) {
    const std::int64_t rows = chunk_size;
    const std::int64_t width = channels > 0 ? channel_stride_ : 1;
    if (channels > 0) {
      steps_ = arena.take<T>((rows + 1) * width);
      steps_low_ = arena.take<T>((rows + 1) * width);
    } else {
      scalar_steps_ = arena.take<double>(rows + 1);
    }
    entering = arena.take<T>(rows * width);
    leaving = arena.take<T>(rows * width);
    total = arena.take<T>(width);
    total_low = arena.take<T>(width);
    weights = arena.take<T>(rows * weight_stride_);
  }

  std::int64_t channel_stride() const { return channel_stride_; }

  /// Of the head whose log-decays lie `head_offset` elements after the task's.
  void prepare(const Chunk& chunk, std::int64_t head_offset = 0) {
    const T* const previous = log_decay_;
    log_decay_ = first_head_ + head_offset;
    switch (axis_) {
      case DecayAxis::kNone:
        if (weights_size_ < chunk.size) scalar_weights(chunk.size);
        break;
      case DecayAxis::kScalar:
        if (log_decay_stride_ == 0 && weights_size_ == chunk.size && log_decay_ == previous) break;
        scalar_steps(chunk);
        scalar_weights(chunk.size);
        break;
      case DecayAxis::kContraction:
        make_channel_steps(chunk);
        break;
      case DecayAxis::kOutput:
        make_channel_steps(chunk);
        if (weights_size_ < chunk.size) scalar_weights(chunk.size);
        break;
    }
  }

  /// Reversed: whether a row's own token resets the state. Its factor is the step that leaves it.
  bool resets(int row) const { return static_cast<T>(scalar_steps_[row + 1]) == T(0); }
  /// In order: the factors of a row's own token.
  const T* channel_steps(int row) const { return steps_ + row * channel_stride_; }
  /// Reversed: the factors of a row's own token.
  const T* channel_decays(int row) const { return steps_ + (row + 1) * channel_stride_; }

  /// scores_ij = sum_c x_ic y_jc w_ijc with lanes over j: the running product of column j starts as
  /// y_jc and takes the factor of row i in the lanes j < i.
  void channel_scores(const T* x, std::int64_t x_stride, const T* y_transposed, int size, T* scores,
                      std::int64_t score_stride) const {
    for (int column = 0; column < size; column += kLanes<T>) {
      clear_above(scores, score_stride, column);
      for (int row = column / kChannelRows * kChannelRows; row < size; row += kChannelRows) {
        if (row + kChannelRows <= size) {
          score_block<kChannelRows>(x, x_stride, y_transposed, column, row, scores, score_stride);
        } else {
          for (int r = row; r < size; ++r) {
            score_block<1>(x, x_stride, y_transposed, column, r, scores, score_stride);
          }
        }
      }
    }
  }

  /// out_ic += sum_{j <= i} scores_ij z_jc w_ijc with lanes over c: the running product of token j
  /// starts as z_jc and takes the factor of each later row.
  void channel_outputs(const T* scores, std::int64_t score_stride, const T* z, int depth, int size,
                       T* out, std::int64_t out_stride) const {
    for (int vector = 0; vector < channel_stride_ / kLanes<T>; ++vector) {
      for (int row = 0; row < size; row += kChannelRows) {
        if (row + kChannelRows <= size) {
          output_block<kChannelRows>(scores, score_stride, z, depth, vector, row, out, out_stride);
        } else {
          for (int r = row; r < size; ++r) {
            output_block<1>(scores, score_stride, z, depth, vector, r, out, out_stride);
          }
        }
      }
    }
  }

  // One a token, or rows of channel_stride() a token.
  T* entering = nullptr;   // p
  T* leaving = nullptr;    // r
  T* total = nullptr;      // D
  T* total_low = nullptr;  // what the rounding of D left out
  /// w, or ones, on and below the diagonal, and zeros as far above it as a register tile reaches.
  T* weights = nullptr;

 private:
  /// Rows whose accumulators a channel kernel keeps in registers beside its running products.
  static constexpr int kChannelRows = kVectorRegisters / 2;

  /// Products of scalar decays are made in double: where decays are constant, the rounding of one
  /// would be repeated by all.
  void scalar_steps(const Chunk& chunk) {
    const int size = chunk.size;
    double* steps = scalar_steps_ + (chunk.reverse ? 1 : 0);
    for (int i = 0; i < size; ++i) {
      steps[i] = static_cast<double>(log_decay_[chunk.time_of(i) * log_decay_stride_]);
    }
    for (int i = 0; i < size; i += kLanes<double>) {
      const LeadingLanes<double> valid(size - i);
      valid.store(steps + i, exp<double>(valid.load(steps + i)));
    }
    scalar_steps_[chunk.reverse ? 0 : size] = 1;
    double product = 1;
    for (int i = 0; i < size; ++i) {
      product *= scalar_steps_[i];
      entering[i] = static_cast<T>(product);
    }
    product *= scalar_steps_[size];
    total[0] = static_cast<T>(product);
    total_low[0] = static_cast<T>(product - static_cast<double>(total[0]));
    product = 1;
    for (int i = size - 1; i >= 0; --i) {
      product *= scalar_steps_[i + 1];
      leaving[i] = static_cast<T>(product);
    }
  }

  /// The lower triangle of w, or of ones when the products of this sweep's scores carry no weight.
  void scalar_weights(int size) {
    constexpr int kColumns = kLanes<double>;
    const bool ones = axis_ != DecayAxis::kScalar;
    for (int column = 0; column < size; column += kColumns) {
      T* column_weights = weights + column;
      // Tiles that reach into these columns start at most kTileRows - 1 rows above their vector.
      const int aligned = column / kLanes<T> * kLanes<T>;
      for (int row = larger(0, aligned - kTileRows); row < column; ++row) {
        store_rounded(column_weights + row * weight_stride_, zero<double>());
      }
      Vec<double> product = broadcast<double>(1);
      int row = column;
      for (; row < smaller(column + kColumns, size); ++row) {
        const Vec<double> factor = broadcast<double>(ones ? 1 : scalar_steps_[row]);
        product = LeadingLanes<double>(row - column).multiply(product, factor);
        store_rounded(column_weights + row * weight_stride_,
                      LeadingLanes<double>(row - column + 1).select(product, zero<double>()));
      }
      for (; row < size; ++row) {
        product *= broadcast<double>(ones ? 1 : scalar_steps_[row]);
        store_rounded(column_weights + row * weight_stride_, product);
      }
    }
    weights_size_ = size;
  }

  /// Zeros above the diagonal's block in a vector of columns: register tiles that reach into these
  /// columns start at most kTileRows - 1 rows above them.
  static void clear_above(T* matrix, std::int64_t stride, int column) {
    for (int row = larger(0, column - kTileRows); row < column; ++row) {
      store<T>(matrix + row * stride + column, zero<T>());
    }
  }

  void make_channel_steps(const Chunk& chunk) {
    const int size = chunk.size;
    const int vectors = channel_stride_ / kLanes<T>;
    const int lead = chunk.reverse ? 1 : 0;
    for (int i = 0; i < size; ++i) {
      const std::int64_t time = chunk.time_of(i);
      const T* source = log_decay_ + time * log_decay_stride_ + channel_begin_;
      const std::int64_t target = (i + lead) * channel_stride_;
      for (int v = 0; v < vectors; ++v) {
        const int lane = v * kLanes<T>;
        Vec<T> low;
        store<T>(steps_ + target + lane,
                 exp<T>(load_columns<T>(source, lane, channels_, false), low));
        store<T>(steps_low_ + target + lane, low);
      }
    }
    const std::int64_t neutral = (chunk.reverse ? 0 : size) * channel_stride_;
    for (int lane = 0; lane < channel_stride_; lane += kLanes<T>) {
      store<T>(steps_ + neutral + lane, broadcast<T>(T(1)));
      store<T>(steps_low_ + neutral + lane, zero<T>());
    }

    for (int v = 0; v < vectors; ++v) {
      const int lane = v * kLanes<T>;
      Vec<T> product = broadcast<T>(T(1)), low = zero<T>();
      for (int i = 0; i <= size; ++i) {
        const Vec<T> step = load<T>(steps_ + i * channel_stride_ + lane);
        const Vec<T> step_low = load<T>(steps_low_ + i * channel_stride_ + lane);
        const Vec<T> next = product * step;
        low = fma(product, step_low, fma(low, step, product_error<T>(product, step, next)));
        product = next;
        if (i < size) store<T>(entering + i * channel_stride_ + lane, product);
      }
      store<T>(total + lane, product);
      store<T>(total_low + lane, low);
      product = broadcast<T>(T(1));
      for (int i = size - 1; i >= 0; --i) {
        product *= load<T>(steps_ + (i + 1) * channel_stride_ + lane);
        store<T>(leaving + i * channel_stride_ + lane, product);
      }
    }
  }

  template <int R>
  void score_block(const T* x, std::int64_t x_stride, const T* y_transposed, int column, int row,
                   T* scores, std::int64_t score_stride) const {
    // Channels taken together share the lane masks and overlap their chains of products.
    constexpr int kTogether = 4;
    Vec<T> acc[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = zero<T>();
    const T* y = y_transposed +
                 static_cast<std::int64_t>(column / kPanel<T>) * channels_ * kPanel<T> +
                 column % kPanel<T>;
    int channel = 0;
    for (; channel + kTogether <= channels_; channel += kTogether) {
      score_terms<R, kTogether>(acc, x, x_stride, y, column, row, channel);
    }
    for (; channel < channels_; ++channel) {
      score_terms<R, 1>(acc, x, x_stride, y, column, row, channel);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      store<T>(scores + (row + r) * score_stride + column,
               LeadingLanes<T>(row + r - column + 1).select(acc[r], zero<T>()));
    }
  }

  template <int R, int N>
  RANKONE_INLINE void score_terms(Vec<T> (&acc)[R], const T* x, std::int64_t x_stride, const T* y,
                                  int column, int row, int channel) const {
    Vec<T> product[N];
#pragma GCC unroll 4
    for (int c = 0; c < N; ++c) product[c] = load<T>(y + (channel + c) * kPanel<T>);
    for (int i = column + 1; i < row; ++i) {
      const LeadingLanes<T> past(i - column);
#pragma GCC unroll 4
      for (int c = 0; c < N; ++c) {
        product[c] =
            past.multiply(product[c], broadcast<T>(steps_[i * channel_stride_ + channel + c]));
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const LeadingLanes<T> past(row + r - column);
      const T* factor = steps_ + (row + r) * channel_stride_ + channel;
      const T* x_row = x + (row + r) * x_stride + channel;
#pragma GCC unroll 4
      for (int c = 0; c < N; ++c) {
        product[c] = past.multiply(product[c], broadcast<T>(factor[c]));
        acc[r] = fma(broadcast<T>(x_row[c]), product[c], acc[r]);
      }
    }
  }

  template <int R>
  void output_block(const T* scores, std::int64_t score_stride, const T* z, int depth, int vector,
                    int row, T* out, std::int64_t out_stride) const {
    const int lane = vector * kLanes<T>;
    out += row * out_stride + lane;
    scores += row * score_stride;
    z += panel_offset<T>(depth, 0, vector);
    const T* steps = steps_ + lane;
    Vec<T> acc[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = load<T>(out + r * out_stride);
    for (int j = 0; j < row; ++j) {
      Vec<T> product = load<T>(z + j * kPanel<T>);
      for (int i = j + 1; i < row; ++i) product *= load<T>(steps + i * channel_stride_);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        product *= load<T>(steps + (row + r) * channel_stride_);
        acc[r] = fma(broadcast<T>(scores[r * score_stride + j]), product, acc[r]);
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) {
      Vec<T> product = load<T>(z + (row + j) * kPanel<T>);
#pragma GCC unroll 16
      for (int r = j; r < R; ++r) {
        if (r > j) product *= load<T>(steps + (row + r) * channel_stride_);
        acc[r] = fma(broadcast<T>(scores[r * score_stride + row + j]), product, acc[r]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) store<T>(out + r * out_stride, acc[r]);
  }

  const DecayAxis axis_;
  const T* const first_head_;
  const T* log_decay_;
  const std::int64_t log_decay_stride_;
  const int channels_, channel_begin_;
  const std::int64_t channel_stride_, weight_stride_;
  int weights_size_ = 0;  // tokens for which `weights` stands

  double* scalar_steps_ = nullptr;  // size + 1 factors
  T* steps_ = nullptr;              // size + 1 rows of them
  T* steps_low_ = nullptr;          // what their rounding left out
};

}  // namespace rankone::cpu::RANKONE_ISA
