// The CPU delta rule on one thread (or --threads=N): forward, backward and step over sequence
// length, heads, head dims and decay forms.
//
// Counters: flop/s counts what the algorithm needs at its own chunk size, lower triangles once (a
// backward: the first sweep's states too, swept once); bytes/s each input and output once.
// `of_tile` is the share of the rate that the same register tiles reach on a dense product in
// cache, measured first.
#include "cpu_benchmark.h"
#include "rankone/delta_rule.h"

namespace {

using namespace rankone;
using namespace rankone::bench;

struct Sizes {
  std::int64_t batch = 1, time = 1, heads = 1, dim = 64;
  DecayForm form = DecayForm::kNone;

  std::int64_t rows() const { return batch * time * heads; }
  std::int64_t tokens() const { return rows() * dim; }
  std::int64_t states() const { return batch * heads * dim * dim; }
  std::int64_t decay_width() const {
    return form == DecayForm::kNone ? 0 : form == DecayForm::kPerToken ? 1 : dim;
  }
  double chunk() const { return form == DecayForm::kPerChannel ? 16 : 32; }

  /// Products with the state: of keys, queries and updates. Triangles: of keys and queries with
  /// keys, of both with updates.
  double forward_flops() const {
    const double d = static_cast<double>(dim);
    return static_cast<double>(rows()) * (6 * d * d + 4 * (chunk() + 1) * d);
  }
  /// The first sweep: two and two. Then six products with the states and nine triangles.
  double backward_flops() const {
    const double d = static_cast<double>(dim);
    return static_cast<double>(rows()) * (16 * d * d + 11 * (chunk() + 1) * d);
  }
};

/// The operands of a problem with equal key and value heads, all float32. Keys are about unit.
struct Operands {
  Floats q, k, v, beta, log_decay, output_grad, initial_state;
  Floats output, final_state, q_grad, k_grad, v_grad, beta_grad, log_decay_grad;
  DeltaRuleInputs inputs;

  explicit Operands(const Sizes& s)
      : q(random_values(s.tokens(), -1, 1, 1)),
        k(random_values(s.tokens(), -1, 1, 2)),
        v(random_values(s.tokens(), -1, 1, 3)),
        beta(random_values(s.rows(), 0, 1, 4)),
        log_decay(
            random_values(std::max<std::int64_t>(s.rows() * s.decay_width(), 1), -0.1F, 0, 5)),
        output_grad(random_values(s.tokens(), -1, 1, 6)),
        initial_state(random_values(s.states(), -1, 1, 7)),
        output(q.size()),
        final_state(initial_state.size()),
        q_grad(q.size()),
        k_grad(q.size()),
        v_grad(q.size()),
        beta_grad(beta.size()),
        log_decay_grad(log_decay.size()) {
    DeltaRuleShape& shape = inputs.shape;
    shape.batch = shape.num_sequences = s.batch;
    shape.time = s.time;
    shape.heads = shape.value_heads = s.heads;
    shape.key_dim = shape.value_dim = s.dim;
    const std::int64_t row = s.heads * s.dim;
    inputs.q = {q.data(), s.time * row, row, s.dim};
    inputs.k = {k.data(), s.time * row, row, s.dim};
    inputs.v = {v.data(), s.time * row, row, s.dim};
    inputs.beta = {beta.data(), s.time * s.heads, s.heads, 1};
    inputs.decay_form = s.form;
    const std::int64_t width = s.decay_width();
    inputs.log_decay = {log_decay.data(), s.time * s.heads * width, s.heads * width, width};
    inputs.scale = 0.125;
    inputs.use_qk_l2norm = true;
  }
};

Sizes sizes_of(const benchmark::State& state, DecayForm form) {
  return {1, state.range(0), state.range(1), state.range(2), form};
}

void forward(benchmark::State& state, DecayForm form) {
  const Sizes s = sizes_of(state, form);
  Operands o(s);
  for (auto _ : state) {
    cpu::delta_rule_forward({o.inputs, o.output.data(), nullptr}, num_threads);
  }
  count(state, s.forward_flops(),
        4.0 * static_cast<double>(4 * s.tokens() + s.rows() * (1 + s.decay_width())));
}

void backward(benchmark::State& state, DecayForm form) {
  const Sizes s = sizes_of(state, form);
  Operands o(s);
  DeltaRuleBackward problem;
  problem.inputs = o.inputs;
  problem.output_grad = o.output_grad.data();
  problem.q_grad = o.q_grad.data();
  problem.k_grad = o.k_grad.data();
  problem.v_grad = o.v_grad.data();
  problem.beta_grad = o.beta_grad.data();
  if (form != DecayForm::kNone) problem.log_decay_grad = o.log_decay_grad.data();
  for (auto _ : state) cpu::delta_rule_backward(problem, num_threads);
  count(state, s.backward_flops(),
        4.0 * static_cast<double>(7 * s.tokens() + 2 * s.rows() * (1 + s.decay_width())));
}

/// In place, as a decoder calls it.
void step(benchmark::State& state, DecayForm form) {
  const Sizes s{state.range(0), 1, state.range(1), state.range(2), form};
  Operands o(s);
  o.inputs.initial_state = o.initial_state.data();
  for (auto _ : state) {
    cpu::delta_rule_step({o.inputs, o.output.data(), o.initial_state.data()}, num_threads);
  }
  count(state, 7.0 * static_cast<double>(s.states()),
        4.0 * static_cast<double>(2 * s.states() + 4 * s.tokens()));
}

void register_all() {
  for (const DecayForm form : {DecayForm::kNone, DecayForm::kPerToken, DecayForm::kPerChannel}) {
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
}

}  // namespace

int main(int argc, char** argv) { return rankone::bench::run(argc, argv, register_all); }
