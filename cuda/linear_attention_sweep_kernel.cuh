// The kernel of the sweep described in linear_attention_sweep.cuh, and its launch. Included by one
// source file per element type, which instantiates it.
#pragma once

#include <algorithm>

#include "linear_attention_decay.cuh"
#include "linear_attention_sweep.cuh"
#include "primitives/async_copy.cuh"
#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/launch.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "state_tiles.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

/// Warps of a block. Two on each of a multiprocessor's four schedulers may have all 255 registers;
/// a third one would leave 168 for the state and spill it.
inline constexpr int kMaxSweepWarps = 8;

/// Key' columns a kernel with kKey takes: its tiles and one more, for the ones column or a few
/// columns past a power of two. Only kKeyChannel does without the tail.
constexpr int sweep_key_capacity(SweepDecay decay, int key_columns) {
  return decay == SweepDecay::kKeyChannel ? key_columns : key_columns + 16;
}

template <typename T, int kKey, SweepDecay kDecay>
struct SweepShape {
  static constexpr bool kScalar = kDecay == SweepDecay::kScalar;
  /// Tokens of a stage. 64 where they fit: fp32 tiles and fp32 decays of 64 tokens would leave no
  /// room for two stages, and the outputs of 64 tokens none for a state of 256 columns in registers.
  static constexpr int kStage = kScalar && sizeof(T) == 2 && kKey <= 128 ? 64 : 32;
  static constexpr int kStep = kScalar ? kStage : 16;
  static constexpr int kMaxSteps = kStage / kStep;
  static constexpr int kBlocks = kStep / 16;
  static constexpr int kKeySteps = kKey / 16;  // without the tail
  static constexpr int kKeyColumns = kKey + 16;
  // Odd multiples of 8: rows of a fragment fall in distinct banks.
  static constexpr int kKeyLd = kKeyColumns + 8;
  static constexpr int kPairLd = kStep + 8;
  // The fp32 pairs of a channel step and the output tile of a warp: rows of float4.
  static constexpr int kFloatLd = 20;
  using Table = ScalarDecayTable<kStage>;
};

/// Start of the dynamic shared memory; a SweepLayout holds the offsets of what follows.
struct alignas(kSharedAlignment) SharedRole {
  SweepRole role;
};

