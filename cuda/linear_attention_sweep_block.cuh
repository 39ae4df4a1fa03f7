// A block of the sweep described in linear_attention_sweep.cuh: its place in the problem, what it
// keeps in shared memory, how tiles and decays get there, and the order of its work. The parts of
// the work are in linear_attention_sweep_{state,scalar,channel,output}.cuh.
#pragma once

#include "linear_attention_decay.cuh"
#include "linear_attention_sweep.cuh"
#include "primitives/async_copy.cuh"
#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "state_tiles.cuh"
#include "time_split.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

/// Key' columns past kKey that a kernel takes: for the ones column, and so that 80 columns do not
/// need the kernel for 128. Their part of the state waits in shared memory, a few accesses a chunk
/// where there are any, so that the common case has its registers. With channel decays on k' there
/// are none.
constexpr int sweep_tail_columns(SweepDecay decay) {
  return decay == SweepDecay::kKeyChannel ? 0 : 16;
}

template <typename T, int kKey, SweepDecay kDecay>
struct SweepShape {
  static constexpr bool kScalar = kDecay == SweepDecay::kScalar;
  /// Tokens of a stage. 64 where they fit: fp32 tiles and fp32 decays of 64 tokens would leave no
  /// room for two stages, and the outputs of 64 tokens none for a state of 256 columns in
  /// registers. 256 columns with their decays and decayed copies fit a small device only at 16.
  static constexpr int kStage = kScalar && sizeof(T) == 2 && kKey <= 128           ? 64
                                : kDecay == SweepDecay::kKeyChannel && kKey == 256 ? 16
                                                                                   : 32;
  static constexpr int kStep = kScalar ? kStage : 16;
  static constexpr int kMaxSteps = kStage / kStep;
  static constexpr int kBlocks = kStep / 16;
  static constexpr int kTail = sweep_tail_columns(kDecay);
  static constexpr int kKeySteps = kKey / 16;  // without the tail
  static constexpr int kAllKeySteps = kKeySteps + (kTail > 0 ? 1 : 0);
  static constexpr int kStateTiles = kKey / kFragmentCols;
  static constexpr int kKeyColumns = 16 * kAllKeySteps;
  // Odd multiples of 8: rows of a fragment fall in distinct banks.
  static constexpr int kKeyLd = kKeyColumns + 8;
  static constexpr int kPairLd = kStep + 8;
  static constexpr int kRestLd = 16 + 8;
  // The fp32 pairs of a channel step and the output tile of a warp: rows of float4.
  static constexpr int kFloatLd = 20;
  using Table = ScalarDecayTable<kStage>;
};

/// What a block works on. In shared memory, so that it takes no registers from the state.
struct SweepPlace {
  int role;
  int value_block;
  int segment;
  int head;
  int sequence;
  int begin;   // first token of the sequence
  int length;  // tokens of the sequence
  int first;   // positions of the segment in sweep order
  int last;
  int chunks;  // of the segment
};

/// Start of the dynamic shared memory; a SweepLayout holds the offsets of what follows.
struct alignas(kSharedAlignment) SweepShared {
  SweepPlace place;
};

/// The place of block `index`.
__device__ __forceinline__ SweepPlace find_place(const SweepArguments& arguments, int index) {
  SweepPlace place;
  // Blocks of one head are neighbours, so that what they read in common is read from memory once.
  const int first_blocks = arguments.roles[0].value_blocks;
  const int blocks = first_blocks + arguments.roles[1].value_blocks;
  place.value_block = index % blocks;
  place.role = place.value_block < first_blocks ? 0 : 1;
  if (place.role == 1) place.value_block -= first_blocks;
  index /= blocks;
  place.segment = index % arguments.segments;
  index /= arguments.segments;
  place.head = index % arguments.kv_heads;
  place.sequence = index / arguments.kv_heads;
  const auto [begin, length] = find_sequence(arguments.cu_seqlens, place.sequence, arguments.time);
  place.begin = begin;
  place.length = length;
  const TimeSegment part = cut_time(length, place.segment, arguments.segments);
  place.first = part.first;
  place.last = part.last;
  place.chunks = (place.last - place.first + arguments.chunk_tokens - 1) / arguments.chunk_tokens;
  return place;
}

