// The matrix instructions, fragments and conversions of cuda/primitives against the layouts of the
// PTX ISA and against plain matrix products. The layouts are written out here from the
// documentation (sections "Matrix Fragments for mma.m16n8k16 / m16n8k8", "ldmatrix", "stmatrix")
// and share nothing with the emulation's own.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpp/check.h"
#include "primitives/fragments.cuh"
#include "primitives/warp.cuh"
#include "run_threads.h"

namespace {

using namespace rankone::cuda;
using rankone::CudaError;
namespace emulation = rankone::emulation;

constexpr int kLanes = kWarpSize;

template <typename T>
struct Tile {
  T at[64 * 72];
};

/// Small integers: products and sums are exact in every element type.
std::vector<float> integers(int count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> value(-4, 4);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& x : values) x = static_cast<float>(value(generator));
  return values;
}

std::vector<float> normals(int count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> value;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& x : values) x = value(generator);
  return values;
}

template <typename T>
std::uint32_t pair_of(float low, float high) {
  return std::bit_cast<std::uint16_t>(from_float<T>(low)) |
         static_cast<std::uint32_t>(std::bit_cast<std::uint16_t>(from_float<T>(high))) << 16;
}

void equal_at(float actual, double expected, const std::string& what, int row, int column) {
  check::equal(static_cast<double>(actual), expected,
               what + " (" + std::to_string(row) + ", " + std::to_string(column) + ")");
}

// ---- mma ----

// PTX ISA, C/D of m16n8k16 and m16n8k8: row = groupID for c0,c1, groupID + 8 for c2,c3;
// col = threadID_in_group * 2 + (i & 1).
int ptx_c_row(int lane, int i) { return i < 2 ? lane >> 2 : (lane >> 2) + 8; }
int ptx_c_col(int lane, int i) { return (lane % 4) * 2 + (i & 1); }

template <typename T>
void mma_m16n8k16_follows_the_documented_layout() {
  const auto a = integers(16 * 16, 1), b = integers(16 * 8, 2), c = integers(16 * 8, 3);
  float d[kLanes][4];
  std::uint32_t a_registers[kLanes][4], b_registers[kLanes][2];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane >> 2, thread_in_group = lane % 4;
    float a_elements[8], b_elements[4];
    for (int i = 0; i < 8; ++i) {
      const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
      const int col = thread_in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a_elements[i] = a[row * 16 + col];
    }
    for (int i = 0; i < 4; ++i) {
      const int row = thread_in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
      b_elements[i] = b[row * 8 + group];
    }
    for (int i = 0; i < 4; ++i) {
      a_registers[lane][i] = pair_of<T>(a_elements[2 * i], a_elements[2 * i + 1]);
      d[lane][i] = c[ptx_c_row(lane, i) * 8 + ptx_c_col(lane, i)];
    }
    for (int i = 0; i < 2; ++i) {
      b_registers[lane][i] = pair_of<T>(b_elements[2 * i], b_elements[2 * i + 1]);
    }
  }
  run_warp(0, [&] {
    const int lane = lane_id();
    instruction::mma_m16n8k16<T>(d[lane], a_registers[lane], b_registers[lane]);
  });
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = ptx_c_row(lane, i), col = ptx_c_col(lane, i);
      double expected = c[row * 8 + col];
      for (int k = 0; k < 16; ++k) expected += double{a[row * 16 + k]} * b[k * 8 + col];
      equal_at(d[lane][i], expected, "d", row, col);
    }
  }
}