template <typename T, int kKey, SweepDecay kDecay>
SweepLayout make_layout(int warps, int stages) {
  using Shape = SweepShape<T, kKey, kDecay>;
  constexpr bool kKeyChannel = kDecay == SweepDecay::kKeyChannel;
  constexpr int kElement = sizeof(T);
  constexpr int kFloat = sizeof(float);
  constexpr int kKeyTile = Shape::kStage * Shape::kKeyLd * kElement;
  SweepLayout layout{};
  layout.value_ld = warps * kChannelsPerWarp + 8;
  layout.decay_ld = Shape::kScalar ? 0 : kKeyChannel ? kKey + 4 : warps * kChannelsPerWarp;
  const auto take = [&layout](int size) {
    const int start = layout.bytes;
    layout.bytes += (size + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
    return start;
  };
  layout.bytes = sizeof(SharedRole);
  layout.query = take(stages * kKeyTile);
  layout.key = take(stages * kKeyTile);
  layout.value = take(stages * Shape::kStage * layout.value_ld * kElement);
  layout.decay = take(stages * Shape::kStage * layout.decay_ld * kFloat);
  layout.pairs = take(Shape::kScalar ? Shape::kStage * Shape::kPairLd * kElement
                                     : Shape::kStage * Shape::kFloatLd * kFloat);
  layout.pair_scale = take(Shape::kBlocks * Shape::kBlocks * kFloat);
  layout.table =
      take(Shape::kScalar ? 2 * static_cast<int>(sizeof(typename Shape::Table)) : 0);
  layout.decayed_query = take(kKeyChannel ? kKeyTile : 0);
  layout.decayed_key = take(kKeyChannel ? kKeyTile : 0);
  layout.key_decay = take(kKeyChannel ? Shape::kMaxSteps * kKey * kFloat : 0);
  layout.segment_decay = take(kKeyChannel ? kKey * kFloat : 0);
  layout.output = take(warps * 16 * Shape::kFloatLd * kFloat);
  layout.row_sums = take(warps * Shape::kStage * kFloat);
  return layout;
}

template <typename T, int kKey, SweepDecay kDecay>
class Sweep {
 public:
  __device__ __forceinline__ Sweep(const SweepArguments& arguments, const SweepRole& role,
                                   int value_block, int head, int sequence, int segment)
      : arguments_(arguments),
        role_(role),
        shared_(reinterpret_cast<unsigned char*>(&shared_memory<SharedRole>())),
        value_block_(value_block),
        segment_(segment),
        head_(head),
        sequence_(sequence) {
    const bool packed = arguments.cu_seqlens != nullptr;
    begin_ = packed ? static_cast<int>(arguments.cu_seqlens[sequence]) : 0;
    length_ = (packed ? static_cast<int>(arguments.cu_seqlens[sequence + 1]) : arguments.time) -
              begin_;
    // Whole stages a segment, so that only the last one is ragged.
    const int stages = (length_ + Shape::kStage - 1) / Shape::kStage;
    const int share = (stages + arguments.segments - 1) / arguments.segments;
    first_ = min(segment * share, stages) * Shape::kStage;
    last_ = min(min((segment + 1) * share, stages) * Shape::kStage, length_);
    chunks_ = (last_ - first_ + arguments.chunk_tokens - 1) / arguments.chunk_tokens;
  }

  __device__ __forceinline__ void run() {
    clear_padding();
    load_state();
    const int ahead = arguments_.stages - 1;
    // One turn before the first item: it starts the pipeline.
    Item item{-1, arguments_.group - 1};
#pragma unroll 1
    for (; item.chunk < chunks_; item = next(item)) {
      const bool running = item.chunk >= 0;
      if (ahead == 0) {
        block_sync();  // the only stage is free again
      } else if (running) {
        complete(item);
      }
      const Item loaded = ahead == 0 ? item : next(item);
      if (loaded.chunk >= 0 && loaded.chunk < chunks_) load_item(loaded);
      commit_async();
      if (running && ahead == 0) complete(item);
      if constexpr (Shape::kScalar) {
        const bool prepares = item.member + 1 == arguments_.group && item.chunk + 1 < chunks_;
        const LogDecays log_decays = load_log_decays(prepares ? item.chunk + 1 : chunks_);
        if (running) scalar_item(item.chunk, item.member);
        if (prepares) prepare_table(item.chunk + 1, log_decays);
      } else {
        if (running) channel_item(item.chunk, item.member);
      }
    }
    block_sync();
    if constexpr (Shape::kScalar) flush_energy(previous(item));
    store_state();
    if (role_.segment_decay != nullptr) store_segment_decay();
  }

 private:
  using Shape = SweepShape<T, kKey, kDecay>;
  using Table = typename Shape::Table;

  static constexpr bool kHalf = std::is_same_v<T, __half>;

  /// One head of a group in one chunk.
  struct Item {
    int chunk;
    int member;
  };
  __device__ __forceinline__ Item next(Item item) const {
    return item.member + 1 == arguments_.group ? Item{item.chunk + 1, 0}
                                               : Item{item.chunk, item.member + 1};
  }

  __device__ __forceinline__ Item previous(Item item) const {
    return item.member == 0 ? Item{item.chunk - 1, arguments_.group - 1}
                            : Item{item.chunk, item.member - 1};
  }

  /// Waits for the item's tiles, and for all warps to be done with the item before.
  __device__ __forceinline__ void complete(Item item) {
    wait_async<0>();
    if constexpr (!Shape::kScalar) {
      if (item.member == 0) exponentiate_decays(item.chunk);
    }
    block_sync();
    if constexpr (Shape::kScalar) flush_energy(previous(item));
  }

  // ---- what lies where ----

  template <typename Element>
  __device__ __forceinline__ Element* at(int offset) const {
    return reinterpret_cast<Element*>(shared_ + offset);
  }

  __device__ __forceinline__ int slot(const TokenOperand& operand, int chunk, int member) const {
    if (arguments_.stages == 1) return 0;
    return (operand.per_query_head ? chunk * arguments_.group + member : chunk) & 1;
  }
  __device__ __forceinline__ T* query_tile(int chunk, int member) const {
    return at<T>(arguments_.layout.query) + slot(role_.query, chunk, member) * Shape::kStage * Shape::kKeyLd;
  }
  __device__ __forceinline__ T* key_tile(int chunk, int member) const {
    return at<T>(arguments_.layout.key) + slot(role_.key, chunk, member) * Shape::kStage * Shape::kKeyLd;
  }
  __device__ __forceinline__ T* value_tile(int chunk, int member) const {
    return at<T>(arguments_.layout.value) +
           slot(role_.value, chunk, member) * Shape::kStage * arguments_.layout.value_ld;
  }
  __device__ __forceinline__ float* decay_tile(int chunk) const {
    const int slot = arguments_.stages == 1 ? 0 : chunk & 1;
    return at<float>(arguments_.layout.decay) + slot * Shape::kStage * arguments_.layout.decay_ld;
  }
  __device__ __forceinline__ Table& table(int chunk) const {
    return at<Table>(arguments_.layout.table)[chunk & 1];
  }
  __device__ __forceinline__ float* output_tile() const {
    return at<float>(arguments_.layout.output) + warp_id() * 16 * Shape::kFloatLd;
  }

  __device__ __forceinline__ static int warps() {
    return static_cast<int>(blockDim.x) / kWarpSize;
  }
  __device__ __forceinline__ int key_columns() const {
    return role_.key.total_columns();
  }
  __device__ __forceinline__ int batch() const {
    return arguments_.cu_seqlens == nullptr ? sequence_ : 0;
  }
  __device__ __forceinline__ std::int64_t head_index() const {
    return static_cast<std::int64_t>(sequence_) * arguments_.kv_heads + head_;
  }
  __device__ __forceinline__ int value_columns() const { return role_.value.total_columns(); }
  __device__ __forceinline__ int first_channel() const {
    return value_block_ * warps() * kChannelsPerWarp;
  }
  __device__ __forceinline__ bool has_tail() const { return key_columns() > kKey; }
  __device__ __forceinline__ bool reads() const { return role_.output.data != nullptr; }
  /// Columns of this block out of `columns`.
  __device__ __forceinline__ int block_columns(int columns) const {
    return max(0, min(columns - first_channel(), warps() * kChannelsPerWarp));
  }
  __device__ __forceinline__ int first_of(int chunk) const {
    return first_ + chunk * arguments_.chunk_tokens;
  }
  __device__ __forceinline__ int valid_tokens(int chunk) const {
    return min(last_ - first_of(chunk), arguments_.chunk_tokens);
  }
  /// Token of the sweep's position.
  __device__ __forceinline__ int token(int position) const {
    return begin_ + (role_.reversed ? length_ - 1 - position : position);
  }
  __device__ __forceinline__ int head_of(const TokenOperand& operand, int member) const {
    return operand.per_query_head ? head_ * arguments_.group + member : head_;
  }
  /// Whether this item reads the state into the outputs, hands the outputs over, and adds to the
  /// state. With one q' for the group the outputs of all items are one sum.
  __device__ __forceinline__ bool opens_output(int member) const {
    return reads() && (role_.query.per_query_head || member == 0);
  }
  __device__ __forceinline__ bool closes_output(int member) const {
    return reads() && (role_.query.per_query_head || member + 1 == arguments_.group);
  }
  __device__ __forceinline__ bool adds_to_state(int member) const {
    return role_.key.per_query_head || member + 1 == arguments_.group;
  }
  /// The first update of a chunk decays the state.
  __device__ __forceinline__ bool decays_state(int member) const {
    return !role_.key.per_query_head || member == 0;
  }

  // ---- copies into shared memory ----

  /// Columns no copy writes, so that they count as zeros for ever.
  __device__ void clear_padding() {
    clear_columns(at<T>(arguments_.layout.query), arguments_.stages * Shape::kStage, Shape::kKeyLd,
                  key_columns());
    clear_columns(at<T>(arguments_.layout.key), arguments_.stages * Shape::kStage, Shape::kKeyLd,
                  key_columns());
    clear_columns(at<T>(arguments_.layout.value), arguments_.stages * Shape::kStage, arguments_.layout.value_ld,
                  block_columns(value_columns()));
    if constexpr (!Shape::kScalar) {
      clear_columns(at<float>(arguments_.layout.decay), arguments_.stages * Shape::kStage, arguments_.layout.decay_ld,
                    decay_columns());
    }
    if constexpr (kDecay == SweepDecay::kKeyChannel) {
      // Tail columns of the decayed tiles; the rest is written by decay_items.
      clear_columns(at<T>(arguments_.layout.decayed_query), Shape::kStage, Shape::kKeyLd, kKey);
      clear_columns(at<T>(arguments_.layout.decayed_key), Shape::kStage, Shape::kKeyLd, kKey);
      for (int channel = threadIdx.x; channel < kKey; channel += blockDim.x) {
        at<float>(arguments_.layout.segment_decay)[channel] = 1.0f;
      }
    }
  }

  __device__ __forceinline__ void load_item(Item item) const {
    const auto [chunk, member] = item;
    // One loop body for the three operands: the code of a copy is long, its time is not.
#pragma unroll 1
    for (int which = 0; which < 3; ++which) {
      const TokenOperand& operand = which == 0   ? role_.query
                                    : which == 1 ? role_.key
                                                 : role_.value;
      if (which == 0 && !reads()) continue;
      if (member > 0 && !operand.per_query_head) continue;
      const bool is_value = which == 2;
      const int columns = is_value ? block_columns(operand.columns) : operand.columns;
      load_tile(which == 0   ? query_tile(chunk, member)
                : which == 1 ? key_tile(chunk, member)
                             : value_tile(chunk, member),
                is_value ? arguments_.layout.value_ld : Shape::kKeyLd, operand, item,
                is_value ? first_channel() : 0, columns,
                is_value ? block_columns(value_columns()) > columns : operand.ones_column);
    }
    if constexpr (!Shape::kScalar) {
      if (member == 0) load_decays(chunk);
    }
  }

  /// Rows of one chunk; zeros past the segment's end.
  __device__ __forceinline__ void load_tile(T* tile, int ld, const TokenOperand& operand, Item item,
                                            int first_column, int columns,
                                            bool ones_column) const {
    const std::int64_t start =
        operand.offset(batch(), token(first_of(item.chunk)), head_of(operand, item.member)) +
        first_column;
    const std::int64_t step = role_.reversed ? -operand.time_stride : operand.time_stride;
    const int valid = valid_tokens(item.chunk);
    load_rows(tile, ld, operand, start, step, arguments_.chunk_tokens, valid, columns);
    if (ones_column) {
#pragma unroll 1
      for (int row = threadIdx.x; row < arguments_.chunk_tokens; row += blockDim.x) {
        tile[row * ld + columns] = from_float<T>(row < valid ? 1.0f : 0.0f);
      }
    }
  }

  // ---- decays ----

  /// Token whose decay multiplies the state before the token at `position` is added; outside the
  /// sequence there is none.
  __device__ __forceinline__ int decay_token(int position) const {
    return role_.reversed ? token(position) + 1 : token(position);
  }
  __device__ __forceinline__ bool has_decay(int position) const {
    return position < last_ && (!role_.reversed || position > 0);
  }

  struct LogDecays {
    float of[Shape::kStage / kWarpSize];
  };

  /// Scalar log-decays of the chunk's tokens lane, lane + 32, ..., for the warp that builds tables.
  __device__ __forceinline__ LogDecays load_log_decays(int chunk) const {
    LogDecays log_decays;
#pragma unroll
    for (int i = 0; i < Shape::kStage / kWarpSize; ++i) {
      const int position = first_of(chunk) + i * kWarpSize + lane_id();
      log_decays.of[i] = 0.0f;
      if (warp_id() == warps() - 1 && chunk < chunks_ && has_decay(position)) {
        if (arguments_.decay.form == DecayForm::kPerHead) {
          log_decays.of[i] = arguments_.decay.data[head_];
        } else if (arguments_.decay.form == DecayForm::kPerToken) {
          log_decays.of[i] = *arguments_.decay.at(batch(), decay_token(position), head_);
        }
      }
    }
    return log_decays;
  }

  __device__ __forceinline__ void prepare_table(int chunk, const LogDecays& log_decays) {
    if (warp_id() == warps() - 1) build_table(table(chunk), log_decays.of);
  }

  /// Channels of this block that decay: those of k', or this block's of v'.
  __device__ __forceinline__ int decay_columns() const {
    return kDecay == SweepDecay::kKeyChannel ? role_.key.columns
                                             : block_columns(role_.value.columns);
  }
  __device__ __forceinline__ int decay_first_channel() const {
    return kDecay == SweepDecay::kKeyChannel ? 0 : first_channel();
  }
  __device__ __forceinline__ bool decay_aligned() const {
    const DecaySource& decay = arguments_.decay;
    return (decay_columns() | decay.batch_stride | decay.time_stride | decay.head_stride) % 4 ==
               0 &&
           reinterpret_cast<std::uintptr_t>(decay.data) % 16 == 0;
  }

  /// Log-decays of a chunk where they can be copied, else the decays themselves. Positions without
  /// a decay get the log-decay zero.
  __device__ __forceinline__ void load_decays(int chunk) const {
    float* tile = decay_tile(chunk);
    const int columns = decay_columns();
    const bool aligned = decay_aligned();
    const int shift = ceil_log2(aligned ? columns / 4 : columns);
    const int mask = (1 << shift) - 1;
    for (int i = threadIdx.x; i < arguments_.chunk_tokens << shift; i += blockDim.x) {
      const int row = i >> shift;
      const int column = (i & mask) * (aligned ? 4 : 1);
      if (column >= columns) continue;
      const int position = first_of(chunk) + row;
      const bool present = has_decay(position);
      const float* source = present ? arguments_.decay.at(batch(), decay_token(position), head_) +
                                          decay_first_channel() + column
                                    : arguments_.decay.data;
      float* destination = tile + row * arguments_.layout.decay_ld + column;
      if (aligned) {
        copy_async_16(destination, source, present);
      } else {
        *destination = present ? expf(*source) : 1.0f;
      }
    }
  }

  /// Turns the log-decays this thread copied into decays.
  __device__ __forceinline__ void exponentiate_decays(int chunk) const {
    if (!decay_aligned()) return;
    float* tile = decay_tile(chunk);
    const int columns = decay_columns();
    const int shift = ceil_log2(columns / 4);
    const int mask = (1 << shift) - 1;
    for (int i = threadIdx.x; i < arguments_.chunk_tokens << shift; i += blockDim.x) {
      const int column = (i & mask) * 4;
      if (column >= columns) continue;
      float4& decays =
          *reinterpret_cast<float4*>(tile + (i >> shift) * arguments_.layout.decay_ld + column);
      decays = make_float4(expf(decays.x), expf(decays.y), expf(decays.z), expf(decays.w));
    }
  }

  // ---- the state ----

  /// Value' channel of the calling lane's accumulator rows lane/4 and lane/4 + 8.
  __device__ __forceinline__ int state_channel(int i) const {
    return first_channel() + warp_id() * kChannelsPerWarp + Accumulator::row(i);
  }

  /// Calls visit(element, place, i) for the lane's elements of the state, `place` being the one
  /// they have in a state with the strides of `in`, and i that in the accumulator.
  template <typename Visit>
  __device__ __forceinline__ void for_each_state(const SweepState& in, Visit visit) {
    cuda::for_each_element(state_, first_channel() + warp_id() * kChannelsPerWarp,
                           value_columns(), key_columns(), in.value_stride, in.key_stride, visit);
  }

  __device__ __forceinline__ void load_state() {
    if (role_.initial.data == nullptr) return;
    const float* source = role_.initial.slice(sequence_, head_, segment_);
    for_each_state(role_.initial, [&](float& element, std::int64_t place, int) {
      element = source[place];
    });
  }

  __device__ __forceinline__ void store_state() {
    const bool last_segment = segment_ + 1 == arguments_.segments;
    if (last_segment && role_.pairing != nullptr) store_pairing();
    if (role_.final.data == nullptr || !(last_segment || role_.final_of_every_segment)) return;
    float factor[2] = {1.0f, 1.0f};
    if (role_.decay_final && length_ > 0 && arguments_.decay.form != DecayForm::kNone) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int channel = state_channel(2 * half);
        if (channel < value_columns()) {
          const float* log_decay =
              arguments_.decay.form == DecayForm::kPerHead
                  ? arguments_.decay.data + head_
                  : arguments_.decay.at(batch(), begin_, head_) + (Shape::kScalar ? 0 : channel);
          factor[half] = expf(*log_decay);
        }
      }
    }
    float* destination = role_.final.slice(sequence_, head_, segment_);
    for_each_state(role_.final, [&](float& element, std::int64_t place, int i) {
      destination[place] = element * factor[i / 2];
    });
  }

  __device__ __forceinline__ void store_pairing() {
    const float* other = role_.pairing_with.slice(sequence_, head_, 0);
    float sums[2] = {0.0f, 0.0f};
    for_each_state(role_.pairing_with, [&](float& element, std::int64_t place, int i) {
      sums[i / 2] += element * other[place];
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = warp_sum(sums[half], 4);
      const int channel = state_channel(2 * half);
      if (lane_id() % 4 == 0 && channel < value_columns()) {
        role_.pairing[head_index() * value_columns() + channel] = sum;
      }
    }
  }

  /// The decay of the whole segment: one number, or one a channel.
  __device__ __forceinline__ void store_segment_decay() {
    const std::int64_t index = head_index() * arguments_.segments + segment_;
    if constexpr (kDecay == SweepDecay::kScalar) {
      if (value_block_ == 0 && threadIdx.x == 0) role_.segment_decay[index] = segment_decay_;
    } else if constexpr (kDecay == SweepDecay::kValueChannel) {
      const int channel = first_channel() + warp_id() * kChannelsPerWarp + lane_id();
      if (lane_id() < kChannelsPerWarp && channel < role_.value.columns) {
        role_.segment_decay[index * role_.value.columns + channel] = segment_decay_;
      }
    } else if (value_block_ == 0) {
      for (int channel = threadIdx.x; channel < role_.key.columns; channel += blockDim.x) {
        role_.segment_decay[index * role_.key.columns + channel] =
            at<float>(arguments_.layout.segment_decay)[channel];
      }
    }
  }

  /// outputs += S^T Q^T for kTiles * 8 tokens of `query`; with __half the result is to be scaled up
  /// by what is returned.
  template <int kTiles>
  __device__ __forceinline__ float read_state(Accumulator (&outputs)[kTiles], const T* query) const {
    const BinaryScale scale = operand_scale<T>(state_);
#pragma unroll
    for (int key_step = 0; key_step <= Shape::kKeySteps; ++key_step) {
      if (key_step == Shape::kKeySteps && !has_tail()) break;
      const FragmentA<T> state =
          scaled_to_a<T>(state_[2 * key_step], state_[2 * key_step + 1], scale.down);
#pragma unroll
      for (int tile = 0; tile < kTiles; tile += 2) {
        const FragmentBPair<T> queries =
            load_b_pair(query + tile * kFragmentCols * Shape::kKeyLd + 16 * key_step,
                        Shape::kKeyLd);
        mma(outputs[tile], state, queries.left);
        mma(outputs[tile + 1], state, queries.right);
      }
    }
    return scale.up;
  }

  /// S^T = decay S^T + add_scale V^T K over kDepth * 16 tokens; `decay(tile, i)` is the factor of
  /// element i of the accumulator. The sum over the tokens starts from zero and is added with
  /// rounding: tensor cores cut off the low bits of a long sum.
  template <int kDepth, typename Decay>
  __device__ __forceinline__ void update_state(const FragmentA<T> (&values)[kDepth], const T* key,
                                               Decay decay) {
#pragma unroll
    for (int key_step = 0; key_step <= Shape::kKeySteps; ++key_step) {
      if (key_step == Shape::kKeySteps && !has_tail()) break;
      Accumulator fresh[2];
#pragma unroll
      for (int depth = 0; depth < kDepth; ++depth) {
        const FragmentBPair<T> keys = load_b_trans_pair(
            key + 16 * depth * Shape::kKeyLd + 16 * key_step, Shape::kKeyLd);
        mma(fresh[0], values[depth], keys.left);
        mma(fresh[1], values[depth], keys.right);
      }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        Accumulator& state = state_[2 * key_step + side];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          state.x[i] = fmaf(decay(2 * key_step + side, i), state.x[i],
                            role_.add_scale * fresh[side].x[i]);
        }
      }
    }
  }

  // ---- a chunk with scalar decays ----

  __device__ __forceinline__ void scalar_item(int chunk, int member) {
    const T* query = query_tile(chunk, member);
    const T* key = key_tile(chunk, member);
    const T* value = value_tile(chunk, member) + warp_id() * kChannelsPerWarp;
    const Table& decays = table(chunk);
    if (reads()) {
      scalar_pairs(query, key, decays);
      if (opens_output(member)) {
#pragma unroll
        for (int tile = 0; tile < kOutputTiles; ++tile) outputs_[tile] = Accumulator{};
        const float scale = role_.read_scale * read_state(outputs_, query);
#pragma unroll
        for (int tile = 0; tile < kOutputTiles; ++tile) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            outputs_[tile].x[i] *=
                scale * decays.prefix[tile * kFragmentCols + Accumulator::col(i)];
          }
        }
      }
      block_sync();  // P is complete
      scalar_outputs(value);
      if (closes_output(member)) {
        // One copy of the long code below: only the choice of registers is unrolled.
#pragma unroll 1
        for (int block = 0; block < Shape::kBlocks; ++block) {
#pragma unroll
          for (int candidate = 0; candidate < Shape::kBlocks; ++candidate) {
            if (candidate == block) {
              store_accumulator_trans_pair(output_tile(), Shape::kFloatLd, outputs_[2 * candidate],
                                           outputs_[2 * candidate + 1]);
            }
          }
          warp_sync();
          emit(chunk, member, 16 * block);
          warp_sync();
        }
      }
    }
    if (adds_to_state(member)) {
      FragmentA<T> values[Shape::kBlocks];
#pragma unroll
      for (int block = 0; block < Shape::kBlocks; ++block) {
        values[block] = load_a_trans(value + 16 * block * arguments_.layout.value_ld, arguments_.layout.value_ld);
        scale_columns(values[block], decays.suffix + 16 * block);
      }
      const float decay = decays_state(member) ? decays.total : 1.0f;
      update_state(values, key, [decay](int, int) { return decay; });
      if (decays_state(member)) segment_decay_ *= decay;
    }
  }

  /// P = pair_scale lower(Q K^T) W, 16 x 16 blocks dealt out to the warps.
  __device__ __forceinline__ void scalar_pairs(const T* query, const T* key, const Table& decays) {
    T* pairs = at<T>(arguments_.layout.pairs);
    int index = 0;
    for (int row = 0; row < Shape::kBlocks; ++row) {
      for (int column = 0; column <= row; ++column, ++index) {
        if (index % warps() != warp_id()) continue;
        Accumulator products[2];
        multiply_pairs(products, query + 16 * row * Shape::kKeyLd,
                       key + 16 * column * Shape::kKeyLd);
        float largest = 0.0f;
#pragma unroll
        for (int side = 0; side < 2; ++side) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int local_row = Accumulator::row(i);
            const int local_column = side * kFragmentCols + Accumulator::col(i);
            const float weight =
                role_.pair_scale * decays.weight(16 * row + local_row, 16 * column + local_column);
            float& product = products[side].x[i];
            product = row == column && local_column > local_row ? 0.0f : product * weight;
            largest = fmaxf(largest, fabsf(product));
          }
        }
        if constexpr (kHalf) {
          const BinaryScale scale = scale_for_half(warp_max(largest));
#pragma unroll
          for (int side = 0; side < 2; ++side) {
#pragma unroll
            for (int i = 0; i < 4; ++i) products[side].x[i] *= scale.down;
          }
          if (lane_id() == 0) at<float>(arguments_.layout.pair_scale)[row * Shape::kBlocks + column] = scale.up;
        }
        store_accumulator_pair(pairs + 16 * row * Shape::kPairLd + 16 * column, Shape::kPairLd,
                               products[0], products[1]);
      }
    }
  }

  /// products = Q K^T of 16 queries and 16 keys.
  __device__ __forceinline__ void multiply_pairs(Accumulator (&products)[2], const T* query,
                                                 const T* key) const {
#pragma unroll
    for (int key_step = 0; key_step <= Shape::kKeySteps; ++key_step) {
      if (key_step == Shape::kKeySteps && !has_tail()) break;
      const FragmentA<T> queries = load_a(query + 16 * key_step, Shape::kKeyLd);
      const FragmentBPair<T> keys = load_b_pair(key + 16 * key_step, Shape::kKeyLd);
      mma(products[0], queries, keys.left);
      mma(products[1], queries, keys.right);
    }
  }

  /// O^T += V^T P^T.
  __device__ __forceinline__ void scalar_outputs(const T* value) {
    const T* pairs = at<T>(arguments_.layout.pairs);
    FragmentA<T> values[Shape::kBlocks];
#pragma unroll
    for (int block = 0; block < Shape::kBlocks; ++block) {
      values[block] = load_a_trans(value + 16 * block * arguments_.layout.value_ld, arguments_.layout.value_ld);
    }
#pragma unroll
    for (int row = 0; row < Shape::kBlocks; ++row) {
#pragma unroll
      for (int column = 0; column <= row; ++column) {
        add_products(outputs_[2 * row], outputs_[2 * row + 1], values[column],
                     load_b_pair(pairs + 16 * row * Shape::kPairLd + 16 * column, Shape::kPairLd),
                     kHalf ? at<float>(arguments_.layout.pair_scale)[row * Shape::kBlocks + column] : 1.0f);
      }
    }
  }

  /// (left, right) += scale a b.
  __device__ __forceinline__ void add_products(Accumulator& left, Accumulator& right,
                                               const FragmentA<T>& a, const FragmentBPair<T>& b,
                                               float scale) const {
    if constexpr (kHalf) {
      Accumulator fresh[2];
      mma(fresh[0], a, b.left);
      mma(fresh[1], a, b.right);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        left.x[i] = fmaf(scale, fresh[0].x[i], left.x[i]);
        right.x[i] = fmaf(scale, fresh[1].x[i], right.x[i]);
      }
    } else {
      mma(left, a, b.left);
      mma(right, a, b.right);
    }
  }

  // ---- a chunk with channel decays ----

  __device__ __forceinline__ void channel_item(int chunk, int member) {
    T* query = query_tile(chunk, member);
    T* key = key_tile(chunk, member);
    if constexpr (kDecay == SweepDecay::kKeyChannel) {
      if (reads()) key_channel_pairs(query, key, decay_tile(chunk));
      decay_keys(query, key, decay_tile(chunk), opens_output(member),
                 member == 0 || role_.key.per_query_head);
      query = at<T>(arguments_.layout.decayed_query);
      key = at<T>(arguments_.layout.decayed_key);
    } else if (reads()) {
      value_channel_pairs(query, key);
    }
    block_sync();  // pairs and decayed tiles are complete
    if constexpr (kDecay == SweepDecay::kKeyChannel) {
      if (member == 0) decay_segment();
    }
    T* value = value_tile(chunk, member) + warp_id() * kChannelsPerWarp;
    for (int step = 0; step < arguments_.steps; ++step) {
      const int row = step * Shape::kStep;
      if constexpr (kDecay == SweepDecay::kKeyChannel) {
        key_channel_step(chunk, member, step, query + row * Shape::kKeyLd,
                         key + row * Shape::kKeyLd, value + row * arguments_.layout.value_ld);
      } else {
        value_channel_step(chunk, member, step, query + row * Shape::kKeyLd,
                           key + row * Shape::kKeyLd, value + row * arguments_.layout.value_ld);
      }
    }
  }

  /// Pairs of each step by the running product over its queries, for every key and channel. A job
  /// is four keys of a step; eight lanes share a key, each with every eighth group of four
  /// channels.
  __device__ __forceinline__ void key_channel_pairs(const T* query, const T* key,
                                                    const float* decay) const {
    constexpr int kKeysPerJob = 4;
    constexpr int kLanesPerKey = kWarpSize / kKeysPerJob;
    const int part = lane_id() % kLanesPerKey;
    for (int job = warp_id(); job < arguments_.steps * (16 / kKeysPerJob); job += warps()) {
      const int step = job / (16 / kKeysPerJob);
      const int first_key = job % (16 / kKeysPerJob) * kKeysPerJob;
      const int j = first_key + lane_id() / kLanesPerKey;
      const int row = step * Shape::kStep;
      float sums[16] = {};
      for (int channel = 4 * part; channel < kKey; channel += 4 * kLanesPerKey) {
        const float4 own = load_four(key + (row + j) * Shape::kKeyLd + channel);
        float4 weighted = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          if (i < first_key) continue;
          const float4 d = load_four(decay + (row + i) * arguments_.layout.decay_ld + channel);
          const float4 q = load_four(query + (row + i) * Shape::kKeyLd + channel);
          const bool is_own = i == j;
          weighted.x = is_own ? own.x : weighted.x * d.x;
          weighted.y = is_own ? own.y : weighted.y * d.y;
          weighted.z = is_own ? own.z : weighted.z * d.z;
          weighted.w = is_own ? own.w : weighted.w * d.w;
          sums[i] += q.x * weighted.x + q.y * weighted.y + q.z * weighted.z + q.w * weighted.w;
        }
      }
      float* pairs = at<float>(arguments_.layout.pairs) + row * Shape::kFloatLd;
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float sum = warp_sum(sums[i], kLanesPerKey);
        if (part == i % kLanesPerKey) {
          pairs[i * Shape::kFloatLd + j] = i < j ? 0.0f : role_.pair_scale * sum;
        }
      }
    }
  }

  /// q' P and k' R of every step, rounded to T, and D; a thread has one channel of one step.
  __device__ __forceinline__ void decay_keys(const T* query, const T* key, const float* decay,
                                             bool with_query, bool with_key) const {
    T* decayed_query = at<T>(arguments_.layout.decayed_query);
    T* decayed_key = at<T>(arguments_.layout.decayed_key);
    for (int i = threadIdx.x; i < arguments_.steps * kKey; i += blockDim.x) {
      const int channel = i % kKey;
      const int row = i / kKey * Shape::kStep;
      const float* d = decay + row * arguments_.layout.decay_ld + channel;
      const int start = row * Shape::kKeyLd + channel;
      if (with_query) {
        float product = 1.0f;
#pragma unroll
        for (int u = 0; u < Shape::kStep; ++u) {
          product *= d[u * arguments_.layout.decay_ld];
          decayed_query[start + u * Shape::kKeyLd] =
              from_float<T>(to_float(query[start + u * Shape::kKeyLd]) * product);
        }
      }
      if (with_key) {
        float product = 1.0f;
#pragma unroll
        for (int u = Shape::kStep - 1; u >= 0; --u) {
          decayed_key[start + u * Shape::kKeyLd] =
              from_float<T>(to_float(key[start + u * Shape::kKeyLd]) * product);
          product *= d[u * arguments_.layout.decay_ld];
        }
        at<float>(arguments_.layout.key_decay)[i] = product;
      }
    }
  }

  /// Keeps the segment's whole decay, each channel by a thread of its own.
  __device__ __forceinline__ void decay_segment() const {
    if (role_.segment_decay == nullptr) return;
    for (int channel = threadIdx.x; channel < kKey; channel += blockDim.x) {
      float product = at<float>(arguments_.layout.segment_decay)[channel];
      for (int step = 0; step < arguments_.steps; ++step) {
        product *= at<float>(arguments_.layout.key_decay)[step * kKey + channel];
      }
      at<float>(arguments_.layout.segment_decay)[channel] = product;
    }
  }

  __device__ __forceinline__ void key_channel_step(int chunk, int member, int step, const T* query,
                                                   const T* key, const T* value) {
    const FragmentA<T> values[1] = {load_a_trans(value, arguments_.layout.value_ld)};
    if (reads()) {
      if (opens_output(member)) {
        outputs_[0] = Accumulator{};
        outputs_[1] = Accumulator{};
        const float scale = role_.read_scale * read_state(outputs_, query);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          outputs_[0].x[i] *= scale;
          outputs_[1].x[i] *= scale;
        }
      }
      float up;
      const FragmentBPair<T> pairs = load_pairs(step, up);
      add_products(outputs_[0], outputs_[1], values[0], pairs, up);
      if (closes_output(member)) {
        store_accumulator_trans_pair(output_tile(), Shape::kFloatLd, outputs_[0], outputs_[1]);
        warp_sync();
        emit(chunk, member, step * Shape::kStep);
        warp_sync();
      }
    }
    if (adds_to_state(member)) {
      const float* decay = at<float>(arguments_.layout.key_decay) + step * kKey;
      const bool decays = decays_state(member);
      update_state(values, key, [&](int tile, int i) {
        // No tail: a key' column that decays is a key channel, at most kKey of them.
        return decays && tile < 2 * Shape::kKeySteps
                   ? decay[tile * kFragmentCols + Accumulator::col(i)]
                   : 1.0f;
      });
    }
  }

  /// The fp32 pairs of a step as the operand P^T, scaled down by `up` where T is __half.
  __device__ __forceinline__ FragmentBPair<T> load_pairs(int step, float& up) const {
    const float* pairs = at<float>(arguments_.layout.pairs) + step * Shape::kStep * Shape::kFloatLd;
    Accumulator sides[2];
    float largest = 0.0f;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sides[side].x[i] = pairs[Accumulator::row(i) * Shape::kFloatLd + side * kFragmentCols +
                                 Accumulator::col(i)];
        largest = fmaxf(largest, fabsf(sides[side].x[i]));
      }
    }
    up = 1.0f;
    if constexpr (kHalf) {
      const BinaryScale scale = scale_for_half(warp_max(largest));
      up = scale.up;
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sides[side].x[i] *= scale.down;
      }
    }
    return transpose_to_b(to_a<T>(sides[0], sides[1]));
  }

  /// Pairs of each step, without decay.
  __device__ __forceinline__ void value_channel_pairs(const T* query, const T* key) const {
    for (int step = warp_id(); step < arguments_.steps; step += warps()) {
      const int row = step * Shape::kStep;
      Accumulator products[2];
      multiply_pairs(products, query + row * Shape::kKeyLd, key + row * Shape::kKeyLd);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool lower =
              side * kFragmentCols + Accumulator::col(i) <= Accumulator::row(i);
          products[side].x[i] = lower ? role_.pair_scale * products[side].x[i] : 0.0f;
        }
      }
      store_accumulator_pair(at<float>(arguments_.layout.pairs) + row * Shape::kFloatLd, Shape::kFloatLd,
                             products[0], products[1]);
    }
  }

  /// Lane l works on channel l % 16 of its warp: half the keys each for lanes l and l + 16.
  __device__ __forceinline__ void value_channel_step(int chunk, int member, int step,
                                                     const T* query, const T* key, T* value) {
    const int channel = lane_id() % 16;
    const int first_key = lane_id() / 16 * 8;
    const float* decay = decay_tile(chunk) + step * Shape::kStep * arguments_.layout.decay_ld +
                         warp_id() * kChannelsPerWarp + channel;
    float product = 1.0f;
    if (reads()) {
      float* tile = output_tile();
      float read = role_.read_scale;
      const bool opens = opens_output(member);
      if (opens) {
        outputs_[0] = Accumulator{};
        outputs_[1] = Accumulator{};
        read *= read_state(outputs_, query);
        store_accumulator_trans_pair(tile, Shape::kFloatLd, outputs_[0], outputs_[1]);
      }
      warp_sync();
      const float* pairs = at<float>(arguments_.layout.pairs) + step * Shape::kStep * Shape::kFloatLd;
      float weighted[8] = {};
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float d = decay[i * arguments_.layout.decay_ld];
        product *= d;
        const float4 low = load_four(pairs + i * Shape::kFloatLd + first_key);
        const float4 high = load_four(pairs + i * Shape::kFloatLd + first_key + 4);
        const float weight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        const float own = to_float(value[i * arguments_.layout.value_ld + channel]);
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          weighted[j] = first_key + j == i ? own : weighted[j] * d;
          sum += weight[j] * weighted[j];
        }
        sum += shuffle_xor(sum, 16);
        if (lane_id() < 16) {
          float& output = tile[i * Shape::kFloatLd + channel];
          output = opens ? fmaf(read * product, output, sum) : output + sum;
        }
      }
      warp_sync();
      if (closes_output(member)) {
        emit(chunk, member, step * Shape::kStep);
        warp_sync();
      }
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i) product *= decay[i * arguments_.layout.decay_ld];
    }
    if (adds_to_state(member)) {
      // v' R in place: no other warp reads these columns, and nothing reads them raw after this.
      float suffix = 1.0f;
#pragma unroll
      for (int j = 15; j >= 0; --j) {
        if (j / 8 == lane_id() / 16) {
          T& element = value[j * arguments_.layout.value_ld + channel];
          element = from_float<T>(to_float(element) * suffix);
        }
        suffix *= decay[j * arguments_.layout.decay_ld];
      }
      warp_sync();
      const FragmentA<T> values[1] = {load_a_trans(value, arguments_.layout.value_ld)};
      if (!decays_state(member)) product = 1.0f;
      segment_decay_ *= product;
      const float row_decay[2] = {shuffle_idx(product, lane_id() / 4),
                                  shuffle_idx(product, lane_id() / 4 + 8)};
      update_state(values, key, [&](int, int i) { return row_decay[i / 2]; });
      warp_sync();
    }
  }

  // ---- outputs ----

  /// Hands the warp's tile of 16 tokens x 16 channels over: lane l has half the channels of token
  /// l / 2. `row` is the chunk's first token in the tile.
  __device__ __forceinline__ void emit(int chunk, int member, int row) {
    const int local = row + lane_id() / 2;
    const int channel = first_channel() + warp_id() * kChannelsPerWarp + 8 * (lane_id() % 2);
    const bool inside = local < valid_tokens(chunk);
    const int at_token = token(first_of(chunk) + local);
    const float* source = output_tile() + lane_id() / 2 * Shape::kFloatLd + 8 * (lane_id() % 2);
    const float4 low = load_four(source);
    const float4 high = load_four(source + 4);
    const float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const int output_head =
        role_.query.per_query_head ? head_ * arguments_.group + member : head_;
    if (inside && channel < value_columns()) {
      const TokenOutput& output = role_.output;
      const std::int64_t offset = batch() * output.batch_stride + at_token * output.time_stride +
                                  output_head * output.head_stride + channel;
      store_eight<T>(output, offset, values, value_columns() - channel);
    }
    if (role_.energy.data != nullptr) {
      emit_energy(values, local, at_token, channel, inside, member);
    }
  }

  /// e = factor * output in fp32, per channel to memory, or its sum over the warp's channels to
  /// shared memory.
  __device__ __forceinline__ void emit_energy(const float (&values)[8], int local,
                                              int at_token, int channel, bool inside,
                                              int member) const {
    const SweepEnergy& energy = role_.energy;
    float products[8] = {};
    if (inside) {
      const std::int64_t offset =
          energy.factor.offset(batch(), at_token, head_of(energy.factor, member)) + channel;
      if (energy.factor.aligned && channel + 8 <= value_columns()) {
        const T* source = static_cast<const T*>(energy.factor.data) + offset;
        const float4 low = load_four(source);
        const float4 high = load_four(source + 4);
        const float factor[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) products[i] = factor[i] * values[i];
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (channel + i < value_columns()) {
            products[i] = load_element<T>(energy.factor.data, offset + i, energy.factor.is_float) *
                          values[i];
          }
        }
      }
    }
    if constexpr (kDecay == SweepDecay::kScalar) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += products[i];
      sum += shuffle_xor(sum, 1);
      if (lane_id() % 2 == 0) at<float>(arguments_.layout.row_sums)[warp_id() * Shape::kStage + local] = sum;
    } else if (inside) {
      float* destination = energy.data + energy_index(at_token) * value_columns() + channel;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (channel + i < value_columns()) {
          add_energy(destination[i], products[i], member);
        }
      }
    }
  }

  __device__ __forceinline__ std::int64_t energy_index(int at_token) const {
    return (static_cast<std::int64_t>(batch()) * arguments_.time + at_token) * arguments_.kv_heads + head_;
  }

  __device__ __forceinline__ void add_energy(float& destination, float product, int member) const {
    const float energy = role_.energy.sign * product;
    const bool adds = role_.energy.adds || (role_.query.per_query_head && member > 0);
    destination = adds ? destination + energy : energy;
  }

  /// Sums of a finished item over the warps, in their order.
  __device__ __forceinline__ void flush_energy(Item item) {
    const auto [chunk, member] = item;
    if (role_.energy.data == nullptr || chunk < 0 || !closes_output(member)) return;
    const int valid = valid_tokens(chunk);
    for (int local = threadIdx.x; local < valid; local += blockDim.x) {
      float sum = 0.0f;
      for (int warp = 0; warp < warps(); ++warp) {
        sum += at<float>(arguments_.layout.row_sums)[warp * Shape::kStage + local];
      }
      add_energy(role_.energy.data[value_block_ * role_.energy.block_stride +
                                   energy_index(token(first_of(chunk) + local))],
                 sum, member);
    }
  }

  static constexpr int kOutputTiles = Shape::kStep / kFragmentCols;

  const SweepArguments& arguments_;
  const SweepRole& role_;
  unsigned char* const shared_;
  const int value_block_;
  const int segment_;
  const int head_;
  const int sequence_;
  int begin_;   // first token of the sequence
  int length_;  // tokens of the sequence
  int first_;   // positions of the segment in sweep order
  int last_;
  int chunks_;
  Accumulator state_[2 * (Shape::kKeySteps + 1)];
  Accumulator outputs_[kOutputTiles];
  float segment_decay_ = 1.0f;
};

