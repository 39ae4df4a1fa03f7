// Problems of the delta rule for tests of its emulated kernels: random inputs, the plain recurrence
// in double, and the kernels' results. The backward of the recurrence keeps all states and goes
// back token by token, so it shares nothing with the kernels' chunks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "rankone/delta_rule.h"
#include "token_tensors.h"

namespace delta_rule_case {

using namespace token_tensors;

using rankone::DecayForm;
using rankone::DeltaRuleBackward;
using rankone::DeltaRuleForward;
using rankone::DeltaRuleInputs;
using rankone::DeltaRuleStep;

inline constexpr DecayForm kForms[] = {DecayForm::kNone, DecayForm::kPerToken,
                                       DecayForm::kPerChannel};
inline constexpr double kL2NormEps = 1e-6;

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

/// The gradient of log_decay is a sum over at most this many tokens, and a product of states.
inline constexpr int64_t kGroupTokens = 64;

/// A problem's tensors, each with its values in double.
struct Data {
  Tensor q, k, v, beta, log_decay, output_grad;
  std::vector<float> initial_state, final_state_grad;  // empty: not given
};

inline Data make_data(const Problem& p) {
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
    std::vector<double> log_decay =
        random.log_decays(value_rows * p.decay_channels(), p.strength, p.reset_share);
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
inline Results reference(const Problem& p, const Data& data) {
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

inline DeltaRuleInputs make_inputs(const Problem& p, const Data& data) {
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

inline KernelOutputs run_kernels(const Problem& p, const Data& data) {
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

inline void expect_matches_recurrence(const Problem& p) {
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

}  // namespace delta_rule_case
