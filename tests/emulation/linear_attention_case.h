// Problems of linear attention for tests of its emulated kernels: random inputs, the plain
// recurrence in double, and the kernels' results. The backward of the recurrence keeps all states
// and takes the decay's gradient from its definition, so it shares nothing with the kernels'
// formulas.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "rankone/linear_attention.h"
#include "token_tensors.h"

namespace linear_attention_case {

using namespace token_tensors;

using rankone::DecayForm;
using rankone::LinearAttentionBackward;
using rankone::LinearAttentionForward;
using rankone::LinearAttentionInputs;
using rankone::LinearAttentionShape;
using rankone::LinearAttentionStep;

inline constexpr DecayForm kForms[] = {DecayForm::kNone, DecayForm::kPerHead, DecayForm::kPerToken,
                                       DecayForm::kPerChannel};

struct Problem {
  DecayForm form = DecayForm::kPerToken;
  DataType dtype = DataType::kFloat32;
  int64_t batch = 1, time = 37, heads = 1, kv_heads = 1, key_dim = 16, value_dim = 16;
  bool ones_column = false;
  std::vector<int64_t> cu_seqlens = {};
  Layout layout = Layout::kContiguous;
  bool initial_state = true;
  bool final_state_grad = true;
  double reset_share = 0.0;  // of the log-decays that are -inf
  double strength = 1.0;     // factor on the log-decays
  double magnitude = 1.0;    // factor on q, k and v
  double scale = 0.35;
  unsigned seed = 1;

