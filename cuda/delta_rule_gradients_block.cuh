// A block of the kernel described in delta_rule_gradients.cuh: its place in the problem, what it
// keeps in shared memory, the order of its work, and its rows of the states. The rest is in
// delta_rule_gradients_{tables,work}.cuh.
#pragma once

#include "decay_products.cuh"
#include "delta_rule_chunk.cuh"
#include "delta_rule_gradients.cuh"
#include "primitives/async_copy.cuh"
#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "state_tiles.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

inline constexpr int kGradientTileLd = 20;     // rows of float4
inline constexpr int kGradientScratchLd = 24;  // an odd multiple of 8

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

/// What a block works on. In shared memory, so that it takes no registers from the state.
struct DeltaGradientPlace {
  int key_block;
  int group;
  int head;
  int sequence;
  int begin;  // first token of the sequence
  int first;  // of the group
  int valid;  // tokens of the group
};

/// Start of the dynamic shared memory; a DeltaGradientLayout holds the offsets of what follows.
struct alignas(kSharedAlignment) DeltaGradientShared {
  DeltaGradientPlace place;
};

/// The place of block `index`.
__device__ __forceinline__ DeltaGradientPlace find_place(const DeltaGradientArguments& arguments,
                                                         int index) {
  DeltaGradientPlace place;
  place.key_block = index % arguments.key_blocks;
  index /= arguments.key_blocks;
  place.group = index % arguments.groups;
  index /= arguments.groups;
  place.head = index % arguments.value_heads;
  place.sequence = index / arguments.value_heads;
  const auto [begin, length] = find_sequence(arguments.cu_seqlens, place.sequence, arguments.time);
  place.begin = begin;
  const int position = arguments.first + place.group * arguments.states.tokens;
  const int end = min(min(position + arguments.states.tokens, arguments.last), length);
  place.first = place.begin + position;
  place.valid = end - position;
  return place;
}

template <typename T, int kValue, DeltaDecay kDecay>
class DeltaGradients {
 public:
  /// `place` is in shared memory and the same for all threads.
  __device__ __forceinline__ DeltaGradients(const DeltaGradientArguments& arguments,
                                            const DeltaGradientPlace& place, unsigned char* shared)
      : arguments_(arguments), place_(place), shared_(shared) {}

  __device__ __forceinline__ void run() {
    if (place_.valid <= 0) return;
    load_tiles();
    block_sync();
    for (int chunk = warp_id(); chunk < chunks(); chunk += warps()) fill_table(chunk);
    if constexpr (kChannel) exponentiate_decays();
    block_sync();
#pragma unroll 1
    for (int part = 0; part < arguments_.value_parts; ++part) {
      load_states(part);
      for (int chunk = 0; chunk < chunks(); ++chunk) read_along_time(chunk, part);
      load_state_grads(part);
      for (int chunk = chunks() - 1; chunk >= 0; --chunk) write_against_time(chunk, part);
    }
    if constexpr (!kChannel) {
      if (arguments_.decay_grad != nullptr) sum_decay_grad();
    }
  }

 private:
  static constexpr bool kChannel = kDecay == DeltaDecay::kChannel;
  static constexpr int kValueSteps = kValue / 16;

  // ---- what lies where ----

