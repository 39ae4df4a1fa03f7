// CPU linear attention on one thread (or --threads=N): forward, backward and step over sequence
// length, head dims, heads and decay forms.
//
// Counters: flop/s counts what the algorithm needs at its own chunk size (lower triangles once,
// state products once; a backward is three sweeps of the forward's size), bytes/s each input and
// output once. `of_tile` is the share of the rate that the same register tiles reach on a dense
// product in cache, measured first; copy/* gives the memory rate for the step.
#include "cpu_benchmark.h"
#include "rankone/linear_attention.h"

namespace {

using namespace rankone;
using namespace rankone::bench;

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

int main(int argc, char** argv) { return rankone::bench::run(argc, argv, register_all); }
