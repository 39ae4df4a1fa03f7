// Host twins of the warp instructions, computed for the whole warp by the last lane to arrive. The
// layouts are those of the PTX ISA, chapters "Matrix multiply-accumulate instructions" and "shfl".
#include <cmath>

#include "warp_collective.h"

namespace rankone::emulation {
namespace {

constexpr unsigned kFullWarp = 0xffffffffu;

struct MmaOperands {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

template <Collective kKind>
float low_half(std::uint32_t pair) {
  const auto bits = static_cast<std::uint16_t>(pair);
  if constexpr (kKind == Collective::kMmaHalf) return __half2float({bits});
  return __bfloat162float({bits});
}

/// The sum as the tensor cores leave it: bits below fp32's last place are cut off. Exact values on
/// the hardware depend on its internal width, which is not documented; cutting off the sum of the
/// whole instruction keeps the drift towards zero that long chains show there.
float truncate_to_float(double sum) {
  const auto nearest = static_cast<float>(sum);
  if (std::isinf(nearest) || !(std::fabs(static_cast<double>(nearest)) > std::fabs(sum))) {
    return nearest;
  }
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(nearest) - 1u);
}

/// The eight columns of a row of D or B.
using Row [[gnu::vector_size(8 * sizeof(double))]] = double;

/// d[m][n] += sum over k of a[m][k] b[k][n] for the accumulators of all lanes.
template <int kDepth>
void multiply(const Lanes& lanes, const double (&a)[16][kDepth], const Row (&b)[kDepth]) {
  Row d[16];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const float* x = static_cast<const MmaOperands*>(lanes.operands[lane])->d;
    for (int i = 0; i < 4; ++i) d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = x[i];
  }
  for (int m = 0; m < 16; ++m) {
    Row sum = d[m];
    for (int k = 0; k < kDepth; ++k) sum += a[m][k] * b[k];
    d[m] = sum;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    float* x = static_cast<const MmaOperands*>(lanes.operands[lane])->d;
    for (int i = 0; i < 4; ++i) {
      x[i] = truncate_to_float(d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]);
    }
  }
  ++statistics().mma;
}

template <Collective kKind>
void compute_mma_m16n8k16(const Lanes& lanes) {
  double a[16][16];
  Row b[16];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& operands = *static_cast<const MmaOperands*>(lanes.operands[lane]);
    const int group = lane / 4, column = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      double* pair = &a[group + 8 * (i % 2)][column + 8 * (i / 2)];
      pair[0] = low_half<kKind>(operands.a[i]);
      pair[1] = low_half<kKind>(operands.a[i] >> 16);
    }
    for (int i = 0; i < 2; ++i) {
      b[column + 8 * i][group] = low_half<kKind>(operands.b[i]);
      b[column + 8 * i + 1][group] = low_half<kKind>(operands.b[i] >> 16);
    }
  }
  multiply(lanes, a, b);
}

float read_tf32(std::uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffu); }

void compute_mma_m16n8k8_tf32(const Lanes& lanes) {
  double a[16][8];
  Row b[8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& operands = *static_cast<const MmaOperands*>(lanes.operands[lane]);
    const int group = lane / 4, slot = lane % 4;
    for (int i = 0; i < 4; ++i) {
      a[group + 8 * (i % 2)][slot + 4 * (i / 2)] = read_tf32(operands.a[i]);
    }
    for (int i = 0; i < 2; ++i) b[slot + 4 * i][group] = read_tf32(operands.b[i]);
  }
  multiply(lanes, a, b);
}

struct MatrixOperands {
  std::uint32_t* registers;
  std::byte* row;
};

/// Moves matrices between shared memory and registers: register i of lane l holds elements
/// (l/4, 2(l%4)) and (l/4, 2(l%4)+1) of matrix i, whose rows lie at the addresses of lanes
/// 8i..8i+7.
template <bool kStore, bool kTranspose, int kMatrices>
void compute_matrix_move(const Lanes& lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    auto* registers = static_cast<const MatrixOperands*>(lanes.operands[lane])->registers;
    for (int i = 0; i < kMatrices; ++i) {
      for (int half = 0; half < 2; ++half) {
        int row = lane / 4, column = 2 * (lane % 4) + half;
        if constexpr (kTranspose) std::swap(row, column);
        std::byte* element =
            static_cast<const MatrixOperands*>(lanes.operands[8 * i + row])->row + 2 * column;
        const int shift = 16 * half;
        std::uint16_t bits;
        if constexpr (kStore) {
          bits = static_cast<std::uint16_t>(registers[i] >> shift);
          std::memcpy(element, &bits, sizeof bits);
        } else {
          std::memcpy(&bits, element, sizeof bits);
          registers[i] = (registers[i] & ~(0xffffu << shift)) | static_cast<std::uint32_t>(bits)
                                                                    << shift;
        }
      }
    }
  }
  ++(kStore ? statistics().stmatrix : statistics().ldmatrix);
}

