// What the bitarray engine and its kernels share.
#pragma once

#include <cstdint>

namespace rankone::cpu {

/// Most elements of a ranked permutation: 15! states fit a 41-bit rank.
constexpr int kMaxRankedSize = 16;

/// The planes of one chunk, each of `words` words.
struct ChunkPlanes {
  std::uint64_t* planes[3] = {nullptr, nullptr, nullptr};
  int count = 2;
  std::int64_t words = 0;
};

/// A value of a state's bits, one a plane. Planes 0 and 1 are both clear for an unseen state alone.
struct PlaneCode {
  bool bit[3] = {false, false, false};
};

/// A permutation's place: its chunk and the bit in it.
struct RankedState {
  std::int64_t chunk;
  std::uint16_t bit;
};

/// One generator on states of one chunk, without tables.
struct DirectTask {
  int size = 0, prefix = 0;
  const std::uint8_t* prefix_orders = nullptr;  // (prefix!, 8) permutations of 0..prefix-1
  const std::uint8_t* free_values = nullptr;    // the chunk's prefix values, ascending
  const std::uint8_t* suffix = nullptr;         // its suffix values
  const std::uint8_t* generator = nullptr;
};

struct BitarrayKernels {
  /// The chunk's states with this code: their bits, ascending, and (unless null) a bitmap of them.
  std::int64_t (*extract)(const ChunkPlanes& chunk, const PlaneCode& code, std::uint16_t* list,
                          std::uint64_t* bitmap);
  /// Sets bit table[b] of the bitmap for each b of the list.
  void (*scatter)(const std::uint16_t* list, std::int64_t count, const std::uint16_t* table,
                  std::uint64_t* bitmap);
  /// The same in bitmap leaving[b] of several, `stride` words apart.
  void (*scatter_many)(const std::uint16_t* list, std::int64_t count, const std::uint16_t* table,
                       const std::uint16_t* leaving, std::int64_t stride, std::uint64_t* bitmaps);
  /// Gives the bitmap's unseen states this code and clears the bitmap; how many they were.
  std::int64_t (*merge)(const ChunkPlanes& chunk, const PlaneCode& code, std::uint64_t* bitmap);
  /// States of one code get another.
  void (*retire)(const ChunkPlanes& chunk, const PlaneCode& code, const PlaneCode& after);
  RankedState (*rank_permutation)(const std::uint8_t* state, int size, int prefix);
  void (*rank_neighbors)(const DirectTask& task, const std::uint16_t* list, std::int64_t count,
                         RankedState* ranked);
};

const BitarrayKernels& bitarray_kernels();

namespace generic {
extern const BitarrayKernels kBitarrayKernels;
}
namespace avx2 {
extern const BitarrayKernels kBitarrayKernels;
}
namespace avx512 {
extern const BitarrayKernels kBitarrayKernels;
}

}  // namespace rankone::cpu
