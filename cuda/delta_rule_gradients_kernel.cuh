// The kernel described in delta_rule_gradients.cuh, and its launch. Included by one source file per
// element type, which instantiates it.
#pragma once

#include <algorithm>

#include "delta_rule_gradients.cuh"
#include "primitives/async_copy.cuh"
#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "state_tiles.cuh"

namespace rankone::cuda {

inline constexpr int kMaxGradientWarps = 8;
inline constexpr int kMaxGroupChunks = 4;
inline constexpr int kGradientTileLd = 20;     // rows of float4
inline constexpr int kGradientScratchLd = 24;  // an odd multiple of 8

/// Rows of all value channels: an odd multiple of 8.
constexpr int gradient_value_ld(int value_columns) { return value_columns + 8; }

struct alignas(16) DeltaGradientTable {
  float pairs[kDeltaChunk][kDeltaTableLd];    // b, or for channel decays scale dP
  float systems[kDeltaChunk][kDeltaTableLd];  // a', or for channel decays dM
  // Factors of a token's rows. What is per channel, a and b, is 1 here.
  float read_query[kDeltaChunk];       // of S dO in dq: scale a
  float minus_read_key[kDeltaChunk];   // of S dR in dk: -a
  float write[kDeltaChunk];            // of dS E in dk: b beta
  float state_key[kDeltaChunk];        // of k E^T in S: b beta rho_k
  float state_query[kDeltaChunk];      // of q dO^T in dS: scale a rho_q
  float minus_state_key[kDeltaChunk];  // of k dR^T in dS: -a rho_k
  float beta[kDeltaChunk];
  float query_norm[kDeltaChunk];  // rho_q
  float key_norm[kDeltaChunk];    // rho_k
  float decay;
};

template <typename T, int kValue, DeltaDecay kDecay>
DeltaGradientLayout make_gradient_layout(int warps, int tokens) {
  constexpr bool kChannel = kDecay == DeltaDecay::kChannel;
  constexpr int kElement = sizeof(T);
  constexpr int kFloat = sizeof(float);
  DeltaGradientLayout layout{};
  layout.key_ld = warps * kDeltaChannelsPerWarp + 8;
  layout.decay_ld = warps * kDeltaChannelsPerWarp;
  const auto take = [&layout](int size) {
    const int start = layout.bytes;
    layout.bytes += (size + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
    return start;
  };
  layout.query = take(tokens * layout.key_ld * kElement);
  layout.key = take(tokens * layout.key_ld * kElement);
  layout.output_grad = take(tokens * gradient_value_ld(kValue) * kElement);
  layout.errors = take(tokens * gradient_value_ld(kValue) * kElement);
  layout.residual_grad = take(tokens * gradient_value_ld(kValue) * kElement);
  layout.decay = take(kChannel ? tokens * layout.decay_ld * kFloat : 0);
  layout.tables = take(tokens / kDeltaChunk * static_cast<int>(sizeof(DeltaGradientTable)));
  layout.tiles = take(2 * warps * 16 * kGradientTileLd * kFloat);
  layout.scratch = take(kChannel ? 2 * warps * 16 * kGradientScratchLd * kElement : 0);
  // By warp and token, one more row for their sums, and the pairings by warp.
  layout.row_sums = take(((warps + 1) * tokens + warps) * kFloat);
  return layout;
}

template <typename T, int kValue, DeltaDecay kDecay>
class DeltaGradients {
 public:
  __device__ __forceinline__ DeltaGradients(const DeltaGradientArguments& arguments, int key_block,
                                            int group, int head, int sequence)
      : arguments_(arguments),
        shared_(shared_memory<DeltaSharedBytes>().bytes),
        key_block_(key_block),
        group_(group),
        head_(head),
        sequence_(sequence) {
    const bool packed = arguments.cu_seqlens != nullptr;
    begin_ = packed ? static_cast<int>(arguments.cu_seqlens[sequence]) : 0;
    const int length =
        (packed ? static_cast<int>(arguments.cu_seqlens[sequence + 1]) : arguments.time) - begin_;
    const int position = arguments.first + group * arguments.states.tokens;
    const int end = min(min(position + arguments.states.tokens, arguments.last), length);
    first_ = begin_ + position;
    valid_ = end - position;
  }

  __device__ __forceinline__ void run() {
    if (valid_ <= 0) return;
    load_tiles();
    block_sync();
    for (int chunk = warp_id(); chunk < chunks(); chunk += warps()) fill_table(chunk);
    if constexpr (kChannel) exponentiate_decays();
    block_sync();
    load_states();
    for (int chunk = 0; chunk < chunks(); ++chunk) read_along_time(chunk);
    load_state_grads();
    for (int chunk = chunks() - 1; chunk >= 0; --chunk) write_against_time(chunk);
    if constexpr (!kChannel) {
      if (arguments_.decay_grad != nullptr) sum_decay_grad();
    }
  }

 private:
  static constexpr bool kChannel = kDecay == DeltaDecay::kChannel;
  static constexpr int kValueSteps = kValue / 16;
  static constexpr int kValueLd = gradient_value_ld(kValue);

  // ---- what lies where ----

  template <typename Element>
  __device__ __forceinline__ Element* at(int offset) const {
    return reinterpret_cast<Element*>(shared_ + offset);
  }
  __device__ __forceinline__ static int warps() { return static_cast<int>(blockDim.x) / kWarpSize; }
  __device__ __forceinline__ int chunks() const { return (valid_ + kDeltaChunk - 1) / kDeltaChunk; }
  __device__ __forceinline__ int key_columns() const { return arguments_.key.columns; }
  __device__ __forceinline__ int value_columns() const { return arguments_.output_grad.columns; }
  __device__ __forceinline__ int first_channel() const {
    return key_block_ * warps() * kDeltaChannelsPerWarp;
  }
  __device__ __forceinline__ int own_channel() const {
    return first_channel() + warp_id() * kDeltaChannelsPerWarp;
  }
  __device__ __forceinline__ int block_columns() const {
    return max(0, min(key_columns() - first_channel(), warps() * kDeltaChannelsPerWarp));
  }
  __device__ __forceinline__ int batch() const {
    return arguments_.cu_seqlens == nullptr ? sequence_ : 0;
  }
  __device__ __forceinline__ int key_head() const { return head_ / arguments_.group; }
  __device__ __forceinline__ std::int64_t token_index(int row) const {
    return (static_cast<std::int64_t>(batch()) * arguments_.time + first_ + row) *
               arguments_.value_heads +
           head_;
  }
  __device__ __forceinline__ DeltaGradientTable& table(int chunk) const {
    return at<DeltaGradientTable>(arguments_.layout.tables)[chunk];
  }
  /// Rows of a chunk: the warp's key channels, all value channels.
  __device__ __forceinline__ T* key_rows(int offset, int chunk) const {
    return at<T>(offset) + chunk * kDeltaChunk * arguments_.layout.key_ld +
           warp_id() * kDeltaChannelsPerWarp;
  }
  __device__ __forceinline__ T* value_rows(int offset, int chunk) const {
    return at<T>(offset) + chunk * kDeltaChunk * kValueLd;
  }
  /// Float tiles of the warp, (tokens, key channels).
  __device__ __forceinline__ float* tile(int which) const {
    return at<float>(arguments_.layout.tiles) + (2 * warp_id() + which) * 16 * kGradientTileLd;
  }
  __device__ __forceinline__ T* scratch(int which) const {
    return at<T>(arguments_.layout.scratch) + (2 * warp_id() + which) * 16 * kGradientScratchLd;
  }
  __device__ __forceinline__ float* row_sums(int warp) const {
    return at<float>(arguments_.layout.row_sums) + warp * arguments_.states.tokens;
  }
  __device__ __forceinline__ float* pairings() const { return row_sums(warps() + 1); }

  // ---- tiles and tables ----

  __device__ void load_tiles() const {
    const DeltaGradientLayout& layout = arguments_.layout;
    // Rows past the last token of the last chunk are never read.
    const int rows = chunks() * kDeltaChunk;
    const int value_tiles[3] = {layout.output_grad, layout.errors, layout.residual_grad};
#pragma unroll 1
    for (int which = 0; which < 5; ++which) {
      const bool is_key = which < 2;
      const TokenOperand& operand = which == 0   ? arguments_.query
                                    : which == 1 ? arguments_.key
                                    : which == 2 ? arguments_.output_grad
                                    : which == 3 ? arguments_.errors
                                                 : arguments_.residual_grad;
      T* destination = at<T>(which == 0   ? layout.query
                             : which == 1 ? layout.key
                                          : value_tiles[which - 2]);
      const int ld = is_key ? layout.key_ld : kValueLd;
      const int columns = is_key ? block_columns() : value_columns();
      clear_columns(destination, rows, ld, columns);
      load_rows(destination, ld, operand,
                operand.offset(batch(), first_, is_key ? key_head() : head_) +
                    (is_key ? first_channel() : 0),
                operand.time_stride, rows, valid_, columns);
    }
    if constexpr (kChannel) {
      for (int row = warp_id(); row < rows; row += warps()) {
        for (int column = lane_id(); column < layout.decay_ld; column += kWarpSize) {
          at<float>(layout.decay)[row * layout.decay_ld + column] =
              row < valid_ && column < block_columns()
                  ? arguments_.decay.at(batch(), first_ + row, head_)[first_channel() + column]
                  : 0.0f;
        }
      }
    }
    commit_async();
    wait_async<0>();
  }

  __device__ __forceinline__ void exponentiate_decays() const {
    const int count = chunks() * kDeltaChunk * arguments_.layout.decay_ld;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      float& element = at<float>(arguments_.layout.decay)[i];
      element = expf(element);
    }
  }

  /// The norms of a chunk's rows over all their channels, by one warp.
  __device__ __forceinline__ void fill_norms(int chunk) const {
    DeltaGradientTable& entry = table(chunk);
#pragma unroll 1
    for (int i = 0; i < 2 * kDeltaChunk; ++i) {
      const bool is_key = i % 2 != 0;
      const int row = chunk * kDeltaChunk + i / 2;
      float norm = 1.0f;
      if (arguments_.l2norm && row < valid_) {
        norm = 1.0f / sqrtf(sum_of_squares(is_key ? arguments_.key : arguments_.query, row) +
                            arguments_.l2norm_eps);
      }
      if (lane_id() == 0) (is_key ? entry.key_norm : entry.query_norm)[i / 2] = norm;
    }
    warp_sync();
  }
  __device__ __forceinline__ float sum_of_squares(const TokenOperand& operand, int row) const {
    using Narrow = std::conditional_t<std::is_same_v<T, float>, __half, T>;
    const std::int64_t start = operand.offset(batch(), first_ + row, key_head());
    float sum = 0.0f;
    for (int column = lane_id(); column < key_columns(); column += kWarpSize) {
      const float x = load_element<Narrow>(operand.data, start + column, operand.is_float);
      sum = fmaf(x, x, sum);
    }
    return warp_sum(sum);
  }

  /// One warp makes the table of a chunk.
  __device__ __forceinline__ void fill_table(int chunk) const {
    fill_norms(chunk);
    DeltaGradientTable& entry = table(chunk);
    const int lane = lane_id() % kDeltaChunk;
    const int row = chunk * kDeltaChunk + lane;
    const bool inside = row < valid_;
    const int token = first_ + row;
    const float beta = inside ? arguments_.beta.at(batch(), token, head_) : 0.0f;
    double decay = 1.0;
    if (!kChannel && inside && arguments_.decay.form != DecayForm::kNone) {
      decay = exp(static_cast<double>(*arguments_.decay.at(batch(), token, head_)));
    }
    float prefix = 1.0f, suffix = 1.0f;
    if constexpr (!kChannel) {
      const BlockProducts products = multiply_block(decay, [&](int i, float weight) {
        if (lane_id() < kDeltaChunk) entry.pairs[i][lane] = weight;
      });
      prefix = static_cast<float>(products.prefix);
      suffix = static_cast<float>(products.suffix);
      if (lane_id() == kDeltaChunk - 1) entry.decay = prefix;
    }
    if (lane_id() < kDeltaChunk) {
      entry.beta[lane] = beta;
      entry.read_query[lane] = arguments_.scale * prefix;
      entry.minus_read_key[lane] = -prefix;
      entry.write[lane] = suffix * beta;
      entry.state_key[lane] = suffix * beta * entry.key_norm[lane];
      entry.state_query[lane] = arguments_.scale * prefix * entry.query_norm[lane];
      entry.minus_state_key[lane] = -prefix * entry.key_norm[lane];
    }
    warp_sync();
    const DeltaGradientLayout& layout = arguments_.layout;
    const T* errors = value_rows(layout.errors, chunk);
    AccumulatorPair output_products, residual_products;
    multiply_rows<T, kValue>(output_products, value_rows(layout.output_grad, chunk), errors,
                             kValueLd);
    multiply_rows<T, kValue>(residual_products, value_rows(layout.residual_grad, chunk), errors,
                             kValueLd);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = Accumulator::row(e);
        const int j = pair_column(side, e);
        const float weight = entry.beta[j] * (kChannel ? 1.0f : entry.pairs[i][j]);
        entry.pairs[i][j] = j <= i ? arguments_.scale * weight * output_products[side].x[e] : 0.0f;
        entry.systems[i][j] = j < i ? -weight * residual_products[side].x[e] : 0.0f;
      }
    }
  }

  // ---- the state's rows ----

  /// Calls visit(elements, value) for the lane's elements of the warp's rows of a snapshot, eight
  /// at a time.
  template <typename Visit>
  __device__ __forceinline__ void for_each_tile(const DeltaSnapshots& snapshots, Visit visit) {
    const std::int64_t slot = snapshots.slot(sequence_, begin_, group_);
    const T* snapshot = static_cast<const T*>(snapshots.data) +
                        (slot * arguments_.value_heads + head_) *
                            DeltaSnapshots::elements(key_columns(), value_columns());
    const int key_tile = key_block_ * warps() + warp_id();
    const bool inside = key_tile < DeltaSnapshots::tiles(key_columns());
#pragma unroll
    for (int step = 0; step < kValueSteps; ++step) {
      float values[8] = {};
      if (inside && step < DeltaSnapshots::tiles(value_columns())) {
        read_eight(values, DeltaSnapshots::tile(snapshot, key_columns(), step, key_tile));
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) visit(state_[2 * step + e / 4].x[e % 4], values[e], e % 4);
    }
  }

  __device__ __forceinline__ void load_states() {
    for_each_tile(arguments_.states, [](float& element, float value, int) { element = value; });
  }

  /// Replaces S after the group by dS, and keeps <S, dS> by key channel.
  __device__ __forceinline__ void load_state_grads() {
    float sums[2] = {0.0f, 0.0f};
    for_each_tile(arguments_.state_grads, [&](float& element, float grad, int e) {
      sums[e / 2] = fmaf(element, grad, sums[e / 2]);
      element = grad;
    });
    const float low = warp_sum(sums[0], 4);
    const float high = warp_sum(sums[1], 4);
    // Lanes l and l + 16 take channel l.
    const int source_lane = 4 * (lane_id() % 8);
    const float own_low = shuffle_idx(low, source_lane);
    const float own_high = shuffle_idx(high, source_lane);
    pairing_ = lane_id() % 16 < 8 ? own_low : own_high;
    if constexpr (!kChannel) {
      const float sum = warp_sum(pairing_, 16);
      if (lane_id() == 0) pairings()[warp_id()] = sum;
    }
  }

  /// State B^T for the 16 rows of a tile.
  __device__ __forceinline__ AccumulatorPair read_state(const T* rows) const {
    AccumulatorPair products;
#pragma unroll
    for (int step = 0; step < kValueSteps; ++step) {
      const FragmentA<T> state = to_a<T>(state_[2 * step], state_[2 * step + 1]);
      mma_pair(products, state, load_b_pair(rows + 16 * step, kValueLd));
    }
    return products;
  }

  /// State = D state + sum of keys[n] rows[n], D by accumulator row.
  template <int kTerms>
  __device__ __forceinline__ void update_state(const FragmentA<T> (&keys)[kTerms],
                                               const T* const (&rows)[kTerms],
                                               const float (&decay)[2]) {
#pragma unroll
    for (int step = 0; step < kValueSteps; ++step) {
      AccumulatorPair sum;
#pragma unroll
      for (int term = 0; term < kTerms; ++term) {
        mma_pair(sum, keys[term], load_b_trans_pair(rows[term] + 16 * step, kValueLd));
      }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        Accumulator& state = state_[2 * step + side];
#pragma unroll
        for (int e = 0; e < 4; ++e) state.x[e] = fmaf(decay[e / 2], state.x[e], sum[side].x[e]);
      }
    }
  }

  // ---- along time ----

  __device__ __forceinline__ void read_along_time(int chunk) {
    const DeltaGradientLayout& layout = arguments_.layout;
    const DeltaGradientTable& entry = table(chunk);
    const T* key = key_rows(layout.key, chunk);
    AccumulatorPair query_grad = read_state(value_rows(layout.output_grad, chunk));
    AccumulatorPair key_grad = read_state(value_rows(layout.residual_grad, chunk));
    scale_tokens(query_grad, entry.read_query);
    scale_tokens(key_grad, entry.minus_read_key);
    FragmentA<T> written[1];
    float decay[2] = {entry.decay, entry.decay};
    if constexpr (kChannel) {
      store_accumulator_trans_pair(tile(0), kGradientTileLd, query_grad.left, query_grad.right);
      store_accumulator_trans_pair(tile(1), kGradientTileLd, key_grad.left, key_grad.right);
      warp_sync();
      const float product = read_channel(chunk, key);
      warp_sync();
      written[0] = load_a_trans(scratch(0), kGradientScratchLd);
      spread(decay, product);
    } else {
      written[0] = load_a_trans(key, layout.key_ld);
      add_pairs<false>(query_grad, written[0], entry.pairs, entry.key_norm);
      add_pairs<false>(key_grad, written[0], entry.systems, entry.key_norm);
      scale_columns(written[0], entry.state_key);
      store_accumulator_trans_pair(tile(0), kGradientTileLd, query_grad.left, query_grad.right);
      store_accumulator_trans_pair(tile(1), kGradientTileLd, key_grad.left, key_grad.right);
      warp_sync();
    }
    const T* const errors[1] = {value_rows(layout.errors, chunk)};
    update_state(written, errors, decay);
    emit_along_time(chunk);
    warp_sync();
  }

  /// Adds the pairs of the chunk to both tiles by running products, a lane having one channel and
  /// half the keys; leaves b beta k in scratch and returns D.
  __device__ __forceinline__ float read_channel(int chunk, const T* key) const {
    const DeltaGradientLayout& layout = arguments_.layout;
    const DeltaGradientTable& entry = table(chunk);
    const int channel = lane_id() % 16;
    const int first_key = lane_id() / 16 * 8;
    const float* decay = channel_decay(chunk) + channel;
    float product = 1.0f;
    float weighted[8] = {};
#pragma unroll 2
    for (int i = 0; i < kDeltaChunk; ++i) {
      const float d = decay[i * layout.decay_ld];
      product *= d;
      const float own = entry.key_norm[i] * to_float(key[i * layout.key_ld + channel]);
      float query_sum = 0.0f, key_sum = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        weighted[j] = first_key + j == i ? own : weighted[j] * d;
        query_sum = fmaf(entry.pairs[i][first_key + j], weighted[j], query_sum);
        key_sum = fmaf(entry.systems[i][first_key + j], weighted[j], key_sum);
      }
      query_sum += shuffle_xor(query_sum, 16);
      key_sum += shuffle_xor(key_sum, 16);
      if (lane_id() < 16) {
        float& query_grad = tile(0)[i * kGradientTileLd + channel];
        float& key_grad = tile(1)[i * kGradientTileLd + channel];
        query_grad = fmaf(product, query_grad, query_sum);
        key_grad = fmaf(product, key_grad, key_sum);
      }
    }
    // `weighted` is now each key with the decays after it.
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      scratch(0)[(first_key + j) * kGradientScratchLd + channel] =
          from_float<T>(entry.beta[first_key + j] * weighted[j]);
    }
    return product;
  }

  __device__ __forceinline__ void emit_along_time(int chunk) const {
    const Row own = row_of(chunk);
    float query_grad[8], key_grad[8];
    read_tile(query_grad, 0);
    read_tile(key_grad, 1);
    float energies[8];
    products_with_tiles(energies, chunk, query_grad, key_grad);
    if (own.inside) {
      store_floats(arguments_.query_grad, own, query_grad);
      store_floats(arguments_.key_grad, own, key_grad);
    }
    if (arguments_.decay_grad == nullptr) return;
    if constexpr (kChannel) {
      if (own.inside) store_floats(arguments_.decay_grad, own, energies);
    } else {
      const float sum = sum_of_row(energies);
      if (lane_id() % 2 == 0) row_sums(warp_id())[own.row] = sum;
    }
  }

  // ---- against time ----

  __device__ __forceinline__ void write_against_time(int chunk) {
    const DeltaGradientLayout& layout = arguments_.layout;
    const DeltaGradientTable& entry = table(chunk);
    const T* query = key_rows(layout.query, chunk);
    const T* key = key_rows(layout.key, chunk);
    AccumulatorPair key_grad = read_state(value_rows(layout.errors, chunk));
    scale_tokens(key_grad, entry.write);
    FragmentA<T> terms[2];
    float decay[2] = {entry.decay, entry.decay};
    if constexpr (kChannel) {
      store_accumulator_trans_pair(tile(0), kGradientTileLd, key_grad.left, key_grad.right);
      warp_sync();
      const float product = write_channel(chunk, query, key);
      warp_sync();
      terms[0] = load_a_trans(scratch(0), kGradientScratchLd);
      terms[1] = load_a_trans(scratch(1), kGradientScratchLd);
      spread(decay, product);
    } else {
      terms[0] = load_a_trans(query, layout.key_ld);
      terms[1] = load_a_trans(key, layout.key_ld);
      add_pairs<true>(key_grad, terms[0], entry.pairs, entry.query_norm);
      add_pairs<true>(key_grad, terms[1], entry.systems, entry.key_norm);
      scale_columns(terms[0], entry.state_query);
      scale_columns(terms[1], entry.minus_state_key);
      store_accumulator_trans_pair(tile(0), kGradientTileLd, key_grad.left, key_grad.right);
      warp_sync();
    }
    const T* const rows[2] = {value_rows(layout.output_grad, chunk),
                              value_rows(layout.residual_grad, chunk)};
    update_state(terms, rows, decay);
    emit_against_time(chunk);
    warp_sync();
  }

  /// The same as read_channel for the written key: leaves scale a q and -a k in scratch.
  __device__ __forceinline__ float write_channel(int chunk, const T* query, const T* key) const {
    const DeltaGradientLayout& layout = arguments_.layout;
    const DeltaGradientTable& entry = table(chunk);
    const int channel = lane_id() % 16;
    const int first_row = lane_id() / 16 * 8;
    const float* decay = channel_decay(chunk) + channel;
    float suffix = 1.0f;
    float queries[8] = {}, keys[8] = {};
#pragma unroll 2
    for (int j = kDeltaChunk - 1; j >= 0; --j) {
      const float own_query = entry.query_norm[j] * to_float(query[j * layout.key_ld + channel]);
      const float own_key = entry.key_norm[j] * to_float(key[j * layout.key_ld + channel]);
      const float d = j + 1 < kDeltaChunk ? decay[(j + 1) * layout.decay_ld] : 1.0f;
      suffix *= d;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const bool is_own = first_row + i == j;
        queries[i] = is_own ? own_query : queries[i] * d;
        keys[i] = is_own ? own_key : keys[i] * d;
        sum = fmaf(entry.pairs[first_row + i][j], queries[i], sum);
        sum = fmaf(entry.systems[first_row + i][j], keys[i], sum);
      }
      sum += shuffle_xor(sum, 16);
      if (lane_id() < 16) {
        float& key_grad = tile(0)[j * kGradientTileLd + channel];
        key_grad = fmaf(suffix, key_grad, sum);
      }
    }
    // One decay more, the first token's own, makes of W_i0 the a of row i.
    const float first = decay[0];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      scratch(0)[(first_row + i) * kGradientScratchLd + channel] =
          from_float<T>(arguments_.scale * first * queries[i]);
      scratch(1)[(first_row + i) * kGradientScratchLd + channel] = from_float<T>(-first * keys[i]);
    }
    return first * suffix;
  }

  __device__ __forceinline__ void emit_against_time(int chunk) {
    const Row own = row_of(chunk);
    float key_grad[8], energies[8];
    read_tile(key_grad, 0);
    const float zeros[8] = {};
    products_with_tiles(energies, chunk, zeros, key_grad);
    if (own.inside) {
      float before[8];
      load_floats(before, arguments_.key_grad, own);
#pragma unroll
      for (int c = 0; c < 8; ++c) key_grad[c] += before[c];
      store_floats(arguments_.key_grad, own, key_grad);
    }
    if (arguments_.decay_grad == nullptr) return;
    if constexpr (kChannel) {
      float before[8] = {};
      if (own.inside) load_floats(before, arguments_.decay_grad, own);
      float* line = tile(1) + lane_id() / 2 * kGradientTileLd + 8 * (lane_id() % 2);
#pragma unroll
      for (int c = 0; c < 8; ++c) line[c] = before[c] - energies[c];
      warp_sync();
      // The suffix sum over tokens, one lane a channel.
      const int channel = lane_id();
      if (channel < kDeltaChannelsPerWarp && own_channel() + channel < key_columns()) {
        const float* decay = channel_decay(chunk) + channel;
        for (int j = kDeltaChunk - 1; j >= 0; --j) {
          const int row = chunk * kDeltaChunk + j;
          if (row >= valid_) continue;
          pairing_ += tile(1)[j * kGradientTileLd + channel];
          arguments_.decay_grad[token_index(row) * key_columns() + own_channel() + channel] =
              decay[j * arguments_.layout.decay_ld] == 0.0f ? 0.0f : pairing_;
        }
      }
    } else {
      const float sum = sum_of_row(energies);
      if (lane_id() % 2 == 0) row_sums(warp_id())[own.row] -= sum;
    }
  }

  /// Sums over the warps, in their order, and then over the tokens from the group's end.
  __device__ __forceinline__ void sum_decay_grad() const {
    block_sync();
    float* totals = row_sums(warps());
    for (int row = threadIdx.x; row < valid_; row += blockDim.x) {
      float sum = 0.0f;
      for (int warp = 0; warp < warps(); ++warp) sum += row_sums(warp)[row];
      totals[row] = sum;
    }
    block_sync();
    for (int row = threadIdx.x; row < valid_; row += blockDim.x) {
      float sum = 0.0f;
      for (int warp = 0; warp < warps(); ++warp) sum += pairings()[warp];
      for (int later = valid_ - 1; later >= row; --later) sum += totals[later];
      // The gradient is a multiple of the decay, which a difference of sums cannot see.
      const float decay = expf(*arguments_.decay.at(batch(), first_ + row, head_));
      arguments_.decay_grad[key_block_ * arguments_.decay_grad_stride + token_index(row)] =
          decay == 0.0f ? 0.0f : sum;
    }
  }

  // ---- small parts ----

  __device__ __forceinline__ const float* channel_decay(int chunk) const {
    return at<float>(arguments_.layout.decay) + chunk * kDeltaChunk * arguments_.layout.decay_ld +
           warp_id() * kDeltaChannelsPerWarp;
  }

  /// The decays of accumulator rows from those of lanes 0..15.
  __device__ __forceinline__ static void spread(float (&decay)[2], float product) {
    decay[0] = shuffle_idx(product, lane_id() / 4);
    decay[1] = shuffle_idx(product, lane_id() / 4 + 8);
  }

  __device__ __forceinline__ static void scale_tokens(AccumulatorPair& values,
                                                      const float* factors) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int e = 0; e < 4; ++e) values[side].x[e] *= factors[pair_column(side, e)];
    }
  }

  /// grad^T += (norms x)^T table^T, or with kTranspose (norms x)^T table.
  template <bool kTranspose>
  __device__ __forceinline__ static void add_pairs(AccumulatorPair& grad, const FragmentA<T>& x,
                                                   const float (&pairs)[kDeltaChunk][kDeltaTableLd],
                                                   const float* norms) {
    const WideB<T> b = load_wide_b<T, kTranspose>(&pairs[0][0], kDeltaTableLd, norms);
    mma_pair(grad, x, b.high);
  }

  /// The calling lane's part of a chunk: half the warp's channels of token lane / 2.
  struct Row {
    int row;
    int channel;
    bool inside;
  };
  __device__ __forceinline__ Row row_of(int chunk) const {
    const int row = chunk * kDeltaChunk + lane_id() / 2;
    const int channel = own_channel() + 8 * (lane_id() % 2);
    return {row, channel, row < valid_ && channel < key_columns()};
  }
  __device__ __forceinline__ void read_tile(float (&values)[8], int which) const {
    read_eight(values, tile(which) + lane_id() / 2 * kGradientTileLd + 8 * (lane_id() % 2));
  }
  /// q x + k y of the lane's channels, of normalised q and k.
  __device__ __forceinline__ void products_with_tiles(float (&products)[8], int chunk,
                                                      const float (&x)[8],
                                                      const float (&y)[8]) const {
    const int row = lane_id() / 2;
    const int place = row * arguments_.layout.key_ld + 8 * (lane_id() % 2);
    const T* query = key_rows(arguments_.layout.query, chunk) + place;
    const T* key = key_rows(arguments_.layout.key, chunk) + place;
    const float query_norm = table(chunk).query_norm[row];
    const float key_norm = table(chunk).key_norm[row];
#pragma unroll
    for (int c = 0; c < 8; c += 4) {
      const float4 q = load_four(query + c);
      const float4 k = load_four(key + c);
      products[c] = query_norm * q.x * x[c] + key_norm * k.x * y[c];
      products[c + 1] = query_norm * q.y * x[c + 1] + key_norm * k.y * y[c + 1];
      products[c + 2] = query_norm * q.z * x[c + 2] + key_norm * k.z * y[c + 2];
      products[c + 3] = query_norm * q.w * x[c + 3] + key_norm * k.w * y[c + 3];
    }
  }
  __device__ __forceinline__ static float sum_of_row(const float (&values)[8]) {
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < 8; ++c) sum += values[c];
    return sum + shuffle_xor(sum, 1);
  }
  __device__ __forceinline__ void store_floats(float* data, const Row& row,
                                               const float (&values)[8]) const {
    store_eight(data + token_index(row.row) * key_columns() + row.channel, values,
                key_columns() - row.channel, arguments_.aligned);
  }
  __device__ __forceinline__ void load_floats(float (&values)[8], const float* data,
                                              const Row& row) const {
    const float* source = data + token_index(row.row) * key_columns() + row.channel;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      values[c] = row.channel + c < key_columns() ? source[c] : 0.0f;
    }
  }

  const DeltaGradientArguments& arguments_;
  unsigned char* const shared_;
  const int key_block_;
  const int group_;
  const int head_;
  const int sequence_;
  int begin_;             // first token of the sequence
  int first_;             // of the group
  int valid_;             // tokens of the group
  float pairing_ = 0.0f;  // <S, dS> of channel lane % 16; then the suffix sum
  Accumulator state_[2 * kValueSteps];
};

