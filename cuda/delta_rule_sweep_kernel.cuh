// The kernel of the sweeps described in delta_rule_sweep.cuh, and its launch. Included by one
// source file per element type, which instantiates it.
#pragma once

#include <algorithm>

#include "delta_rule_chunk.cuh"
#include "delta_rule_sweep.cuh"
#include "primitives/async_copy.cuh"
#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "state_tiles.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

/// Warps of a block at most: two on each of a multiprocessor's four schedulers.
inline constexpr int kMaxDeltaWarps = 8;
inline constexpr int kMaxDeltaSteps = 2;

template <typename T, int kKey>
struct DeltaSweepShape {
  static constexpr int kKeyLd = kKey + 8;
  static constexpr int kDecayLd = kKey + 4;
  static constexpr int kFloatLd = 20;  // rows of float4
};

template <typename T, int kKey, DeltaDecay kDecay>
DeltaSweepLayout make_delta_layout(int warps, int steps, bool pipelined) {
  using Shape = DeltaSweepShape<T, kKey>;
  constexpr bool kChannel = kDecay == DeltaDecay::kChannel;
  constexpr int kElement = sizeof(T);
  constexpr int kFloat = sizeof(float);
  const int rows = steps * kDeltaChunk;
  const int key_tile = rows * Shape::kKeyLd * kElement;
  DeltaSweepLayout layout{};
  layout.value_ld = warps * kDeltaChannelsPerWarp + 8;
  // Pipelined, three stages are alive at a time: one worked on, one being prepared, one on its way.
  // With channel decays q and k are done with when they are prepared.
  layout.value_slots = pipelined ? 3 : 1;
  layout.slots = pipelined ? (kChannel ? 2 : 3) : 1;
  const int prepared = pipelined ? 2 : 1;
  const auto take = [&layout](int size) {
    const int start = layout.bytes;
    layout.bytes += (size + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
    return start;
  };
  layout.query = take(layout.slots * key_tile);
  layout.key = take(layout.slots * key_tile);
  layout.value = take(layout.value_slots * rows * layout.value_ld * kElement);
  layout.decay = take(kChannel ? layout.slots * rows * Shape::kDecayLd * kFloat : 0);
  layout.decayed_query = take(kChannel ? prepared * key_tile : 0);
  layout.decayed_key = take(kChannel ? prepared * key_tile : 0);
  layout.decayed_key_low = take(kChannel && kElement == 2 ? prepared * key_tile : 0);
  layout.written_key = take(kChannel ? prepared * key_tile : 0);
  layout.key_decay = take(kChannel ? prepared * steps * kKey * kFloat : 0);
  layout.tables = take(prepared * steps * static_cast<int>(sizeof(DeltaChunkTable)));
  layout.output = take(warps * 16 * Shape::kFloatLd * kFloat);
  layout.row_sums = take(prepared * warps * rows * kFloat);
  return layout;
}

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
class DeltaSweep {
 public:
  __device__ __forceinline__ DeltaSweep(const DeltaSweepArguments& arguments, int value_block,
                                        int head, int sequence)
      : arguments_(arguments),
        shared_(shared_memory<DeltaSharedBytes>().bytes),
        value_block_(value_block),
        head_(head),
        sequence_(sequence) {
    const bool packed = arguments.cu_seqlens != nullptr;
    begin_ = packed ? static_cast<int>(arguments.cu_seqlens[sequence]) : 0;
    const int length =
        (packed ? static_cast<int>(arguments.cu_seqlens[sequence + 1]) : arguments.time) - begin_;
    first_ = begin_ + min(arguments.first, length);
    last_ = begin_ + min(arguments.last, length);
    stages_ = (last_ - first_ + rows() - 1) / rows();
  }

  __device__ __forceinline__ void run() {
    load_state();
    clear_padding();
    const bool pipelined = arguments_.pipelined;
    const int lag = pipelined ? 1 : 0;
    if (pipelined && stages_ > 0) {
      start_copies(0);
      commit_async();
    }
    // Turn i works on stage i and prepares stage i + lag; before the first one there is none to
    // work on.
#pragma unroll 1
    for (int i = -lag; i < stages_; ++i) {
      const int prepared = i + lag;
      if (!pipelined) {
        block_sync();  // the only slot is free again
        start_copies(prepared);
        commit_async();
      }
      wait_async<0>();
      block_sync();
      if constexpr (kReversed) flush_beta_grad(i - 1);
      if (pipelined) {
        if (prepared + 1 < stages_) start_copies(prepared + 1);
        commit_async();
      }
      if (prepared < stages_) prepare(prepared);
      if (!pipelined) block_sync();
      if (i >= 0) work(i);
    }
    block_sync();
    if constexpr (kReversed) flush_beta_grad(stages_ - 1);
    store_state();
  }

 private:
  using Shape = DeltaSweepShape<T, kKey>;
  static constexpr bool kChannel = kDecay == DeltaDecay::kChannel;
  static constexpr bool kHalf = std::is_same_v<T, __half>;
  static constexpr int kKeySteps = kKey / 16;

  // ---- what lies where ----

  template <typename Element>
  __device__ __forceinline__ Element* at(int offset) const {
    return reinterpret_cast<Element*>(shared_ + offset);
  }
  __device__ __forceinline__ static int warps() { return static_cast<int>(blockDim.x) / kWarpSize; }
  __device__ __forceinline__ int rows() const { return arguments_.steps * kDeltaChunk; }
  __device__ __forceinline__ int key_slot(int i) const { return i % arguments_.layout.slots; }
  __device__ __forceinline__ int table_slot(int i) const {
    return arguments_.pipelined ? i & 1 : 0;
  }
  __device__ __forceinline__ T* query_tile(int i) const {
    return at<T>(arguments_.layout.query) + key_slot(i) * rows() * Shape::kKeyLd;
  }
  __device__ __forceinline__ T* key_tile(int i) const {
    return at<T>(arguments_.layout.key) + key_slot(i) * rows() * Shape::kKeyLd;
  }
  __device__ __forceinline__ T* value_tile(int i) const {
    return at<T>(arguments_.layout.value) +
           i % arguments_.layout.value_slots * rows() * arguments_.layout.value_ld;
  }
  __device__ __forceinline__ float* decay_tile(int i) const {
    return at<float>(arguments_.layout.decay) + key_slot(i) * rows() * Shape::kDecayLd;
  }
  __device__ __forceinline__ T* prepared_tile(int offset, int i) const {
    return at<T>(offset) + table_slot(i) * rows() * Shape::kKeyLd;
  }
  __device__ __forceinline__ float* key_decay(int i, int step) const {
    return at<float>(arguments_.layout.key_decay) +
           (table_slot(i) * arguments_.steps + step) * kKey;
  }
  __device__ __forceinline__ DeltaChunkTable& table(int i, int step) const {
    return at<DeltaChunkTable>(arguments_.layout.tables)[table_slot(i) * arguments_.steps + step];
  }
  __device__ __forceinline__ float* output_tile() const {
    return at<float>(arguments_.layout.output) + warp_id() * 16 * Shape::kFloatLd;
  }
  __device__ __forceinline__ float* row_sums(int i) const {
    return at<float>(arguments_.layout.row_sums) + table_slot(i) * warps() * rows();
  }

  __device__ __forceinline__ int batch() const {
    return arguments_.cu_seqlens == nullptr ? sequence_ : 0;
  }
  __device__ __forceinline__ int key_head() const { return head_ / arguments_.group; }
  __device__ __forceinline__ std::int64_t token_index(int token) const {
    return (static_cast<std::int64_t>(batch()) * arguments_.time + token) * arguments_.value_heads +
           head_;
  }
  __device__ __forceinline__ int key_columns() const { return arguments_.key.columns; }
  __device__ __forceinline__ int value_columns() const { return arguments_.value.columns; }
  __device__ __forceinline__ int first_channel() const {
    return value_block_ * warps() * kDeltaChannelsPerWarp;
  }
  __device__ __forceinline__ int block_columns() const {
    return max(0, min(value_columns() - first_channel(), warps() * kDeltaChannelsPerWarp));
  }
  __device__ __forceinline__ bool reads() const { return arguments_.query.data != nullptr; }
  /// First token of the i-th stage worked on; its rows run along time in both directions.
  __device__ __forceinline__ int first_of(int i) const {
    return first_ + (kReversed ? stages_ - 1 - i : i) * rows();
  }
  __device__ __forceinline__ int valid_rows(int i) const {
    return min(last_ - first_of(i), rows());
  }

  // ---- copies into shared memory ----

  /// Columns no copy writes, so that they count as zeros for ever.
  __device__ void clear_padding() const {
    const DeltaSweepLayout& layout = arguments_.layout;
    clear_columns(at<T>(layout.query), layout.slots * rows(), Shape::kKeyLd,
                  reads() ? key_columns() : 0);
    clear_columns(at<T>(layout.key), layout.slots * rows(), Shape::kKeyLd, key_columns());
    clear_columns(at<T>(layout.value), layout.value_slots * rows(), layout.value_ld,
                  block_columns());
    if constexpr (kChannel) {
      clear_columns(at<float>(layout.decay), layout.slots * rows(), Shape::kDecayLd, key_columns());
    }
  }

  __device__ __forceinline__ void start_copies(int i) const {
    // One loop body for the three operands: the code of a copy is long, its time is not.
#pragma unroll 1
    for (int which = 0; which < 3; ++which) {
      const TokenOperand& operand = which == 0   ? arguments_.query
                                    : which == 1 ? arguments_.key
                                                 : arguments_.value;
      if (operand.data == nullptr) continue;
      const bool is_value = which == 2;
      const std::int64_t start =
          operand.offset(batch(), first_of(i), is_value ? head_ : key_head()) +
          (is_value ? first_channel() : 0);
      load_rows(which == 0   ? query_tile(i)
                : which == 1 ? key_tile(i)
                             : value_tile(i),
                is_value ? arguments_.layout.value_ld : Shape::kKeyLd, operand, start,
                operand.time_stride, rows(), valid_rows(i),
                is_value ? block_columns() : key_columns());
    }
    if constexpr (kChannel) {
      const TokenOperand& operand = arguments_.channel_decay;
      load_rows(decay_tile(i), Shape::kDecayLd, operand,
                operand.offset(batch(), first_of(i), head_), operand.time_stride, rows(),
                valid_rows(i), key_columns());
    }
  }

  /// Turns the log-decays of stage i into decays; past its end they are zeros.
  __device__ __forceinline__ void exponentiate_decays(int i) const {
    float* tile = decay_tile(i);
    for (int row = warp_id(); row < rows(); row += warps()) {
      for (int column = lane_id(); column < key_columns(); column += kWarpSize) {
        float& element = tile[row * Shape::kDecayLd + column];
        element = expf(element);
      }
    }
  }

  // ---- tables and decayed tiles ----

  /// Everything about stage i that does not need the state. For scalar decays a warp makes a whole
  /// table; channel decays are more work, which all warps share.
  __device__ __forceinline__ void prepare(int i) {
    if constexpr (kChannel) {
      exponentiate_decays(i);
      for (int step = warp_id(); step < arguments_.steps; step += warps()) {
        fill_factors(i, step);
      }
      block_sync();
      weigh_pairs(i);
      decay_tiles(i);
      block_sync();
    }
    // Another warp every time, so that all have the same share.
    for (int step = 0; step < arguments_.steps; ++step) {
      if ((i * arguments_.steps + step) % warps() != warp_id()) continue;
      if constexpr (!kChannel) {
        fill_factors(i, step);
        warp_sync();
        weigh_products(i, step);
        warp_sync();
      }
      invert_unit_lower(table(i, step).inverse);
    }
  }

  /// The factors of a chunk's rows; for a scalar decay W goes to `inverse`.
  __device__ __forceinline__ void fill_factors(int i, int step) const {
    DeltaChunkTable& chunk = table(i, step);
    const int lane = lane_id() % kDeltaChunk;
    const int row = step * kDeltaChunk + lane;
    const bool inside = row < valid_rows(i);
    const int token = first_of(i) + row;
    const float beta = inside ? arguments_.beta.at(batch(), token, head_) : 0.0f;
    if (arguments_.l2norm) {
      const int start = step * kDeltaChunk * Shape::kKeyLd;
      normalise_rows(chunk.query_norm, query_tile(i) + start, Shape::kKeyLd, kKey,
                     arguments_.l2norm_eps);
      normalise_rows(chunk.key_norm, key_tile(i) + start, Shape::kKeyLd, kKey,
                     arguments_.l2norm_eps);
      warp_sync();
    } else if (lane_id() < kDeltaChunk) {
      chunk.query_norm[lane] = 1.0f;
      chunk.key_norm[lane] = 1.0f;
    }
    double decay = 1.0;
    if (!kChannel && inside && arguments_.decay.form != DecayForm::kNone) {
      decay = exp(static_cast<double>(*arguments_.decay.at(batch(), token, head_)));
    }
    float prefix = 1.0f, suffix = 1.0f;
    if constexpr (!kChannel) {
      const BlockProducts products = multiply_block(decay, [&](int row, float weight) {
        if (lane_id() < kDeltaChunk) chunk.inverse[row][lane] = weight;
      });
      prefix = static_cast<float>(products.prefix);
      suffix = static_cast<float>(products.suffix);
      if (lane_id() == kDeltaChunk - 1) chunk.decay = prefix;
    }
    if (lane_id() < kDeltaChunk) {
      chunk.beta[lane] = beta;
      chunk.read_query[lane] =
          arguments_.scale * (kChannel ? 1.0f : chunk.query_norm[lane] * prefix);
      chunk.read_key[lane] = kChannel ? 1.0f : chunk.key_norm[lane] * prefix;
      chunk.write_key[lane] = kChannel ? 1.0f : chunk.key_norm[lane] * suffix;
    }
  }

  /// The element of I + M diag(beta) or I + diag(beta) M.
  __device__ __forceinline__ static float system(const DeltaChunkTable& chunk, int row, int column,
                                                 float product) {
    return column < row ? product * chunk.beta[kReversed ? row : column] : 0.0f;
  }

  /// P and the matrix to invert, for a scalar decay, whose W is in `inverse`.
  __device__ __forceinline__ void weigh_products(int i, int step) const {
    DeltaChunkTable& chunk = table(i, step);
    const T* query = query_tile(i) + step * kDeltaChunk * Shape::kKeyLd;
    const T* key = key_tile(i) + step * kDeltaChunk * Shape::kKeyLd;
    AccumulatorPair query_key, key_key;
    if (reads()) multiply_rows<T, kKey>(query_key, query, key, Shape::kKeyLd);
    multiply_rows<T, kKey>(key_key, key, key, Shape::kKeyLd);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = Accumulator::row(e);
        const int column = pair_column(side, e);
        const float weight = chunk.inverse[row][column] * chunk.key_norm[column];
        chunk.pairs[row][column] =
            arguments_.scale * chunk.query_norm[row] * weight * query_key[side].x[e];
        chunk.inverse[row][column] =
            system(chunk, row, column, chunk.key_norm[row] * weight * key_key[side].x[e]);
      }
    }
  }

  /// P and the matrix to invert by the running product over the chunk's rows, for every key and
  /// channel. A job is four keys of a chunk; eight lanes share a key, each with every eighth group
  /// of four channels.
  __device__ __forceinline__ void weigh_pairs(int i) const {
    constexpr int kKeysPerJob = 4;
    constexpr int kJobs = kDeltaChunk / kKeysPerJob;
    constexpr int kLanesPerKey = kWarpSize / kKeysPerJob;
    const int part = lane_id() % kLanesPerKey;
    for (int job = warp_id(); job < arguments_.steps * kJobs; job += warps()) {
      const int start = job / kJobs * kDeltaChunk;
      const int first_key = job % kJobs * kKeysPerJob;
      const int own = first_key + lane_id() / kLanesPerKey;
      const T* query = query_tile(i) + start * Shape::kKeyLd;
      const T* key = key_tile(i) + start * Shape::kKeyLd;
      const float* decay = decay_tile(i) + start * Shape::kDecayLd;
      float query_sums[kDeltaChunk] = {}, key_sums[kDeltaChunk] = {};
      for (int channel = 4 * part; channel < kKey; channel += 4 * kLanesPerKey) {
        const float4 own_key = load_four(key + own * Shape::kKeyLd + channel);
        float4 weighted = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int row = 0; row < kDeltaChunk; ++row) {
          if (row < first_key) continue;
          const float4 d = load_four(decay + row * Shape::kDecayLd + channel);
          const float4 q = load_four(query + row * Shape::kKeyLd + channel);
          const float4 k = load_four(key + row * Shape::kKeyLd + channel);
          const bool is_own = row == own;
          weighted.x = is_own ? own_key.x : weighted.x * d.x;
          weighted.y = is_own ? own_key.y : weighted.y * d.y;
          weighted.z = is_own ? own_key.z : weighted.z * d.z;
          weighted.w = is_own ? own_key.w : weighted.w * d.w;
          query_sums[row] +=
              q.x * weighted.x + q.y * weighted.y + q.z * weighted.z + q.w * weighted.w;
          key_sums[row] +=
              k.x * weighted.x + k.y * weighted.y + k.z * weighted.z + k.w * weighted.w;
        }
      }
      DeltaChunkTable& chunk = table(i, job / kJobs);
#pragma unroll
      for (int row = 0; row < kDeltaChunk; ++row) {
        const float query_sum = warp_sum(query_sums[row], kLanesPerKey);
        const float key_sum = warp_sum(key_sums[row], kLanesPerKey);
        if (part != row % kLanesPerKey) continue;
        const float norm = chunk.key_norm[own];
        chunk.pairs[row][own] =
            row < own ? 0.0f : arguments_.scale * chunk.query_norm[row] * norm * query_sum;
        chunk.inverse[row][own] = system(chunk, row, own, chunk.key_norm[row] * norm * key_sum);
      }
    }
  }

  /// a q, a k and b k of every chunk, normalised, and D; a thread has one channel of one chunk.
  __device__ __forceinline__ void decay_tiles(int i) const {
    const DeltaSweepLayout& layout = arguments_.layout;
    T* decayed_query = prepared_tile(layout.decayed_query, i);
    T* decayed_key = prepared_tile(layout.decayed_key, i);
    T* decayed_key_low = prepared_tile(layout.decayed_key_low, i);
    T* written_key = prepared_tile(layout.written_key, i);
    for (int job = threadIdx.x; job < arguments_.steps * kKey; job += blockDim.x) {
      const int step = job / kKey;
      const DeltaChunkTable& chunk = table(i, step);
      const float* decay = decay_tile(i) + step * kDeltaChunk * Shape::kDecayLd + job % kKey;
      const int start = step * kDeltaChunk * Shape::kKeyLd + job % kKey;
      float product = 1.0f;
#pragma unroll
      for (int row = 0; row < kDeltaChunk; ++row) {
        const int place = start + row * Shape::kKeyLd;
        product *= decay[row * Shape::kDecayLd];
        decayed_query[place] =
            from_float<T>(to_float(query_tile(i)[place]) * chunk.query_norm[row] * product);
        const float value = to_float(key_tile(i)[place]) * chunk.key_norm[row] * product;
        decayed_key[place] = from_float<T>(value);
        if constexpr (sizeof(T) == 2) {
          decayed_key_low[place] = from_float<T>(value - to_float(decayed_key[place]));
        }
      }
      key_decay(i, step)[job % kKey] = product;
      product = 1.0f;
#pragma unroll
      for (int row = kDeltaChunk - 1; row >= 0; --row) {
        const int place = start + row * Shape::kKeyLd;
        written_key[place] =
            from_float<T>(to_float(key_tile(i)[place]) * chunk.key_norm[row] * product);
        product *= decay[row * Shape::kDecayLd];
      }
    }
  }

  // ---- the state ----

  /// Calls visit(element, place) for the lane's elements, `place` being the one they have in a
  /// (key_dim, value_dim) state.
  template <typename Visit>
  __device__ __forceinline__ void for_each_state(Visit visit) {
    const int first_row = first_channel() + warp_id() * kDeltaChannelsPerWarp;
    int place = first_row + Accumulator::row(0) + Accumulator::col(0) * value_columns();
    int columns_left = key_columns() - Accumulator::col(0);
#pragma unroll
    for (int tile = 0; tile < 2 * kKeySteps; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (e % 2 < columns_left && first_row + Accumulator::row(e) < value_columns()) {
          visit(state_[tile].x[e], place + e % 2 * value_columns() + e / 2 * 8);
        }
      }
      columns_left -= kFragmentCols;
      place += kFragmentCols * value_columns();
    }
  }

  __device__ __forceinline__ std::int64_t state_place() const {
    return (static_cast<std::int64_t>(sequence_) * arguments_.value_heads + head_) * key_columns() *
           value_columns();
  }

  __device__ __forceinline__ void load_state() {
    if (arguments_.initial == nullptr) return;
    const float* source = arguments_.initial + state_place();
    for_each_state([&](float& element, int place) { element = source[place]; });
  }

  __device__ __forceinline__ void store_state() {
    if (arguments_.final == nullptr) return;
    float* destination = arguments_.final + state_place();
    for_each_state([&](float& element, int place) { destination[place] = element; });
  }

  /// The state as a snapshot where the chunk that starts at `token` opens a group, or against time
  /// closes it.
  __device__ __forceinline__ void store_snapshot(int token) {
    const DeltaSnapshots& snapshots = arguments_.snapshots;
    if (snapshots.data == nullptr) return;
    const int position = token - first_;
    const bool due =
        kReversed ? (position + kDeltaChunk) % snapshots.tokens == 0 || token + kDeltaChunk >= last_
                  : position % snapshots.tokens == 0;
    if (!due) return;
    const std::int64_t slot = snapshots.slot(sequence_, begin_, position / snapshots.tokens);
    auto* state = static_cast<DeltaStored<T>*>(snapshots.data) +
                  (slot * arguments_.value_heads + head_) *
                      DeltaSnapshots::elements(key_columns(), value_columns());
    const int value_tile = value_block_ * warps() + warp_id();
    if (value_tile >= DeltaSnapshots::tiles(value_columns())) return;
#pragma unroll
    for (int key_step = 0; key_step < kKeySteps; ++key_step) {
      if (key_step >= DeltaSnapshots::tiles(key_columns())) break;
      store_accumulator_trans_pair(output_tile(), Shape::kFloatLd, state_[2 * key_step],
                                   state_[2 * key_step + 1]);
      warp_sync();
      float turned[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        turned[e] =
            output_tile()[Accumulator::row(e % 4) * Shape::kFloatLd + pair_column(e / 4, e % 4)];
      }
      store_eight(DeltaSnapshots::tile(state, key_columns(), value_tile, key_step), turned, 8,
                  true);
      warp_sync();
    }
  }

  struct Products {
    AccumulatorPair predicted;  // S^T K^T with the state in two operands
    AccumulatorPair read;       // S^T X^T of another tile with the state in one
  };
  template <bool kPredicts>
  __device__ __forceinline__ Products read_state(const T* key, const T* key_low,
                                                 const T* other) const {
    constexpr bool kSplit = kPredicts && !std::is_same_v<T, float>;
    Products products;
    // The small terms on their own make two short chains of one long one, where registers allow.
    AccumulatorPair own_low;
    AccumulatorPair& low = kKey <= 128 ? own_low : products.predicted;
    const BinaryScale scale = operand_scale<T>(state_);
#pragma unroll
    for (int key_step = 0; key_step < kKeySteps; ++key_step) {
      const SplitA<T> state =
          split_a<T>(state_[2 * key_step], state_[2 * key_step + 1], scale.down);
      if constexpr (kPredicts) {
        const FragmentBPair<T> keys = load_b_pair(key + 16 * key_step, Shape::kKeyLd);
        mma_pair(products.predicted, state.high, keys);
        if constexpr (kSplit) mma_pair(low, state.low, keys);
      }
      if constexpr (kSplit && kChannel) {
        mma_pair(low, state.high, load_b_pair(key_low + 16 * key_step, Shape::kKeyLd));
      }
      if (other != nullptr) {
        mma_pair(products.read, state.high, load_b_pair(other + 16 * key_step, Shape::kKeyLd));
      }
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        products.predicted[side].x[e] =
            (products.predicted[side].x[e] + own_low[side].x[e]) * scale.up;
        products.read[side].x[e] *= scale.up;
      }
    }
    return products;
  }

  /// 16 x 16 values rounded to T, in __half with a power of two to multiply the product by.
  struct Rounded {
    FragmentA<T> values;
    float up;
  };
  __device__ __forceinline__ static Rounded round(const AccumulatorPair& values) {
    const Accumulator tiles[2] = {values.left, values.right};
    const BinaryScale scale = operand_scale<T>(tiles);
    return {scaled_to_a<T>(values.left, values.right, scale.down), scale.up};
  }

  /// S^T = D S^T + sum of terms[n] * (rows of tiles[n]). The sum over the tokens starts from zero
  /// and is added with rounding: tensor cores cut off the low bits of a long sum.
  template <int kTerms>
  __device__ __forceinline__ void update_state(const Rounded (&terms)[kTerms],
                                               const T* const (&tiles)[kTerms], float decay,
                                               const float* channel_decay) {
#pragma unroll
    for (int key_step = 0; key_step < kKeySteps; ++key_step) {
      AccumulatorPair sum;
      if constexpr (kHalf && kTerms > 1) {
#pragma unroll
        for (int term = 0; term < kTerms; ++term) {
          AccumulatorPair fresh;
          add_term(fresh, terms[term], tiles[term] + 16 * key_step);
#pragma unroll
          for (int side = 0; side < 2; ++side) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[side].x[e] += terms[term].up * fresh[side].x[e];
          }
        }
      } else {
#pragma unroll
        for (int term = 0; term < kTerms; ++term) {
          add_term(sum, terms[term], tiles[term] + 16 * key_step);
        }
      }
      const float up = kTerms > 1 ? 1.0f : terms[0].up;
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        Accumulator& state = state_[2 * key_step + side];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float factor =
              kChannel ? channel_decay[16 * key_step + pair_column(side, e)] : decay;
          state.x[e] = fmaf(factor, state.x[e], up * sum[side].x[e]);
        }
      }
    }
  }

  __device__ __forceinline__ static void add_term(AccumulatorPair& sum, const Rounded& term,
                                                  const T* tile) {
    mma_pair(sum, term.values, load_b_trans_pair(tile, Shape::kKeyLd));
  }

  // ---- a stage ----

  __device__ __forceinline__ void work(int i) {
    const int chunks = (valid_rows(i) + kDeltaChunk - 1) / kDeltaChunk;
#pragma unroll 1
    for (int n = 0; n < chunks; ++n) {
      const int step = kReversed ? chunks - 1 - n : n;
      store_snapshot(first_of(i) + step * kDeltaChunk);
      if constexpr (kReversed) {
        work_against_time(i, step);
      } else {
        work_along_time(i, step);
      }
    }
  }

  // Rows of one chunk: raw where the decay is a row factor, else decayed.
  __device__ __forceinline__ const T* read_query_rows(int i, int step) const {
    return chunk_rows(kChannel ? prepared_tile(arguments_.layout.decayed_query, i) : query_tile(i),
                      step);
  }
  __device__ __forceinline__ const T* read_key_rows(int i, int step) const {
    return chunk_rows(kChannel ? prepared_tile(arguments_.layout.decayed_key, i) : key_tile(i),
                      step);
  }
  __device__ __forceinline__ const T* read_key_low_rows(int i, int step) const {
    return chunk_rows(prepared_tile(arguments_.layout.decayed_key_low, i), step);
  }
  __device__ __forceinline__ const T* written_key_rows(int i, int step) const {
    return chunk_rows(kChannel ? prepared_tile(arguments_.layout.written_key, i) : key_tile(i),
                      step);
  }
  __device__ __forceinline__ static const T* chunk_rows(const T* tile, int step) {
    return tile + step * kDeltaChunk * Shape::kKeyLd;
  }
  /// The warp's channels.
  __device__ __forceinline__ FragmentA<T> load_values(int i, int step) const {
    const int ld = arguments_.layout.value_ld;
    return load_a_trans(value_tile(i) + step * kDeltaChunk * ld + warp_id() * kDeltaChannelsPerWarp,
                        ld);
  }

  /// factors[token] * values, a token being a column.
  __device__ __forceinline__ static AccumulatorPair scaled(const AccumulatorPair& values,
                                                           const float* factors,
                                                           float sign = 1.0f) {
    AccumulatorPair result;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        result[side].x[e] = sign * factors[pair_column(side, e)] * values[side].x[e];
      }
    }
    return result;
  }

  __device__ __forceinline__ void work_along_time(int i, int step) {
    const DeltaChunkTable& chunk = table(i, step);
    const Products products = read_state<true>(read_key_rows(i, step), read_key_low_rows(i, step),
                                               reads() ? read_query_rows(i, step) : nullptr);
    AccumulatorPair residual = unpack_a<T>(load_values(i, step));
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        residual[side].x[e] = fmaf(-chunk.read_key[pair_column(side, e)],
                                   products.predicted[side].x[e], residual[side].x[e]);
      }
    }
    AccumulatorPair errors;
    mma_wide<T>(errors, wide_a<T>(residual),
                load_wide_b<T, false>(&chunk.inverse[0][0], kDeltaTableLd));
    const AccumulatorPair updates = scaled(errors, chunk.beta);
    const Rounded written[1] = {round(scaled(updates, chunk.write_key))};
    const T* const written_tiles[1] = {written_key_rows(i, step)};
    update_state(written, written_tiles, chunk.decay, key_decay(i, step));
    const int row = step * kDeltaChunk;
    if (reads()) {
      AccumulatorPair outputs = scaled(products.read, chunk.read_query);
      mma_wide<T>(outputs, wide_a<T>(updates),
                  load_wide_b<T, false>(&chunk.pairs[0][0], kDeltaTableLd));
      emit<T>(i, row, outputs, arguments_.output);
    }
    if (arguments_.errors.data != nullptr) {
      emit<DeltaStored<T>>(i, row, errors, arguments_.errors);
    }
  }

  __device__ __forceinline__ void work_against_time(int i, int step) {
    const DeltaChunkTable& chunk = table(i, step);
    const Row own = row_of(i, step * kDeltaChunk);
    float errors[8] = {};
    if (own.inside) load_eight(errors, arguments_.errors, own);

    const Products products = read_state<false>(nullptr, nullptr, written_key_rows(i, step));
    const AccumulatorPair output_grad = unpack_a<T>(load_values(i, step));
    AccumulatorPair update_grad = scaled(products.read, chunk.write_key);
    mma_wide<T>(update_grad, wide_a<T>(output_grad),
                load_wide_b<T, true>(&chunk.pairs[0][0], kDeltaTableLd));
    AccumulatorPair error_grad;  // Y
    mma_wide<T>(error_grad, wide_a<T>(update_grad),
                load_wide_b<T, true>(&chunk.inverse[0][0], kDeltaTableLd));
    const AccumulatorPair residual_grad = scaled(error_grad, chunk.beta);
    const Rounded terms[2] = {round(scaled(output_grad, chunk.read_query)),
                              round(scaled(residual_grad, chunk.read_key, -1.0f))};
    const T* const term_tiles[2] = {read_query_rows(i, step), read_key_rows(i, step)};
    update_state(terms, term_tiles, chunk.decay, key_decay(i, step));

    float values[8];
    transpose_tile(values, error_grad);
    float sum = 0.0f;
    float grads[8];
    const float beta = chunk.beta[lane_id() / 2];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      sum = fmaf(errors[c], values[c], sum);
      grads[c] = beta * values[c];
    }
    sum += shuffle_xor(sum, 1);
    if (lane_id() % 2 == 0) {
      row_sums(i)[warp_id() * rows() + step * kDeltaChunk + lane_id() / 2] = sum;
    }
    if (own.inside) {
      store_row<T>(arguments_.output, own, grads);
      if (arguments_.residual_grad.data != nullptr) {
        store_row<DeltaStored<T>>(arguments_.residual_grad, own, grads);
      }
    }
    warp_sync();  // the tile is free again
  }

  // ---- outputs ----

  /// The calling lane's part of 16 tokens x 16 channels in memory: half the channels of token
  /// lane / 2.
  struct Row {
    int token;
    int channel;
    bool inside;
  };
  __device__ __forceinline__ Row row_of(int i, int row) const {
    const int local = row + lane_id() / 2;
    const int channel = first_channel() + warp_id() * kDeltaChannelsPerWarp + 8 * (lane_id() % 2);
    return {first_of(i) + local, channel, local < valid_rows(i) && channel < value_columns()};
  }
  __device__ __forceinline__ std::int64_t offset(const TokenOutput& output, const Row& row) const {
    return batch() * output.batch_stride + row.token * output.time_stride +
           head_ * output.head_stride + row.channel;
  }

  /// The tile turned through shared memory: the lane's eight values of `row_of`.
  __device__ __forceinline__ void transpose_tile(float (&values)[8],
                                                 const AccumulatorPair& tile) const {
    store_accumulator_trans_pair(output_tile(), Shape::kFloatLd, tile.left, tile.right);
    warp_sync();
    read_eight(values, output_tile() + lane_id() / 2 * Shape::kFloatLd + 8 * (lane_id() % 2));
  }

  template <typename Element>
  __device__ __forceinline__ void emit(int i, int row, const AccumulatorPair& tile,
                                       const TokenOutput& output) const {
    float values[8];
    transpose_tile(values, tile);
    const Row own = row_of(i, row);
    if (own.inside) store_row<Element>(output, own, values);
    warp_sync();
  }

  template <typename Element>
  __device__ __forceinline__ void store_row(const TokenOutput& output, const Row& row,
                                            const float (&values)[8]) const {
    store_eight(static_cast<Element*>(output.data) + offset(output, row), values,
                value_columns() - row.channel, output.aligned);
  }

  __device__ __forceinline__ void load_eight(float (&values)[8], const TokenOutput& output,
                                             const Row& row) const {
    const auto* source = static_cast<const DeltaStored<T>*>(output.data) + offset(output, row);
    if (output.aligned && row.channel + 8 <= value_columns()) {
      read_eight(values, source);
    } else {
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        if (row.channel + c < value_columns()) values[c] = to_float(source[c]);
      }
    }
  }

  /// Sums of a finished stage over the warps, in their order.
  __device__ __forceinline__ void flush_beta_grad(int i) const {
    if (i < 0) return;
    const int valid = valid_rows(i);
    for (int row = threadIdx.x; row < valid; row += blockDim.x) {
      float sum = 0.0f;
      for (int warp = 0; warp < warps(); ++warp) sum += row_sums(i)[warp * rows() + row];
      arguments_
          .beta_grad[value_block_ * arguments_.beta_grad_stride + token_index(first_of(i) + row)] =
          sum;
    }
  }

  const DeltaSweepArguments& arguments_;
  unsigned char* const shared_;
  const int value_block_;
  const int head_;
  const int sequence_;
  int begin_;  // first token of the sequence
  int first_;  // tokens of the range
  int last_;
  int stages_;
  Accumulator state_[2 * kKeySteps];
};

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
__global__ void __launch_bounds__(kMaxDeltaWarps* kWarpSize, 1)
    delta_sweep_kernel(__grid_constant__ const DeltaSweepArguments arguments) {
  // Blocks of one head are neighbours, so that what they read in common is read from memory once.
  int index = static_cast<int>(blockIdx.x);
  const int value_block = index % arguments.value_blocks;
  index /= arguments.value_blocks;
  DeltaSweep<T, kKey, kDecay, kReversed>(arguments, value_block, index % arguments.value_heads,
                                         index / arguments.value_heads)
      .run();
}

