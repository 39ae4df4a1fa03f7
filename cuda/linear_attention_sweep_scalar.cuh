// The sweep's chunk with scalar decays: the weights P by matrix products, blocks dealt out to the
// warps, and a state that steps a stage at a time.
#pragma once

#include "linear_attention_sweep_block.cuh"

namespace rankone::cuda {

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::scalar_item(int chunk, int member) {
  const T* query = query_tile(chunk, member);
  const T* key = key_tile(chunk, member);
  const T* value = value_tile(chunk, member) + warp_id() * kChannelsPerWarp;
  const Table& decays = table(chunk);
  if (reads()) {
#pragma unroll 1
    for (int part = 0; part < parts(); ++part) {
      if (part > 0) block_sync();  // the first part of P is done with
      scalar_pairs(query, key, decays, part);
      if (part == 0 && opens_output(member)) {
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
    }
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
    float decay = decays_state(member) ? decays.total : 1.0f;
    if (decays_state(member) && threadIdx.x == 0) segment_decay()[0] *= decay;
#pragma unroll 1
    for (int part = 0; part < parts(); ++part) {
      FragmentA<T> values[Shape::kBlocks];
#pragma unroll
      for (int block = 0; block < Shape::kBlocks; ++block) {
        const int ld = arguments_.layout.value_ld;
        values[block] = load_a_trans(value + 16 * block * ld, ld);
        scale_columns(values[block], decays.suffix + 16 * block, part);
      }
      update_state(values, key, [decay](int, int) { return decay; });
      decay = 1.0f;
    }
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::scalar_pairs(const T* query, const T* key,
                                                                     const Table& decays,
                                                                     int part) {
  T* pairs = at<T>(arguments_.layout.pairs);
  int index = 0;
  for (int row = 0; row < Shape::kBlocks; ++row) {
    for (int column = 0; column <= row; ++column, ++index) {
      if (index % warps() != warp_id()) continue;
      AccumulatorPair products =
          multiply_pairs(query + 16 * row * Shape::kKeyLd, key + 16 * column * Shape::kKeyLd);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int local_row = Accumulator::row(i);
          const int local_column = pair_column(side, i);
          const float weight =
              role_.pair_scale * decays.weight(16 * row + local_row, 16 * column + local_column);
          float& product = products[side].x[i];
          product = row == column && local_column > local_row ? 0.0f : product * weight;
        }
      }
      if constexpr (kHalf) {
        const BinaryScale scale = operand_scale<T>(products);
#pragma unroll
        for (int side = 0; side < 2; ++side) {
#pragma unroll
          for (int i = 0; i < 4; ++i) products[side].x[i] *= scale.down;
        }
        if (lane_id() == 0)
          at<float>(arguments_.layout.pair_scale)[row * Shape::kBlocks + column] = scale.up;
      }
      if (part > 0) {
        products[0] = residue<T>(products[0]);
        products[1] = residue<T>(products[1]);
      }
      store_accumulator_pair(pairs + 16 * row * Shape::kPairLd + 16 * column, Shape::kPairLd,
                             products[0], products[1]);
    }
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ AccumulatorPair
Sweep<T, kKey, kDecay>::multiply_pairs(const T* query, const T* key) const {
  AccumulatorPair products;
  multiply_rows<row_steps(kKey)>(products, query, key, Shape::kKeyLd,
                                 has_tail() ? Shape::kKeyColumns : kKey);
  return products;
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::scalar_outputs(const T* value) {
  const T* pairs = at<T>(arguments_.layout.pairs);
#pragma unroll
  for (int column = 0; column < Shape::kBlocks; ++column) {
    const int ld = arguments_.layout.value_ld;
    const FragmentA<T> values = load_a_trans(value + 16 * column * ld, ld);
#pragma unroll
    for (int row = column; row < Shape::kBlocks; ++row) {
      add_products(
          outputs_[2 * row], outputs_[2 * row + 1], values,
          load_b_pair(pairs + 16 * row * Shape::kPairLd + 16 * column, Shape::kPairLd),
          kHalf ? at<float>(arguments_.layout.pair_scale)[row * Shape::kBlocks + column] : 1.0f);
    }
  }
}

template <typename T, int kKey, SweepDecay kDecay>
__device__ __forceinline__ void Sweep<T, kKey, kDecay>::add_products(Accumulator& left,
                                                                     Accumulator& right,
                                                                     const FragmentA<T>& a,
                                                                     const FragmentBPair<T>& b,
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

}  // namespace rankone::cuda
