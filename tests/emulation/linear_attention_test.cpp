// The CUDA kernels of linear attention, run by the SIMT emulation, against the plain recurrence in
// double: forward, every gradient, and the step. The backward of the recurrence keeps all states and
// takes the decay's gradient from its definition, so it shares nothing with the kernels' formulas.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cpp/check.h"
#include "rankone/linear_attention.h"
#include "simt.h"
#include "token_tensors.h"

namespace {

using namespace token_tensors;

using rankone::DecayForm;
using rankone::LinearAttentionBackward;
using rankone::LinearAttentionForward;
using rankone::LinearAttentionInputs;
using rankone::LinearAttentionShape;
using rankone::LinearAttentionStep;

constexpr DecayForm kForms[] = {DecayForm::kNone, DecayForm::kPerHead, DecayForm::kPerToken,
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
         << key_dim << "x" << value_dim << (ones_column ? "+1" : "") << " sequences "
         << sequences() << " layout " << static_cast<int>(layout) << ": ";
    return text.str();
  }
};

/// Bound on |actual - expected| / |expected| (2-norms). Forward: operand, state, weight and output
/// are each rounded once, two roundoffs in norm; fp32 is held to the accuracy the op promises.
/// Backward chains twice as many roundings.
double forward_tolerance(DataType dtype) {
  return dtype == DataType::kFloat32 ? 2e-6 : 2.0 * roundoff(dtype);
}
double backward_tolerance(DataType dtype) { return 2.0 * forward_tolerance(dtype); }

/// A problem's tensors, each with its values in double.
struct Data {
  Tensor q, k, v, log_decay, output_grad;
  std::vector<float> initial_state, final_state_grad;  // empty: not given
};

