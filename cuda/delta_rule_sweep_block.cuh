// A block of the sweeps described in delta_rule_sweep.cuh: its place in the problem, what it keeps
// in shared memory, how tiles get there, and the order of its work. The parts of the work are in
// delta_rule_sweep_{tables,state,work}.cuh.
#pragma once

#include "delta_rule_chunk.cuh"
#include "delta_rule_sweep.cuh"
#include "primitives/async_copy.cuh"
#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "state_tiles.cuh"
#include "time_split.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

template <typename T, int kKey>
struct DeltaSweepShape {
  static constexpr int kKeyLd = kKey + 8;
  static constexpr int kDecayLd = kKey + 4;
  static constexpr int kFloatLd = 20;  // rows of float4
};

/// What a block works on. In shared memory, so that it takes no registers from the state.
struct DeltaSweepPlace {
  bool is_transition;  // of the segment, instead of value channels
  int value_block;     // or block of the transition's columns
  int segment;
  int head;
  int sequence;
  int begin;  // first token of the sequence
  int first;  // tokens of the segment
  int last;
  int stages;
};

/// Start of the dynamic shared memory; a DeltaSweepLayout holds the offsets of what follows.
struct alignas(kSharedAlignment) DeltaSweepShared {
  DeltaSweepPlace place;
};

/// The place of block `index`.
__device__ __forceinline__ DeltaSweepPlace find_place(const DeltaSweepArguments& arguments,
                                                      int index) {
  DeltaSweepPlace place;
  // Blocks of one head are neighbours, so that what they read in common is read from memory once.
  const int blocks = arguments.value_blocks + arguments.transition_blocks;
  place.value_block = index % blocks;
  place.is_transition = place.value_block >= arguments.value_blocks;
  if (place.is_transition) place.value_block -= arguments.value_blocks;
  index /= blocks;
  place.segment = index % arguments.segments;
  index /= arguments.segments;
  place.head = index % arguments.value_heads;
  place.sequence = index / arguments.value_heads;
  const auto [begin, length] = find_sequence(arguments.cu_seqlens, place.sequence, arguments.time);
  place.begin = begin;
  const int start = min(arguments.first, length);
  const TimeSegment part =
      cut_time(min(arguments.last, length) - start, place.segment, arguments.segments);
  place.first = place.begin + start + part.first;
  place.last = place.begin + start + part.last;
  const int rows = arguments.steps * kDeltaChunk;
  place.stages = (place.last - place.first + rows - 1) / rows;
  return place;
}

/// 16 x 16 values rounded to T and what rounding left of them, in __half with a power of two to
/// multiply the product by.
template <typename T>
struct RoundedTile {
  SplitA<T> values;
  float up;
};
template <typename T>
__device__ __forceinline__ RoundedTile<T> round_tile(const AccumulatorPair& values) {
  const BinaryScale scale = operand_scale<T>(values);
  return {split_a<T>(values.left, values.right, scale.down), scale.up};
}

/// What is read from the state for 16 tokens.
struct StateProducts {
  AccumulatorPair predicted;  // S^T K^T with the state in two operands
  AccumulatorPair read;       // S^T X^T of another tile with the state in one
};

template <typename T, int kKey, DeltaDecay kDecay, bool kReversed>
class DeltaSweep {
 public:
  /// `place` is in shared memory and the same for all threads.
  __device__ __forceinline__ DeltaSweep(const DeltaSweepArguments& arguments,
                                        const DeltaSweepPlace& place, unsigned char* shared)
      : arguments_(arguments), place_(place), shared_(shared) {}