void mma_m16n8k8_tf32_follows_the_documented_layout() {
  const auto a = integers(16 * 8, 4), b = integers(8 * 8, 5), c = integers(16 * 8, 6);
  float d[kLanes][4];
  std::uint32_t a_registers[kLanes][4], b_registers[kLanes][2];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane >> 2, thread_in_group = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = (i == 0 || i == 2) ? group : group + 8;
      const int col = (i == 0 || i == 1) ? thread_in_group : thread_in_group + 4;
      a_registers[lane][i] = std::bit_cast<std::uint32_t>(a[row * 8 + col]);
      d[lane][i] = c[ptx_c_row(lane, i) * 8 + ptx_c_col(lane, i)];
    }
    for (int i = 0; i < 2; ++i) {
      const int row = i == 0 ? thread_in_group : thread_in_group + 4;
      b_registers[lane][i] = std::bit_cast<std::uint32_t>(b[row * 8 + group]);
    }
  }
  run_warp(0, [&] {
    const int lane = lane_id();
    instruction::mma_m16n8k8_tf32(d[lane], a_registers[lane], b_registers[lane]);
  });
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = ptx_c_row(lane, i), col = ptx_c_col(lane, i);
      double expected = c[row * 8 + col];
      for (int k = 0; k < 8; ++k) expected += double{a[row * 8 + k]} * b[k * 8 + col];
      equal_at(d[lane][i], expected, "d", row, col);
    }
  }
}

void tf32_operands_lose_their_low_13_bits() {
  const float operand = 1.0f + 0x1fffp-23f;  // all ignored bits set
  float sum = 0.0f;
  run_warp(0, [&] {
    float d[4] = {};
    const auto bits = std::bit_cast<std::uint32_t>(operand);
    instruction::mma_m16n8k8_tf32(d, {bits, bits, bits, bits}, {bits, bits});
    if (lane_id() == 0) sum = d[0];
  });
  check::equal(sum, 8.0f, "a sum of eight squares");
}

void round_to_tf32_takes_the_nearest_and_ties_away_from_zero() {
  const auto rounded = [](float x) { return as_float(instruction::round_to_tf32(x)); };
  const float ulp = 0x1p-10f;
  check::equal(rounded(1.0f + 0.5f * ulp), 1.0f + ulp, "a tie");
  check::equal(rounded(-1.0f - 0.5f * ulp), -1.0f - ulp, "a negative tie");
  check::equal(rounded(1.0f + 0.499f * ulp), 1.0f, "below a tie");
  check::equal(rounded(0.75f), 0.75f, "an exact value");
  check::equal(rounded(std::numeric_limits<float>::infinity()),
               std::numeric_limits<float>::infinity(), "infinity");
  check::that(std::isnan(rounded(std::nanf(""))), "NaN must stay NaN");
}

void mma_cuts_off_what_add_rounds() {
  // The last place of 2^24 is 2: 2^24 + 3 lies halfway between two floats.
  for (const float sign : {1.0f, -1.0f}) {
    Accumulator chained, total, chunk;
    run_warp(0, [&] {
      FragmentA<__half> a{};
      FragmentB<__half> b{};
      // a[0][0] b[0][0] = 3, all else zero: both lie in the first element of lane 0.
      if (lane_id() == 0) {
        a.x[0] = pack<__half>(3.0f * sign, 0.0f);
        b.x[0] = pack<__half>(1.0f, 0.0f);
      }
      Accumulator long_chain, fresh, sum;
      long_chain.x[0] = sum.x[0] = 0x1p24f * sign;
      mma(long_chain, a, b);
      mma(fresh, a, b);
      add(sum, fresh);
      if (lane_id() == 0) {
        chained = long_chain;
        chunk = fresh;
        total = sum;
      }
    });
    check::equal(chained.x[0], (0x1p24f + 2.0f) * sign, "the chained sum");
    check::equal(chunk.x[0], 3.0f * sign, "the chunk's sum");
    check::equal(total.x[0], (0x1p24f + 4.0f) * sign, "the rounded sum");
  }
}

// ---- ldmatrix, stmatrix ----

/// Byte offsets of 32 rows in no regular order, each row 16 bytes and none overlapping.
std::vector<int> scattered_rows() {
  std::vector<int> rows(kLanes);
  for (int i = 0; i < kLanes; ++i)
    rows[static_cast<std::size_t>(i)] = (i * 11 + 5) % kLanes * 48 + 32;
  return rows;
}
constexpr std::size_t kScatteredBytes = 48 * kLanes + 32;