template <typename T, int kValue, DeltaDecay kDecay>
__global__ void __launch_bounds__(kMaxGradientWarps* kWarpSize, 1)
    delta_gradients_kernel(__grid_constant__ const DeltaGradientArguments arguments) {
  int index = static_cast<int>(blockIdx.x);
  const int key_block = index % arguments.key_blocks;
  index /= arguments.key_blocks;
  const int group = index % arguments.groups;
  index /= arguments.groups;
  DeltaGradients<T, kValue, kDecay>(arguments, key_block, group, index % arguments.value_heads,
                                    index / arguments.value_heads)
      .run();
}

template <typename Call>
auto with_gradient_kernel(DeltaDecay decay, int value_dim, Call call) {
  const auto with_value = [&]<DeltaDecay kDecay>() {
    if (value_dim <= 64) return call.template operator()<64, kDecay>();
    if (value_dim <= 128) return call.template operator()<128, kDecay>();
    return call.template operator()<256, kDecay>();
  };
  return decay == DeltaDecay::kChannel ? with_value.template operator()<DeltaDecay::kChannel>()
                                       : with_value.template operator()<DeltaDecay::kScalar>();
}

/// The longest groups that fit into shared memory: states in memory are fewer and the sums over a
/// group still short.
template <typename T>
DeltaGradientPlan plan_delta_gradients(DeltaDecay decay, int key_dim, int value_dim) {
  return with_gradient_kernel(decay, value_dim, [&]<int kValue, DeltaDecay kDecay>() {
    const int limit = device_limits().shared_bytes_per_block;
    const int tiles = (key_dim + kDeltaChannelsPerWarp - 1) / kDeltaChannelsPerWarp;
    for (int tokens = kMaxGroupChunks * kDeltaChunk;; tokens /= 2) {
      for (int warps = kMaxGradientWarps; warps > 0; warps /= 2) {
        const int blocks = (tiles + warps - 1) / warps;
        const int used = (tiles + blocks - 1) / blocks;
        if (make_gradient_layout<T, kValue, kDecay>(used, tokens).bytes <= limit) {
          return DeltaGradientPlan{tokens, blocks, used};
        }
        // Shorter groups cost less than blocks that repeat each other's work.
        if (warps <= kMaxGradientWarps / 2 && tokens > kDeltaChunk) break;
      }
      if (tokens == kDeltaChunk) {
        throw ArgumentError("v",
                            "value_dim " + std::to_string(kValue) +
                                " with this dtype needs more shared memory than the device's " +
                                std::to_string(limit) + " bytes");
      }
    }
  });
}