  __device__ __forceinline__ void run() {
    load_state();
    clear_padding();
    const bool pipelined = arguments_.pipelined;
    const int lag = pipelined ? 1 : 0;
    if (pipelined && place_.stages > 0) {
      start_copies(0);
      commit_async();
    }
    // Turn i works on stage i and prepares stage i + lag; before the first one there is none to
    // work on.
#pragma unroll 1
    for (int i = -lag; i < place_.stages; ++i) {
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
        if (prepared + 1 < place_.stages) start_copies(prepared + 1);
        commit_async();
      }
      if (prepared < place_.stages) prepare(prepared);
      if (!pipelined) block_sync();
      if (i >= 0) work(i);
    }
    block_sync();
    if constexpr (kReversed) flush_beta_grad(place_.stages - 1);
    store_state();
  }

 private:
  using Shape = DeltaSweepShape<T, kKey>;
  static constexpr bool kChannel = kDecay == DeltaDecay::kChannel;
  static constexpr bool kHalf = std::is_same_v<T, __half>;
  static constexpr int kKeySteps = kKey / 16;
  /// The state's update is what the next chunk waits for, so it goes before what leaves the sweep;
  /// not where the state leaves no registers to hold that back.
  static constexpr bool kEmitsFirst = kKey > 128;

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
    return arguments_.cu_seqlens == nullptr ? place_.sequence : 0;
  }
  __device__ __forceinline__ int key_head() const { return place_.head / arguments_.group; }
  __device__ __forceinline__ std::int64_t token_index(int token) const {
    return (static_cast<std::int64_t>(batch()) * arguments_.time + token) * arguments_.value_heads +
           place_.head;
  }
  __device__ __forceinline__ int key_columns() const { return arguments_.key.columns; }
  /// Those of v or, for the transition, of a state that starts as the identity and gets no v.
  __device__ __forceinline__ int value_columns() const {
    return place_.is_transition ? key_columns() : arguments_.value.columns;
  }
  __device__ __forceinline__ int first_channel() const {
    return place_.value_block * warps() * kDeltaChannelsPerWarp;
  }
  __device__ __forceinline__ int block_columns() const {
    return max(0, min(value_columns() - first_channel(), warps() * kDeltaChannelsPerWarp));
  }
  __device__ __forceinline__ bool reads() const { return arguments_.query.data != nullptr; }
  __device__ __forceinline__ bool makes_states_alone() const {
    return !kReversed && !reads() && arguments_.errors.data == nullptr;
  }
  /// First token of the i-th stage worked on; its rows run along time in both directions.
  __device__ __forceinline__ int first_of(int i) const {
    return place_.first + (kReversed ? place_.stages - 1 - i : i) * rows();
  }
  __device__ __forceinline__ int valid_rows(int i) const {
    return min(place_.last - first_of(i), rows());
  }

  // ---- copies into shared memory ----

  /// Columns no copy writes, so that they count as zeros for ever.
  __device__ void clear_padding() const {
    const DeltaSweepLayout& layout = arguments_.layout;
    clear_columns(at<T>(layout.query), layout.slots * rows(), Shape::kKeyLd,
                  reads() ? key_columns() : 0);
    clear_columns(at<T>(layout.key), layout.slots * rows(), Shape::kKeyLd, key_columns());
    clear_columns(at<T>(layout.value), layout.value_slots * rows(), layout.value_ld,
                  place_.is_transition ? 0 : block_columns());
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
      const bool is_value = which == 2;
      if (operand.data == nullptr || (is_value && place_.is_transition)) continue;
      const std::int64_t start =
          operand.offset(batch(), first_of(i), is_value ? place_.head : key_head()) +
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
                operand.offset(batch(), first_of(i), place_.head), operand.time_stride, rows(),
                valid_rows(i), key_columns());
    }
  }

  // ---- tables and decayed tiles (delta_rule_sweep_tables.cuh) ----

  /// Turns the log-decays of stage i into decays; past its end they are zeros.
  __device__ void exponentiate_decays(int i) const;
  /// Everything about stage i that does not need the state. For scalar decays a warp makes a whole
  /// table; channel decays are more work, which all warps share.
  __device__ void prepare(int i);
  /// The factors of a chunk's rows; for a scalar decay W goes to `inverse`.
  __device__ void fill_factors(int i, int step) const;
  /// P and the matrix to invert, for a scalar decay, whose W is in `inverse`.
  __device__ void weigh_products(int i, int step) const;
  /// P and the matrix to invert by the running product over the chunk's rows, four keys a job.
  __device__ void weigh_pairs(int i) const;
  /// a q, a k and b k of every chunk, normalised, and D; a thread has one channel of one chunk.
  __device__ void decay_tiles(int i) const;

  /// The element of I + M diag(beta) or I + diag(beta) M.
  __device__ __forceinline__ static float system(const DeltaChunkTable& chunk, int row, int column,
                                                 float product) {
    return column < row ? product * chunk.beta[kReversed ? row : column] : 0.0f;
  }

  // ---- the state (delta_rule_sweep_state.cuh) ----

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

  __device__ __forceinline__ std::int64_t state_place(bool of_every_segment) const {
    std::int64_t index =
        static_cast<std::int64_t>(place_.sequence) * arguments_.value_heads + place_.head;
    if (of_every_segment) index = index * arguments_.segments + place_.segment;
    return index * key_columns() * value_columns();
  }

  __device__ void load_state();
  __device__ void store_state();
  /// The state as a snapshot where the chunk that starts at `token` opens a group, or against time
  /// closes it.
  __device__ void store_snapshot(int token);
  template <bool kPredicts>
  __device__ StateProducts read_state(const T* key, const T* key_low, const T* other) const;
  /// S^T = D S^T + sum of terms[n] * (rows of tiles[n]). The sum over the tokens starts from zero
  /// and is added with rounding: tensor cores cut off the low bits of a long sum.
  /// `exact` takes what rounding left of a single term and, with channel decays, of its tile.
  template <int kTerms>
  __device__ void update_state(const RoundedTile<T> (&terms)[kTerms],
                               const T* const (&tiles)[kTerms], bool exact, const T* tile_low,
                               float decay, const float* channel_decay);

  __device__ __forceinline__ static void add_term(AccumulatorPair& sum, const RoundedTile<T>& term,
                                                  const T* tile, bool exact) {
    const FragmentBPair<T> rows = load_b_trans_pair(tile, Shape::kKeyLd);
    if (exact) mma_pair(sum, term.values.low, rows);
    mma_pair(sum, term.values.high, rows);
  }

  // ---- a stage (delta_rule_sweep_work.cuh) ----

  __device__ void work(int i);
  __device__ void work_along_time(int i, int step);
  __device__ void work_against_time(int i, int step);
  /// The tile turned through shared memory: the lane's eight values of `row_of`.
  __device__ void transpose_tile(float (&values)[8], const AccumulatorPair& tile) const;
  template <typename Element>
  __device__ void emit(int i, int row, const AccumulatorPair& tile,
                       const TokenOutput& output) const;
  /// Sums of a finished stage over the warps, in their order.
  __device__ void flush_beta_grad(int i) const;

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
           place_.head * output.head_stride + row.channel;
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

  const DeltaSweepArguments& arguments_;
  const DeltaSweepPlace& place_;
  unsigned char* const shared_;
  Accumulator state_[2 * kKeySteps];
};

}  // namespace rankone::cuda
