// What the engines share: the memory they account for, the limits and callbacks of a search, and
// the loop over levels.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "rankone/permutation_bfs.h"

namespace rankone::cpu {

/// Thrown to leave a level that is under way; the layers so far stay valid.
struct SearchEnd {
  BfsStatus status;
};

/// Counts the bytes an engine holds; past the limit a level ends with kMemoryLimit.
class MemoryMeter {
 public:
  explicit MemoryMeter(std::size_t limit) : limit_(limit) {}

  void add(std::size_t bytes) {
    const std::size_t used = used_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    if (limit_ != 0 && used > limit_) {
      subtract(bytes);
      throw SearchEnd{BfsStatus::kMemoryLimit};
    }
    std::size_t peak = peak_.load(std::memory_order_relaxed);
    while (peak < used && !peak_.compare_exchange_weak(peak, used, std::memory_order_relaxed)) {
    }
  }
  void subtract(std::size_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  std::size_t used() const { return used_.load(std::memory_order_relaxed); }
  std::size_t peak() const { return peak_.load(std::memory_order_relaxed); }
  std::size_t limit() const { return limit_; }

 private:
  const std::size_t limit_;
  std::atomic<std::size_t> used_{0}, peak_{0};
};

/// A growing array of words whose bytes a meter counts. Its first words are kept when it grows.
class WordBuffer {
 public:
  WordBuffer() = default;
  explicit WordBuffer(MemoryMeter* meter) : meter_(meter) {}
  WordBuffer(WordBuffer&& other) noexcept { swap(other); }
  WordBuffer& operator=(WordBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  WordBuffer(const WordBuffer&) = delete;
  WordBuffer& operator=(const WordBuffer&) = delete;
  ~WordBuffer() { release(); }

  void swap(WordBuffer& other) noexcept {
    std::swap(meter_, other.meter_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  MemoryMeter* meter() const { return meter_; }
  std::uint64_t* data() { return data_; }
  const std::uint64_t* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::uint64_t& operator[](std::size_t i) { return data_[i]; }
  const std::uint64_t& operator[](std::size_t i) const { return data_[i]; }

  void reserve(std::size_t words) {
    if (words > capacity_) reallocate(std::max(words, capacity_ + capacity_ / 2));
  }
  /// Empties the array and makes room for so many words and no more.
  void reset(std::size_t words) {
    size_ = 0;
    if (words > capacity_) reallocate(words);
  }
  /// New words are not initialised.
  void resize(std::size_t words) {
    reserve(words);
    size_ = words;
  }
  void push(std::uint64_t word) {
    if (size_ == capacity_) reserve(size_ + 64);
    data_[size_++] = word;
  }
  void append(const std::uint64_t* words, std::size_t count) {
    reserve(size_ + count);
    if (count > 0) std::memcpy(data_ + size_, words, count * 8);
    size_ += count;
  }
  /// Gives back memory past the words in use.
  void fit() {
    if (size_ == 0) {
      release();
    } else if (size_ < capacity_) {
      reallocate(size_);
    }
  }
  void clear() { size_ = 0; }
  void release() {
    std::free(data_);
    if (meter_ != nullptr) meter_->subtract(capacity_ * 8);
    data_ = nullptr;
    size_ = capacity_ = 0;
  }

 private:
  void reallocate(std::size_t capacity) {
    const bool grows = capacity > capacity_;
    if (grows && meter_ != nullptr) meter_->add((capacity - capacity_) * 8);
    auto* data = static_cast<std::uint64_t*>(std::realloc(data_, capacity * 8));
    if (data == nullptr) {
      if (grows && meter_ != nullptr) meter_->subtract((capacity - capacity_) * 8);
      throw std::bad_alloc();
    }
    if (!grows && meter_ != nullptr) meter_->subtract((capacity_ - capacity) * 8);
    data_ = data;
    capacity_ = capacity;
  }

  MemoryMeter* meter_ = nullptr;
  std::uint64_t* data_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;
};

/// The clock, the limits and the callbacks of one search.
class SearchControl {
 public:
  using Clock = std::chrono::steady_clock;

  SearchControl(const BfsLimits& limits, const BfsCallbacks& callbacks)
      : limits(limits), callbacks(callbacks), start_(Clock::now()), polled_(start_) {}

  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  /// Called by every worker between blocks of work; acts on the calling thread alone (worker 0).
  void poll(int worker) {
    if (worker != 0) return;
    const auto now = Clock::now();
    if (now - polled_ < std::chrono::milliseconds(100)) return;
    polled_ = now;
    if (limits.max_seconds > 0 && seconds() > limits.max_seconds) {
      throw SearchEnd{BfsStatus::kTimeLimit};
    }
    if (callbacks.poll && callbacks.poll()) throw SearchEnd{BfsStatus::kInterrupted};
  }

  const BfsLimits& limits;
  const BfsCallbacks& callbacks;

 private:
  const Clock::time_point start_;
  Clock::time_point polled_;
};

/// The levels of a search. An Engine has
///   layer_size(), layout(), bytes(), peak_bytes(), copy_layer(states) of the current layer;
///   expand(control): computes the next layer, returns its size, may throw SearchEnd;
///   commit(): makes it the current one.
/// `sizes` are layers known already (a resumed search), the last of them the current one.
template <typename Engine>
BfsResult search_levels(Engine& engine, SearchControl& control, std::vector<std::int64_t> sizes) {
  const BfsLimits& limits = control.limits;
  BfsResult result;
  std::int64_t total = 0;
  for (const std::int64_t size : sizes) total += size;
  const auto describe = [&] {
    BfsLevel level;
    level.level = static_cast<std::int64_t>(sizes.size()) - 1;
    level.size = sizes.back();
    level.total = total;
    level.seconds = control.seconds();
    level.bytes = engine.bytes();
    level.layout = engine.layout();
    level.copy_states = [&engine](std::uint64_t* states) { engine.copy_layer(states); };
    return level;
  };
  const auto stop_reason = [&]() -> BfsStatus {
    if (control.callbacks.on_level && control.callbacks.on_level(describe())) {
      return BfsStatus::kStopped;
    }
    if (static_cast<std::int64_t>(sizes.size()) > limits.max_level) return BfsStatus::kMaxLevel;
    if (total >= limits.max_states) return BfsStatus::kMaxStates;
    if (sizes.back() > limits.max_layer_size) return BfsStatus::kMaxLayerSize;
    if (limits.max_seconds > 0 && control.seconds() > limits.max_seconds) {
      return BfsStatus::kTimeLimit;
    }
    return BfsStatus::kComplete;
  };
  try {
    while ((result.status = stop_reason()) == BfsStatus::kComplete) {
      const std::int64_t size = engine.expand(control);
      if (size == 0) break;
      engine.commit();
      sizes.push_back(size);
      total += size;
    }
  } catch (const SearchEnd& end) {
    result.status = end.status;
  }
  if (control.callbacks.on_last) control.callbacks.on_last(describe());
  result.layer_sizes = std::move(sizes);
  result.seconds = control.seconds();
  result.peak_bytes = engine.peak_bytes();
  return result;
}

}  // namespace rankone::cpu