template <typename T>
void launch_delta_gradients(DeltaDecay decay, DeltaGradientArguments arguments,
                            cudaStream_t stream) {
  const int value_dim = arguments.output_grad.columns;
  const int key_dim = arguments.key.columns;
  const DeltaGradientPlan plan = plan_delta_gradients<T>(decay, key_dim, value_dim);
  with_gradient_kernel(decay, value_dim, [&]<int kValue, DeltaDecay kDecay>() {
    arguments.layout = make_gradient_layout<T, kValue, kDecay>(plan.warps, plan.group_tokens);
    arguments.key_blocks = plan.key_blocks;
    const int block_columns = std::min(key_dim, plan.warps * kDeltaChannelsPerWarp);
    for (TokenOperand* operand : {&arguments.query, &arguments.key}) {
      operand->unit_shift = unit_shift<T>(*operand, block_columns);
    }
    for (TokenOperand* operand :
         {&arguments.output_grad, &arguments.errors, &arguments.residual_grad}) {
      operand->unit_shift = unit_shift<T>(*operand, value_dim);
    }
    const std::int64_t blocks = std::int64_t{1} * arguments.sequences * arguments.value_heads *
                                arguments.groups * plan.key_blocks;
    launch(delta_gradients_kernel<T, kValue, kDecay>,
           {grid_of(blocks), dim3(plan.warps * kWarpSize),
            static_cast<std::size_t>(arguments.layout.bytes), stream, "delta_rule_gradients"},
           arguments);
  });
}

}  // namespace rankone::cuda