template <typename T, int kKey, SweepDecay kDecay>
__global__ void __launch_bounds__(kMaxSweepWarps * kWarpSize, 1)
    sweep_kernel(__grid_constant__ const SweepArguments arguments) {
  // Blocks of one head are neighbours, so that what they read in common is read from memory once.
  const int blocks_per_head = arguments.roles[0].value_blocks + arguments.roles[1].value_blocks;
  int index = static_cast<int>(blockIdx.x);
  int value_block = index % blocks_per_head;
  index /= blocks_per_head;
  const int segment = index % arguments.segments;
  index /= arguments.segments;
  const bool second = value_block >= arguments.roles[0].value_blocks;
  if (second) value_block -= arguments.roles[0].value_blocks;
  // In shared memory the role costs no registers: the compiler would keep what it reads of it from
  // the arguments, at an address that depends on the block, through the whole loop.
  SweepRole& role = shared_memory<SharedRole>().role;
  if (threadIdx.x == 0) role = arguments.roles[second];
  block_sync();
  Sweep<T, kKey, kDecay>(arguments, role, value_block,
                         index % arguments.kv_heads, index / arguments.kv_heads, segment)
      .run();
}

template <typename T, int kKey, SweepDecay kDecay>
bool fits(int warps, int stages, const DeviceLimits& limits) {
  return make_layout<T, kKey, kDecay>(warps, stages).bytes <= limits.shared_bytes_per_block;
}

