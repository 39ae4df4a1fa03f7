// The CUDA kernels of the delta rule, run by the SIMT emulation, against the plain recurrence in
// double: forward, every gradient, and the step. The backward of the recurrence keeps all states
// and goes back token by token, so it shares nothing with the kernels' chunks.
#include "rankone/delta_rule.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "cpp/check.h"
#include "simt.h"
#include "token_tensors.h"

namespace {

using namespace token_tensors;

using rankone::DecayForm;
using rankone::DeltaRuleBackward;
using rankone::DeltaRuleForward;
using rankone::DeltaRuleInputs;
using rankone::DeltaRuleStep;

constexpr DecayForm kForms[] = {DecayForm::kNone, DecayForm::kPerToken, DecayForm::kPerChannel};
constexpr double kL2NormEps = 1e-6;

struct Problem {
  DecayForm form = DecayForm::kPerToken;
  DataType dtype = DataType::kFloat32;
  int64_t batch = 1, time = 37, heads = 1, value_heads = 1, key_dim = 16, value_dim = 16;
  std::vector<int64_t> cu_seqlens = {};
  Layout layout = Layout::kContiguous;
  bool initial_state = true;
  bool final_state_grad = true;
  bool l2norm = false;
  double reset_share = 0.0;  // of the log-decays that are -inf
  double strength = 1.0;     // factor on the log-decays
  double key_norm = 1.0;     // of every key; with l2norm before it
  double magnitude = 1.0;    // factor on v and the initial state
  double beta_limit = 1.0;   // beta is uniform below it
  double scale = 0.35;
  unsigned seed = 1;

  int64_t sequences() const {
    return cu_seqlens.empty() ? batch : static_cast<int64_t>(cu_seqlens.size()) - 1;
  }
  int64_t decay_channels() const { return form == DecayForm::kPerChannel ? key_dim : 1; }
  std::string describe() const {
    std::ostringstream text;
    text << "form " << static_cast<int>(form) << " dtype " << static_cast<int>(dtype) << " batch "
         << batch << " time " << time << " heads " << heads << "/" << value_heads << " dims "
         << key_dim << "x" << value_dim << " sequences " << sequences() << " layout "
         << static_cast<int>(layout) << (l2norm ? " l2norm" : "") << ": ";
    return text.str();
  }
};

/// Bound on |actual - expected| / |expected| (2-norms). Forward: the state as an operand, u as an
/// operand and the output are each rounded once, two roundoffs in norm; fp32 is held to the
/// accuracy the op promises. Backward chains twice as many roundings.
double forward_tolerance(DataType dtype) {
  return dtype == DataType::kFloat32 ? 2e-6 : 2.0 * roundoff(dtype);
}
double backward_tolerance(DataType dtype) { return 2.0 * forward_tolerance(dtype); }

/// The gradient of log_decay is a sum over at most this many tokens, and a product of states.
constexpr int64_t kGroupTokens = 64;

/// A problem's tensors, each with its values in double.
struct Data {
  Tensor q, k, v, beta, log_decay, output_grad;
  std::vector<float> initial_state, final_state_grad;  // empty: not given
};

Data make_data(const Problem& p) {
  Random random(p.seed);
  const int64_t states = p.sequences() * p.value_heads * p.key_dim * p.value_dim;
  const int64_t key_rows = p.batch * p.time * p.heads;
  const int64_t value_rows = p.batch * p.time * p.value_heads;
  Data data;
  data.q = make_tensor(p.batch, p.time, p.heads, p.key_dim, p.dtype, p.layout,
                       random.normal(key_rows * p.key_dim, 1.0));
  std::vector<double> keys = random.normal(key_rows * p.key_dim, 1.0);
  for (int64_t row = 0; row < key_rows; ++row) {
    double square = 0.0;
    for (int64_t c = 0; c < p.key_dim; ++c) square += std::pow(keys[row * p.key_dim + c], 2);
    for (int64_t c = 0; c < p.key_dim; ++c)
      keys[row * p.key_dim + c] *= p.key_norm / std::sqrt(square);
  }
  data.k = make_tensor(p.batch, p.time, p.heads, p.key_dim, p.dtype, p.layout, std::move(keys));
  data.v = make_tensor(p.batch, p.time, p.value_heads, p.value_dim, p.dtype, p.layout,
                       random.normal(value_rows * p.value_dim, p.magnitude));
  data.output_grad = make_tensor(p.batch, p.time, p.value_heads, p.value_dim, p.dtype,
                                 Layout::kContiguous, random.normal(value_rows * p.value_dim, 1.0));
  std::vector<double> beta(static_cast<std::size_t>(value_rows));
  for (double& value : beta) value = p.beta_limit * random.uniform();
  data.beta =
      make_tensor(p.batch, p.time, p.value_heads, 1, DataType::kFloat32, p.layout, std::move(beta));
  if (p.form != DecayForm::kNone) {
    std::vector<double> log_decay(static_cast<std::size_t>(value_rows * p.decay_channels()));
    for (double& value : log_decay) {
      const double u = random.uniform();
      value = random.uniform() < p.reset_share ? -std::numeric_limits<double>::infinity()
                                               : -p.strength * u * u * u;
    }
    data.log_decay = make_tensor(p.batch, p.time, p.value_heads, p.decay_channels(),
                                 DataType::kFloat32, p.layout, std::move(log_decay));
  }
  if (p.initial_state) data.initial_state = to_floats(random.normal(states, p.magnitude));
  if (p.final_state_grad) data.final_state_grad = to_floats(random.normal(states, 1.0));
  return data;
}

/// Everything the op computes, and the size of what log_decay_grad is the sum of.
struct Results {
  std::vector<double> output, final_state, q_grad, k_grad, v_grad, beta_grad, log_decay_grad,
      initial_state_grad, log_decay_terms;
};

/// x / sqrt(|x|^2 + eps) and the way back for a gradient.
struct Normalised {
  std::vector<double> values;
  double norm = 1.0;

