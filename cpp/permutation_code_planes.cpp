// Allocation, locking and level changes of the code planes.
#include "permutation_code_planes.h"

#include <numeric>
#include <thread>
#include <utility>

#include "cpu_features.h"
#include "parallel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rankone::cpu {
namespace {

std::uint64_t* zeroed_words(std::int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * 8;
  auto* words = static_cast<std::uint64_t*>(std::calloc(std::max<std::size_t>(bytes, 8), 1));
  if (words == nullptr) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  // Pushes into other chunks miss the small-page buffers otherwise. Only whole pages may be named.
  constexpr std::uintptr_t kPage = 4096;
  const auto begin = (reinterpret_cast<std::uintptr_t>(words) + kPage - 1) & ~(kPage - 1);
  const auto end = (reinterpret_cast<std::uintptr_t>(words) + bytes) & ~(kPage - 1);
  if (end > begin && end - begin >= (std::size_t{4} << 20)) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
  return words;
}

}  // namespace

const BitarrayKernels& bitarray_kernels() {
#if defined(__x86_64__)
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return avx512::kBitarrayKernels;
    case InstructionSet::kAvx2:
      return avx2::kBitarrayKernels;
    case InstructionSet::kGeneric:
      break;
  }
#endif
  return generic::kBitarrayKernels;
}

class CodePlanes::Lock {
 public:
  Lock(const CodePlanes& planes, std::int64_t chunk)
      : flag_(planes.shared_ ? &planes.locks_[static_cast<std::size_t>(chunk)] : nullptr) {
    if (flag_ == nullptr) return;
    while (flag_->exchange(1, std::memory_order_acquire) != 0) std::this_thread::yield();
  }
  ~Lock() {
    if (flag_ != nullptr) flag_->store(0, std::memory_order_release);
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  std::atomic<std::uint8_t>* flag_;
};

CodePlanes::CodePlanes(std::int64_t num_chunks, std::int64_t chunk_words, int planes, bool shared,
                       MemoryMeter* meter)
    : num_chunks_(num_chunks),
      chunk_words_(chunk_words),
      planes_(planes),
      shared_(shared),
      meter_(meter) {
  meter_->add(bytes(num_chunks, chunk_words, planes));
  plane_[0] = zeroed_words(2 * plane_words());
  plane_[1] = plane_[0] + plane_words();
  if (planes > 2) plane_[2] = zeroed_words(plane_words());
  current_.resize(static_cast<std::size_t>(num_chunks));
  next_.resize(current_.size());
  locks_ = std::make_unique<std::atomic<std::uint8_t>[]>(current_.size());
}

CodePlanes::~CodePlanes() {
  meter_->subtract(bytes(num_chunks_, chunk_words_, planes_));
  std::free(plane_[0]);
  std::free(plane_[2]);
}

std::uint64_t* CodePlanes::take_codes() { return std::exchange(plane_[0], nullptr); }

PlaneCode CodePlanes::code_of(std::int64_t level) const {
  if (planes_ == 2) return {{level % 2 == 0, true, false}};
  const std::int64_t code = 1 + level % 3;
  return {{(code & 1) != 0, (code & 2) != 0, true}};
}

std::int64_t CodePlanes::extract(std::int64_t chunk, std::uint16_t* list,
                                 std::uint64_t* bitmap) const {
  return bitarray_kernels().extract(this->chunk(chunk), current_code(), list, bitmap);
}

std::int64_t CodePlanes::extract_locked(std::int64_t chunk, std::uint16_t* list,
                                        std::uint64_t* bitmap) const {
  const Lock lock(*this, chunk);
  return extract(chunk, list, bitmap);
}

void CodePlanes::merge(std::int64_t chunk, std::uint64_t* bitmap) {
  const auto i = static_cast<std::size_t>(chunk);
  const Lock lock(*this, chunk);
  const std::int64_t count =
      bitarray_kernels().merge(this->chunk(chunk), code_of(level_ + 1), bitmap);
  next_[i] += static_cast<std::uint32_t>(count);
}

void CodePlanes::merge_bit(std::int64_t chunk, std::uint16_t bit) {
  const auto i = static_cast<std::size_t>(chunk);
  const std::int64_t word = chunk * chunk_words_ + (bit >> 6);
  const std::uint64_t mask = std::uint64_t{1} << (bit & 63);
  const Lock lock(*this, chunk);
  if (((plane_[0][word] | plane_[1][word]) & mask) != 0) return;
  const PlaneCode code = code_of(level_ + 1);
  for (int plane = 0; plane < planes_; ++plane) {
    if (code.bit[plane]) plane_[plane][word] |= mask;
  }
  ++next_[i];
}

std::int64_t CodePlanes::next_size() const {
  return std::accumulate(next_.begin(), next_.end(), std::int64_t{0});
}

void CodePlanes::commit(int num_threads) {
  if (level_ >= 0) {
    const PlaneCode code = current_code();
    PlaneCode after = code;
    if (planes_ == 2) {
      after = {{true, false, false}};
    } else {
      after.bit[2] = false;
    }
    parallel_for(num_chunks_, num_threads, [&](std::int64_t i, int) {
      if (frontier_size(i) > 0) bitarray_kernels().retire(chunk(i), code, after);
    });
  }
  current_.swap(next_);
  std::fill(next_.begin(), next_.end(), 0U);
  ++level_;
}

}  // namespace rankone::cpu
