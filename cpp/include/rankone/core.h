// Types shared by every kernel family's public header: element types, errors, and views of
// caller-owned memory. The core knows neither Python nor torch: a caller passes pointers, sizes,
// element strides and, on CUDA, a stream.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace rankone {

/// Largest key and value dims of the sequence kernels.
inline constexpr std::int64_t kMaxHeadDim = 256;

/// Element type of a tensor. The values are part of the binding's contract.
enum class DataType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

/// How a recurrence's log-decays are given; at most 0, -inf resets the state.
enum class DecayForm : int {
  kNone = 0,        // d = 1
  kPerHead = 1,     // log_decay (kv_heads), contiguous
  kPerToken = 2,    // log_decay (batch, time, kv_heads)
  kPerChannel = 3,  // log_decay (batch, time, kv_heads, key_dim)
};

/// Base of every error the core throws; `what()` names the argument or the kernel at fault.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument outside its contract. `what()` starts with the argument's name.
class ArgumentError : public Error {
 public:
  ArgumentError(const std::string& argument, const std::string& message)
      : Error(argument + ": " + message) {}
};

/// A CUDA call or kernel launch that failed, with the operation's name and the driver's message.
class CudaError : public Error {
 public:
  CudaError(const std::string& operation, const std::string& message)
      : Error("CUDA error in " + operation + ": " + message) {}
};

/// A (batch, time, heads, dim) tensor in caller-owned memory. The last axis is contiguous; the
/// other strides count elements and may be any value, 0 and negative included.
template <typename Pointer>
struct TokenTensor {
  Pointer data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t time_stride = 0;
  std::int64_t head_stride = 0;
};

using ConstTokens = TokenTensor<const void*>;
using MutableTokens = TokenTensor<void*>;

}  // namespace rankone