  Normalised(const double* x, int64_t count, bool l2norm) : values(x, x + count) {
    if (!l2norm) return;
    double square = 0.0;
    for (const double value : values) square += value * value;
    norm = 1.0 / std::sqrt(square + kL2NormEps);
    for (double& value : values) value *= norm;
  }
  /// Adds to x_grad what the gradient of `values` makes of it.
  void add_grad(double* x_grad, const std::vector<double>& grad, bool l2norm) const {
    double along = 0.0;
    for (std::size_t c = 0; l2norm && c < grad.size(); ++c) along += grad[c] * values[c];
    for (std::size_t c = 0; c < grad.size(); ++c) {
      x_grad[c] += norm * (grad[c] - along * values[c]);
    }
  }
};

/// The recurrence, token by token.
Results reference(const Problem& p, const Data& data) {
  const int64_t K = p.key_dim, V = p.value_dim, group = p.value_heads / p.heads;
  const int64_t states = p.sequences() * p.value_heads * K * V;
  Results r;
  r.output.resize(data.output_grad.values.size());
  r.q_grad.resize(data.q.values.size());
  r.k_grad.resize(data.k.values.size());
  r.v_grad.resize(data.v.values.size());
  r.beta_grad.resize(data.beta.values.size());
  r.log_decay_grad.resize(data.log_decay.values.size());
  r.log_decay_terms.resize(data.log_decay.values.size());
  r.final_state.resize(static_cast<std::size_t>(states));
  r.initial_state_grad.resize(static_cast<std::size_t>(states));
  for (int64_t n = 0; n < p.sequences(); ++n) {
    const int64_t b = p.cu_seqlens.empty() ? n : 0;
    const int64_t begin = p.cu_seqlens.empty() ? 0 : p.cu_seqlens[n];
    const int64_t end = p.cu_seqlens.empty() ? p.time : p.cu_seqlens[n + 1];
    for (int64_t h = 0; h < p.value_heads; ++h) {
      const int64_t state_start = (n * p.value_heads + h) * K * V;
      const auto row = [&](int64_t t) { return (b * p.time + t) * p.value_heads + h; };
      const auto key_start = [&](int64_t t) {
        return ((b * p.time + t) * p.heads + h / group) * K;
      };
      const auto decay_place = [&](int64_t t, int64_t c) {
        return p.form == DecayForm::kPerChannel ? row(t) * K + c : row(t);
      };
      const auto decay = [&](int64_t t, int64_t c) {
        return p.form == DecayForm::kNone ? 1.0
                                          : std::exp(data.log_decay.values[decay_place(t, c)]);
      };
      // Before token t, after its decay, and its prediction error.
      std::vector<std::vector<double>> before, decayed, errors;
      std::vector<double> state(static_cast<std::size_t>(K * V));
      if (p.initial_state) {
        std::copy_n(data.initial_state.begin() + state_start, K * V, state.begin());
      }
      for (int64_t t = begin; t < end; ++t) {
        const Normalised q(&data.q.values[key_start(t)], K, p.l2norm);
        const Normalised k(&data.k.values[key_start(t)], K, p.l2norm);
        before.push_back(state);
        std::vector<double> error(static_cast<std::size_t>(V));
        for (int64_t j = 0; j < V; ++j) {
          error[j] = data.v.values[row(t) * V + j];
          for (int64_t c = 0; c < K; ++c) {
            state[c * V + j] *= decay(t, c);
            error[j] -= state[c * V + j] * k.values[c];
          }
        }
        decayed.push_back(state);
        for (int64_t j = 0; j < V; ++j) {
          for (int64_t c = 0; c < K; ++c) {
            state[c * V + j] += k.values[c] * data.beta.values[row(t)] * error[j];
            r.output[row(t) * V + j] += p.scale * state[c * V + j] * q.values[c];
          }
        }
        errors.push_back(std::move(error));
      }
      std::copy(state.begin(), state.end(), r.final_state.begin() + state_start);
      std::vector<double> grad(static_cast<std::size_t>(K * V));
      if (p.final_state_grad) {
        std::copy_n(data.final_state_grad.begin() + state_start, K * V, grad.begin());
      }
      for (int64_t t = end - 1; t >= begin; --t) {
        const Normalised q(&data.q.values[key_start(t)], K, p.l2norm);
        const Normalised k(&data.k.values[key_start(t)], K, p.l2norm);
        const double beta = data.beta.values[row(t)];
        const std::vector<double>& error = errors[t - begin];
        const std::vector<double>& after = t + 1 < end ? before[t + 1 - begin] : state;
        const auto size = static_cast<std::size_t>(K);
        std::vector<double> q_grad(size), k_grad(size), read_grad(size), decay_grad(size);
        for (int64_t j = 0; j < V; ++j) {
          const double output_grad = data.output_grad.values[row(t) * V + j];
          double update_grad = 0.0;
          for (int64_t c = 0; c < K; ++c) {
            double& g = grad[c * V + j];
            g += p.scale * q.values[c] * output_grad;
            q_grad[c] += p.scale * after[c * V + j] * output_grad;
            k_grad[c] += g * beta * error[j];
            update_grad += g * k.values[c];
          }
          r.beta_grad[row(t)] += update_grad * error[j];
          const double error_grad = beta * update_grad;
          r.v_grad[row(t) * V + j] += error_grad;
          for (int64_t c = 0; c < K; ++c) {
            double& g = grad[c * V + j];
            g -= k.values[c] * error_grad;
            read_grad[c] -= decayed[t - begin][c * V + j] * error_grad;
            decay_grad[c] += g * decayed[t - begin][c * V + j];
            g *= decay(t, c);
          }
        }
        // Squares of the terms of dg_t = sum_{s>=t} (q.dq + k.dk_read - k.dk_write)_s + <S, dS>.
        for (int64_t c = 0; c < K; ++c) {
          const double terms = std::pow(q.values[c] * q_grad[c], 2) +
                               std::pow(k.values[c] * k_grad[c], 2) +
                               std::pow(k.values[c] * read_grad[c], 2);
          k_grad[c] += read_grad[c];
          if (p.form == DecayForm::kNone) continue;
          for (int64_t s = std::max(begin, t - kGroupTokens + 1); s <= t; ++s) {
            r.log_decay_terms[decay_place(s, c)] += terms;
          }
          r.log_decay_terms[decay_place(t, c)] += std::pow(decay_grad[c], 2);
        }
        q.add_grad(&r.q_grad[key_start(t)], q_grad, p.l2norm);
        k.add_grad(&r.k_grad[key_start(t)], k_grad, p.l2norm);
        for (int64_t c = 0; p.form != DecayForm::kNone && c < K; ++c) {
          r.log_decay_grad[decay_place(t, c)] += decay_grad[c];
        }
      }
      std::copy(grad.begin(), grad.end(), r.initial_state_grad.begin() + state_start);
    }
  }
  for (double& terms : r.log_decay_terms) terms = std::sqrt(terms);
  return r;
}

DeltaRuleInputs make_inputs(const Problem& p, const Data& data) {
  DeltaRuleInputs inputs;
  inputs.shape = {p.batch,
                  p.time,
                  p.heads,
                  p.value_heads,
                  p.key_dim,
                  p.value_dim,
                  p.cu_seqlens.empty() ? nullptr : p.cu_seqlens.data(),
                  p.sequences()};
  inputs.dtype = p.dtype;
  inputs.q = data.q.view;
  inputs.k = data.k.view;
  inputs.v = data.v.view;
  inputs.beta = data.beta.view;
  inputs.decay_form = p.form;
  inputs.log_decay = data.log_decay.view;
  inputs.initial_state = data.initial_state.empty() ? nullptr : data.initial_state.data();
  inputs.scale = p.scale;
  inputs.use_qk_l2norm = p.l2norm;
  inputs.l2norm_eps = kL2NormEps;
  return inputs;
}

struct KernelOutputs {
  Output output, final_state, q_grad, k_grad, v_grad, beta_grad, log_decay_grad, initial_state_grad;

