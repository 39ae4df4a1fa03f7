// Source of the apply kernels, compiled once an instruction set (RANKONE_ISA, RANKONE_ISA_LEVEL).
//
// Terms: each distinct distance is a rotation and a mask; loops over states of fixed term counts
// are left to the compiler's vectoriser. Shuffle: elements are widened to bytes, moved by a byte
// shuffle, and narrowed again by a multiply-add of neighbours; four-bit states go 4 or 8 at a time.
#include <cstring>

#include "permutation_apply.h"
#if RANKONE_ISA_LEVEL >= 1
#include <immintrin.h>
#endif

namespace rankone::cpu::RANKONE_ISA {
namespace {

template <int kTerms>
void apply_terms(const MoveTerm* terms, std::int64_t count, const std::uint64_t* __restrict states,
                 std::uint64_t* __restrict out, bool add) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t word = states[i];
    std::uint64_t sum = add ? out[i] : 0;
    for (int t = 0; t < kTerms; ++t) {
      const int left = terms[t].rotation, right = (64 - left) & 63;
      sum |= (word << left | word >> right) & terms[t].mask;
    }
    out[i] = sum;
  }
}

void one_word(const CompiledGenerator& generator, std::int64_t count, const std::uint64_t* states,
              std::uint64_t* out) {
  const MoveTerm* terms = generator.terms.data();
  std::size_t left = generator.terms.size();
  bool add = false;
  while (left > 0) {
    switch (left) {
      case 1:
        apply_terms<1>(terms, count, states, out, add);
        return;
      case 2:
        apply_terms<2>(terms, count, states, out, add);
        return;
      case 3:
        apply_terms<3>(terms, count, states, out, add);
        return;
      default:
        apply_terms<4>(terms, count, states, out, add);
        terms += 4;
        left -= 4;
        add = true;
    }
  }
}

template <typename Element>
void hash_block(std::int64_t size, std::int64_t num_generators, const std::uint64_t* moved,
                std::int64_t count, std::int64_t first, std::int64_t last, const void* states,
                std::uint64_t* hashes) {
  const Element* rows = static_cast<const Element*>(states);
  constexpr std::int64_t kTile = 4;  // generators that share one pass over a state
  for (std::int64_t row = first; row < last; ++row) {
    const Element* state = rows + row * size;
    std::int64_t g = 0;
    for (; g + kTile <= num_generators; g += kTile) {
      std::uint64_t sums[kTile] = {};
      const std::uint64_t* w = moved + g * size;
      for (std::int64_t k = 0; k < size; ++k) {
        const auto value = static_cast<std::uint64_t>(static_cast<std::int64_t>(state[k]));
        for (std::int64_t t = 0; t < kTile; ++t) sums[t] += value * w[t * size + k];
      }
      for (std::int64_t t = 0; t < kTile; ++t) hashes[(g + t) * count + row] = sums[t];
    }
    for (; g < num_generators; ++g) {
      std::uint64_t sum = 0;
      for (std::int64_t k = 0; k < size; ++k) {
        sum +=
            static_cast<std::uint64_t>(static_cast<std::int64_t>(state[k])) * moved[g * size + k];
      }
      hashes[g * count + row] = sum;
    }
  }
}

#if RANKONE_ISA_LEVEL >= 1

/// The one-line form padded to 16 bytes of the target lane `lane`, restricted to sources in lane
/// `source`; a set high bit clears the byte.
__m128i shuffle_indices(const CompiledGenerator& generator, int lane, int source) {
  alignas(16) std::uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) {
    const std::size_t target = static_cast<std::size_t>(lane * 16 + i);
    bytes[i] = 0x80;
    if (target >= generator.bytes.size()) continue;
    const int from = generator.bytes[target];
    if (from / 16 == source) bytes[i] = static_cast<std::uint8_t>(from % 16);
  }
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}

/// 16 nibbles to 16 bytes.
inline __m128i widen(std::uint64_t word) {
  const __m128i packed = _mm_cvtsi64_si128(static_cast<long long>(word));
  const __m128i mask = _mm_set1_epi8(15);
  return _mm_unpacklo_epi8(_mm_and_si128(packed, mask),
                           _mm_and_si128(_mm_srli_epi16(packed, 4), mask));
}

inline std::uint64_t narrow(__m128i bytes) {
  const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)));
}