/// As many warps a block as v' has use for, evenly over the blocks; two stages where shared memory
/// has room for them. Fewer warps only where not even one stage fits.
template <typename T, int kKey, SweepDecay kDecay>
SweepPlan plan_blocks(int value_columns) {
  const DeviceLimits limits = device_limits();
  const int tiles = (value_columns + kChannelsPerWarp - 1) / kChannelsPerWarp;
  int blocks = (tiles + kMaxSweepWarps - 1) / kMaxSweepWarps;
  int warps = (tiles + blocks - 1) / blocks;
  while (warps > 1 && !fits<T, kKey, kDecay>(warps, 1, limits)) {
    ++blocks;
    warps = (tiles + blocks - 1) / blocks;
  }
  return {kKey, warps, fits<T, kKey, kDecay>(warps, 2, limits) ? 2 : 1};
}

/// Calls `call.template operator()<kKey, kDecay>()` for the kernel that takes these key' columns.
template <SweepDecay kDecay, typename Call>
auto with_key_columns(int key_columns, Call call) {
  if (key_columns <= sweep_key_capacity(kDecay, 64)) return call.template operator()<64, kDecay>();
  if (key_columns <= sweep_key_capacity(kDecay, 128)) {
    return call.template operator()<128, kDecay>();
  }
  return call.template operator()<256, kDecay>();
}

