// Tensors of tokens for the tests of emulated kernels: a caller's tensors in any layout, memory for
// outputs, and the distance between what came out and what should have.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cpp/check.h"
#include "primitives/convert.cuh"
#include "rankone/core.h"
#include "simt.h"

namespace token_tensors {

using rankone::ConstTokens;
using rankone::DataType;
using std::int64_t;

inline constexpr DataType kTypes[] = {DataType::kFloat32, DataType::kBFloat16, DataType::kFloat16};

/// How q, k, v and log_decay lie in memory.
enum class Layout {
  kContiguous,
  kHeadsFirst,  // (batch, heads, time, dim): strided, rows still aligned
  kRagged,      // rows three elements longer than they need to be, the first one skipped
  kBackwards,   // negative time stride
};

/// Unit roundoff of the type the kernels' operands are rounded to; half of a bit more for fp32,
/// whose sums over a chunk are as large a source of error as its operands.
inline double roundoff(DataType dtype) {
  switch (dtype) {
    case DataType::kBFloat16:
      return 0x1p-9;
    case DataType::kFloat16:
      return 0x1p-12;
    default:
      return 0x1p-24;
  }
}

/// A (batch, time, heads, dim) tensor of `dtype` in some layout, and its values in double.
struct Tensor {
  int64_t batch, time, heads, dim;
  std::vector<double> values;  // contiguous
  std::vector<std::byte> storage;
  ConstTokens view;
};

inline double round_to(DataType dtype, double value) {
  using namespace rankone::cuda;
  switch (dtype) {
    case DataType::kBFloat16:
      return to_float(from_float<__nv_bfloat16>(static_cast<float>(value)));
    case DataType::kFloat16:
      return to_float(from_float<__half>(static_cast<float>(value)));
    default:
      return static_cast<float>(value);
  }
}

inline int64_t size_of(DataType dtype) { return dtype == DataType::kFloat32 ? 4 : 2; }

inline void write_element(std::byte* address, DataType dtype, double value) {
  using namespace rankone::cuda;
  const auto single = static_cast<float>(value);
  if (dtype == DataType::kBFloat16) {
    const auto element = from_float<__nv_bfloat16>(single);
    std::memcpy(address, &element, sizeof element);
  } else if (dtype == DataType::kFloat16) {
    const auto element = from_float<__half>(single);
    std::memcpy(address, &element, sizeof element);
  } else {
    std::memcpy(address, &single, sizeof single);
  }
}

inline double read_element(const std::byte* address, DataType dtype) {
  using namespace rankone::cuda;
  if (dtype == DataType::kBFloat16) {
    __nv_bfloat16 element;
    std::memcpy(&element, address, sizeof element);
    return to_float(element);
  }
  if (dtype == DataType::kFloat16) {
    __half element;
    std::memcpy(&element, address, sizeof element);
    return to_float(element);
  }
  float element;
  std::memcpy(&element, address, sizeof element);
  return element;
}

inline Tensor make_tensor(int64_t batch, int64_t time, int64_t heads, int64_t dim, DataType dtype,
                          Layout layout, std::vector<double> values) {
  Tensor tensor{batch, time, heads, dim, std::move(values), {}, {}};
  for (double& value : tensor.values) value = round_to(dtype, value);
  const int64_t row = layout == Layout::kRagged ? dim + 3 : dim;
  int64_t batch_stride = time * heads * row, time_stride = heads * row, head_stride = row;
  int64_t start = layout == Layout::kRagged ? 1 : 0;
  if (layout == Layout::kHeadsFirst) {
    time_stride = row;
    head_stride = time * row;
  } else if (layout == Layout::kBackwards && time > 0) {
    start = (time - 1) * time_stride;
    time_stride = -time_stride;
  }
  const int64_t size = size_of(dtype);
  // No spare element: a read past the tensor is a read past the allocation.
  tensor.storage.resize(static_cast<std::size_t>(batch * time * heads * row * size));
  std::byte* data = tensor.storage.data() + (tensor.storage.empty() ? 0 : start * size);
  std::size_t index = 0;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < time; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t c = 0; c < dim; ++c) {
          write_element(data + (b * batch_stride + t * time_stride + h * head_stride + c) * size,
                        dtype, tensor.values[index++]);
        }
      }
    }
  }
  tensor.view = {data, batch_stride, time_stride, head_stride};
  return tensor;
}