  bool operator==(const KernelOutputs& other) const {
    return output.bytes() == other.output.bytes() &&
           final_state.bytes() == other.final_state.bytes() &&
           q_grad.bytes() == other.q_grad.bytes() && k_grad.bytes() == other.k_grad.bytes() &&
           v_grad.bytes() == other.v_grad.bytes() && beta_grad.bytes() == other.beta_grad.bytes() &&
           log_decay_grad.bytes() == other.log_decay_grad.bytes() &&
           initial_state_grad.bytes() == other.initial_state_grad.bytes();
  }
};

KernelOutputs run_kernels(const Problem& p, const Data& data) {
  const std::size_t states =
      static_cast<std::size_t>(p.sequences() * p.value_heads * p.key_dim * p.value_dim);
  const DataType single = DataType::kFloat32;
  KernelOutputs outputs{
      Output(data.output_grad.values.size(), p.dtype), Output(states, single),
      Output(data.q.values.size(), p.dtype),           Output(data.k.values.size(), p.dtype),
      Output(data.v.values.size(), p.dtype),           Output(data.beta.values.size(), single),
      Output(data.log_decay.values.size(), single),    Output(states, single)};
  const DeltaRuleInputs inputs = make_inputs(p, data);

  DeltaRuleForward forward;
  forward.inputs = inputs;
  forward.output = outputs.output.data();
  forward.final_state = outputs.final_state.data();
  Output forward_workspace(rankone::cuda::delta_rule_forward_workspace(forward) / 4, single);
  rankone::cuda::delta_rule_forward(forward, forward_workspace.data(), nullptr);

  DeltaRuleBackward backward;
  backward.inputs = inputs;
  backward.output_grad = data.output_grad.view.data;
  backward.final_state_grad =
      data.final_state_grad.empty() ? nullptr : data.final_state_grad.data();
  backward.q_grad = outputs.q_grad.data();
  backward.k_grad = outputs.k_grad.data();
  backward.v_grad = outputs.v_grad.data();
  backward.beta_grad = outputs.beta_grad.data();
  backward.log_decay_grad = p.form == DecayForm::kNone ? nullptr : outputs.log_decay_grad.data();
  backward.initial_state_grad = outputs.initial_state_grad.data();
  Output backward_workspace(rankone::cuda::delta_rule_backward_workspace(backward) / 4, single);
  rankone::cuda::delta_rule_backward(backward, backward_workspace.data(), nullptr);
  return outputs;
}

void expect_matches_recurrence(const Problem& p) {
  const Data data = make_data(p);
  const Results expected = reference(p, data);
  const KernelOutputs actual = run_kernels(p, data);
  const std::string name = p.describe();
  const double forward = forward_tolerance(p.dtype);
  const double backward = backward_tolerance(p.dtype);
  expect_close(name + "output", actual.output.values(), expected.output, forward);
  expect_close(name + "final_state", actual.final_state.values(), expected.final_state, forward);
  expect_close(name + "v_grad", actual.v_grad.values(), expected.v_grad, backward);
  expect_close(name + "initial_state_grad", actual.initial_state_grad.values(),
               expected.initial_state_grad, backward);
  expect_close(name + "beta_grad", actual.beta_grad.values(), expected.beta_grad, backward);
  expect_close(name + "q_grad", actual.q_grad.values(), expected.q_grad, backward);
  expect_close(name + "k_grad", actual.k_grad.values(), expected.k_grad, backward);
  if (p.form != DecayForm::kNone) {
    // A sum whose terms have relative errors of their own and mostly cancel.
    expect_close(name + "log_decay_grad", actual.log_decay_grad.values(), expected.log_decay_grad,
                 expected.log_decay_terms, backward);
  }
}

void every_form_and_length_matches_the_recurrence() {
  unsigned seed = 0;
  for (const DecayForm form : kForms) {
    for (const int64_t time : {1, 16, 37, 64, 130}) {
      Problem p;
      p.form = form;
      p.time = time;
      p.dtype = kTypes[seed % 3];
      p.key_dim = 32;
      p.value_dim = 24;
      p.seed = ++seed;
      expect_matches_recurrence(p);
    }
  }
}

void every_head_dim_matches_the_recurrence() {
  unsigned seed = 100;
  const int64_t dims[][2] = {{1, 1},   {7, 5},    {16, 16},   {48, 80},  {64, 64},
                             {80, 48}, {128, 96}, {100, 200}, {256, 256}};
  for (const auto& [key_dim, value_dim] : dims) {
    for (const DecayForm form : kForms) {
      Problem p;
      p.form = form;
      p.key_dim = key_dim;
      p.value_dim = value_dim;
      p.time = key_dim * value_dim > 10000 ? 19 : 70;
      p.l2norm = true;
      if (key_dim == 1) {
        // All of the state is what the key reads: a token leaves 1 - beta of it, in which the
        // rounding of beta of it shows 1 / (1 - beta) times as large.
        p.beta_limit = 0.5;
        p.time = 5;
        p.l2norm = false;  // of a single channel only the sign is left
      }
      p.dtype = kTypes[seed % 3];
      p.l2norm = p.l2norm && seed % 2 == 0;
      p.seed = ++seed;
      expect_matches_recurrence(p);
    }
  }
}

void every_dtype_and_form_matches_the_recurrence() {
  for (const DataType dtype : kTypes) {
    for (const DecayForm form : kForms) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.batch = 2;
      p.time = 100;
      p.key_dim = 40;
      p.value_dim = 20;
      expect_matches_recurrence(p);
    }
  }
}

