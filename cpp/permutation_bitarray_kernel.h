// Source of the bitarray kernels, compiled once an instruction set (RANKONE_ISA): the loops over a
// chunk's frontier and its bitmaps. Vectorisation is the compiler's; the sets differ in vector
// width and in having a population count.
#include <bit>

#include "permutation_bitarray_tasks.h"
#if RANKONE_ISA_LEVEL >= 2
#include <immintrin.h>
#endif

namespace rankone::cpu::RANKONE_ISA {
namespace {

inline std::uint64_t matches(std::uint64_t word, bool wanted) { return wanted ? word : ~word; }

/// The words of the frontier: where every plane has its wanted value.
inline std::uint64_t frontier_word(const ChunkPlanes& chunk, const PlaneCode& code,
                                   std::int64_t i) {
  std::uint64_t word =
      matches(chunk.planes[0][i], code.bit[0]) & matches(chunk.planes[1][i], code.bit[1]);
  if (chunk.count > 2) word &= matches(chunk.planes[2][i], code.bit[2]);
  return word;
}

std::int64_t extract(const ChunkPlanes& chunk, const PlaneCode& code, std::uint16_t* list,
                     std::uint64_t* bitmap) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < chunk.words; ++i) {
    std::uint64_t word = frontier_word(chunk, code, i);
    if (bitmap != nullptr) bitmap[i] = word;
    const auto base = static_cast<int>(i * 64);
    while (word != 0) {
      list[count++] = static_cast<std::uint16_t>(base + std::countr_zero(word));
      word &= word - 1;
    }
  }
  return count;
}

void scatter(const std::uint16_t* list, std::int64_t count, const std::uint16_t* table,
             std::uint64_t* bitmap) {
  for (std::int64_t i = 0; i < count; ++i) {
    const unsigned target = table[list[i]];
    bitmap[target >> 6] |= std::uint64_t{1} << (target & 63);
  }
}

void scatter_many(const std::uint16_t* list, std::int64_t count, const std::uint16_t* table,
                  const std::uint16_t* leaving, std::int64_t stride, std::uint64_t* bitmaps) {
  for (std::int64_t i = 0; i < count; ++i) {
    const unsigned target = table[list[i]];
    std::uint64_t* bitmap = bitmaps + leaving[list[i]] * stride;
    bitmap[target >> 6] |= std::uint64_t{1} << (target & 63);
  }
}

/// Eight words at a time: a cache line of the bitmap, most of which are empty.
constexpr std::int64_t kGroup = 8;

#if RANKONE_ISA_LEVEL >= 2
using Line = __m512i;
inline Line load(const std::uint64_t* words) { return _mm512_loadu_si512(words); }
inline void store(std::uint64_t* words, Line line) { _mm512_storeu_si512(words, line); }
inline bool is_zero(Line line) { return _mm512_test_epi64_mask(line, line) == 0; }
inline Line either(Line a, Line b) { return _mm512_or_si512(a, b); }
inline Line without(Line a, Line b) { return _mm512_ternarylogic_epi64(a, b, b, 0x30); }  // a & ~b
inline Line zero_line() { return _mm512_setzero_si512(); }
#else
/// Without registers so wide: the compiler splits the loops.
struct Line {
  std::uint64_t words[kGroup];
};
inline Line load(const std::uint64_t* words) {
  Line line;
  for (std::int64_t k = 0; k < kGroup; ++k) line.words[k] = words[k];
  return line;
}
inline void store(std::uint64_t* words, const Line& line) {
  for (std::int64_t k = 0; k < kGroup; ++k) words[k] = line.words[k];
}
inline bool is_zero(const Line& line) {
  std::uint64_t any = 0;
  for (std::int64_t k = 0; k < kGroup; ++k) any |= line.words[k];
  return any == 0;
}
inline Line either(const Line& a, const Line& b) {
  Line line;
  for (std::int64_t k = 0; k < kGroup; ++k) line.words[k] = a.words[k] | b.words[k];
  return line;
}
inline Line without(const Line& a, const Line& b) {
  Line line;
  for (std::int64_t k = 0; k < kGroup; ++k) line.words[k] = a.words[k] & ~b.words[k];
  return line;
}
inline Line zero_line() { return Line{}; }
#endif

