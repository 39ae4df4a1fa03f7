// Numbers as the kernels store them, for tests that compute in double: every storage type in memory
// that is NaN until written and guarded behind its end, and norms of differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "rankone/core.h"

namespace rankone::testing {

using Values = std::vector<double>;

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// A 16-bit float type with `mantissa` stored bits: bfloat16 (7) or float16 (10).
struct Small {
  int mantissa;
  int exponent_bits() const { return 15 - mantissa; }
  int bias() const { return (1 << (exponent_bits() - 1)) - 1; }

  std::uint16_t encode(double value) const {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::fabs(value);
    if (magnitude == 0) return sign;
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int unit = std::max(exponent - 1, 1 - bias()) - mantissa;
    const double steps = std::nearbyint(std::ldexp(magnitude, -unit));
    // Bits count upwards through the numbers, so a mantissa that rounds over carries by itself.
    const int lowest = (unit + mantissa + bias() - 1) << mantissa;
    return static_cast<std::uint16_t>(sign | (lowest + static_cast<int>(steps)));
  }

  double decode(std::uint16_t bits) const {
    const int magnitude = bits & 0x7fff;
    const int exponent = magnitude >> mantissa;
    const int fraction = magnitude & ((1 << mantissa) - 1);
    const double value = exponent == 0
                             ? std::ldexp(fraction, 1 - bias() - mantissa)
                             : std::ldexp(fraction + (1 << mantissa), exponent - bias() - mantissa);
    return bits & 0x8000 ? -value : value;
  }
};

inline constexpr Small kHalf{10}, kBrain{7};

inline std::size_t size_of(DataType type) {
  return type == DataType::kFloat64 ? 8 : type == DataType::kFloat32 ? 4 : 2;
}

/// Rounding error of the type's arithmetic (16-bit types: of their storage).
inline double unit_of(DataType type) {
  switch (type) {
    case DataType::kFloat64:
      return 0x1p-53;
    case DataType::kFloat32:
      return 0x1p-24;
    case DataType::kFloat16:
      return 0x1p-11;
    case DataType::kBFloat16:
      break;
  }
  return 0x1p-8;
}

inline DataType state_type(DataType type) {
  return type == DataType::kFloat64 ? DataType::kFloat64 : DataType::kFloat32;
}

/// Memory of one type, filled with NaN until written, with a margin that must stay untouched.
class Memory {
 public:
  Memory(DataType type, std::size_t count) : type_(type), count_(count) {
    bytes_.assign((count + kMargin) * size_of(type), 0xff);
  }
  Memory(DataType type, const Values& values) : Memory(type, values.size()) {
    for (std::size_t i = 0; i < count_; ++i) set(i, values[i]);
  }

  void* data() { return bytes_.data(); }

  double operator[](std::size_t i) const {
    const unsigned char* at = bytes_.data() + i * size_of(type_);
    if (type_ == DataType::kFloat64) return read<double>(at);
    if (type_ == DataType::kFloat32) return read<float>(at);
    const std::uint16_t bits = read<std::uint16_t>(at);
    return (type_ == DataType::kFloat16 ? kHalf : kBrain).decode(bits);
  }

  Values values() const {
    for (std::size_t i = count_ * size_of(type_); i < bytes_.size(); ++i) {
      check::equal(int{bytes_[i]}, 0xff, "a byte after the result");
    }
    Values result(count_);
    for (std::size_t i = 0; i < count_; ++i) result[i] = (*this)[i];
    return result;
  }

  bool operator==(const Memory& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr std::size_t kMargin = 64;

  template <typename T>
  static T read(const unsigned char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  template <typename T>
  void write(std::size_t i, T value) {
    std::memcpy(bytes_.data() + i * sizeof value, &value, sizeof value);
  }
  void set(std::size_t i, double value) {
    switch (type_) {
      case DataType::kFloat64:
        return write(i, value);
      case DataType::kFloat32:
        return write(i, static_cast<float>(value));
      case DataType::kFloat16:
        return write(i, kHalf.encode(value));
      case DataType::kBFloat16:
        return write(i, kBrain.encode(value));
    }
  }

  DataType type_;
  std::size_t count_;
  std::vector<unsigned char> bytes_;
};

/// A contiguous (batch, time, heads, dim) tensor.
inline ConstTokens dense(Memory& memory, std::int64_t time, std::int64_t heads, std::int64_t dim) {
  return {memory.data(), time * heads * dim, heads * dim, dim};
}

// ---- norms ----

inline double norm(const Values& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

inline double difference(const Values& a, const Values& b) {
  check::equal(a.size(), b.size(), "number of elements");
  Values delta(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) delta[i] = a[i] - b[i];
  return norm(delta);
}

/// Ends the running case as failed unless `actual` is within `tolerance` of `expected`, norm-wise.
/// Data is of unit size: a few results that happen to cancel are held to that, or to `scale`.
inline void close(const Values& actual, const Values& expected, double tolerance,
                  const std::string& what, double scale = 0) {
  const double size = std::max({norm(expected), scale, std::sqrt(double(expected.size()))});
  const double error = difference(actual, expected);
  check::that(error <= tolerance * size, what + " is off by " +
                                             std::to_string(error / (size * tolerance)) +
                                             " tolerances of " + std::to_string(tolerance));
}

/// Norm-wise error: chains of up to some hundred rounded terms stay within 16 units of the
/// arithmetic; 16-bit results are rounded once more.
inline double tolerance_for(DataType stored) {
  const bool small = size_of(stored) == 2;
  return 16 * unit_of(state_type(stored)) + (small ? unit_of(stored) : 0);
}

}  // namespace rankone::testing