void value_heads_of_a_group_share_queries_and_keys() {
  for (const DecayForm form : kForms) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 75;
      p.heads = 2;
      p.value_heads = 6;
      p.key_dim = 24;
      p.value_dim = 33;
      expect_matches_recurrence(p);
    }
  }
}

void queries_and_keys_are_normalised_in_the_kernel() {
  for (const DecayForm form : kForms) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 75;
      p.heads = 1;
      p.value_heads = 2;
      p.key_dim = 36;
      p.key_norm = 7.0;
      p.l2norm = true;
      expect_matches_recurrence(p);
    }
  }
}

void packed_sequences_restart_and_may_be_empty() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 150;
    p.heads = p.value_heads = 2;
    p.cu_seqlens = {0, 0, 1, 70, 70, 86, 150, 150};
    expect_matches_recurrence(p);
    p.value_heads = 4;
    p.dtype = DataType::kBFloat16;
    p.initial_state = p.final_state_grad = false;
    expect_matches_recurrence(p);
  }
}

void strides_are_arbitrary() {
  for (const Layout layout : {Layout::kHeadsFirst, Layout::kRagged, Layout::kBackwards}) {
    for (const DecayForm form : kForms) {
      Problem p;
      p.form = form;
      p.layout = layout;
      p.batch = 2;
      p.time = 40;
      p.heads = p.value_heads = 2;
      p.dtype = layout == Layout::kHeadsFirst ? DataType::kBFloat16 : DataType::kFloat16;
      p.value_dim = 24;
      expect_matches_recurrence(p);
    }
  }
}

