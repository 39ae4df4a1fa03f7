// Whole searches on the device, by the hash and the bitarray engine, and the two operations on many
// states. --large registers the searches of the largest groups alone: 13! and 14! states at two
// bits each, the latter on 22 GB of the device.
//
// A search is timed by the host's clock: it returns when its layers are counted. Its arrays come
// from CUDA's own pool, which keeps what it has, as torch's does. Every search is checked: the
// layers of a symmetric group add up to n!.
#include <string_view>

#include "cuda_benchmark.h"
#include "permutation_families.h"

namespace {

using namespace rankone;
using namespace rankone::bench;

using Engine = BfsResult (*)(const BfsGraph&, const BfsLimits&, const BfsCallbacks&,
                             const cuda::DeviceAllocator&, void*);

/// CUDA's pool on the default stream, which gives nothing back before the program ends.
cuda::DeviceAllocator pool() {
  int device = 0;
  cudaMemPool_t memory = nullptr;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetDefaultMemPool(&memory, device), "cudaDeviceGetDefaultMemPool");
  std::uint64_t kept = UINT64_MAX;
  check(cudaMemPoolSetAttribute(memory, cudaMemPoolAttrReleaseThreshold, &kept),
        "cudaMemPoolSetAttribute");
  return {[](std::size_t bytes) -> void* {
            void* address = nullptr;
            if (cudaMallocAsync(&address, bytes, nullptr) == cudaSuccess) return address;
            cudaGetLastError();
            return nullptr;
          },
          [](void* address) { cudaFreeAsync(address, nullptr); }};
}

std::int64_t factorial(std::int64_t n) { return n < 2 ? 1 : n * factorial(n - 1); }

void search(benchmark::State& state, Engine engine, const Family& family) {
  const Graph graph(family);
  const cuda::DeviceAllocator allocator = pool();
  BfsResult result;
  try {
    for (auto _ : state) result = engine(graph.graph, {}, {}, allocator, nullptr);
  } catch (const Error& error) {
    state.SkipWithError(error.what());
    return;
  }
  count_search(state, family, result);
  const std::int64_t states =
      std::accumulate(result.layer_sizes.begin(), result.layer_sizes.end(), std::int64_t{0});
  if (states != factorial(family.n)) state.SkipWithError("the layers do not add up to n!");
}

benchmark::internal::Benchmark* add_search(const char* name, Engine engine, const Family& family) {
  return benchmark::RegisterBenchmark(
             (std::string(name) + "/" + family.title()).c_str(),
             [engine, family](benchmark::State& state) { search(state, engine, family); })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

/// States, generators and weights of one call of an operation.
struct Operation {
  std::int64_t n;
  std::int64_t count;
  int bits;  // of a packed element; 0: bytes, for the hash

  std::string name() const {
    return "n:" + std::to_string(n) + "/states:" + std::to_string(count) +
           (bits > 0 ? "/bits:" + std::to_string(bits) : "");
  }
};

DeviceMemory upload(const Vector& values) {
  DeviceMemory memory = allocate(values.size() * 8);
  check(cudaMemcpy(memory.get(), values.data(), values.size() * 8, cudaMemcpyHostToDevice),
        "cudaMemcpy");
  return memory;
}

/// Random bytes, which are states of as many small elements.
std::vector<DeviceMemory> random_states(double bytes) {
  return input_sets(bytes, [&](std::uint64_t seed) {
    return random_memory(DataType::kFloat32, static_cast<std::int64_t>(bytes / 4) + 1, seed, -1, 1);
  });
}

void apply(benchmark::State& state, const Operation& operation) {
  const Graph graph(make_family("pancake", operation.n));
  const std::int64_t degree = graph.graph.set.num_generators;
  const StateLayout layout{operation.n, operation.bits};
  const double rows = 8.0 * static_cast<double>(operation.count * layout.words());
  const DeviceMemory generators = upload(graph.generators);
  const DeviceMemory neighbors = allocate(static_cast<std::size_t>(rows) * degree);
  measure(state, random_states(rows), 0, rows * static_cast<double>(1 + degree),
          [&](const DeviceMemory& states) {
            cuda::apply_permutations(
                layout, degree, static_cast<const std::int64_t*>(generators.get()), operation.count,
                static_cast<const std::uint64_t*>(states.get()),
                static_cast<std::uint64_t*>(neighbors.get()), nullptr);
          });
}

void hash_neighbors(benchmark::State& state, const Operation& operation) {
  const Graph graph(make_family("pancake", operation.n));
  const std::int64_t degree = graph.graph.set.num_generators;
  const double rows = static_cast<double>(operation.count * operation.n);
  const double edges = static_cast<double>(operation.count * degree);
  const DeviceMemory generators = upload(graph.generators);
  const DeviceMemory weights = upload(identity(operation.n));
  const DeviceMemory hashes = allocate(static_cast<std::size_t>(edges) * 8);
  // A product and a sum for each element of each neighbour.
  measure(state, random_states(rows), 2 * edges * static_cast<double>(operation.n),
          rows + 8 * edges, [&](const DeviceMemory& states) {
            cuda::hash_neighbors(
                operation.n, degree, static_cast<const std::int64_t*>(generators.get()),
                static_cast<const std::int64_t*>(weights.get()), operation.count, states.get(), 1,
                static_cast<std::int64_t*>(hashes.get()), nullptr);
          });
}

void add_all() {
  for (const auto& [name, n] : {std::pair{"lrx", 10},
                                {"lrx", 11},
                                {"lx", 11},
                                {"coxeter", 10},
                                {"coxeter", 11},
                                {"pancake", 10},
                                {"all_transpositions", 9}}) {
    add_search("hash", cuda::bfs_hash, make_family(name, n));
    add_search("bitarray", cuda::bfs_bitarray, make_family(name, n));
  }
  for (const Engine engine : {&cuda::bfs_hash, &cuda::bfs_bitarray}) {
    add_search(engine == &cuda::bfs_hash ? "hash" : "bitarray", engine, make_family("lrx", 12));
  }
  for (const std::int64_t count : {1 << 12, 1 << 18}) {
    add("perm_apply", apply, Operation{16, count, 4});
    add("perm_apply", apply, Operation{120, count, 8});
    add("perm_hash_neighbors", hash_neighbors, Operation{24, count, 0});
  }
}

/// Once each: they take seconds and minutes.
void add_large() {
  for (const auto& [name, n] : {std::pair{"lrx", 13}, {"lrx", 14}, {"lx", 14}}) {
    add_search("bitarray", cuda::bfs_bitarray, make_family(name, n))->Iterations(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto end = std::remove_if(
      argv + 1, argv + argc, [](const char* word) { return std::string_view(word) == "--large"; });
  const bool large = end != argv + argc;
  return rankone::bench::run(static_cast<int>(end - argv), argv, large ? add_large : add_all);
}
