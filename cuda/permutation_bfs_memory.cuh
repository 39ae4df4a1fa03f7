// The device arrays of a search: metered against the caller's limit, taken from the caller's
// allocator.
#pragma once

#include <cstddef>
#include <utility>

#include "permutation_search.h"
#include "primitives/device_memory.cuh"

namespace rankone::cuda {

/// Where a search's arrays come from and on which stream they are used. `take` ends the level with
/// kMemoryLimit where the limit or the device has no room.
class DeviceMemory {
 public:
  DeviceMemory(const DeviceAllocator& allocator, std::size_t limit, cudaStream_t stream)
      : meter(limit), stream(stream), allocator_(allocator) {}

  void* take(std::size_t bytes) {
    meter.add(bytes);
    void* address = nullptr;
    try {
      address = allocator_.allocate(bytes);
    } catch (...) {
      meter.subtract(bytes);
      throw;
    }
    if (address != nullptr) return address;
    meter.subtract(bytes);
    throw cpu::SearchEnd{BfsStatus::kMemoryLimit};
  }
  void give(void* address, std::size_t bytes) noexcept {
    allocator_.release(address);
    meter.subtract(bytes);
  }

  cpu::MemoryMeter meter;
  const cudaStream_t stream;

 private:
  const DeviceAllocator& allocator_;
};

/// An array on the device, uninitialised when it is made.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(DeviceMemory* memory, std::size_t size) : memory_(memory), size_(size) {
    if (size > 0) data_ = static_cast<T*>(memory->take(size * sizeof(T)));
  }
  DeviceArray(DeviceMemory* memory, const T* host, std::size_t size) : DeviceArray(memory, size) {
    copy_to_device(data_, host, size * sizeof(T), memory->stream);
  }
  DeviceArray(DeviceArray&& other) noexcept { swap(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    DeviceArray taken(std::move(other));
    swap(taken);
    return *this;
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    if (data_ != nullptr) memory_->give(data_, size_ * sizeof(T));
  }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  void fill(unsigned char byte) {
    if (data_ != nullptr) fill_bytes(data_, byte, size_ * sizeof(T), memory_->stream);
  }

 private:
  void swap(DeviceArray& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  DeviceMemory* memory_ = nullptr;
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

/// One number that kernels add to.
class DeviceCounter {
 public:
  explicit DeviceCounter(DeviceMemory* memory) : memory_(memory), value_(memory, 1) {}

  unsigned long long* cleared() {
    value_.fill(0);
    return value_.data();
  }
  /// Waits for the stream.
  std::int64_t read() const {
    unsigned long long value = 0;
    copy_to_host(&value, value_.data(), sizeof(value), memory_->stream);
    return static_cast<std::int64_t>(value);
  }

 private:
  DeviceMemory* memory_;
  DeviceArray<unsigned long long> value_;
};

}  // namespace rankone::cuda