void minus_infinity_is_an_exact_reset() {
  for (const DecayForm form : {DecayForm::kPerToken, DecayForm::kPerChannel}) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 140;
      p.reset_share = 0.05;
      expect_matches_recurrence(p);
    }
    Problem p;
    p.form = form;
    p.reset_share = 1.0;
    const Data data = make_data(p);
    for (const double grad : run_kernels(p, data).log_decay_grad.values()) {
      check::equal(grad, 0.0, "gradient of a log-decay of -inf");
    }
    expect_matches_recurrence(p);
  }
}

/// Log-decays to -1e4: products underflow, sums of logs would lose all digits, and exp(-sum) would
/// overflow.
void strong_decays_stay_finite() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 90;
    p.strength = 1e4;
    expect_matches_recurrence(p);
    p.strength = 20.0;
    p.dtype = DataType::kBFloat16;
    expect_matches_recurrence(p);
  }
}

/// The state and what it predicts pass 65504 by far, the outputs do not.
void half_survives_large_states() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.dtype = DataType::kFloat16;
    p.time = 80;
    p.magnitude = 1e4;
    p.final_state_grad = false;
    p.key_norm = 0.05;
    p.beta_limit = 400.0;  // beta |k|^2 up to 1
    p.scale = 1e-5;
    expect_matches_recurrence(p);
  }
}

