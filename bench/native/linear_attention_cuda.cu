// Times of the CUDA kernels of linear attention: forward, backward and one decode step.
//
// Every iteration is one call between two CUDA events (manual time), after which the next of
// several input sets is used, so that the cache does not serve them. Counters: bytes/s counts each
// input read and each output written once; flop/s the work of the chunked form with chunks of 64,
// lower triangles once. Without a CUDA device the program says so and succeeds.
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

#include "rankone/linear_attention.h"

namespace {

using rankone::ConstTokens;
using rankone::DataType;
using rankone::DecayForm;

constexpr int kChunk = 64;
constexpr int kMaxSets = 8;

void check(cudaError_t status, const char* operation) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", operation, cudaGetErrorString(status));
  std::exit(EXIT_FAILURE);
}

struct DeviceFree {
  void operator()(void* data) const { cudaFree(data); }
};

using DeviceMemory = std::unique_ptr<void, DeviceFree>;

DeviceMemory allocate(std::size_t bytes) {
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

DeviceMemory random(DataType dtype, std::int64_t count, std::uint64_t seed, float low, float high) {
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

struct Problem {
  std::int64_t batch;
  std::int64_t time;
  std::int64_t heads;
  std::int64_t dim;
  DecayForm form;
  DataType dtype;

  std::int64_t tokens() const { return batch * time; }
  std::int64_t numbers() const { return tokens() * heads * dim; }
  std::int64_t state_numbers() const { return batch * heads * dim * dim; }
  std::int64_t gates() const {
    switch (form) {
      case DecayForm::kPerHead:
        return heads;
      case DecayForm::kPerToken:
        return tokens() * heads;
      case DecayForm::kPerChannel:
        return numbers();
      default:
        return 0;
    }
  }
  std::int64_t element() const { return dtype == DataType::kFloat32 ? 4 : 2; }
  double square() const { return 2.0 * dim * dim * tokens() * heads; }
  double triangle() const { return 1.0 * kChunk * dim * tokens() * heads; }
};

/// The tensors of one call and everything that its results need.
class InputSet {
 public:
  InputSet(const Problem& problem, std::uint64_t seed, bool with_state)
      : q_(random(problem.dtype, problem.numbers(), seed + 1, -1, 1)),
        k_(random(problem.dtype, problem.numbers(), seed + 2, -1, 1)),
        v_(random(problem.dtype, problem.numbers(), seed + 3, -1, 1)),
        log_decay_(random(DataType::kFloat32, problem.gates(), seed + 4, -0.1f, 0.0f)) {
    inputs_.shape = {.batch = problem.batch,
                     .time = problem.time,
                     .heads = problem.heads,
                     .kv_heads = problem.heads,
                     .key_dim = problem.dim,
                     .value_dim = problem.dim,
                     .num_sequences = problem.batch};
    inputs_.dtype = problem.dtype;
    inputs_.q = tokens(q_.get(), problem, problem.dim);
    inputs_.k = tokens(k_.get(), problem, problem.dim);
    inputs_.v = tokens(v_.get(), problem, problem.dim);
    inputs_.decay_form = problem.form;
    if (problem.form != DecayForm::kNone) {
      const bool channel = problem.form == DecayForm::kPerChannel;
      inputs_.log_decay = tokens(log_decay_.get(), problem, channel ? problem.dim : 1);
    }
    if (with_state) {
      state_ = random(DataType::kFloat32, problem.state_numbers(), seed + 5, -1, 1);
      inputs_.initial_state = state_.get();
    }
  }

  const rankone::LinearAttentionInputs& inputs() const { return inputs_; }

 private:
  static ConstTokens tokens(const void* data, const Problem& problem, std::int64_t dim) {
    return {data, problem.time * problem.heads * dim, problem.heads * dim, dim};
  }

  DeviceMemory q_, k_, v_, log_decay_, state_;
  rankone::LinearAttentionInputs inputs_;
};

/// Enough sets to exceed twice the cache.
std::vector<InputSet> input_sets(const Problem& problem, double bytes, bool with_state) {
  int device = 0;
  int cache = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device), "cudaDeviceGetAttribute");
  const int count = std::clamp(static_cast<int>(2.0 * cache / bytes) + 1, 2, kMaxSets);
  std::vector<InputSet> sets;
  for (int i = 0; i < count; ++i) sets.emplace_back(problem, 1000003ull * i, with_state);
  return sets;
}

template <typename Call>
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
  } catch (const rankone::Error& error) {
    state.SkipWithError(error.what());
    return;
  }
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["bytes/s"] = benchmark::Counter(bytes, rate);
  state.counters["flop/s"] = benchmark::Counter(flops, rate);
}

