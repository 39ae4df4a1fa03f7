// What the native CUDA benchmarks share: device memory, random data, times between events, counters
// and a main.
//
// Every iteration is one call between two CUDA events (manual time), after which the next of
// several input sets is used, so that the cache does not serve them. bytes/s counts each input read
// and each output written once. Without a CUDA device a program says so and succeeds.
#pragma once

#include <benchmark/benchmark.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "rankone/core.h"

namespace rankone::bench {

inline void check(cudaError_t status, const char* operation) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", operation, cudaGetErrorString(status));
  std::exit(EXIT_FAILURE);
}

struct DeviceFree {
  void operator()(void* data) const { cudaFree(data); }
};

using DeviceMemory = std::unique_ptr<void, DeviceFree>;

inline DeviceMemory allocate(std::size_t bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, std::max<std::size_t>(bytes, 1)), "cudaMalloc");
  return DeviceMemory(data);
}

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  double seconds_since(const Event& start) {
    check(cudaEventSynchronize(event_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "cudaEventElapsedTime");
    return 1e-3 * milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Uniform in [low, high), by a hash of the index: random data without a library.
template <typename Element>
__global__ void fill(Element* data, std::int64_t count, std::uint64_t seed, float low, float high) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    std::uint64_t z = (static_cast<std::uint64_t>(i) + seed) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    const float unit = static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-24f;
    data[i] = static_cast<Element>(low + unit * (high - low));
  }
}

inline DeviceMemory random_memory(DataType dtype, std::int64_t count, std::uint64_t seed, float low,
                                  float high) {
  constexpr int kBlocks = 1024;
  constexpr int kThreads = 256;
  const bool wide = dtype == DataType::kFloat32;
  DeviceMemory memory = allocate(count * (wide ? sizeof(float) : sizeof(__nv_bfloat16)));
  if (wide) {
    fill<<<kBlocks, kThreads>>>(static_cast<float*>(memory.get()), count, seed, low, high);
  } else {
    fill<<<kBlocks, kThreads>>>(static_cast<__nv_bfloat16*>(memory.get()), count, seed, low, high);
  }
  check(cudaGetLastError(), "fill");
  return memory;
}

/// Enough input sets of `bytes` to exceed twice the cache; `make` takes a seed.
template <typename Make>
auto input_sets(double bytes, const Make& make) {
  constexpr int kMaxSets = 8;
  int device = 0;
  int cache = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device), "cudaDeviceGetAttribute");
  const int count = std::clamp(static_cast<int>(2.0 * cache / bytes) + 1, 2, kMaxSets);
  std::vector<decltype(make(std::uint64_t{}))> sets;
  for (int i = 0; i < count; ++i) sets.push_back(make(1000003ull * i));
  return sets;
}

template <typename InputSet, typename Call>
void measure(benchmark::State& state, const std::vector<InputSet>& sets, double flops, double bytes,
             const Call& call) {
  Event start;
  Event end;
  std::size_t next = 0;
  try {
    for (const InputSet& set : sets) call(set);  // warm-up
    check(cudaDeviceSynchronize(), "warm-up");
    for (auto _ : state) {
      start.record(nullptr);
      call(sets[next]);
      end.record(nullptr);
      state.SetIterationTime(end.seconds_since(start));
      next = (next + 1) % sets.size();
    }
  } catch (const Error& error) {
    state.SkipWithError(error.what());
    return;
  }
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["bytes/s"] = benchmark::Counter(bytes, rate);
  state.counters["flop/s"] = benchmark::Counter(flops, rate);
}

inline const char* name_of(DecayForm form) {
  constexpr const char* kNames[] = {"none", "head", "token", "channel"};
  return kNames[static_cast<int>(form)];
}

inline const char* name_of(DataType dtype) {
  return dtype == DataType::kFloat32 ? "float32" : "bfloat16";
}

inline std::int64_t bytes_of(DataType dtype) { return dtype == DataType::kFloat32 ? 4 : 2; }

/// A contiguous (batch, time, heads, dim) tensor.
inline ConstTokens contiguous(const void* data, std::int64_t time, std::int64_t heads,
                              std::int64_t dim) {
  return {data, time * heads * dim, heads * dim, dim};
}

template <typename Problem>
void add(const char* operation, void (*function)(benchmark::State&, const Problem&),
         const Problem& problem) {
  const std::string name = std::string(operation) + "/" + problem.name();
  benchmark::RegisterBenchmark(
      name.c_str(), [function, problem](benchmark::State& state) { function(state, problem); })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

/// Runs what `register_all` registers.
inline int run(int argc, char** argv, void (*register_all)()) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: nothing to run\n");
    return EXIT_SUCCESS;
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  benchmark::AddCustomContext("device", properties.name);
  register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return EXIT_FAILURE;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return EXIT_SUCCESS;
}

}  // namespace rankone::bench