/// beta in [0, 2]: transitions with negative eigenvalues, still no expansion.
void beta_may_exceed_one() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 120;
    p.beta_limit = 2.0;
    p.dtype = DataType::kBFloat16;
    expect_matches_recurrence(p);
    p.dtype = DataType::kFloat32;
    expect_matches_recurrence(p);
  }
}

void states_may_be_absent() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.initial_state = p.final_state_grad = false;
    expect_matches_recurrence(p);
  }
}

void no_tokens_leave_the_state_as_it_was() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 0;
    expect_matches_recurrence(p);
  }
}

/// One key for all time, beta = 1 and no decay: after the first token the state predicts 4096, and
/// all that a token writes is what its v differs by. That is lost where the prediction or the state
/// is rounded to T first: 16-bit neighbours of 4096 are 4 or 32 apart.
void a_small_residual_against_a_large_state_is_exact() {
  for (const DataType dtype : {DataType::kBFloat16, DataType::kFloat16}) {
    for (const DecayForm form : kForms) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 40;
      p.strength = 0.0;
      p.initial_state = false;
      Data data = make_data(p);
      // k = (1/2, 1/2, 1/2, 1/2, 0, ...): exact in every type.
      std::vector<double> keys(data.k.values.size()), ones(data.beta.values.size(), 1.0);
      for (std::size_t i = 0; i < keys.size(); ++i) {
        keys[i] = i % static_cast<std::size_t>(p.key_dim) < 4 ? 0.5 : 0.0;
      }
      data.k = make_tensor(p.batch, p.time, p.heads, p.key_dim, dtype, p.layout, keys);
      data.q = make_tensor(p.batch, p.time, p.heads, p.key_dim, dtype, p.layout, keys);
      data.beta =
          make_tensor(p.batch, p.time, p.value_heads, 1, DataType::kFloat32, p.layout, ones);
      data.v = make_tensor(p.batch, p.time, p.value_heads, p.value_dim, dtype, p.layout,
                           std::vector<double>(data.v.values.size(), 4096.0));
      // The state starts out 2 away from what it should be: S^T k = 4098.
      data.initial_state.assign(static_cast<std::size_t>(p.key_dim * p.value_dim), 0.0f);
      for (int64_t c = 0; c < 4; ++c) {
        for (int64_t j = 0; j < p.value_dim; ++j) {
          data.initial_state[c * p.value_dim + j] = 2049.0f;
        }
      }
      const std::vector<double> state = run_kernels(p, data).final_state.values();
      for (int64_t i = 0; i < 4 * p.value_dim; ++i) {
        // u = -2 to 16 bits of 4098; S = 2049 - 1.
        check::that(std::abs(state[i] - 2048.0) <= 4098.0 * 0x1p-16,
                    p.describe() + "state " + std::to_string(state[i]) + ", expected 2048");
      }
    }
  }
}