  int64_t value_columns() const { return value_dim + (ones_column ? 1 : 0); }
  int64_t sequences() const {
    return cu_seqlens.empty() ? batch : static_cast<int64_t>(cu_seqlens.size()) - 1;
  }
  int64_t decay_channels() const { return form == DecayForm::kPerChannel ? key_dim : 1; }
  std::string describe() const {
    std::ostringstream text;
    text << "form " << static_cast<int>(form) << " dtype " << static_cast<int>(dtype) << " batch "
         << batch << " time " << time << " heads " << heads << "/" << kv_heads << " dims "
         << key_dim << "x" << value_dim << (ones_column ? "+1" : "") << " sequences " << sequences()
         << " layout " << static_cast<int>(layout) << ": ";
    return text.str();
  }
};

/// A problem's tensors, each with its values in double.
struct Data {
  Tensor q, k, v, log_decay, output_grad;
  std::vector<float> initial_state, final_state_grad;  // empty: not given
};

inline Data make_data(const Problem& p) {
  Random random(p.seed);
  const int64_t states = p.sequences() * p.kv_heads * p.key_dim * p.value_columns();
  Data data;
  data.q = make_tensor(p.batch, p.time, p.heads, p.key_dim, p.dtype, p.layout,
                       random.normal(p.batch * p.time * p.heads * p.key_dim, p.magnitude));
  data.k = make_tensor(p.batch, p.time, p.kv_heads, p.key_dim, p.dtype, p.layout,
                       random.normal(p.batch * p.time * p.kv_heads * p.key_dim, p.magnitude));
  data.v = make_tensor(p.batch, p.time, p.kv_heads, p.value_dim, p.dtype, p.layout,
                       random.normal(p.batch * p.time * p.kv_heads * p.value_dim, p.magnitude));
  const DataType output_type = p.ones_column ? DataType::kFloat32 : p.dtype;
  data.output_grad =
      make_tensor(p.batch, p.time, p.heads, p.value_columns(), output_type, Layout::kContiguous,
                  random.normal(p.batch * p.time * p.heads * p.value_columns(), 1.0));
  if (p.form != DecayForm::kNone) {
    const bool per_head = p.form == DecayForm::kPerHead;
    const int64_t batch = per_head ? 1 : p.batch;
    const int64_t time = per_head ? 1 : p.time;
    std::vector<double> log_decay = random.log_decays(
        batch * time * p.kv_heads * p.decay_channels(), p.strength, p.reset_share);
    data.log_decay = make_tensor(batch, time, p.kv_heads, p.decay_channels(), DataType::kFloat32,
                                 per_head ? Layout::kContiguous : p.layout, std::move(log_decay));
  }
  if (p.initial_state) data.initial_state = to_floats(random.normal(states, 1.0));
  if (p.final_state_grad) data.final_state_grad = to_floats(random.normal(states, 1.0));
  return data;
}

/// Everything the op computes, and the size of what log_decay_grad is the sum of.
struct Results {
  std::vector<double> output, final_state, q_grad, k_grad, v_grad, log_decay_grad,
      initial_state_grad, log_decay_terms;
};

/// The recurrence, token by token.
inline Results reference(const Problem& p, const Data& data) {
  const int64_t K = p.key_dim, V = p.value_columns(), group = p.heads / p.kv_heads;
  Results r;
  r.output.resize(data.output_grad.values.size());
  r.q_grad.resize(data.q.values.size());
  r.k_grad.resize(data.k.values.size());
  r.v_grad.resize(data.v.values.size());
  const int64_t states = p.sequences() * p.kv_heads * K * V;
  r.final_state.resize(static_cast<std::size_t>(states));
  r.initial_state_grad.resize(static_cast<std::size_t>(states));
  const bool per_head = p.form == DecayForm::kPerHead;
  r.log_decay_grad.resize(per_head ? static_cast<std::size_t>(p.sequences() * p.kv_heads)
                                   : data.log_decay.values.size());
  r.log_decay_terms.resize(r.log_decay_grad.size());
  for (int64_t n = 0; n < p.sequences(); ++n) {
    const int64_t b = p.cu_seqlens.empty() ? n : 0;
    const int64_t begin = p.cu_seqlens.empty() ? 0 : p.cu_seqlens[n];
    const int64_t end = p.cu_seqlens.empty() ? p.time : p.cu_seqlens[n + 1];
    for (int64_t h = 0; h < p.kv_heads; ++h) {
      const int64_t state_start = (n * p.kv_heads + h) * K * V;
      const auto decay_place = [&](int64_t t, int64_t c) {
        if (per_head) return h;
        const int64_t token = (b * p.time + t) * p.kv_heads + h;
        return p.form == DecayForm::kPerChannel ? token * K + c : token;
      };
      const auto decay = [&](int64_t t, int64_t c) {
        return p.form == DecayForm::kNone ? 1.0
                                          : std::exp(data.log_decay.values[decay_place(t, c)]);
      };
      const auto key = [&](int64_t t, int64_t c) -> std::size_t {
        return ((b * p.time + t) * p.kv_heads + h) * K + c;
      };
      const auto value_place = [&](int64_t t, int64_t c) -> std::size_t {
        return ((b * p.time + t) * p.kv_heads + h) * p.value_dim + c;
      };
      const auto value = [&](int64_t t, int64_t c) {
        return c < p.value_dim ? data.v.values[value_place(t, c)] : 1.0;
      };
      const auto query = [&](int64_t t, int64_t member, int64_t c) -> std::size_t {
        return ((b * p.time + t) * p.heads + h * group + member) * K + c;
      };
      const auto output = [&](int64_t t, int64_t member, int64_t c) -> std::size_t {
        return ((b * p.time + t) * p.heads + h * group + member) * V + c;
      };
      // states[t - begin] is the state before token t.
      std::vector<std::vector<double>> states_before;
      std::vector<double> state(static_cast<std::size_t>(K * V));
      if (p.initial_state) {
        std::copy_n(data.initial_state.begin() + state_start, K * V, state.begin());
      }
      for (int64_t t = begin; t < end; ++t) {
        states_before.push_back(state);
        for (int64_t c = 0; c < K; ++c) {
          for (int64_t j = 0; j < V; ++j) {
            double& s = state[c * V + j];
            s = decay(t, c) * s + data.k.values[key(t, c)] * value(t, j);
            for (int64_t m = 0; m < group; ++m) {
              r.output[output(t, m, j)] += p.scale * data.q.values[query(t, m, c)] * s;
              r.q_grad[query(t, m, c)] += p.scale * s * data.output_grad.values[output(t, m, j)];
            }
          }
        }
      }
      std::copy(state.begin(), state.end(), r.final_state.begin() + state_start);
      std::vector<double> grad(static_cast<std::size_t>(K * V));
      if (p.final_state_grad) {
        std::copy_n(data.final_state_grad.begin() + state_start, K * V, grad.begin());
      }
      for (int64_t t = end - 1; t >= begin; --t) {
        const std::vector<double>& before = states_before[t - begin];
        for (int64_t c = 0; c < K; ++c) {
          double decay_grad = 0.0;
          for (int64_t j = 0; j < V; ++j) {
            double& g = grad[c * V + j];
            for (int64_t m = 0; m < group; ++m) {
              g += p.scale * data.q.values[query(t, m, c)] *
                   data.output_grad.values[output(t, m, j)];
            }
            r.k_grad[key(t, c)] += g * value(t, j);
            if (j < p.value_dim) r.v_grad[value_place(t, j)] += g * data.k.values[key(t, c)];
            decay_grad += g * before[c * V + j];
            g *= decay(t, c);
          }
          if (p.form != DecayForm::kNone) {
            const int64_t place = per_head ? n * p.kv_heads + h : decay_place(t, c);
            r.log_decay_grad[place] += decay(t, c) * decay_grad;
          }
        }
      }
      std::copy(grad.begin(), grad.end(), r.initial_state_grad.begin() + state_start);
      if (p.form == DecayForm::kNone) continue;
      // Squares of the terms of dg_t = sum_{s>=t} (q_s . dq_s - k_s . dk_s) + <S_T, dS_T>.
      for (int64_t c = 0; c < K; ++c) {
        double terms = 0.0;
        if (p.final_state_grad) {
          for (int64_t j = 0; j < V; ++j) {
            const double pairing =
                state[c * V + j] * data.final_state_grad[state_start + c * V + j];
            terms += pairing * pairing;
          }
        }
        for (int64_t t = end - 1; t >= begin; --t) {
          const double from_key = data.k.values[key(t, c)] * r.k_grad[key(t, c)];
          double square = from_key * from_key;
          for (int64_t m = 0; m < group; ++m) {
            const double from_query = data.q.values[query(t, m, c)] * r.q_grad[query(t, m, c)];
            square += from_query * from_query;
          }
          const double times = per_head ? static_cast<double>(t + 1 - begin) : 1.0;
          terms += times * times * square;
          if (!per_head) r.log_decay_terms[decay_place(t, c)] += terms;
        }
        if (per_head) r.log_decay_terms[n * p.kv_heads + h] += terms;
      }
    }
  }
  for (double& terms : r.log_decay_terms) terms = std::sqrt(terms);
  return r;
}

inline LinearAttentionInputs make_inputs(const Problem& p, const Data& data) {
  LinearAttentionInputs inputs;
  inputs.shape = {p.batch,       p.time,
                  p.heads,       p.kv_heads,
                  p.key_dim,     p.value_dim,
                  p.ones_column, p.cu_seqlens.empty() ? nullptr : p.cu_seqlens.data(),
                  p.sequences()};
  inputs.dtype = p.dtype;
  inputs.q = data.q.view;
  inputs.k = data.k.view;
  inputs.v = data.v.view;
  inputs.decay_form = p.form;
  inputs.log_decay = data.log_decay.view;
  inputs.initial_state = data.initial_state.empty() ? nullptr : data.initial_state.data();
  inputs.scale = p.scale;
  return inputs;
}

struct KernelOutputs {
  Output output, final_state, q_grad, k_grad, v_grad, log_decay_grad, initial_state_grad;