// PTX ISA, ldmatrix: addresses of matrix i come from threads 8i..8i+7, one row each; thread l holds
// row l / 4, elements 2 (l % 4) and 2 (l % 4) + 1; with .trans, of the transposed matrix.
template <int kMatrices, bool kTranspose>
void ldmatrix_follows_the_documented_layout() {
  const auto rows = scattered_rows();
  std::uint32_t loaded[kLanes][kMatrices];
  run_warp(kScatteredBytes, [&] {
    auto* base = static_cast<std::byte*>(emulation::shared_memory(kScatteredBytes));
    const int lane = lane_id();
    auto* row = base + rows[static_cast<std::size_t>(lane)];
    for (int column = 0; column < 8; ++column) {
      const auto value = static_cast<std::uint16_t>(lane * 256 + column);
      std::memcpy(row + 2 * column, &value, 2);
    }
    warp_sync();
    // Lanes beyond the last matrix pass an address that must not be used.
    instruction::ldmatrix<kTranspose>(loaded[lane], lane < 8 * kMatrices ? row : nullptr);
  });
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < kMatrices; ++i) {
      for (int half = 0; half < 2; ++half) {
        const int r = lane / 4, c = 2 * (lane % 4) + half;
        const int row = kTranspose ? c : r, column = kTranspose ? r : c;
        const unsigned expected = static_cast<unsigned>((8 * i + row) * 256 + column);
        check::equal(loaded[lane][i] >> (16 * half) & 0xffffu, expected,
                     "lane " + std::to_string(lane) + " register " + std::to_string(i));
      }
    }
  }
}

template <int kMatrices, bool kTranspose>
void stmatrix_follows_the_documented_layout() {
  const auto rows = scattered_rows();
  std::uint16_t stored[kLanes][8] = {};
  run_warp(kScatteredBytes, [&] {
    auto* base = static_cast<std::byte*>(emulation::shared_memory(kScatteredBytes));
    const int lane = lane_id();
    std::uint32_t registers[kMatrices];
    for (int i = 0; i < kMatrices; ++i) {
      const unsigned low = static_cast<unsigned>(i * 64 + (lane / 4) * 8 + 2 * (lane % 4));
      registers[i] = low | (low + 1) << 16;
    }
    auto* row = base + rows[static_cast<std::size_t>(lane)];
    instruction::stmatrix<kTranspose>(lane < 8 * kMatrices ? row : nullptr, registers);
    warp_sync();
    std::memcpy(stored[lane], row, 16);
  });
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int column = 0; column < 8; ++column) {
      const int r = kTranspose ? column : lane % 8, c = kTranspose ? lane % 8 : column;
      const int expected = lane < 8 * kMatrices ? lane / 8 * 64 + r * 8 + c : 0xffff;
      check::equal(int{stored[lane][column]}, expected,
                   "row of lane " + std::to_string(lane) + " column " + std::to_string(column));
    }
  }
}

void matrix_addresses_must_be_aligned_and_in_shared_memory() {
  std::uint32_t outside[64] = {};
  for (const int fault : {0, 1, 2}) {
    const char* expected[] = {"not 16-byte aligned", "outside the block's shared memory",
                              "outside the block's shared memory"};
    check::throws<CudaError>(
        [&] {
          run_warp(1024, [&] {
            auto* base = static_cast<std::byte*>(emulation::shared_memory(1024));
            const void* row = base + 16 * lane_id();
            if (lane_id() == 5 && fault == 0) row = base + 8;
            if (lane_id() == 5 && fault == 1) row = outside;
            if (lane_id() == 5 && fault == 2) row = base + 1016;
            std::uint32_t registers[4];
            instruction::ldmatrix<false>(registers, row);
          });
        },
        {"test_kernel", "thread (5, 0, 0)", "ldmatrix", expected[fault]});
  }
}

// ---- fragments ----

template <typename T>
void fill_shared(Tile<T>& tile, const std::vector<float>& values) {
  for (std::size_t i = threadIdx.x; i < values.size(); i += blockDim.x) {
    tile.at[i] = from_float<T>(values[i]);
  }
  block_sync();
}

/// A 16x16 and a 16x16 matrix in one shared layout: `a` row-major m x k or transposed, `b` as n x k
/// or k x n, both with the leading dimension the fragments recommend for T.
template <typename T>
struct Operands {
  static constexpr int kLd = 24;
  Tile<T> a, b;
};