/// More states than the backward pass keeps at a time: it goes through the sequences in ranges.
/// What it keeps grows with the device.
void ranges_of_positions_join_in_the_backward_pass() {
  const int multiprocessors = rankone::emulation::multiprocessors();
  rankone::emulation::set_multiprocessors(1);
  for (const DecayForm form : {DecayForm::kPerToken, DecayForm::kPerChannel}) {
    Problem p;
    p.form = form;
    p.time = 300;
    p.heads = p.value_heads = 4;
    p.key_dim = p.value_dim = 128;
    expect_matches_recurrence(p);
    p.cu_seqlens = {0, 3, 3, 200, 300};
    expect_matches_recurrence(p);
  }
  rankone::emulation::set_multiprocessors(multiprocessors);
}

void any_number_of_multiprocessors_gives_the_same_bits() {
  const int multiprocessors = rankone::emulation::multiprocessors();
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 70;
    p.key_dim = 24;
    p.value_dim = 130;
    p.dtype = DataType::kBFloat16;
    const Data data = make_data(p);
    rankone::emulation::set_multiprocessors(1);
    const KernelOutputs few = run_kernels(p, data);
    rankone::emulation::set_multiprocessors(64);
    const KernelOutputs many = run_kernels(p, data);
    check::that(few.output.bytes() == many.output.bytes(), p.describe() + "output");
    check::that(few.final_state.bytes() == many.final_state.bytes(), p.describe() + "state");
    check::that(few.v_grad.bytes() == many.v_grad.bytes(), p.describe() + "v_grad");
    expect_matches_recurrence(p);
    rankone::emulation::set_multiprocessors(multiprocessors);
  }
}

void any_schedule_gives_the_same_bits() {
  const std::uint64_t seed = rankone::emulation::schedule_seed();
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 140;
    p.heads = 1;
    p.value_heads = 2;
    p.key_dim = 40;
    p.value_dim = 36;
    p.l2norm = true;
    p.dtype = DataType::kBFloat16;
    const Data data = make_data(p);
    rankone::emulation::set_schedule_seed(1);
    const KernelOutputs first = run_kernels(p, data);
    for (const std::uint64_t other : {2, 3, 4}) {
      rankone::emulation::set_schedule_seed(other);
      check::that(run_kernels(p, data) == first, p.describe() + "the schedule changes the result");
    }
  }
  rankone::emulation::set_schedule_seed(seed);
}

