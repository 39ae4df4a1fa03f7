// Every permutation on every packed state, and the linear hash of every neighbour, for the ops
// perm_apply and perm_hash_neighbors. All arrays are on the device, and nothing waits for it.
//
// Applying makes one word of a neighbour a thread: it is bound by the words written. Hashing keeps
// a tile of states in shared memory while all generators pass over it.
#include <algorithm>

#include "permutation_bfs_launch.cuh"
#include "permutation_states.h"

namespace rankone::cuda {
namespace {

struct ApplyArguments {
  const std::int64_t* generators;
  const std::uint64_t* states;
  std::uint64_t* neighbors;
  std::int64_t num_generators, count;
  int size, bits, words;
};

__global__ void __launch_bounds__(kBfsThreads)
    apply_kernel(__grid_constant__ const ApplyArguments arguments) {
  const int per_word = 64 / arguments.bits;
  const std::uint64_t mask = cpu::low_bits(arguments.bits);
  const std::int64_t row_words = arguments.count * arguments.words;
  const std::int64_t total = arguments.num_generators * row_words;
  for (std::int64_t i = grid_thread(); i < total; i += grid_threads()) {
    const std::int64_t g = i / row_words;
    const std::int64_t row = (i - g * row_words) / arguments.words;
    const auto word = static_cast<int>((i - g * row_words) - row * arguments.words);
    const std::int64_t* p = arguments.generators + g * arguments.size;
    const std::uint64_t* state = arguments.states + row * arguments.words;
    const int first = word * per_word;
    const int last = min(first + per_word, arguments.size);
    std::uint64_t result = 0;
    for (int k = first; k < last; ++k) {
      const std::int64_t from = p[k];
      if (from < 0 || from >= arguments.size) continue;
      const std::int64_t bit = from * arguments.bits;
      result |= ((state[bit >> 6] >> (bit & 63)) & mask) << ((k - first) * arguments.bits);
    }
    arguments.neighbors[i] = result;
  }
}

struct HashArguments {
  const std::int64_t* generators;
  const std::int64_t* weights;
  const void* states;
  std::int64_t* hashes;
  std::int64_t num_generators, count;
  std::int64_t size;
  int tile;    // states in shared memory at a time; 0: they are read from where they lie
  int stride;  // bytes of a row there
};

constexpr int kTileBytes = 32 * 1024;

struct TileShared {
  alignas(16) unsigned char bytes[kTileBytes];
};

template <typename T>
__device__ __forceinline__ std::int64_t linear_hash(const HashArguments& arguments, std::int64_t g,
                                                    const T* state) {
  const std::int64_t* p = arguments.generators + g * arguments.size;
  std::uint64_t hash = 0;
  for (std::int64_t i = 0; i < arguments.size; ++i) {
    const std::int64_t from = p[i];
    if (from < 0 || from >= arguments.size) continue;
    const auto value = static_cast<std::int64_t>(state[from]);
    hash += static_cast<std::uint64_t>(arguments.weights[i]) * static_cast<std::uint64_t>(value);
  }
  return static_cast<std::int64_t>(hash);
}

template <typename T>
__global__ void __launch_bounds__(kBfsThreads)
    hash_kernel(__grid_constant__ const HashArguments arguments) {
  const auto* states = static_cast<const T*>(arguments.states);
  const std::int64_t size = arguments.size;
  if (arguments.tile == 0) {
    const std::int64_t total = arguments.num_generators * arguments.count;
    for (std::int64_t i = grid_thread(); i < total; i += grid_threads()) {
      const std::int64_t g = i / arguments.count;
      arguments.hashes[i] = linear_hash(arguments, g, states + (i - g * arguments.count) * size);
    }
    return;
  }
  unsigned char* rows = shared_memory<TileShared>().bytes;
  const std::int64_t tile = arguments.tile;
  for (std::int64_t first = blockIdx.x * tile; first < arguments.count; first += gridDim.x * tile) {
    const std::int64_t here = min(tile, arguments.count - first);
    for (std::int64_t i = threadIdx.x; i < here * size; i += kBfsThreads) {
      const std::int64_t row = i / size;
      reinterpret_cast<T*>(rows + row * arguments.stride)[i - row * size] =
          states[first * size + i];
    }
    block_sync();
    for (std::int64_t i = threadIdx.x; i < arguments.num_generators * here; i += kBfsThreads) {
      const std::int64_t g = i / here;
      const std::int64_t row = i - g * here;
      arguments.hashes[g * arguments.count + first + row] =
          linear_hash(arguments, g, reinterpret_cast<const T*>(rows + row * arguments.stride));
    }
    block_sync();
  }
}

}  // namespace

void apply_permutations(const StateLayout& layout, std::int64_t num_generators,
                        const std::int64_t* generators, std::int64_t count,
                        const std::uint64_t* states, std::uint64_t* neighbors, void* stream) {
  const std::int64_t total = num_generators * count * layout.words();
  if (total == 0) return;
  const ApplyArguments arguments{generators,  states,
                                 neighbors,   num_generators,
                                 count,       static_cast<int>(layout.size),
                                 layout.bits, static_cast<int>(layout.words())};
  launch(apply_kernel,
         strided(total, device_limits().multiprocessors, 0, static_cast<cudaStream_t>(stream),
                 "perm_apply"),
         arguments);
}

void hash_neighbors(std::int64_t size, std::int64_t num_generators, const std::int64_t* generators,
                    const std::int64_t* weights, std::int64_t count, const void* states,
                    int element_bytes, std::int64_t* hashes, void* stream) {
  if (num_generators * count == 0) return;
  HashArguments arguments{generators, weights, states, hashes, num_generators, count, size, 0, 0};
  // Rows an odd number of their units apart, so that the same element of all rows lies in
  // different banks.
  const std::int64_t unit = std::max(element_bytes, 4);
  const std::int64_t units = (size * element_bytes + unit - 1) / unit;
  const std::int64_t stride = (units | 1) * unit;
  // Fewer rows than a warp has lanes would leave lanes on other generators' terms.
  if (stride * kWarpSize <= kTileBytes) {
    arguments.tile = static_cast<int>(std::min<std::int64_t>(kTileBytes / stride, kBfsThreads));
    arguments.stride = static_cast<int>(stride);
  }
  const std::int64_t rows = arguments.tile > 0 ? arguments.tile : kBfsThreads;
  const LaunchConfig config =
      strided((count + rows - 1) / rows * kBfsThreads, device_limits().multiprocessors,
              arguments.tile > 0 ? sizeof(TileShared) : 0, static_cast<cudaStream_t>(stream),
              "perm_hash_neighbors");
  switch (element_bytes) {
    case 1:
      return launch(hash_kernel<std::uint8_t>, config, arguments);
    case 2:
      return launch(hash_kernel<std::int16_t>, config, arguments);
    case 4:
      return launch(hash_kernel<std::int32_t>, config, arguments);
    default:
      return launch(hash_kernel<std::int64_t>, config, arguments);
  }
}

}  // namespace rankone::cuda
