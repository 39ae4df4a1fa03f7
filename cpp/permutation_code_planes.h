// The bit planes of the bitarray engine: a few bits for every state that can be, in chunks.
//
// Two planes: 00 unseen, 10 done, and 11 and 01 for the current and the next layer, which change
// places at each level. Three planes: the first two hold 1 + distance mod 3 (so they are what a
// distance table keeps), the third the current and the next layer, which their codes tell apart.
//
// A distance mod 3 alone would not do for the search: layer d could not be told from layer d - 3.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "permutation_bitarray_tasks.h"
#include "permutation_search.h"

namespace rankone::cpu {

class CodePlanes {
 public:
  CodePlanes(std::int64_t num_chunks, std::int64_t chunk_words, int planes, bool shared,
             MemoryMeter* meter);
  ~CodePlanes();
  CodePlanes(const CodePlanes&) = delete;
  CodePlanes& operator=(const CodePlanes&) = delete;

  static std::size_t bytes(std::int64_t num_chunks, std::int64_t chunk_words, int planes) {
    return static_cast<std::size_t>(num_chunks) *
           (static_cast<std::size_t>(chunk_words) * 8 * static_cast<std::size_t>(planes) + 9);
  }

  std::int64_t num_chunks() const { return num_chunks_; }
  std::int64_t chunk_words() const { return chunk_words_; }
  int num_planes() const { return planes_; }

  ChunkPlanes chunk(std::int64_t i) const {
    ChunkPlanes result;
    result.count = planes_;
    result.words = chunk_words_;
    for (int plane = 0; plane < planes_; ++plane)
      result.planes[plane] = plane_[plane] + i * chunk_words_;
    return result;
  }
  /// States of the current layer in a chunk.
  std::int64_t frontier_size(std::int64_t chunk) const {
    return current_[static_cast<std::size_t>(chunk)];
  }

  std::int64_t extract(std::int64_t chunk, std::uint16_t* list, std::uint64_t* bitmap) const;
  /// The same while other threads may write to the chunk.
  std::int64_t extract_locked(std::int64_t chunk, std::uint16_t* list, std::uint64_t* bitmap) const;
  /// Marks the unseen of the bitmap's states for the next layer; the bitmap is cleared.
  void merge(std::int64_t chunk, std::uint64_t* bitmap);
  void merge_bit(std::int64_t chunk, std::uint16_t bit);
  void prefetch(std::int64_t chunk, std::uint16_t bit) const {
    const std::int64_t word = chunk * chunk_words_ + (bit >> 6);
    __builtin_prefetch(plane_[0] + word, 1);
    __builtin_prefetch(plane_[1] + word, 1);
  }

  std::int64_t next_size() const;
  /// The next layer becomes the current one.
  void commit(int num_threads);

  std::int64_t plane_words() const { return num_chunks_ * chunk_words_; }
  /// Planes 0 and 1, one after the other, which the caller frees; the search is over.
  std::uint64_t* take_codes();

 private:
  /// Held while a chunk's planes are written; a search on one thread does without.
  class Lock;

  PlaneCode current_code() const { return code_of(level_); }
  PlaneCode code_of(std::int64_t level) const;

  const std::int64_t num_chunks_, chunk_words_;
  const int planes_;
  const bool shared_;  // by threads
  MemoryMeter* meter_;
  std::uint64_t* plane_[3] = {nullptr, nullptr, nullptr};
  std::vector<std::uint32_t> current_, next_;
  std::unique_ptr<std::atomic<std::uint8_t>[]> locks_;
  std::int64_t level_ = -1;  // before the start states there is no layer
};

}  // namespace rankone::cpu