enum class Load { kPlain, kTrans };

template <typename T, Load kLoadA, Load kLoadB, bool kPair>
void product_of_loads_is_the_matrix_product() {
  using Shared = Operands<T>;
  constexpr int ld = Shared::kLd;
  const auto a = integers(16 * 16, 7), b = integers(16 * 16, 8);
  std::vector<float> a_stored(16 * ld), b_stored(16 * ld);
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 16; ++k) {
      const auto a_at = static_cast<std::size_t>(kLoadA == Load::kPlain ? r * ld + k : k * ld + r);
      const auto b_at = static_cast<std::size_t>(kLoadB == Load::kPlain ? r * ld + k : k * ld + r);
      a_stored[a_at] = a[static_cast<std::size_t>(r * 16 + k)];
      b_stored[b_at] = b[static_cast<std::size_t>(r * 16 + k)];  // b[n][k]
    }
  }
  float product[16][16];
  run_warp(sizeof(Shared), [&] {
    auto& shared = shared_memory<Shared>();
    fill_shared(shared.a, a_stored);
    fill_shared(shared.b, b_stored);
    FragmentA<T> left;
    if constexpr (kLoadA == Load::kPlain) {
      left = load_a(shared.a.at, ld);
    } else {
      left = load_a_trans(shared.a.at, ld);
    }
    FragmentBPair<T> right;
    if constexpr (kPair && kLoadB == Load::kPlain) {
      right = load_b_pair(shared.b.at, ld);
    } else if constexpr (kPair) {
      right = load_b_trans_pair(shared.b.at, ld);
    } else if constexpr (kLoadB == Load::kPlain) {
      right = {load_b(shared.b.at, ld), load_b(shared.b.at + 8 * ld, ld)};
    } else {
      right = {load_b_trans(shared.b.at, ld), load_b_trans(shared.b.at + 8, ld)};
    }
    Accumulator acc[2];
    mma(acc[0], left, right.left);
    mma(acc[1], left, right.right);
    for (int tile = 0; tile < 2; ++tile) {
      for (int i = 0; i < 4; ++i) {
        product[Accumulator::row(i)][8 * tile + Accumulator::col(i)] = acc[tile].x[i];
      }
    }
  });
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      double expected = 0;
      for (int k = 0; k < 16; ++k) {
        expected += double{a[static_cast<std::size_t>(m * 16 + k)]} *
                    b[static_cast<std::size_t>(n * 16 + k)];
      }
      equal_at(product[m][n], expected, "product", m, n);
    }
  }
}

template <typename T>
void every_pair_of_loads_gives_the_matrix_product() {
  product_of_loads_is_the_matrix_product<T, Load::kPlain, Load::kPlain, false>();
  product_of_loads_is_the_matrix_product<T, Load::kPlain, Load::kPlain, true>();
  product_of_loads_is_the_matrix_product<T, Load::kPlain, Load::kTrans, false>();
  product_of_loads_is_the_matrix_product<T, Load::kPlain, Load::kTrans, true>();
  product_of_loads_is_the_matrix_product<T, Load::kTrans, Load::kPlain, false>();
  product_of_loads_is_the_matrix_product<T, Load::kTrans, Load::kPlain, true>();
  product_of_loads_is_the_matrix_product<T, Load::kTrans, Load::kTrans, false>();
  product_of_loads_is_the_matrix_product<T, Load::kTrans, Load::kTrans, true>();
}

