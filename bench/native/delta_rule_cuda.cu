// Times of the CUDA kernels of the delta rule: forward, backward and one decode step, with equal
// heads and with more value heads than key heads.
//
// flop/s counts the work of the chunked form with chunks of 64, lower triangles once: the products
// of keys and queries with keys once a key head, all else once a value head.
#include "cuda_benchmark.h"
#include "rankone/delta_rule.h"

namespace {

using namespace rankone;
using namespace rankone::bench;

constexpr int kChunk = 64;

struct Problem {
  std::int64_t batch;
  std::int64_t time;
  std::int64_t heads;
  std::int64_t value_heads;
  std::int64_t dim;
  DecayForm form;
  DataType dtype;

  std::int64_t tokens() const { return batch * time; }
  std::int64_t key_numbers() const { return tokens() * heads * dim; }
  std::int64_t value_numbers() const { return tokens() * value_heads * dim; }
  std::int64_t betas() const { return tokens() * value_heads; }
  std::int64_t state_numbers() const { return batch * value_heads * dim * dim; }
  std::int64_t gate_width() const {
    return form == DecayForm::kNone ? 0 : form == DecayForm::kPerToken ? 1 : dim;
  }
  std::int64_t gates() const { return betas() * gate_width(); }
  std::int64_t element() const { return bytes_of(dtype); }
  double square() const { return 2.0 * dim * dim * betas(); }
  double value_triangle() const { return 1.0 * kChunk * dim * betas(); }
  double key_triangle() const { return 1.0 * kChunk * dim * tokens() * heads; }

  double forward_bytes() const {
    return element() * 2.0 * (key_numbers() + value_numbers()) + 4.0 * (betas() + gates());
  }
  /// State products: of keys, queries and updates. Triangles: keys and queries with keys; the
  /// solve and the outputs.
  double forward_flops() const { return 3 * square() + 2 * value_triangle() + 2 * key_triangle(); }
  double backward_bytes() const {
    return element() * (4.0 * key_numbers() + 3.0 * value_numbers()) + 8.0 * (betas() + gates());
  }
  /// The states and updates again, then six products with S or dS and eight triangles.
  double backward_flops() const { return 8 * square() + 9 * value_triangle() + 2 * key_triangle(); }

  std::string name() const {
    return std::string(name_of(form)) + "/" + name_of(dtype) + "/B:" + std::to_string(batch) +
           "/T:" + std::to_string(time) + "/H:" + std::to_string(heads) +
           "/HV:" + std::to_string(value_heads) + "/D:" + std::to_string(dim);
  }
};

/// The tensors of one call. The kernels normalise q and k, as layers do.
class InputSet {
 public:
  InputSet(const Problem& problem, std::uint64_t seed, bool with_state)
      : q_(random_memory(problem.dtype, problem.key_numbers(), seed + 1, -1, 1)),
        k_(random_memory(problem.dtype, problem.key_numbers(), seed + 2, -1, 1)),
        v_(random_memory(problem.dtype, problem.value_numbers(), seed + 3, -1, 1)),
        beta_(random_memory(DataType::kFloat32, problem.betas(), seed + 4, 0, 1)),
        log_decay_(random_memory(DataType::kFloat32, problem.gates(), seed + 5, -0.1f, 0.0f)) {
    inputs_.shape = {.batch = problem.batch,
                     .time = problem.time,
                     .heads = problem.heads,
                     .value_heads = problem.value_heads,
                     .key_dim = problem.dim,
                     .value_dim = problem.dim,
                     .num_sequences = problem.batch};
    inputs_.dtype = problem.dtype;
    const std::int64_t time = problem.time;
    inputs_.q = contiguous(q_.get(), time, problem.heads, problem.dim);
    inputs_.k = contiguous(k_.get(), time, problem.heads, problem.dim);
    inputs_.v = contiguous(v_.get(), time, problem.value_heads, problem.dim);
    inputs_.beta = contiguous(beta_.get(), time, problem.value_heads, 1);
    inputs_.decay_form = problem.form;
    if (problem.form != DecayForm::kNone) {
      inputs_.log_decay =
          contiguous(log_decay_.get(), time, problem.value_heads, problem.gate_width());
    }
    inputs_.use_qk_l2norm = true;
    if (with_state) {
      state_ = random_memory(DataType::kFloat32, problem.state_numbers(), seed + 6, -1, 1);
      inputs_.initial_state = state_.get();
    }
  }