void shuffle_nibble_word(const CompiledGenerator& generator, std::int64_t count,
                         const std::uint64_t* states, std::uint64_t* out) {
  const __m128i single = shuffle_indices(generator, 0, 0);
  std::int64_t i = 0;
#if RANKONE_ISA_LEVEL >= 2
  // Masked: the plain form leans on a value that gcc 12 takes for uninitialised.
  const __m512i indices = _mm512_maskz_broadcast_i32x4(0xFFFF, single);
  const __m512i mask = _mm512_set1_epi8(15), weights = _mm512_set1_epi16(0x1001);
  for (; i + 8 <= count; i += 8) {
    const __m512i packed = _mm512_loadu_si512(states + i);
    const __m512i low = _mm512_and_si512(packed, mask);
    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
    const __m512i even = _mm512_shuffle_epi8(_mm512_unpacklo_epi8(low, high), indices);
    const __m512i odd = _mm512_shuffle_epi8(_mm512_unpackhi_epi8(low, high), indices);
    _mm512_storeu_si512(out + i, _mm512_packus_epi16(_mm512_maddubs_epi16(even, weights),
                                                     _mm512_maddubs_epi16(odd, weights)));
  }
#else
  const __m256i indices = _mm256_broadcastsi128_si256(single);
  const __m256i mask = _mm256_set1_epi8(15), weights = _mm256_set1_epi16(0x1001);
  for (; i + 4 <= count; i += 4) {
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(states + i));
    const __m256i low = _mm256_and_si256(packed, mask);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask);
    const __m256i even = _mm256_shuffle_epi8(_mm256_unpacklo_epi8(low, high), indices);
    const __m256i odd = _mm256_shuffle_epi8(_mm256_unpackhi_epi8(low, high), indices);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_packus_epi16(_mm256_maddubs_epi16(even, weights),
                                            _mm256_maddubs_epi16(odd, weights)));
  }
#endif
  for (; i < count; ++i) out[i] = narrow(_mm_shuffle_epi8(widen(states[i]), single));
}

/// The state's bytes in two lanes, of which those past its words are zero.
template <int kBits>
void load_lanes(const std::uint64_t* state, std::int64_t words, __m128i lanes[2]) {
  if constexpr (kBits == 4) {
    lanes[0] = widen(state[0]);
    lanes[1] = words > 1 ? widen(state[1]) : _mm_setzero_si128();
  } else {
    const auto word = [&](std::int64_t i) {
      return i < words ? static_cast<long long>(state[i]) : 0LL;
    };
    lanes[0] = _mm_set_epi64x(word(1), word(0));
    lanes[1] = _mm_set_epi64x(word(3), word(2));
  }
}

template <int kBits>
void store_lanes(const __m128i lanes[2], std::int64_t words, std::uint64_t* out) {
  if constexpr (kBits == 4) {
    out[0] = narrow(lanes[0]);
    if (words > 1) out[1] = narrow(lanes[1]);
  } else {
    alignas(16) std::uint64_t values[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(values), lanes[0]);
    _mm_store_si128(reinterpret_cast<__m128i*>(values + 2), lanes[1]);
    for (std::int64_t i = 0; i < words; ++i) out[i] = values[i];
  }
}

template <int kBits>
void shuffle_lanes(const CompiledGenerator& generator, std::int64_t words, std::int64_t count,
                   const std::uint64_t* states, std::uint64_t* out) {
  __m128i indices[2][2];
  for (int lane = 0; lane < 2; ++lane) {
    for (int source = 0; source < 2; ++source) {
      indices[lane][source] = shuffle_indices(generator, lane, source);
    }
  }
  for (std::int64_t i = 0; i < count; ++i, states += words, out += words) {
    __m128i from[2], to[2];
    load_lanes<kBits>(states, words, from);
    for (int lane = 0; lane < 2; ++lane) {
      to[lane] = _mm_or_si128(_mm_shuffle_epi8(from[0], indices[lane][0]),
                              _mm_shuffle_epi8(from[1], indices[lane][1]));
    }
    store_lanes<kBits>(to, words, out);
  }
}

void shuffle(const CompiledGenerator& generator, const StateLayout& layout, std::int64_t count,
             const std::uint64_t* states, std::uint64_t* out) {
  const std::int64_t words = layout.words();
  if (layout.bits == 8) {
    shuffle_lanes<8>(generator, words, count, states, out);
  } else if (words == 1) {
    shuffle_nibble_word(generator, count, states, out);
  } else {
    shuffle_lanes<4>(generator, words, count, states, out);
  }
}

#endif  // RANKONE_ISA_LEVEL >= 1

}  // namespace

const ApplyKernels kApplyKernels = {&one_word,
#if RANKONE_ISA_LEVEL >= 1
                                    &shuffle,
#else
                                    nullptr,
#endif
                                    {&hash_block<std::uint8_t>, &hash_block<std::int16_t>,
                                     &hash_block<std::int32_t>, &hash_block<std::int64_t>}};

}  // namespace rankone::cpu::RANKONE_ISA
