// CPU linear attention on one thread (or --threads=N): forward, backward and step over sequence
// length, head dims, heads and decay forms.
//
// Counters: flop/s counts what the algorithm needs at its own chunk size (lower triangles once,
// state products once; a backward is three sweeps of the forward's size), bytes/s each input and
// output once. `of_tile` is the share of the rate that the same register tiles reach on a dense
// product in cache, measured first; copy/* gives the memory rate for the step.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "rankone/linear_attention.h"

// The vectors that this file's own flags allow; compile it with -march=native.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define RANKONE_ISA_LEVEL 2
#elif defined(__AVX2__) && defined(__FMA__)
#define RANKONE_ISA_LEVEL 1
#else
#define RANKONE_ISA_LEVEL 0
#endif
#define RANKONE_ISA tile
#include "tile_gemm.h"

namespace {

using namespace rankone;
namespace tile = rankone::cpu::tile;
using Floats = std::vector<float>;

int num_threads = 1;

Floats random_values(std::int64_t count, float low, float high, unsigned seed) {
  std::minstd_rand engine(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  Floats values(static_cast<std::size_t>(count));
  for (float& value : values) value = uniform(engine);
  return values;
}

const char* name_of(DecayForm form) {
  switch (form) {
    case DecayForm::kNone:
      return "none";
    case DecayForm::kPerHead:
      return "head";
    case DecayForm::kPerToken:
      return "token";
    case DecayForm::kPerChannel:
      break;
  }
  return "channel";
}

struct Sizes {
  std::int64_t batch = 1, time = 1, heads = 1, dim = 64;
  DecayForm form = DecayForm::kNone;

  std::int64_t tokens() const { return batch * time * heads * dim; }
  std::int64_t states() const { return batch * heads * dim * dim; }
  std::int64_t decays() const {
    switch (form) {
      case DecayForm::kNone:
        return 0;
      case DecayForm::kPerHead:
        return heads;
      case DecayForm::kPerToken:
        return batch * time * heads;
      case DecayForm::kPerChannel:
        break;
    }
    return tokens();
  }

  /// One sweep: triangular scores and outputs inside chunks of 32 (channel decays: 16), and two
  /// products with the state.
  double sweep_flops() const {
    const double chunk = form == DecayForm::kPerChannel ? 16 : 32;
    const double inside = 2 * (chunk + 1) * static_cast<double>(dim);
    return static_cast<double>(batch * time * heads) *
           (inside + 4.0 * static_cast<double>(dim * dim));
  }
};

/// The operands of a problem with equal key, value and query heads, all float32.
struct Operands {
  Floats q, k, v, log_decay, output_grad, initial_state;
  Floats output, final_state, q_grad, k_grad, v_grad, log_decay_grad;
  LinearAttentionInputs inputs;

  explicit Operands(const Sizes& s)
      : q(random_values(s.tokens(), -1, 1, 1)),
        k(random_values(s.tokens(), -1, 1, 2)),
        v(random_values(s.tokens(), -1, 1, 3)),
        log_decay(random_values(std::max<std::int64_t>(s.decays(), 1), -0.1F, 0, 4)),
        output_grad(random_values(s.tokens(), -1, 1, 5)),
        initial_state(random_values(s.states(), -1, 1, 6)),
        output(q.size()),
        final_state(initial_state.size()),
        q_grad(q.size()),
        k_grad(q.size()),
        v_grad(q.size()),
        log_decay_grad(log_decay.size()) {
    LinearAttentionShape& shape = inputs.shape;
    shape.batch = shape.num_sequences = s.batch;
    shape.time = s.time;
    shape.heads = shape.kv_heads = s.heads;
    shape.key_dim = shape.value_dim = s.dim;
    const std::int64_t row = s.heads * s.dim;
    inputs.q = {q.data(), s.time * row, row, s.dim};
    inputs.k = {k.data(), s.time * row, row, s.dim};
    inputs.v = {v.data(), s.time * row, row, s.dim};
    inputs.decay_form = s.form;
    const std::int64_t width = s.form == DecayForm::kPerChannel ? s.dim : 1;
    inputs.log_decay = {log_decay.data(), s.time * s.heads * width, s.heads * width, width};
    inputs.scale = 0.125;
    inputs.initial_state = initial_state.data();
  }
};

/// The rate of the kernels' own register tile on a panel that stays in the first-level cache: what
/// any product built from it can reach at most.
double tile_rate() {
  using Tile = tile::RegisterTile<float, tile::kTileRows, tile::kPanelVectors>;
  constexpr int kRows = tile::kTileRows, kDepth = 128, kRepeats = 4000, kRounds = 20;
  const Floats left = random_values(kRows * kDepth, -1, 1, 7);
  const Floats panel = random_values(kDepth * tile::kPanel<float>, -1, 1, 8);
  Floats result(kRows * tile::kPanel<float>);
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      Tile product;
      product.clear();
      product.multiply_add(left.data(), kDepth, 1, panel.data(), kDepth);
      product.store(result.data(), tile::kPanel<float>);
      benchmark::ClobberMemory();
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * kRepeats * kRows * kDepth * tile::kPanel<float> / seconds);
  }
  return best;
}