  const DeltaRuleInputs& inputs() const { return inputs_; }

 private:
  DeviceMemory q_, k_, v_, beta_, log_decay_, state_;
  DeltaRuleInputs inputs_;
};

std::vector<InputSet> sets_of(const Problem& problem, double bytes, bool with_state) {
  return input_sets(bytes, [&](std::uint64_t seed) { return InputSet(problem, seed, with_state); });
}

void forward(benchmark::State& state, const Problem& problem) {
  const std::vector<InputSet> sets = sets_of(problem, problem.forward_bytes(), false);
  const DeviceMemory output = allocate(problem.value_numbers() * problem.element());
  const DeviceMemory final_state = allocate(problem.state_numbers() * sizeof(float));
  DeltaRuleForward call{sets[0].inputs(), output.get(), final_state.get()};
  const DeviceMemory workspace = allocate(cuda::delta_rule_forward_workspace(call));
  measure(state, sets, problem.forward_flops(), problem.forward_bytes(), [&](const InputSet& set) {
    call.inputs = set.inputs();
    cuda::delta_rule_forward(call, workspace.get(), nullptr);
  });
}

void backward(benchmark::State& state, const Problem& problem) {
  const std::vector<InputSet> sets = sets_of(problem, problem.backward_bytes(), false);
  const DeviceMemory output_grad = random_memory(problem.dtype, problem.value_numbers(), 7, -1, 1);
  const DeviceMemory q_grad = allocate(problem.key_numbers() * problem.element());
  const DeviceMemory k_grad = allocate(problem.key_numbers() * problem.element());
  const DeviceMemory v_grad = allocate(problem.value_numbers() * problem.element());
  const DeviceMemory beta_grad = allocate(problem.betas() * sizeof(float));
  const DeviceMemory decay_grad = allocate(problem.gates() * sizeof(float));
  DeltaRuleBackward call;
  call.inputs = sets[0].inputs();
  call.output_grad = output_grad.get();
  call.q_grad = q_grad.get();
  call.k_grad = k_grad.get();
  call.v_grad = v_grad.get();
  call.beta_grad = beta_grad.get();
  call.log_decay_grad = problem.form == DecayForm::kNone ? nullptr : decay_grad.get();
  const DeviceMemory workspace = allocate(cuda::delta_rule_backward_workspace(call));
  measure(state, sets, problem.backward_flops(), problem.backward_bytes(),
          [&](const InputSet& set) {
            call.inputs = set.inputs();
            cuda::delta_rule_backward(call, workspace.get(), nullptr);
          });
}

void step(benchmark::State& state, const Problem& problem) {
  const double bytes = problem.forward_bytes() + 2.0 * sizeof(float) * problem.state_numbers();
  const std::vector<InputSet> sets = sets_of(problem, bytes, true);
  const DeviceMemory output = allocate(problem.value_numbers() * problem.element());
  const DeviceMemory state_out = allocate(problem.state_numbers() * sizeof(float));
  measure(state, sets, 3 * problem.square(), bytes, [&](const InputSet& set) {
    cuda::delta_rule_step({set.inputs(), output.get(), state_out.get()}, nullptr);
  });
}

void add_both(const Problem& problem) {
  add("forward", forward, problem);
  add("backward", backward, problem);
}

void add_all() {
  constexpr DataType kShort = DataType::kBFloat16;
  for (const DecayForm form : {DecayForm::kNone, DecayForm::kPerToken, DecayForm::kPerChannel}) {
    for (const DataType dtype : {kShort, DataType::kFloat32}) {
      for (const std::int64_t dim : {64, 128}) {
        add_both({2, 4096, 32, 32, dim, form, dtype});
      }
    }
    add_both({1, 16384, 2, 2, 128, form, kShort});
    for (const std::int64_t batch : {1, 64}) {
      add("step", step, Problem{batch, 1, 64, 64, 128, form, kShort});
    }
  }
  // The shapes of the published tables of other kernels for the gated form.
  add_both({1, 8192, 16, 64, 128, DecayForm::kPerToken, kShort});
  add_both({1, 32768, 16, 32, 128, DecayForm::kPerToken, kShort});
  add_both({4, 8192, 16, 64, 128, DecayForm::kPerToken, kShort});
}

}  // namespace

int main(int argc, char** argv) { return rankone::bench::run(argc, argv, add_all); }
