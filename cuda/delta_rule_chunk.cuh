// What a chunk of 16 tokens of the delta rule needs before its state is known, in fp32.
//
// With a_r = prod_{u<=r} d_u, b_r = prod_{u>r} d_u, W_rs = prod_{s<u<=r} d_u (per channel where the
// decay is) and unit keys and queries where they are normalised, rho_q and rho_k being the factors:
//
//   M_rs = k_r . (W_rs k_s)     s < r, else 0
//   P_rs = scale q_r . (W_rs k_s)   s <= r, else 0
//   along time    E = (I + M diag(beta))^-1 (V - (a K) S0),   U = beta E
//   against time  Y = (I + diag(beta) M)^-T dU,               dR = beta Y
//
// E is each token's prediction error and Y the gradient of its u, so that dbeta = E . Y needs no
// division by beta. The inverse is a forward substitution; at 16 tokens it needs no merging of
// blocks, T and P never leave the block, and a token's share of the products inside a chunk is a
// quarter of what 64 tokens would make it.
#pragma once

#include "decay_products.cuh"
#include "primitives/convert.cuh"
#include "primitives/fragments.cuh"
#include "primitives/platform.cuh"
#include "primitives/warp.cuh"
#include "state_tiles.cuh"
#include "token_tiles.cuh"

namespace rankone::cuda {

/// One float a token and head.
struct TokenScalars {
  const float* data;
  std::int64_t batch_stride;
  std::int64_t time_stride;
  std::int64_t head_stride;

  __device__ __forceinline__ float at(std::int64_t batch, std::int64_t token,
                                      std::int64_t head) const {
    return data[batch * batch_stride + token * time_stride + head * head_stride];
  }
};

inline TokenScalars token_scalars(const ConstTokens& tensor) {
  return {static_cast<const float*>(tensor.data), tensor.batch_stride, tensor.time_stride,
          tensor.head_stride};
}

/// Tokens of a chunk: one fragment.
inline constexpr int kDeltaChunk = 16;
/// Rows of a 16 x 16 table: an odd multiple of 8.
inline constexpr int kDeltaTableLd = 24;

struct alignas(16) DeltaChunkTable {
  float pairs[kDeltaChunk][kDeltaTableLd];    // P
  float inverse[kDeltaChunk][kDeltaTableLd];  // of I + M diag(beta), or of I + diag(beta) M
  // Factors of a token's rows. What is per channel stands in the decayed tiles instead.
  float read_query[kDeltaChunk];  // of q in the read: scale a rho_q
  float read_key[kDeltaChunk];    // of k in the prediction: a rho_k
  float write_key[kDeltaChunk];   // of k in the write: b rho_k
  float query_norm[kDeltaChunk];  // rho_q
  float key_norm[kDeltaChunk];    // rho_k
  float beta[kDeltaChunk];
  float decay;  // of the state over the chunk, where it is one number
};

/// 1 / sqrt(sum of squares + eps) of 16 rows, by one warp. Columns past the tensor's are zeros.
template <typename T>
__device__ __forceinline__ void normalise_rows(float* norms, const T* tile, int ld, int columns,
                                               float eps) {
  const int row = lane_id() / 2;
  float sum = 0.0f;
  for (int column = 4 * (lane_id() % 2); column < columns; column += 8) {
    const float4 x = load_four(tile + row * ld + column);
    sum += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
  }
  sum += shuffle_xor(sum, 1);
  if (lane_id() % 2 == 0) norms[row] = 1.0f / sqrtf(sum + eps);
}

/// Replaces the strictly lower triangle N in `table` by (I + N)^-1; the upper triangle need not be
/// set. One warp; lane l has column l % 16.
__device__ __forceinline__ void invert_unit_lower(float (&table)[kDeltaChunk][kDeltaTableLd]) {
  const int own = lane_id() % kDeltaChunk;
  float column[kDeltaChunk];
#pragma unroll
  for (int i = 0; i < kDeltaChunk; ++i) {
    float sum = i == own ? 1.0f : 0.0f;
#pragma unroll
    for (int j = 0; j < i; ++j) sum = fmaf(-table[i][j], column[j], sum);
    column[i] = sum;
  }
  warp_sync();
  if (lane_id() < kDeltaChunk) {
#pragma unroll
    for (int i = 0; i < kDeltaChunk; ++i) table[i][own] = column[i];
  }
}

}  // namespace rankone::cuda
