// A small SIMT machine on the host: runs a CUDA grid with one fiber per thread and the blocks one
// after another, so that the kernels of cuda/ can be tested where there is no GPU.
//
// It is meant to find faults, not to be lenient:
//  - shared memory has exactly the size asked for and holds NaN (all bits set) when a block starts;
//  - an asynchronous copy overwrites its destination with NaN when it starts and delivers only at
//    the wait that covers it;
//  - between barriers the threads run in an order drawn from a seed, usually one warp far ahead of
//    the others, and so do the blocks;
//  - collectives that cannot complete (a thread that has exited, lanes in different instructions)
//    end the launch with an error that says what every thread waits for.
//
// A launch's errors are thrown as rankone::CudaError with the kernel's name. Threads left behind by
// an error are dropped without unwinding; device code owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <typeinfo>

#include "cuda_types.h"

namespace rankone::emulation {

#ifdef RANKONE_EMULATION_ARCHITECTURE
inline constexpr int kArchitecture = RANKONE_EMULATION_ARCHITECTURE;
#else
inline constexpr int kArchitecture = 900;
#endif

/// Dynamic shared memory a block may have: an H100's limit.
inline constexpr int kMaxSharedBytes = 227 * 1024;
inline constexpr unsigned kMaxThreads = 1024;
inline constexpr int kWarpSize = 32;
inline constexpr int kNamedBarriers = 16;

// ---- control, from tests ----

/// Seed of the order in which threads and blocks run; every launch starts from it anew. The default
/// is the environment variable RANKONE_EMULATION_SEED, or 0.
void set_schedule_seed(std::uint64_t seed);
std::uint64_t schedule_seed();

/// The number of multiprocessors kernels are told of (default 4), so that a test can choose which
/// side of a size rule it exercises.
void set_multiprocessors(int count);
int multiprocessors();

/// The number of atomics of a block with no barrier, collective or exit between them that counts as
/// an endless spin (default 2^27).
void set_spin_limit(std::uint64_t atomics);

/// What the threads of a launch did, warp collectives counted once a warp.
struct Statistics {
  std::uint64_t blocks = 0;
  std::uint64_t context_switches = 0;
  std::uint64_t block_barriers = 0;
  std::uint64_t mma = 0;
  std::uint64_t ldmatrix = 0;
  std::uint64_t stmatrix = 0;
  std::uint64_t shuffles = 0;
  std::uint64_t copied_bytes = 0;
};

/// Statistics of the last launch that ended without an error.
Statistics last_launch();

// ---- launch, from cuda/primitives/launch.cuh ----

struct LaunchRequest {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes;
  const char* name;  // may be null
  // The name when `name` is null: the function's symbol, or else the arguments' type.
  const void* function;
  const std::type_info* arguments;
};

/// Runs `thread(context)` once per thread of the grid.
void launch(const LaunchRequest& request, void (*thread)(const void*), const void* context);

// ---- device side, from cuda/primitives ----

/// Base of the block's dynamic shared memory; throws when it has fewer than `bytes`.
void* shared_memory(std::size_t bytes);

void block_barrier();
void named_barrier(int id, int threads, bool wait);
void warp_barrier(unsigned members);

void start_copy(void* destination, const void* source, int bytes, int valid_bytes);
void commit_copies();
void wait_copies(int pending_groups);

enum class ShuffleMode { kIdx, kUp, kDown, kXor };
std::uint64_t shuffle_bits(ShuffleMode mode, std::uint64_t bits, int operand, int width,
                           unsigned members);
unsigned ballot(bool predicate, unsigned members);

template <typename T>
T shuffle(ShuffleMode mode, T value, int operand, int width, unsigned members) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle_bits(mode, bits, operand, width, members);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

/// Lets other threads run now and then, so that nothing relies on two atomics being neighbours.
/// Throws when the block makes no other progress, which is a spin that cannot end here: a thread
/// that waits for another block would wait for ever on blocks run one after another.
void before_atomic();

template <typename T, typename Update>
T atomic_update(T* address, Update update) {
  before_atomic();
  const T old = *address;
  *address = update(old);
  return old;
}

void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  bool is_half);
void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
std::uint32_t round_to_tf32(float x);
void ldmatrix(std::uint32_t* registers, int matrices, bool transpose, const void* row);
void stmatrix(const std::uint32_t* registers, int matrices, bool transpose, void* row);

}  // namespace rankone::emulation