  template <typename Element>
  __device__ __forceinline__ Element* at(int offset) const {
    return reinterpret_cast<Element*>(shared_ + offset);
  }
  __device__ __forceinline__ static int warps() { return static_cast<int>(blockDim.x) / kWarpSize; }
  __device__ __forceinline__ int chunks() const {
    return (place_.valid + kDeltaChunk - 1) / kDeltaChunk;
  }
  __device__ __forceinline__ int value_ld() const { return arguments_.layout.value_ld; }
  __device__ __forceinline__ int key_columns() const { return arguments_.key.columns; }
  __device__ __forceinline__ int value_columns() const { return arguments_.output_grad.columns; }
  __device__ __forceinline__ int first_channel() const {
    return place_.key_block * warps() * kDeltaChannelsPerWarp;
  }
  __device__ __forceinline__ int own_channel() const {
    return first_channel() + warp_id() * kDeltaChannelsPerWarp;
  }
  __device__ __forceinline__ int block_columns() const {
    return max(0, min(key_columns() - first_channel(), warps() * kDeltaChannelsPerWarp));
  }
  __device__ __forceinline__ int batch() const {
    return arguments_.cu_seqlens == nullptr ? place_.sequence : 0;
  }
  __device__ __forceinline__ int key_head() const { return place_.head / arguments_.group; }
  __device__ __forceinline__ std::int64_t token_index(int row) const {
    return (static_cast<std::int64_t>(batch()) * arguments_.time + place_.first + row) *
               arguments_.value_heads +
           place_.head;
  }
  __device__ __forceinline__ DeltaGradientTable& table(int chunk) const {
    return at<DeltaGradientTable>(arguments_.layout.tables)[chunk];
  }
  /// Rows of a chunk: the warp's key channels, the value channels from those of a part on.
  __device__ __forceinline__ T* key_rows(int offset, int chunk) const {
    return at<T>(offset) + chunk * kDeltaChunk * arguments_.layout.key_ld +
           warp_id() * kDeltaChannelsPerWarp;
  }
  __device__ __forceinline__ T* value_rows(int offset, int chunk, int part) const {
    return at<T>(offset) + chunk * kDeltaChunk * value_ld() + part * kValue;
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

  // ---- tiles and tables (delta_rule_gradients_tables.cuh) ----

  __device__ void load_tiles() const;
  __device__ void exponentiate_decays() const;
  /// The norms of a chunk's rows over all their channels, by one warp.
  __device__ void fill_norms(int chunk) const;
  __device__ float sum_of_squares(const TokenOperand& operand, int row) const;
  /// One warp makes the table of a chunk.
  __device__ void fill_table(int chunk) const;

  // ---- the state's rows ----

  /// Calls visit(element, value, e) for the lane's elements of the warp's rows of a snapshot, e
  /// being the element's number in its accumulator.
  template <typename Visit>
  __device__ __forceinline__ void for_each_element(const DeltaSnapshots& snapshots, int part,
                                                   Visit visit) {
    const std::int64_t slot = snapshots.slot(place_.sequence, place_.begin, place_.group);
    const T* snapshot = static_cast<const T*>(snapshots.data) +
                        (slot * arguments_.value_heads + place_.head) *
                            DeltaSnapshots::elements(key_columns(), value_columns());
    const int key_tile = place_.key_block * warps() + warp_id();
    const bool inside = key_tile < DeltaSnapshots::tiles(key_columns());
#pragma unroll
    for (int step = 0; step < kValueSteps; ++step) {
      const int value_tile = part * kValueSteps + step;
      float values[8] = {};
      if (inside && value_tile < DeltaSnapshots::tiles(value_columns())) {
        read_eight(values, DeltaSnapshots::tile(snapshot, key_columns(), value_tile, key_tile));
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) visit(state_[2 * step + e / 4].x[e % 4], values[e], e % 4);
    }
  }

  __device__ __forceinline__ void load_states(int part) {
    for_each_element(arguments_.states, part,
                     [](float& element, float value, int) { element = value; });
  }

  /// Replaces S after the group by dS, and adds <S, dS> up by key channel.
  __device__ __forceinline__ void load_state_grads(int part) {
    float sums[2] = {0.0f, 0.0f};
    for_each_element(arguments_.state_grads, part, [&](float& element, float grad, int e) {
      sums[e / 2] = fmaf(element, grad, sums[e / 2]);
      element = grad;
    });
    const float low = warp_sum(sums[0], 4);
    const float high = warp_sum(sums[1], 4);
    // Lanes l and l + 16 take channel l.
    const int source_lane = 4 * (lane_id() % 8);
    const float own_low = shuffle_idx(low, source_lane);
    const float own_high = shuffle_idx(high, source_lane);
    pairing_ += lane_id() % 16 < 8 ? own_low : own_high;
  }

  /// State B^T for the 16 rows of a tile.
  __device__ __forceinline__ AccumulatorPair read_state(const T* rows) const {
    AccumulatorPair products;
#pragma unroll
    for (int step = 0; step < kValueSteps; ++step) {
      const FragmentA<T> state = to_a<T>(state_[2 * step], state_[2 * step + 1]);
      mma_pair(products, state, load_b_pair(rows + 16 * step, value_ld()));
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
        mma_pair(sum, keys[term], load_b_trans_pair(rows[term] + 16 * step, value_ld()));
      }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        Accumulator& state = state_[2 * step + side];
#pragma unroll
        for (int e = 0; e < 4; ++e) state.x[e] = fmaf(decay[e / 2], state.x[e], sum[side].x[e]);
      }
    }
  }

  // ---- along and against time (delta_rule_gradients_work.cuh) ----

  __device__ void read_along_time(int chunk, int part);
  /// Multiplies both tiles by a and, with the first part, adds the pairs of the chunk to them by
  /// running products, a lane having one channel and half the keys; leaves b beta k in scratch and
  /// returns D.
  __device__ float read_channel(int chunk, int part, const T* key) const;
  __device__ void emit_along_time(int chunk, int part) const;
  __device__ void write_against_time(int chunk, int part);
  /// The same as read_channel for the written key: leaves scale a q and -a k in scratch.
  __device__ float write_channel(int chunk, int part, const T* query, const T* key) const;
  __device__ void emit_against_time(int chunk, int part);
  /// The suffix sum over the tokens of a chunk, one lane a channel.
  __device__ void sum_channel_decay_grad(int chunk);
  /// Sums over the warps, in their order, and then over the tokens from the group's end.
  __device__ void sum_decay_grad() const;

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
    return {row, channel, row < place_.valid && channel < key_columns()};
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
  /// Writes the lane's values, or with `adds` their sums with what is there.
  __device__ __forceinline__ void store_floats(float* data, const Row& row,
                                               const float (&values)[8], bool adds) const {
    float* destination = data + token_index(row.row) * key_columns() + row.channel;
    const int columns = key_columns() - row.channel;
    float sums[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      sums[c] = adds && c < columns ? destination[c] + values[c] : values[c];
    }
    store_eight(destination, sums, columns, arguments_.aligned);
  }

  const DeltaGradientArguments& arguments_;
  const DeltaGradientPlace& place_;
  unsigned char* const shared_;
  float pairing_ = 0.0f;  // <S, dS> of channel lane % 16; then the suffix sum
  Accumulator state_[2 * kValueSteps];
};

}  // namespace rankone::cuda