template <bool kStore, bool kTranspose>
void move_matrices(std::uint32_t* registers, int matrices, void* row) {
  // The addresses of lanes beyond the last matrix are not read.
  if (current_lane() < 8 * matrices) {
    check_shared(kStore ? "stmatrix" : "ldmatrix", row, 16);
  }
  constexpr Collective kind =
      kStore ? (kTranspose ? Collective::kStmatrixTrans : Collective::kStmatrix)
             : (kTranspose ? Collective::kLdmatrixTrans : Collective::kLdmatrix);
  MatrixOperands operands{registers, static_cast<std::byte*>(row)};
  const auto compute = matrices == 1   ? &compute_matrix_move<kStore, kTranspose, 1>
                       : matrices == 2 ? &compute_matrix_move<kStore, kTranspose, 2>
                                       : &compute_matrix_move<kStore, kTranspose, 4>;
  meet(kind, matrices, kFullWarp, &operands, compute);
}

struct ShuffleOperands {
  ShuffleMode mode;
  int operand;
  int width;
  std::uint64_t value;
  std::uint64_t result;
};

void compute_shuffle(const Lanes& lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    auto* operands = static_cast<ShuffleOperands*>(lanes.operands[lane]);
    if (operands == nullptr) continue;
    const int first = lane & ~(operands->width - 1);
    const int last = first + operands->width - 1;
    int source = lane;
    switch (operands->mode) {
      case ShuffleMode::kIdx:
        source = first + (operands->operand & (operands->width - 1));
        break;
      case ShuffleMode::kUp:
        if (lane - operands->operand >= first) source = lane - operands->operand;
        break;
      case ShuffleMode::kDown:
        if (lane + operands->operand <= last) source = lane + operands->operand;
        break;
      case ShuffleMode::kXor:
        // Only the upper end of the segment bounds it: earlier segments may be read.
        if (const int other = lane ^ (operands->operand & (kWarpSize - 1)); other <= last) {
          source = other;
        }
        break;
    }
    const auto* from = static_cast<const ShuffleOperands*>(lanes.operands[source]);
    // From a lane that does not take part the hardware returns what it likes.
    operands->result = from != nullptr ? from->value : ~std::uint64_t{0};
  }
  ++statistics().shuffles;
}

struct BallotOperands {
  bool predicate;
  unsigned result;
};

void compute_ballot(const Lanes& lanes) {
  unsigned votes = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto* operands = static_cast<const BallotOperands*>(lanes.operands[lane]);
    if (operands != nullptr && operands->predicate) votes |= 1u << lane;
  }
  for (void* operands : lanes.operands) {
    if (operands != nullptr) static_cast<BallotOperands*>(operands)->result = votes;
  }
}

}  // namespace

void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  bool is_half) {
  MmaOperands operands{d, a, b};
  if (is_half) {
    meet(Collective::kMmaHalf, 0, kFullWarp, &operands,
         &compute_mma_m16n8k16<Collective::kMmaHalf>);
  } else {
    meet(Collective::kMmaBf16, 0, kFullWarp, &operands,
         &compute_mma_m16n8k16<Collective::kMmaBf16>);
  }
}

void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  MmaOperands operands{d, a, b};
  meet(Collective::kMmaTf32, 0, kFullWarp, &operands, &compute_mma_m16n8k8_tf32);
}

std::uint32_t round_to_tf32(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return 0x7fffffffu;
  if (std::isinf(x)) return bits;
  constexpr std::uint32_t kHalfUlp = 0x1000u;
  return (bits + kHalfUlp) & ~0x1fffu;
}

void ldmatrix(std::uint32_t* registers, int matrices, bool transpose, const void* row) {
  void* address = const_cast<void*>(row);
  if (transpose) {
    move_matrices<false, true>(registers, matrices, address);
  } else {
    move_matrices<false, false>(registers, matrices, address);
  }
}

void stmatrix(const std::uint32_t* registers, int matrices, bool transpose, void* row) {
  auto* values = const_cast<std::uint32_t*>(registers);
  if (transpose) {
    move_matrices<true, true>(values, matrices, row);
  } else {
    move_matrices<true, false>(values, matrices, row);
  }
}

std::uint64_t shuffle_bits(ShuffleMode mode, std::uint64_t bits, int operand, int width,
                           unsigned members) {
  if (width < 1 || width > kWarpSize || (width & (width - 1)) != 0) {
    fail("shuffle width " + std::to_string(width) + ", expected a power of two up to 32");
  }
  ShuffleOperands operands{mode, operand, width, bits, 0};
  meet(Collective::kShuffle, 0, members, &operands, &compute_shuffle);
  return operands.result;
}

unsigned ballot(bool predicate, unsigned members) {
  BallotOperands operands{predicate, 0};
  meet(Collective::kBallot, 0, members, &operands, &compute_ballot);
  return operands.result;
}

void warp_barrier(unsigned members) {
  meet(Collective::kWarpBarrier, 0, members, nullptr, [](const Lanes&) {});
}

}  // namespace rankone::emulation