std::int64_t merge(const ChunkPlanes& chunk, const PlaneCode& code, std::uint64_t* bitmap) {
  std::uint64_t* const p0 = chunk.planes[0];
  std::uint64_t* const p1 = chunk.planes[1];
  std::uint64_t* const p2 = chunk.planes[2];
  std::int64_t count = 0, i = 0;
  for (; i + kGroup <= chunk.words; i += kGroup) {
    const Line candidates = load(bitmap + i);
    if (is_zero(candidates)) continue;
    store(bitmap + i, zero_line());
    const Line first = load(p0 + i), second = load(p1 + i);
    const Line fresh = without(candidates, either(first, second));
    if (is_zero(fresh)) continue;
    if (code.bit[0]) store(p0 + i, either(first, fresh));
    if (code.bit[1]) store(p1 + i, either(second, fresh));
    if (chunk.count > 2) store(p2 + i, either(load(p2 + i), fresh));
    std::uint64_t words[kGroup];
    store(words, fresh);
    for (std::int64_t k = 0; k < kGroup; ++k) count += std::popcount(words[k]);
  }
  for (; i < chunk.words; ++i) {
    const std::uint64_t fresh = bitmap[i] & ~(p0[i] | p1[i]);
    bitmap[i] = 0;
    count += std::popcount(fresh);
    if (code.bit[0]) p0[i] |= fresh;
    if (code.bit[1]) p1[i] |= fresh;
    if (chunk.count > 2) p2[i] |= fresh;
  }
  return count;
}

void retire(const ChunkPlanes& chunk, const PlaneCode& code, const PlaneCode& after) {
  std::uint64_t* __restrict const p0 = chunk.planes[0];
  std::uint64_t* __restrict const p1 = chunk.planes[1];
  std::uint64_t* __restrict const p2 = chunk.planes[2];
  if (chunk.count > 2) {
    // A state of the frontier has this plane set; planes 0 and 1 keep its distance.
    for (std::int64_t i = 0; i < chunk.words; ++i) p2[i] &= ~frontier_word(chunk, code, i);
    return;
  }
  const std::uint64_t invert = code.bit[0] ? 0 : ~std::uint64_t{0};
  const std::uint64_t set = after.bit[0] ? ~std::uint64_t{0} : 0;
  for (std::int64_t i = 0; i < chunk.words; ++i) {
    const std::uint64_t word = p1[i] & (p0[i] ^ invert);
    p0[i] |= word & set;
    p1[i] &= ~word;
  }
}

inline std::uint64_t below(unsigned value) { return (std::uint64_t{1} << value) - 1; }

/// Lehmer digits by population counts: the values not yet used lie in a bit mask.
RankedState rank_permutation(const std::uint8_t* state, int size, int prefix) {
  std::uint64_t left = below(static_cast<unsigned>(size));
  RankedState result{0, 0};
  for (int i = prefix; i < size; ++i) {
    const unsigned value = state[i];
    result.chunk = result.chunk * (size - (i - prefix)) + std::popcount(left & below(value));
    left &= ~(std::uint64_t{1} << value);
  }
  std::int64_t bit = 0;
  for (int i = 0; i < prefix; ++i) {
    const unsigned value = state[i];
    bit = bit * (prefix - i) + std::popcount(left & below(value));
    left &= ~(std::uint64_t{1} << value);
  }
  result.bit = static_cast<std::uint16_t>(bit);
  return result;
}

void rank_neighbors(const DirectTask& task, const std::uint16_t* list, std::int64_t count,
                    RankedState* ranked) {
  std::uint8_t state[kMaxRankedSize], next[kMaxRankedSize];
  for (int i = task.prefix; i < task.size; ++i) state[i] = task.suffix[i - task.prefix];
  for (std::int64_t k = 0; k < count; ++k) {
    const std::uint8_t* order = task.prefix_orders + 8 * list[k];
    for (int i = 0; i < task.prefix; ++i) state[i] = task.free_values[order[i]];
    for (int i = 0; i < task.size; ++i) next[i] = state[task.generator[i]];
    ranked[k] = rank_permutation(next, task.size, task.prefix);
  }
}

}  // namespace

const BitarrayKernels kBitarrayKernels = {&extract, &scatter,          &scatter_many,  &merge,
                                          &retire,  &rank_permutation, &rank_neighbors};

}  // namespace rankone::cpu::RANKONE_ISA