  bool operator==(const KernelOutputs& other) const {
    return output.bytes() == other.output.bytes() &&
           final_state.bytes() == other.final_state.bytes() &&
           q_grad.bytes() == other.q_grad.bytes() && k_grad.bytes() == other.k_grad.bytes() &&
           v_grad.bytes() == other.v_grad.bytes() &&
           log_decay_grad.bytes() == other.log_decay_grad.bytes() &&
           initial_state_grad.bytes() == other.initial_state_grad.bytes();
  }
};

inline KernelOutputs run_kernels(const Problem& p, const Data& data) {
  const std::size_t states =
      static_cast<std::size_t>(p.sequences() * p.kv_heads * p.key_dim * p.value_columns());
  const bool per_head = p.form == DecayForm::kPerHead;
  const DataType single = DataType::kFloat32;
  KernelOutputs outputs{Output(data.output_grad.values.size(), p.ones_column ? single : p.dtype),
                        Output(states, single),
                        Output(data.q.values.size(), p.dtype),
                        Output(data.k.values.size(), p.dtype),
                        Output(data.v.values.size(), p.dtype),
                        Output(per_head ? static_cast<std::size_t>(p.sequences() * p.kv_heads)
                                        : data.log_decay.values.size(),
                               single),
                        Output(states, single)};
  const LinearAttentionInputs inputs = make_inputs(p, data);

  LinearAttentionForward forward;
  forward.inputs = inputs;
  forward.output = outputs.output.data();
  forward.final_state = outputs.final_state.data();
  Output forward_workspace(rankone::cuda::linear_attention_forward_workspace(forward) / 4, single);
  rankone::cuda::linear_attention_forward(forward, forward_workspace.data(), nullptr);

  LinearAttentionBackward backward;
  backward.inputs = inputs;
  backward.output_grad = data.output_grad.view.data;
  backward.final_state_grad =
      data.final_state_grad.empty() ? nullptr : data.final_state_grad.data();
  backward.q_grad = outputs.q_grad.data();
  backward.k_grad = outputs.k_grad.data();
  backward.v_grad = outputs.v_grad.data();
  backward.log_decay_grad = p.form == DecayForm::kNone ? nullptr : outputs.log_decay_grad.data();
  backward.initial_state_grad = outputs.initial_state_grad.data();
  Output backward_workspace(rankone::cuda::linear_attention_backward_workspace(backward) / 4,
                            single);
  rankone::cuda::linear_attention_backward(backward, backward_workspace.data(), nullptr);
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
  expect_close(name + "q_grad", actual.q_grad.values(), expected.q_grad, backward);
  expect_close(name + "k_grad", actual.k_grad.values(), expected.k_grad, backward);
  expect_close(name + "v_grad", actual.v_grad.values(), expected.v_grad, backward);
  expect_close(name + "initial_state_grad", actual.initial_state_grad.values(),
               expected.initial_state_grad, backward);
  if (p.form != DecayForm::kNone) {
    // A sum whose terms have relative errors of their own and mostly cancel.
    expect_close(name + "log_decay_grad", actual.log_decay_grad.values(), expected.log_decay_grad,
                 expected.log_decay_terms, backward);
  }
}

}  // namespace linear_attention_case