template <typename T>
void two_accumulators_are_an_a_operand() {
  // (X rounded to T) Y with X in accumulators: values with more bits than T, so that the rounding
  // of to_a shows.
  const auto x = normals(16 * 16, 9), y = integers(16 * 8, 10);
  float product[16][8];
  run_warp(sizeof(Operands<T>), [&] {
    auto& shared = shared_memory<Operands<T>>();
    fill_shared(shared.b, y);
    Accumulator left, right;
    for (int i = 0; i < 4; ++i) {
      left.x[i] = x[static_cast<std::size_t>(Accumulator::row(i) * 16 + Accumulator::col(i))];
      right.x[i] = x[static_cast<std::size_t>(Accumulator::row(i) * 16 + 8 + Accumulator::col(i))];
    }
    Accumulator acc;
    mma(acc, to_a<T>(left, right), load_b_trans(shared.b.at, 8));
    for (int i = 0; i < 4; ++i) product[Accumulator::row(i)][Accumulator::col(i)] = acc.x[i];
  });
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      double expected = 0, magnitude = 0;
      for (int k = 0; k < 16; ++k) {
        const double term =
            double{to_float(from_float<T>(x[static_cast<std::size_t>(m * 16 + k)]))} *
            y[static_cast<std::size_t>(k * 8 + n)];
        expected += term;
        magnitude += std::fabs(term);
      }
      // 16-bit products are exact and lose at most the cut-off last place; 3xTF32 loses 2^-22 of
      // every product and six cut-offs.
      const double tolerance = magnitude * (std::is_same_v<T, float> ? 8 * 0x1p-23 : 0x1p-23);
      check::that(std::fabs(product[m][n] - expected) <= tolerance,
                  "product (" + std::to_string(m) + ", " + std::to_string(n) + ") is " +
                      std::to_string(product[m][n]) + ", expected " + std::to_string(expected));
    }
  }
}

template <typename T, bool kUseStmatrix>
void stores_put_every_element_in_its_place() {
  constexpr int ld = 24;
  const auto values = normals(16 * 16, 11);
  const std::size_t elements = 16 * ld;
  std::vector<float> single(elements), pair(elements), single_trans(elements), pair_trans(elements);
  struct Shared {
    Tile<T> single, pair, single_trans, pair_trans;
  };
  run_warp(sizeof(Shared), [&] {
    auto& shared = shared_memory<Shared>();
    Accumulator acc[2];
    for (int tile = 0; tile < 2; ++tile) {
      for (int i = 0; i < 4; ++i) {
        acc[tile].x[i] = values[static_cast<std::size_t>(Accumulator::row(i) * 16 + 8 * tile +
                                                         Accumulator::col(i))];
      }
    }
    store_accumulator<T, kUseStmatrix>(shared.single.at, ld, acc[0]);
    store_accumulator_pair<T, kUseStmatrix>(shared.pair.at, ld, acc[0], acc[1]);
    store_accumulator_trans<T, kUseStmatrix>(shared.single_trans.at, ld, acc[0]);
    store_accumulator_trans_pair<T, kUseStmatrix>(shared.pair_trans.at, ld, acc[0], acc[1]);
    warp_sync();
    for (std::size_t i = static_cast<std::size_t>(lane_id()); i < elements; i += kLanes) {
      single[i] = to_float(shared.single.at[i]);
      pair[i] = to_float(shared.pair.at[i]);
      single_trans[i] = to_float(shared.single_trans.at[i]);
      pair_trans[i] = to_float(shared.pair_trans.at[i]);
    }
  });
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < ld; ++c) {
      const auto at = static_cast<std::size_t>(r * ld + c);
      const auto is = [&](float actual, bool written, int m, int n, const char* what) {
        if (!written) {
          check::that(std::isnan(actual), std::string(what) + " wrote outside its tile");
          return;
        }
        const float value = values[static_cast<std::size_t>(m * 16 + n)];
        equal_at(actual, double{to_float(from_float<T>(value))}, what, m, n);
      };
      is(single[at], c < 8, r, c, "store_accumulator");
      is(pair[at], c < 16, r, c, "store_accumulator_pair");
      is(single_trans[at], r < 8 && c < 16, c, r, "store_accumulator_trans");
      is(pair_trans[at], c < 16, c, r, "store_accumulator_trans_pair");
    }
  }
}