inline std::vector<float> to_floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

/// Bound on |actual - expected| / |expected| (2-norms) of a forward pass: the state as an operand,
/// the other operands and the output are each rounded once, two roundoffs in norm; fp32 is held to
/// the accuracy the ops promise. A backward pass chains twice as many roundings.
inline double forward_tolerance(DataType dtype) {
  return dtype == DataType::kFloat32 ? 2e-6 : 2.0 * roundoff(dtype);
}
inline double backward_tolerance(DataType dtype) { return 2.0 * forward_tolerance(dtype); }

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  std::vector<double> normal(int64_t count, double magnitude) {
    std::normal_distribution<double> distribution;
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) value = magnitude * distribution(engine_);
    return values;
  }
  double uniform() { return std::uniform_real_distribution<double>()(engine_); }
  /// Mostly weak ones down to -strength, and a share of -inf.
  std::vector<double> log_decays(int64_t count, double strength, double reset_share) {
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) {
      const double u = uniform();
      value = uniform() < reset_share ? -std::numeric_limits<double>::infinity()
                                      : -strength * u * u * u;
    }
    return values;
  }

 private:
  std::mt19937 engine_;
};

/// Memory for an output, filled with NaN so that what is not written shows.
class Output {
 public:
  Output(std::size_t count, DataType dtype)
      : dtype_(dtype), count_(count), storage_(count * size_of(dtype), std::byte{0xff}) {}
  void* data() { return storage_.data(); }
  std::vector<double> values() const {
    std::vector<double> values(count_);
    for (std::size_t i = 0; i < count_; ++i) {
      values[i] = read_element(storage_.data() + i * size_of(dtype_), dtype_);
    }
    return values;
  }
  const std::vector<std::byte>& bytes() const { return storage_; }

 private:
  DataType dtype_;
  std::size_t count_;
  std::vector<std::byte> storage_;
};

/// The emulated device has `count` multiprocessors while it lives.
class Multiprocessors {
 public:
  explicit Multiprocessors(int count) : before_(rankone::emulation::multiprocessors()) {
    rankone::emulation::set_multiprocessors(count);
  }
  ~Multiprocessors() { rankone::emulation::set_multiprocessors(before_); }
  Multiprocessors(const Multiprocessors&) = delete;
  Multiprocessors& operator=(const Multiprocessors&) = delete;

 private:
  int before_;
};

/// Norm of the difference over the norm of `magnitude`; infinite when anything is not finite.
inline double relative_error(const std::vector<double>& actual, const std::vector<double>& expected,
                             const std::vector<double>& magnitude) {
  double difference = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(actual[i])) return std::numeric_limits<double>::infinity();
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += magnitude[i] * magnitude[i];
  }
  return difference == 0.0 ? 0.0 : std::sqrt(difference / norm);
}

inline void expect_close(const std::string& what, const std::vector<double>& actual,
                         const std::vector<double>& expected, const std::vector<double>& magnitude,
                         double tolerance) {
  check::equal(actual.size(), expected.size(), what + " size");
  const double error = relative_error(actual, expected, magnitude);
  if (std::getenv("SHOW_ERRORS") != nullptr) std::printf("%s %.2e\n", what.c_str(), error);
  std::ostringstream text;
  text << what << ": relative error " << error << ", allowed " << tolerance;
  check::that(error <= tolerance, text.str());
}

inline void expect_close(const std::string& what, const std::vector<double>& actual,
                         const std::vector<double>& expected, double tolerance) {
  expect_close(what, actual, expected, expected, tolerance);
}

}  // namespace token_tensors