template <typename Call>
auto with_kernel(SweepDecay decay, int key_columns, Call call) {
  switch (decay) {
    case SweepDecay::kKeyChannel:
      return with_key_columns<SweepDecay::kKeyChannel>(key_columns, call);
    case SweepDecay::kValueChannel:
      return with_key_columns<SweepDecay::kValueChannel>(key_columns, call);
    default:
      return with_key_columns<SweepDecay::kScalar>(key_columns, call);
  }
}

template <typename T>
SweepPlan plan_sweep(SweepDecay decay, int key_columns, int value_columns) {
  return with_kernel(decay, key_columns, [&]<int kKey, SweepDecay kDecay>() {
    return plan_blocks<T, kKey, kDecay>(value_columns);
  });
}

template <typename T>
void launch_sweep(SweepDecay decay, SweepArguments arguments, cudaStream_t stream) {
  int key_columns = 0, value_columns = 0;
  for (int i = 0; i < arguments.role_count; ++i) {
    key_columns = std::max(key_columns, arguments.roles[i].key.total_columns());
    value_columns = std::max(value_columns, arguments.roles[i].value.total_columns());
  }
  with_kernel(decay, key_columns, [&]<int kKey, SweepDecay kDecay>() {
    using Shape = SweepShape<T, kKey, kDecay>;
    const SweepPlan plan = plan_blocks<T, kKey, kDecay>(value_columns);
    for (int i = 0; i < kMaxRoles; ++i) {
      SweepRole& role = arguments.roles[i];
      role.value_blocks =
          i < arguments.role_count ? value_blocks(plan, role.value.total_columns()) : 0;
      role.query.unit_shift = unit_shift<T>(role.query, role.query.columns);
      role.key.unit_shift = unit_shift<T>(role.key, role.key.columns);
      role.value.unit_shift = unit_shift<T>(
          role.value, std::min(role.value.columns, plan.warps * kChannelsPerWarp));
    }
    arguments.layout = make_layout<T, kKey, kDecay>(plan.warps, plan.stages);
    arguments.stages = plan.stages;
    // With several heads on one state, a stage is one step: the steps of a chunk depend on each
    // other through the state, to which all heads add first.
    arguments.steps = arguments.group == 1 ? Shape::kMaxSteps : 1;
    arguments.chunk_tokens = arguments.steps * Shape::kStep;
    const std::int64_t blocks = std::int64_t{1} * arguments.sequences * arguments.kv_heads *
                                arguments.segments *
                                (arguments.roles[0].value_blocks + arguments.roles[1].value_blocks);
    launch(sweep_kernel<T, kKey, kDecay>,
           {grid_of(blocks), dim3(plan.warps * kWarpSize),
            static_cast<std::size_t>(arguments.layout.bytes), stream, "linear_attention_sweep"},
           arguments);
  });
}

}  // namespace rankone::cuda