/// Relative error (Frobenius norm) of a 16x64 by 64x8 product computed by `multiply`.
template <typename Multiply>
double error_of_64_long_product(const Multiply& multiply) {
  constexpr int kDepth = 64, ld = 72;
  const auto a = normals(16 * ld, 12), b = normals(8 * ld, 13);
  float product[16][8];
  run_warp(sizeof(Operands<float>), [&] {
    auto& shared = shared_memory<Operands<float>>();
    fill_shared(shared.a, a);
    fill_shared(shared.b, b);
    Accumulator acc;
    for (int k = 0; k < kDepth; k += kFragmentDepth) {
      multiply(acc, load_a(shared.a.at + k, ld), load_b(shared.b.at + k, ld));
    }
    for (int i = 0; i < 4; ++i) product[Accumulator::row(i)][Accumulator::col(i)] = acc.x[i];
  });
  double error = 0, norm = 0;
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      double expected = 0;
      for (int k = 0; k < kDepth; ++k) {
        expected += double{a[static_cast<std::size_t>(m * ld + k)]} *
                    b[static_cast<std::size_t>(n * ld + k)];
      }
      error += (product[m][n] - expected) * (product[m][n] - expected);
      norm += expected * expected;
    }
  }
  return std::sqrt(error / norm);
}

void float_products_are_accurate_to_fp32() {
  const double split = error_of_64_long_product(
      [](Accumulator& acc, const auto& a, const auto& b) { mma(acc, a, b); });
  const double plain = error_of_64_long_product([](Accumulator& acc, const auto& a, const auto& b) {
    for (int step = 0; step < 2; ++step) {
      std::uint32_t x[4], y[2];
      for (int i = 0; i < 4; ++i) {
        x[i] = instruction::round_to_tf32(a.x[4 * step + 2 * (i % 2) + i / 2]);
      }
      for (int i = 0; i < 2; ++i) y[i] = instruction::round_to_tf32(b.x[2 * step + i]);
      instruction::mma_m16n8k8_tf32(acc.x, x, y);
    }
  });
  check::that(split < 2e-6, "3xTF32 error " + std::to_string(split * 1e6) + "e-6");
  // Seen by the same measure: what the split is for.
  check::that(plain > 1e-4 && plain < 1e-3, "plain tf32 error " + std::to_string(plain));
}

// ---- conversions ----

double value_of_16_bits(unsigned bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const int fraction = static_cast<int>(bits & ((1u << fraction_bits) - 1));
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                    : std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
  return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}

template <typename T, int kExponentBits>
void conversions_are_exact_and_round_to_nearest_even() {
  const unsigned infinity = ((1u << kExponentBits) - 1) << (15 - kExponentBits);
  const auto bits_of = [](float x) {
    return unsigned{std::bit_cast<std::uint16_t>(from_float<T>(x))};
  };
  for (const unsigned sign : {0u, 0x8000u}) {
    for (unsigned bits = 0; bits < infinity; ++bits) {
      const auto value = static_cast<float>(value_of_16_bits(sign | bits, kExponentBits));
      const auto element = std::bit_cast<T>(static_cast<std::uint16_t>(sign | bits));
      check::equal(to_float(element), value, "to_float of " + std::to_string(sign | bits));
      check::equal(bits_of(value), sign | bits, "from_float of an exact value");
      // The next number up in magnitude; above the last finite one, what would follow it.
      const double above = value_of_16_bits(bits + 1, kExponentBits) * (sign != 0 ? -1 : 1);
      const auto middle = static_cast<float>((double{value} + above) / 2);
      const float towards_zero = std::nextafter(middle, 0.0f);
      const float away = std::nextafter(middle, sign != 0 ? -INFINITY : INFINITY);
      if ((double{value} + above) / 2 != middle) continue;  // no float lies between
      check::equal(bits_of(middle), sign | (bits % 2 == 0 ? bits : bits + 1), "a tie");
      check::equal(bits_of(towards_zero), sign | bits, "just below a tie");
      check::equal(bits_of(away), sign | (bits + 1), "just above a tie");
    }
    const float infinite = sign != 0 ? -INFINITY : INFINITY;
    check::equal(bits_of(infinite), sign | infinity, "infinity");
    check::equal(to_float(std::bit_cast<T>(static_cast<std::uint16_t>(sign | infinity))), infinite,
                 "infinity back");
  }
  check::equal(bits_of(std::nanf("")), 0x7fffu, "NaN");
  check::that(std::isnan(to_float(std::bit_cast<T>(std::uint16_t{0x7fff}))), "NaN back");
  const float2 pair = unpack<T>(pack<T>(1.5f, -2.0f));
  check::that(pair.x == 1.5f && pair.y == -2.0f, "a pair packed and unpacked");
  check::equal(pack<T>(1.0f, 0.0f) >> 16, 0u, "the upper half of a pair whose low is 1");
}

}  // namespace