struct DeltaSweepPlan {
  int warps;
  int value_blocks;
  int steps;
  bool pipelined;
};

/// As many warps a block as fill the device: fewer warps share less of q, k and the tables, but
/// make more blocks. Then the longest pipelined stage that fits into shared memory.
template <typename T, int kKey, DeltaDecay kDecay>
DeltaSweepPlan plan_delta_sweep(std::int64_t heads, int value_dim) {
  constexpr int kMinWarps = 2;
  const DeviceLimits limits = device_limits();
  const int tiles = (value_dim + kDeltaChannelsPerWarp - 1) / kDeltaChannelsPerWarp;
  int warps = kMaxDeltaWarps;
  const auto blocks = [&] { return (tiles + warps - 1) / warps; };
  while (warps > kMinWarps && heads * blocks() < limits.multiprocessors) warps /= 2;
  for (;; warps /= 2) {
    const int used = (tiles + blocks() - 1) / blocks();
    for (const bool pipelined : {true, false}) {
      for (int steps = kMaxDeltaSteps; steps > 0; steps /= 2) {
        const int bytes = make_delta_layout<T, kKey, kDecay>(used, steps, pipelined).bytes;
        if (bytes <= limits.shared_bytes_per_block) return {used, blocks(), steps, pipelined};
      }
    }
    if (warps == 1) {
      throw ArgumentError("q", "key_dim " + std::to_string(kKey) +
                                   " with this dtype and decay needs more shared memory than the "
                                   "device's " +
                                   std::to_string(limits.shared_bytes_per_block) + " bytes");
    }
  }
}