Data make_data(const Problem& p) {
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
    std::vector<double> log_decay(
        static_cast<std::size_t>(batch * time * p.kv_heads * p.decay_channels()));
    for (double& value : log_decay) {
      const double u = random.uniform();
      value = random.uniform() < p.reset_share ? -std::numeric_limits<double>::infinity()
                                               : -p.strength * u * u * u;
    }
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
Results reference(const Problem& p, const Data& data) {
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
              r.q_grad[query(t, m, c)] +=
                  p.scale * s * data.output_grad.values[output(t, m, j)];
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

LinearAttentionInputs make_inputs(const Problem& p, const Data& data) {
  LinearAttentionInputs inputs;
  inputs.shape = {p.batch,   p.time,      p.heads,
                  p.kv_heads, p.key_dim,  p.value_dim,
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

KernelOutputs run_kernels(const Problem& p, const Data& data) {
  const std::size_t states =
      static_cast<std::size_t>(p.sequences() * p.kv_heads * p.key_dim * p.value_columns());
  const bool per_head = p.form == DecayForm::kPerHead;
  const DataType single = DataType::kFloat32;
  KernelOutputs outputs{
      Output(data.output_grad.values.size(), p.ones_column ? single : p.dtype),
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
  backward.log_decay_grad =
      p.form == DecayForm::kNone ? nullptr : outputs.log_decay_grad.data();
  backward.initial_state_grad = outputs.initial_state_grad.data();
  Output backward_workspace(rankone::cuda::linear_attention_backward_workspace(backward) / 4,
                            single);
  rankone::cuda::linear_attention_backward(backward, backward_workspace.data(), nullptr);
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
      p.dtype = kTypes[seed % 3];
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

void grouped_heads_share_one_state() {
  for (const DecayForm form : kForms) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 75;
      p.heads = 6;
      p.kv_heads = 2;
      p.key_dim = 24;
      p.value_dim = 33;
      expect_matches_recurrence(p);
    }
  }
}

void packed_sequences_restart_and_may_be_empty() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 150;
    p.kv_heads = p.heads = 2;
    p.cu_seqlens = {0, 0, 1, 70, 70, 86, 150, 150};
    expect_matches_recurrence(p);
    p.heads = 4;
    p.dtype = DataType::kBFloat16;
    p.initial_state = p.final_state_grad = false;
    expect_matches_recurrence(p);
  }
}

void a_ones_column_is_a_column_of_v() {
  for (const DecayForm form : kForms) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 50;
      p.heads = 2;
      p.ones_column = true;
      p.key_dim = 20;
      p.value_dim = 64;
      expect_matches_recurrence(p);
    }
    Problem p;
    p.form = form;
    p.time = 18;
    p.ones_column = true;
    p.key_dim = 17;
    p.value_dim = 256;
    p.dtype = DataType::kBFloat16;
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
      p.heads = p.kv_heads = 2;
      p.dtype = DataType::kFloat16;
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
  }
  for (const DecayForm form : {DecayForm::kPerHead, DecayForm::kPerToken, DecayForm::kPerChannel}) {
    Problem p;
    p.form = form;
    p.reset_share = 1.0;
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

/// q . k and the state pass 65504 by far, the outputs do not.
void half_survives_large_states() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.dtype = DataType::kFloat16;
    p.time = 80;
    p.magnitude = 300.0;
    p.scale = 1e-5;
    p.initial_state = p.final_state_grad = false;
    expect_matches_recurrence(p);
    p.magnitude = 1e-3;
    p.scale = 1e6;
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

/// Enough multiprocessors that one head's time is split; the number of launches shows that it is.
void split_time_matches_the_recurrence() {
  const int multiprocessors = rankone::emulation::multiprocessors();
  rankone::emulation::set_multiprocessors(64);
  for (const DecayForm form : kForms) {
    for (const bool ones_column : {false, true}) {
      Problem p;
      p.form = form;
      p.time = 1620;
      p.key_dim = 16;
      p.value_dim = 16;
      p.ones_column = ones_column;
      p.dtype = ones_column ? DataType::kBFloat16 : DataType::kFloat32;
      const Data data = make_data(p);
      LinearAttentionForward forward;
      forward.inputs = make_inputs(p, data);
      check::that(rankone::cuda::linear_attention_forward_workspace(forward) > 0,
                  "time is split, with a state a segment in the workspace");
      expect_matches_recurrence(p);
    }
  }
  Problem p;
  p.time = 2100;
  p.cu_seqlens = {0, 3, 3, 2100};
  p.heads = 2;
  expect_matches_recurrence(p);
  rankone::emulation::set_multiprocessors(multiprocessors);
}

void any_schedule_gives_the_same_bits() {
  const std::uint64_t seed = rankone::emulation::schedule_seed();
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 140;
    p.heads = 2;
    p.key_dim = 40;
    p.value_dim = 36;
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
      p.kv_heads = 2;
      p.heads = 6;
      p.key_dim = key_dim;
      p.value_dim = value_dim;
      p.dtype = kTypes[seed % 3];
      p.ones_column = seed % 2 == 0;
      p.initial_state = seed % 5 != 0;
      p.reset_share = 0.2;
      p.seed = ++seed;
      const Data data = make_data(p);
      const Results expected = reference(p, data);
      const DataType output_type = p.ones_column ? DataType::kFloat32 : p.dtype;
      Output output(data.output_grad.values.size(), output_type);
      Output state(expected.final_state.size(), DataType::kFloat32);
      LinearAttentionStep step;
      step.inputs = make_inputs(p, data);
      step.output = output.data();
      step.state_out = state.data();
      rankone::cuda::linear_attention_step(step, nullptr);
      // Nothing is rounded to 16 bits but the output.
      expect_close(p.describe() + "step output", output.values(), expected.output,
                   output_type == DataType::kFloat32 ? 2e-6 : roundoff(output_type));
      expect_close(p.describe() + "step state", state.values(), expected.final_state, 2e-6);
    }
  }
}

void float64_is_refused_by_name() {
  LinearAttentionForward forward;
  forward.inputs.shape = {1, 1, 1, 1, 1, 1, false, nullptr, 1};
  forward.inputs.dtype = DataType::kFloat64;
  check::throws<rankone::ArgumentError>(
      [&] { rankone::cuda::linear_attention_forward(forward, nullptr, nullptr); },
      {"dtype", "float64"});
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {{"every form and length matches the recurrence",
        every_form_and_length_matches_the_recurrence},
       {"every head dim matches the recurrence", every_head_dim_matches_the_recurrence},
       {"every dtype and form matches the recurrence",
        every_dtype_and_form_matches_the_recurrence},
       {"grouped heads share one state", grouped_heads_share_one_state},
       {"packed sequences restart and may be empty", packed_sequences_restart_and_may_be_empty},
       {"a ones column is a column of v", a_ones_column_is_a_column_of_v},
       {"strides are arbitrary", strides_are_arbitrary},
       {"minus infinity is an exact reset", minus_infinity_is_an_exact_reset},
       {"strong decays stay finite", strong_decays_stay_finite},
       {"half survives large states", half_survives_large_states},
       {"states may be absent", states_may_be_absent},
       {"no tokens leave the state as it was", no_tokens_leave_the_state_as_it_was},
       {"split time matches the recurrence", split_time_matches_the_recurrence},
       {"any schedule gives the same bits", any_schedule_gives_the_same_bits},
       {"a step is one token of the recurrence", a_step_is_one_token_of_the_recurrence},
       {"float64 is refused by name", float64_is_refused_by_name}});
}