double measured_tile_rate = 0;

void count(benchmark::State& state, double flops, double bytes) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  state.counters["flop/s"] = Counter(flops, rate);
  state.counters["bytes/s"] = Counter(bytes, rate);
  state.counters["of_tile"] = Counter(flops / measured_tile_rate / num_threads, rate);
}

Sizes sizes_of(const benchmark::State& state, DecayForm form) {
  return {1, state.range(0), state.range(1), state.range(2), form};
}

void forward(benchmark::State& state, DecayForm form) {
  const Sizes s = sizes_of(state, form);
  Operands o(s);
  o.inputs.initial_state = nullptr;
  for (auto _ : state) {
    cpu::linear_attention_forward({o.inputs, o.output.data(), nullptr}, num_threads);
  }
  count(state, s.sweep_flops(), 4.0 * static_cast<double>(4 * s.tokens() + s.decays()));
}

void backward(benchmark::State& state, DecayForm form) {
  const Sizes s = sizes_of(state, form);
  Operands o(s);
  o.inputs.initial_state = nullptr;
  LinearAttentionBackward problem;
  problem.inputs = o.inputs;
  problem.output_grad = o.output_grad.data();
  problem.q_grad = o.q_grad.data();
  problem.k_grad = o.k_grad.data();
  problem.v_grad = o.v_grad.data();
  if (form != DecayForm::kNone) problem.log_decay_grad = o.log_decay_grad.data();
  for (auto _ : state) cpu::linear_attention_backward(problem, num_threads);
  count(state, 3 * s.sweep_flops(), 4.0 * static_cast<double>(7 * s.tokens() + 2 * s.decays()));
}

void step(benchmark::State& state, DecayForm form) {
  const Sizes s{state.range(0), 1, state.range(1), state.range(2), form};
  Operands o(s);
  for (auto _ : state) {
    cpu::linear_attention_step({o.inputs, o.output.data(), o.final_state.data()}, num_threads);
  }
  count(state, 5.0 * static_cast<double>(s.states()),
        4.0 * static_cast<double>(2 * s.states() + 4 * s.tokens() + s.decays()));
}

void copy(benchmark::State& state) {
  const Floats source = random_values(state.range(0) / 4, -1, 1, 9);
  Floats target(source.size());
  for (auto _ : state) {
    std::memcpy(target.data(), source.data(), source.size() * sizeof(float));
    benchmark::ClobberMemory();
  }
  state.counters["bytes/s"] = benchmark::Counter(8.0 * static_cast<double>(source.size()),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

void register_all() {
  for (const DecayForm form :
       {DecayForm::kNone, DecayForm::kPerHead, DecayForm::kPerToken, DecayForm::kPerChannel}) {
    const std::string name = name_of(form);
    for (const bool reverse : {false, true}) {
      benchmark::RegisterBenchmark(((reverse ? "backward/" : "forward/") + name).c_str(),
                                   reverse ? backward : forward, form)
          ->ArgNames({"T", "H", "D"})
          ->ArgsProduct({{1024, 4096, 16384}, {4}, {64, 128}})
          ->Unit(benchmark::kMicrosecond);
    }
    benchmark::RegisterBenchmark(("step/" + name).c_str(), step, form)
        ->ArgNames({"B", "H", "D"})
        ->ArgsProduct({{1, 16, 64}, {8}, {64, 128}})
        ->Unit(benchmark::kMicrosecond);
  }
  benchmark::RegisterBenchmark("copy", copy)->ArgName("bytes")->Arg(1 << 18)->Arg(1 << 26);
}

}  // namespace

int main(int argc, char** argv) {
  constexpr std::string_view kThreads = "--threads=";
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).starts_with(kThreads)) {
      num_threads = std::max(1, std::atoi(argv[i] + kThreads.size()));
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  measured_tile_rate = tile_rate();
  benchmark::AddCustomContext("instruction_set", cpu::linear_attention_instruction_set());
  benchmark::AddCustomContext("threads", std::to_string(num_threads));
  benchmark::AddCustomContext("tile_gflops", std::to_string(measured_tile_rate / 1e9));
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