void forward(benchmark::State& state, const Problem& problem) {
  const double bytes = 4.0 * problem.numbers() * problem.element() + 4.0 * problem.gates();
  const double flops = 2 * problem.square() + 2 * problem.triangle();
  const std::vector<InputSet> sets = input_sets(problem, bytes, false);
  const DeviceMemory output = allocate(problem.numbers() * problem.element());
  const DeviceMemory final_state = allocate(problem.state_numbers() * sizeof(float));
  rankone::LinearAttentionForward call{sets[0].inputs(), output.get(), final_state.get()};
  const DeviceMemory workspace = allocate(rankone::cuda::linear_attention_forward_workspace(call));
  measure(state, sets, flops, bytes, [&](const InputSet& set) {
    call.inputs = set.inputs();
    rankone::cuda::linear_attention_forward(call, workspace.get(), nullptr);
  });
}

void backward(benchmark::State& state, const Problem& problem) {
  const bool learned =
      problem.form == DecayForm::kPerToken || problem.form == DecayForm::kPerChannel;
  const double bytes =
      7.0 * problem.numbers() * problem.element() + 4.0 * problem.gates() * (learned ? 2 : 1);
  const double flops = 5 * problem.square() + 5 * problem.triangle();
  const std::vector<InputSet> sets = input_sets(problem, bytes, false);
  const DeviceMemory output_grad = random(problem.dtype, problem.numbers(), 7, -1, 1);
  std::vector<DeviceMemory> gradients;
  for (int i = 0; i < 3; ++i) gradients.push_back(allocate(problem.numbers() * problem.element()));
  const DeviceMemory decay_grad = allocate(problem.gates() * sizeof(float));
  rankone::LinearAttentionBackward call;
  call.inputs = sets[0].inputs();
  call.output_grad = output_grad.get();
  call.q_grad = gradients[0].get();
  call.k_grad = gradients[1].get();
  call.v_grad = gradients[2].get();
  call.log_decay_grad = learned ? decay_grad.get() : nullptr;
  const DeviceMemory workspace = allocate(rankone::cuda::linear_attention_backward_workspace(call));
  measure(state, sets, flops, bytes, [&](const InputSet& set) {
    call.inputs = set.inputs();
    rankone::cuda::linear_attention_backward(call, workspace.get(), nullptr);
  });
}

void step(benchmark::State& state, const Problem& problem) {
  const double bytes = 4.0 * problem.numbers() * problem.element() + 4.0 * problem.gates() +
                       2.0 * sizeof(float) * problem.state_numbers();
  const std::vector<InputSet> sets = input_sets(problem, bytes, true);
  const DeviceMemory output = allocate(problem.numbers() * problem.element());
  const DeviceMemory state_out = allocate(problem.state_numbers() * sizeof(float));
  measure(state, sets, 2 * problem.square(), bytes, [&](const InputSet& set) {
    rankone::cuda::linear_attention_step({set.inputs(), output.get(), state_out.get()}, nullptr);
  });
}

constexpr const char* kFormNames[] = {"none", "head", "token", "channel"};

std::string name_of(const char* operation, const Problem& problem) {
  return std::string(operation) + "/" + kFormNames[static_cast<int>(problem.form)] +
         (problem.dtype == DataType::kFloat32 ? "/float32" : "/bfloat16") +
         "/B:" + std::to_string(problem.batch) + "/T:" + std::to_string(problem.time) +
         "/H:" + std::to_string(problem.heads) + "/D:" + std::to_string(problem.dim);
}

using Function = void (*)(benchmark::State&, const Problem&);

void add(const char* operation, Function function, const Problem& problem) {
  benchmark::RegisterBenchmark(
      name_of(operation, problem).c_str(),
      [function, problem](benchmark::State& state) { function(state, problem); })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

void add_all() {
  for (int form = 0; form < 4; ++form) {
    const auto decay = static_cast<DecayForm>(form);
    for (const DataType dtype : {DataType::kBFloat16, DataType::kFloat32}) {
      for (const std::int64_t dim : {64, 128}) {
        const Problem many{
            .batch = 2, .time = 4096, .heads = 32, .dim = dim, .form = decay, .dtype = dtype};
        add("forward", forward, many);
        add("backward", backward, many);
      }
    }
    const Problem few{.batch = 1,
                      .time = 16384,
                      .heads = 2,
                      .dim = 128,
                      .form = decay,
                      .dtype = DataType::kBFloat16};
    add("forward", forward, few);
    add("backward", backward, few);
    for (const std::int64_t batch : {1, 64}) {
      add("step", step,
          {.batch = batch,
           .time = 1,
           .heads = 64,
           .dim = 128,
           .form = decay,
           .dtype = DataType::kBFloat16});
    }
  }
  const Problem long_sequence{.batch = 2,
                              .time = 16384,
                              .heads = 64,
                              .dim = 128,
                              .form = DecayForm::kPerHead,
                              .dtype = DataType::kBFloat16};
  add("forward", forward, long_sequence);
  add("backward", backward, long_sequence);
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: nothing to run\n");
    return EXIT_SUCCESS;
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  benchmark::AddCustomContext("device", properties.name);
  add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return EXIT_FAILURE;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return EXIT_SUCCESS;
}