int main(int argc, char** argv) {
  using bf16 = __nv_bfloat16;
  using half = __half;
  return check::run(
      argc, argv,
      {
          {"mma_m16n8k16 bf16 follows the documented layout",
           mma_m16n8k16_follows_the_documented_layout<bf16>},
          {"mma_m16n8k16 fp16 follows the documented layout",
           mma_m16n8k16_follows_the_documented_layout<half>},
          {"mma_m16n8k8 tf32 follows the documented layout",
           mma_m16n8k8_tf32_follows_the_documented_layout},
          {"tf32 operands lose their low 13 bits", tf32_operands_lose_their_low_13_bits},
          {"round_to_tf32 takes the nearest and ties away from zero",
           round_to_tf32_takes_the_nearest_and_ties_away_from_zero},
          {"mma cuts off what add rounds", mma_cuts_off_what_add_rounds},
          {"ldmatrix x1 follows the documented layout",
           ldmatrix_follows_the_documented_layout<1, false>},
          {"ldmatrix x2 follows the documented layout",
           ldmatrix_follows_the_documented_layout<2, false>},
          {"ldmatrix x4 follows the documented layout",
           ldmatrix_follows_the_documented_layout<4, false>},
          {"ldmatrix x1 trans follows the documented layout",
           ldmatrix_follows_the_documented_layout<1, true>},
          {"ldmatrix x2 trans follows the documented layout",
           ldmatrix_follows_the_documented_layout<2, true>},
          {"ldmatrix x4 trans follows the documented layout",
           ldmatrix_follows_the_documented_layout<4, true>},
          {"stmatrix x2 follows the documented layout",
           stmatrix_follows_the_documented_layout<2, false>},
          {"stmatrix x4 follows the documented layout",
           stmatrix_follows_the_documented_layout<4, false>},
          {"stmatrix x2 trans follows the documented layout",
           stmatrix_follows_the_documented_layout<2, true>},
          {"stmatrix x4 trans follows the documented layout",
           stmatrix_follows_the_documented_layout<4, true>},
          {"matrix addresses must be aligned and in shared memory",
           matrix_addresses_must_be_aligned_and_in_shared_memory},
          {"every pair of loads gives the matrix product, bf16",
           every_pair_of_loads_gives_the_matrix_product<bf16>},
          {"every pair of loads gives the matrix product, fp16",
           every_pair_of_loads_gives_the_matrix_product<half>},
          {"every pair of loads gives the matrix product, fp32",
           every_pair_of_loads_gives_the_matrix_product<float>},
          {"two accumulators are an A operand, bf16", two_accumulators_are_an_a_operand<bf16>},
          {"two accumulators are an A operand, fp16", two_accumulators_are_an_a_operand<half>},
          {"two accumulators are an A operand, fp32", two_accumulators_are_an_a_operand<float>},
          {"stores put every element in its place, bf16 with stmatrix",
           stores_put_every_element_in_its_place<bf16, true>},
          {"stores put every element in its place, bf16 without stmatrix",
           stores_put_every_element_in_its_place<bf16, false>},
          {"stores put every element in its place, fp16 with stmatrix",
           stores_put_every_element_in_its_place<half, true>},
          {"stores put every element in its place, fp16 without stmatrix",
           stores_put_every_element_in_its_place<half, false>},
          {"stores put every element in its place, fp32",
           stores_put_every_element_in_its_place<float, true>},
          {"float products are accurate to fp32", float_products_are_accurate_to_fp32},
          {"bf16 conversions are exact and round to nearest even",
           conversions_are_exact_and_round_to_nearest_even<bf16, 8>},
          {"fp16 conversions are exact and round to nearest even",
           conversions_are_exact_and_round_to_nearest_even<half, 5>},
      });
}