template <typename T, int kKey, SweepDecay kDecay>
class Sweep {
 public:
  /// `place` is in shared memory and the same for all threads.
  __device__ __forceinline__ Sweep(const SweepArguments& arguments, const SweepRole& role,
                                   const SweepPlace& place, unsigned char* shared)
      : arguments_(arguments), role_(role), place_(place), shared_(shared) {}

  __device__ __forceinline__ void run() {
    clear_padding();
    clear_segment_decay();
    load_state();
    const int ahead = arguments_.stages - 1;
    // One turn before the first item: it starts the pipeline.
    Item item{-1, arguments_.group - 1};
#pragma unroll 1
    for (; item.chunk < place_.chunks; item = next(item)) {
      const bool running = item.chunk >= 0;
      if (ahead == 0) {
        block_sync();  // the only stage is free again
      } else if (running) {
        complete(item);
      }
      const Item loaded = ahead == 0 ? item : next(item);
      if (loaded.chunk >= 0 && loaded.chunk < place_.chunks) load_item(loaded);
      commit_async();
      if (running && ahead == 0) complete(item);
      if constexpr (Shape::kScalar) {
        const bool prepares = item.member + 1 == arguments_.group && item.chunk + 1 < place_.chunks;
        const LogDecays log_decays = load_log_decays(prepares ? item.chunk + 1 : place_.chunks);
        if (running) scalar_item(item.chunk, item.member);
        if (prepares) prepare_table(item.chunk + 1, log_decays);
      } else {
        if (running) channel_item(item.chunk, item.member);
      }
    }
    block_sync();
    if constexpr (Shape::kScalar) flush_energy(previous(item));
    store_state();
    store_segment_decay();
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

  /// Operands are rounded to T, or, where the decay's gradient is wanted, taken in two parts: the
  /// rounded value and the rounded rest. That gradient is a sum over the sequence of differences
  /// q dq - k dk in which almost everything cancels, so dq and dk must agree far beyond T.
  __device__ __forceinline__ int parts() const {
    return sizeof(T) == 2 && role_.energy.data != nullptr ? 2 : 1;
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
    return at<T>(arguments_.layout.query) +
           slot(role_.query, chunk, member) * Shape::kStage * Shape::kKeyLd;
  }
  __device__ __forceinline__ T* key_tile(int chunk, int member) const {
    return at<T>(arguments_.layout.key) +
           slot(role_.key, chunk, member) * Shape::kStage * Shape::kKeyLd;
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

  __device__ __forceinline__ static int warps() { return static_cast<int>(blockDim.x / kWarpSize); }
  __device__ __forceinline__ int key_columns() const { return role_.key.total_columns(); }
  __device__ __forceinline__ int batch() const {
    return arguments_.cu_seqlens == nullptr ? place_.sequence : 0;
  }
  __device__ __forceinline__ std::int64_t head_index() const {
    return static_cast<std::int64_t>(place_.sequence) * arguments_.kv_heads + place_.head;
  }
  __device__ __forceinline__ int value_columns() const { return role_.value.total_columns(); }
  __device__ __forceinline__ int first_channel() const {
    return place_.value_block * warps() * kChannelsPerWarp;
  }
  __device__ __forceinline__ bool has_tail() const {
    return Shape::kTail > 0 && key_columns() > kKey;
  }
  /// The calling thread's elements of the state's two tail tiles.
  __device__ __forceinline__ Accumulator& tail(int side) const {
    return at<Accumulator>(arguments_.layout.tail)[side * blockDim.x + threadIdx.x];
  }
  __device__ __forceinline__ bool reads() const { return role_.output.data != nullptr; }
  /// Columns of this block out of `columns`.
  __device__ __forceinline__ int block_columns(int columns) const {
    return max(0, min(columns - first_channel(), warps() * kChannelsPerWarp));
  }
  __device__ __forceinline__ int first_of(int chunk) const {
    return place_.first + chunk * arguments_.chunk_tokens;
  }
  __device__ __forceinline__ int valid_tokens(int chunk) const {
    return min(place_.last - first_of(chunk), arguments_.chunk_tokens);
  }
  /// Token of the sweep's position.
  __device__ __forceinline__ int token(int position) const {
    return place_.begin + (role_.reversed ? place_.length - 1 - position : position);
  }
  __device__ __forceinline__ int head_of(const TokenOperand& operand, int member) const {
    return operand.per_query_head ? place_.head * arguments_.group + member : place_.head;
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
    clear_columns(at<T>(arguments_.layout.value), arguments_.stages * Shape::kStage,
                  arguments_.layout.value_ld, block_columns(value_columns()));
    if constexpr (!Shape::kScalar) {
      clear_columns(at<float>(arguments_.layout.decay), arguments_.stages * Shape::kStage,
                    arguments_.layout.decay_ld, decay_columns());
    }
    if constexpr (kDecay == SweepDecay::kKeyChannel) {
      // Past kKey; the rest is written by decay_keys.
      clear_columns(at<T>(arguments_.layout.decayed_query), Shape::kStage, Shape::kKeyLd, kKey);
      clear_columns(at<T>(arguments_.layout.decayed_key), Shape::kStage, Shape::kKeyLd, kKey);
    }
  }

  __device__ __forceinline__ void load_item(Item item) const {
    const auto [chunk, member] = item;
    // One loop body for the three operands: the code of a copy is long, its time is not.
#pragma unroll 1
    for (int which = 0; which < 3; ++which) {
      const TokenOperand& operand = which == 0 ? role_.query : which == 1 ? role_.key : role_.value;
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
                                            int first_column, int columns, bool ones_column) const {
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
    return position < place_.last && (!role_.reversed || position > 0);
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
      if (warp_id() == warps() - 1 && chunk < place_.chunks && has_decay(position)) {
        if (arguments_.decay.form == DecayForm::kPerHead) {
          log_decays.of[i] = arguments_.decay.data[place_.head];
        } else if (arguments_.decay.form == DecayForm::kPerToken) {
          log_decays.of[i] = *arguments_.decay.at(batch(), decay_token(position), place_.head);
        }
      }
    }
    return log_decays;
  }

  __device__ __forceinline__ void prepare_table(int chunk, const LogDecays& log_decays) {
    if (warp_id() == warps() - 1 && !has_table(chunk)) build_table(table(chunk), log_decays.of);
  }
  /// Whether the table of two chunks before, in the same place, is this chunk's as well: a constant
  /// decay, and all tokens of both chunks have it.
  __device__ __forceinline__ bool has_table(int chunk) const {
    return arguments_.decay.form != DecayForm::kPerToken && chunk >= 2 &&
           valid_tokens(chunk) == arguments_.chunk_tokens &&
           (!role_.reversed || first_of(chunk - 2) > 0);
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
      const float* source = present
                                ? arguments_.decay.at(batch(), decay_token(position), place_.head) +
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

  // ---- the state (linear_attention_sweep_state.cuh) ----

  /// Value' channel of the calling lane's accumulator rows lane/4 and lane/4 + 8.
  __device__ int state_channel(int i) const;
  /// Calls visit(element, place, i) for the lane's elements of the state, `place` being the one
  /// they have in a state with the strides of `in`, and i that in the accumulator.
  template <typename Visit>
  __device__ void for_each_state(const SweepState& in, Visit visit);
  __device__ void load_state();
  __device__ void store_state();
  __device__ void store_pairing();
  /// The decay of the whole segment so far: one number, or one a decaying channel of the block.
  __device__ float* segment_decay() const;
  __device__ int segment_decay_channels() const;
  __device__ void clear_segment_decay() const;
  __device__ void store_segment_decay() const;
  /// The state as A operands of T, rounded and what rounding leaves, scaled down by a power of two
  /// where T is __half.
  __device__ BinaryScale state_scale() const;
  __device__ SplitA<T> state_operand(int key_step, float down) const;
  /// outputs += S^T Q^T for kTiles * 8 tokens of `query`; with __half the result is to be scaled up
  /// by what is returned.
  template <int kTiles>
  __device__ float read_state(Accumulator (&outputs)[kTiles], const T* query) const;
  /// S^T = decay S^T + add_scale V^T K over kDepth * 16 tokens; `decay(tile, i)` is the factor of
  /// element i of the accumulator. The sum over the tokens starts from zero and is added with
  /// rounding: tensor cores cut off the low bits of a long sum.
  template <int kDepth, typename Decay>
  __device__ void update_state(const FragmentA<T> (&values)[kDepth], const T* key, Decay decay);

  // ---- a chunk with scalar decays (linear_attention_sweep_scalar.cuh) ----

  __device__ void scalar_item(int chunk, int member);
  /// One part of P = pair_scale lower(Q K^T) W, 16 x 16 blocks dealt out to the warps.
  __device__ void scalar_pairs(const T* query, const T* key, const Table& decays, int part);
  /// Q K^T of 16 queries and 16 keys.
  __device__ AccumulatorPair multiply_pairs(const T* query, const T* key) const;
  /// O^T += V^T P^T.
  __device__ void scalar_outputs(const T* value);
  /// (left, right) += scale a b.
  __device__ void add_products(Accumulator& left, Accumulator& right, const FragmentA<T>& a,
                               const FragmentBPair<T>& b, float scale) const;

  // ---- a chunk with channel decays (linear_attention_sweep_channel.cuh) ----

  __device__ void channel_item(int chunk, int member);
  /// Pairs of each step by the running product over its queries, four keys a job.
  __device__ void key_channel_pairs(const T* query, const T* key, const float* decay) const;
  /// q' P and k' R of every step, rounded to T, and D; a thread has one channel of one step.
  __device__ void decay_keys(const T* query, const T* key, const float* decay, bool with_query,
                             bool with_key) const;
  /// Keeps the segment's whole decay, each channel by a thread of its own.
  __device__ void decay_segment() const;
  __device__ void key_channel_step(int chunk, int member, int step, const T* query, const T* key,
                                   const T* value);
  /// The fp32 pairs of a step as the operand P^T, scaled down by `up` where T is __half.
  __device__ FragmentBPair<T> load_pairs(int step, float& up) const;
  /// Pairs of each step, without decay.
  __device__ void value_channel_pairs(const T* query, const T* key) const;
  /// Lane l works on channel l % 16 of its warp: half the keys each for lanes l and l + 16.
  __device__ void value_channel_step(int chunk, int member, int step, const T* query, const T* key,
                                     T* value);

  // ---- outputs (linear_attention_sweep_output.cuh) ----

  /// Hands the warp's tile of 16 tokens x 16 channels over: lane l has half the channels of token
  /// l / 2. `row` is the chunk's first token in the tile.
  __device__ void emit(int chunk, int member, int row);
  /// e = factor * output in fp32, per channel to memory, or its sum over the warp's channels to
  /// shared memory.
  __device__ void emit_energy(const float (&values)[8], int local, int at_token, int channel,
                              bool inside, int member) const;
  __device__ std::int64_t energy_index(int at_token) const;
  __device__ bool adds_energy(int member) const;
  __device__ void add_energy(float& destination, float product, int member) const;
  /// Sums of a finished item over the warps, in their order.
  __device__ void flush_energy(Item item);

  static constexpr int kOutputTiles = Shape::kStep / kFragmentCols;

  const SweepArguments& arguments_;
  const SweepRole& role_;
  const SweepPlace& place_;
  unsigned char* const shared_;
  Accumulator state_[Shape::kStateTiles];
  Accumulator outputs_[kOutputTiles];
};

}  // namespace rankone::cuda
