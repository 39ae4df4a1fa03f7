// Times of the CUDA kernels of linear attention: forward, backward and one decode step.
//
// flop/s counts the work of the chunked form with chunks of 64, lower triangles once.
#include "cuda_benchmark.h"
#include "rankone/linear_attention.h"

namespace {

using namespace rankone;
using namespace rankone::bench;

constexpr int kChunk = 64;

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
  std::int64_t element() const { return bytes_of(dtype); }
  double square() const { return 2.0 * dim * dim * tokens() * heads; }
  double triangle() const { return 1.0 * kChunk * dim * tokens() * heads; }
  std::string name() const {
    return std::string(name_of(form)) + "/" + name_of(dtype) + "/B:" + std::to_string(batch) +
           "/T:" + std::to_string(time) + "/H:" + std::to_string(heads) +
           "/D:" + std::to_string(dim);
  }
};

/// The tensors of one call and everything that its results need.
class InputSet {
 public:
  InputSet(const Problem& problem, std::uint64_t seed, bool with_state)
      : q_(random_memory(problem.dtype, problem.numbers(), seed + 1, -1, 1)),
        k_(random_memory(problem.dtype, problem.numbers(), seed + 2, -1, 1)),
        v_(random_memory(problem.dtype, problem.numbers(), seed + 3, -1, 1)),
        log_decay_(random_memory(DataType::kFloat32, problem.gates(), seed + 4, -0.1f, 0.0f)) {
    inputs_.shape = {.batch = problem.batch,
                     .time = problem.time,
                     .heads = problem.heads,
                     .kv_heads = problem.heads,
                     .key_dim = problem.dim,
                     .value_dim = problem.dim,
                     .num_sequences = problem.batch};
    inputs_.dtype = problem.dtype;
    inputs_.q = tokens(q_, problem, problem.dim);
    inputs_.k = tokens(k_, problem, problem.dim);
    inputs_.v = tokens(v_, problem, problem.dim);
    inputs_.decay_form = problem.form;
    if (problem.form != DecayForm::kNone) {
      const bool channel = problem.form == DecayForm::kPerChannel;
      inputs_.log_decay = tokens(log_decay_, problem, channel ? problem.dim : 1);
    }
    if (with_state) {
      state_ = random_memory(DataType::kFloat32, problem.state_numbers(), seed + 5, -1, 1);
      inputs_.initial_state = state_.get();
    }
  }

  const LinearAttentionInputs& inputs() const { return inputs_; }

 private:
  static ConstTokens tokens(const DeviceMemory& data, const Problem& problem, std::int64_t dim) {
    return contiguous(data.get(), problem.time, problem.heads, dim);
  }

  DeviceMemory q_, k_, v_, log_decay_, state_;
  LinearAttentionInputs inputs_;
};

std::vector<InputSet> sets_of(const Problem& problem, double bytes, bool with_state) {
  return input_sets(bytes, [&](std::uint64_t seed) { return InputSet(problem, seed, with_state); });
}

void forward(benchmark::State& state, const Problem& problem) {
  const double bytes = 4.0 * problem.numbers() * problem.element() + 4.0 * problem.gates();
  const double flops = 2 * problem.square() + 2 * problem.triangle();
  const std::vector<InputSet> sets = sets_of(problem, bytes, false);
  const DeviceMemory output = allocate(problem.numbers() * problem.element());
  const DeviceMemory final_state = allocate(problem.state_numbers() * sizeof(float));
  LinearAttentionForward call{sets[0].inputs(), output.get(), final_state.get()};
  const DeviceMemory workspace = allocate(cuda::linear_attention_forward_workspace(call));
  measure(state, sets, flops, bytes, [&](const InputSet& set) {
    call.inputs = set.inputs();
    cuda::linear_attention_forward(call, workspace.get(), nullptr);
  });
}

void backward(benchmark::State& state, const Problem& problem) {
  const bool learned =
      problem.form == DecayForm::kPerToken || problem.form == DecayForm::kPerChannel;
  const double bytes =
      7.0 * problem.numbers() * problem.element() + 4.0 * problem.gates() * (learned ? 2 : 1);
  const double flops = 5 * problem.square() + 5 * problem.triangle();
  const std::vector<InputSet> sets = sets_of(problem, bytes, false);
  const DeviceMemory output_grad = random_memory(problem.dtype, problem.numbers(), 7, -1, 1);
  std::vector<DeviceMemory> gradients;
  for (int i = 0; i < 3; ++i) gradients.push_back(allocate(problem.numbers() * problem.element()));
  const DeviceMemory decay_grad = allocate(problem.gates() * sizeof(float));
  LinearAttentionBackward call;
  call.inputs = sets[0].inputs();
  call.output_grad = output_grad.get();
  call.q_grad = gradients[0].get();
  call.k_grad = gradients[1].get();
  call.v_grad = gradients[2].get();
  call.log_decay_grad = learned ? decay_grad.get() : nullptr;
  const DeviceMemory workspace = allocate(cuda::linear_attention_backward_workspace(call));
  measure(state, sets, flops, bytes, [&](const InputSet& set) {
    call.inputs = set.inputs();
    cuda::linear_attention_backward(call, workspace.get(), nullptr);
  });
}

void step(benchmark::State& state, const Problem& problem) {
  const double bytes = 4.0 * problem.numbers() * problem.element() + 4.0 * problem.gates() +
                       2.0 * sizeof(float) * problem.state_numbers();
  const std::vector<InputSet> sets = sets_of(problem, bytes, true);
  const DeviceMemory output = allocate(problem.numbers() * problem.element());
  const DeviceMemory state_out = allocate(problem.state_numbers() * sizeof(float));
  measure(state, sets, 2 * problem.square(), bytes, [&](const InputSet& set) {
    cuda::linear_attention_step({set.inputs(), output.get(), state_out.get()}, nullptr);
  });
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

int main(int argc, char** argv) { return rankone::bench::run(argc, argv, add_all); }