/// Calls `call.template operator()<kKey, kDecay>()` for the kernel that takes these key columns.
template <typename Call>
auto with_delta_kernel(DeltaDecay decay, int key_dim, Call call) {
  const auto with_key = [&]<DeltaDecay kDecay>() {
    if (key_dim <= 64) return call.template operator()<64, kDecay>();
    if (key_dim <= 128) return call.template operator()<128, kDecay>();
    return call.template operator()<256, kDecay>();
  };
  return decay == DeltaDecay::kChannel ? with_key.template operator()<DeltaDecay::kChannel>()
                                       : with_key.template operator()<DeltaDecay::kScalar>();
}

template <typename T>
int delta_value_blocks(DeltaDecay decay, std::int64_t heads, int key_dim, int value_dim) {
  return with_delta_kernel(decay, key_dim, [&]<int kKey, DeltaDecay kDecay>() {
    return plan_delta_sweep<T, kKey, kDecay>(heads, value_dim).value_blocks;
  });
}

template <typename T>
void launch_delta_sweep(DeltaDecay decay, bool reversed, DeltaSweepArguments arguments,
                        cudaStream_t stream) {
  with_delta_kernel(decay, arguments.key.columns, [&]<int kKey, DeltaDecay kDecay>() {
    const std::int64_t heads = std::int64_t{1} * arguments.sequences * arguments.value_heads;
    const DeltaSweepPlan plan = plan_delta_sweep<T, kKey, kDecay>(heads, arguments.value.columns);
    arguments.layout = make_delta_layout<T, kKey, kDecay>(plan.warps, plan.steps, plan.pipelined);
    arguments.value_blocks = plan.value_blocks;
    arguments.steps = plan.steps;
    arguments.pipelined = plan.pipelined;
    arguments.query.unit_shift = unit_shift<T>(arguments.query, arguments.query.columns);
    arguments.key.unit_shift = unit_shift<T>(arguments.key, arguments.key.columns);
    arguments.channel_decay.unit_shift =
        unit_shift<float>(arguments.channel_decay, arguments.key.columns);
    arguments.value.unit_shift = unit_shift<T>(
        arguments.value, std::min(arguments.value.columns, plan.warps * kDeltaChannelsPerWarp));
    const LaunchConfig config{grid_of(heads * plan.value_blocks), dim3(plan.warps * kWarpSize),
                              static_cast<std::size_t>(arguments.layout.bytes), stream,
                              "delta_rule_sweep"};
    if (reversed) {
      launch(delta_sweep_kernel<T, kKey, kDecay, true>, config, arguments);
    } else {
      launch(delta_sweep_kernel<T, kKey, kDecay, false>, config, arguments);
    }
  });
}

}  // namespace rankone::cuda