void a_step_is_one_token_of_the_recurrence() {
  unsigned seed = 500;
  const int64_t dims[][2] = {{1, 1}, {7, 5}, {33, 36}, {128, 64}, {256, 256}};
  for (const DecayForm form : kForms) {
    for (const auto& [key_dim, value_dim] : dims) {
      Problem p;
      p.form = form;
      p.batch = 2;
      p.time = 1;
      p.heads = 2;
      p.value_heads = 6;
      p.key_dim = key_dim;
      p.value_dim = value_dim;
      p.dtype = kTypes[seed % 3];
      p.initial_state = seed % 5 != 0;
      p.l2norm = seed % 2 == 0;
      p.reset_share = 0.2;
      p.seed = ++seed;
      const Data data = make_data(p);
      const Results expected = reference(p, data);
      Output output(data.output_grad.values.size(), p.dtype);
      Output state(expected.final_state.size(), DataType::kFloat32);
      DeltaRuleStep step;
      step.inputs = make_inputs(p, data);
      step.output = output.data();
      step.state_out = state.data();
      rankone::cuda::delta_rule_step(step, nullptr);
      // Nothing is rounded to 16 bits but the output.
      expect_close(p.describe() + "step output", output.values(), expected.output,
                   p.dtype == DataType::kFloat32 ? 2e-6 : roundoff(p.dtype));
      expect_close(p.describe() + "step state", state.values(), expected.final_state, 2e-6);
    }
  }
}

void a_step_may_write_its_state_in_place() {
  Problem p;
  p.time = 1;
  p.key_dim = 20;
  p.value_dim = 40;
  Data data = make_data(p);
  const Results expected = reference(p, data);
  Output output(data.output_grad.values.size(), p.dtype);
  DeltaRuleStep step;
  step.inputs = make_inputs(p, data);
  step.output = output.data();
  step.state_out = data.initial_state.data();
  rankone::cuda::delta_rule_step(step, nullptr);
  expect_close("state in place", {data.initial_state.begin(), data.initial_state.end()},
               expected.final_state, 2e-6);
}

void float64_is_refused_by_name() {
  DeltaRuleForward forward;
  forward.inputs.shape = {1, 1, 1, 1, 1, 1, nullptr, 1};
  forward.inputs.dtype = DataType::kFloat64;
  check::throws<rankone::ArgumentError>(
      [&] { rankone::cuda::delta_rule_forward(forward, nullptr, nullptr); }, {"dtype", "float64"});
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {{"every form and length matches the recurrence",
        every_form_and_length_matches_the_recurrence},
       {"every head dim matches the recurrence", every_head_dim_matches_the_recurrence},
       {"every dtype and form matches the recurrence", every_dtype_and_form_matches_the_recurrence},
       {"value heads of a group share queries and keys",
        value_heads_of_a_group_share_queries_and_keys},
       {"queries and keys are normalised in the kernel",
        queries_and_keys_are_normalised_in_the_kernel},
       {"packed sequences restart and may be empty", packed_sequences_restart_and_may_be_empty},
       {"strides are arbitrary", strides_are_arbitrary},
       {"minus infinity is an exact reset", minus_infinity_is_an_exact_reset},
       {"strong decays stay finite", strong_decays_stay_finite},
       {"half survives large states", half_survives_large_states},
       {"beta may exceed one", beta_may_exceed_one},
       {"states may be absent", states_may_be_absent},
       {"no tokens leave the state as it was", no_tokens_leave_the_state_as_it_was},
       {"a small residual against a large state is exact",
        a_small_residual_against_a_large_state_is_exact},
       {"ranges of positions join in the backward pass",
        ranges_of_positions_join_in_the_backward_pass},
       {"any number of multiprocessors gives the same bits",
        any_number_of_multiprocessors_gives_the_same_bits},
       {"any schedule gives the same bits", any_schedule_gives_the_same_bits},
       {"a step is one token of the recurrence", a_step_is_one_token_of_the_recurrence},
       {"a step may write its state in place", a_step_may_write_its_state_in_place},
       {"float64 is refused by name", float64_is_refused_by_name}});
}
