// Ranks of permutations of at most 15 elements, computed in registers.
//
// A permutation is a word of four bits an element. rank = chunk * R! + prefix rank with
// R = min(8, n): the chunk numbers the values at positions R..n-1, the prefix rank the order of the
// first R values, as in the CPU's engine. Digits are counts of the smaller values that are left,
// which a 16-bit mask and a population count give.
#pragma once

#include <cstdint>

#include "primitives/bits.cuh"

namespace rankone::cuda {

inline constexpr int kRankPrefix = 8;
inline constexpr int kMostRanked = 15;
inline constexpr int kRankBits = 4;

/// A permutation's place: its chunk and the bit in it.
struct Rank {
  std::uint32_t chunk;
  std::uint32_t bit;
};

constexpr std::uint32_t factorial(int n) {
  std::uint32_t result = 1;
  for (int i = 2; i <= n; ++i) result *= static_cast<std::uint32_t>(i);
  return result;
}

/// What the states of a chunk have in common.
struct ChunkValues {
  std::uint64_t suffix;  // in its place in the packed state
  std::uint32_t prefix;  // the values left for the prefix, ascending, four bits each
};

/// Removes value number `digit` from a list of four-bit values and returns it.
template <typename List>
__device__ __forceinline__ std::uint32_t take_value(List& list, std::uint32_t digit) {
  const int shift = static_cast<int>(digit) * kRankBits;
  const auto value = static_cast<std::uint32_t>((list >> shift) & 15);
  const List below = (List{1} << shift) - 1;
  list = (list & below) | ((list >> kRankBits) & ~below);
  return value;
}

__device__ __forceinline__ ChunkValues chunk_values(std::uint32_t chunk, int size, int prefix) {
  // The last position's digit is the lowest; digits pass through a list of four bits each.
  std::uint64_t digits = 0;
  for (int i = size - 1; i >= prefix; --i) {
    const auto radix = static_cast<std::uint32_t>(size - (i - prefix));
    digits = digits << kRankBits | chunk % radix;
    chunk /= radix;
  }
  std::uint64_t left = 0xFEDCBA9876543210u & ((std::uint64_t{1} << (size * kRankBits)) - 1);
  ChunkValues values{0, 0};
  for (int i = prefix; i < size; ++i, digits >>= kRankBits) {
    const std::uint64_t value = take_value(left, static_cast<std::uint32_t>(digits & 15));
    values.suffix |= value << (i * kRankBits);
  }
  values.prefix = static_cast<std::uint32_t>(left);
  return values;
}

/// The packed state of a chunk with this prefix rank.
__device__ __forceinline__ std::uint64_t unrank(const ChunkValues& values, std::uint32_t bit,
                                                int prefix) {
  std::uint32_t left = values.prefix;
  std::uint32_t state = 0;
  int shift = 0;
#pragma unroll
  for (int k = kRankPrefix - 1; k >= 0; --k) {  // k values follow: divisions by constants
    if (k >= prefix) continue;
    const std::uint32_t digit = bit / factorial(k);
    bit -= digit * factorial(k);
    state |= take_value(left, digit) << shift;
    shift += kRankBits;
  }
  return values.suffix | state;
}

__device__ __forceinline__ std::uint32_t take_digit(std::uint32_t& left, std::uint64_t state,
                                                    int i) {
  const std::uint32_t value = 1u << ((state >> (i * kRankBits)) & 15);
  const auto digit = static_cast<std::uint32_t>(population_count(left & (value - 1)));
  left &= ~value;
  return digit;
}

__device__ __forceinline__ Rank rank_of(std::uint64_t state, int size, int prefix) {
  std::uint32_t left = (1u << size) - 1;
  Rank rank{0, 0};
  for (int i = prefix; i < size; ++i) {
    rank.chunk =
        rank.chunk * static_cast<std::uint32_t>(size - (i - prefix)) + take_digit(left, state, i);
  }
#pragma unroll
  for (int i = 0; i < kRankPrefix; ++i) {
    if (i >= prefix) break;
    rank.bit = rank.bit * static_cast<std::uint32_t>(prefix - i) + take_digit(left, state, i);
  }
  return rank;
}

}  // namespace rankone::cuda
