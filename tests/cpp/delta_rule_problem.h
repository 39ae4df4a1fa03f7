// A problem of the delta rule, its results by the recurrence, one token at a time in double, and by
// its adjoint, and the library's memory for it.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "rankone/delta_rule.h"
#include "stored_values.h"

namespace rankone::testing {

struct Problem {
  DataType type = DataType::kFloat32;
  std::int64_t batch = 1, time = 1, heads = 1, value_heads = 1, key_dim = 1, value_dim = 1;
  DecayForm form = DecayForm::kNone;
  int chunk_size = 0;
  double scale = 0.3;
  bool normalizes = false;
  std::vector<std::int64_t> offsets;  // empty: not packed
  bool with_state = false;            // an initial state and a gradient of the final state
  double mean_decay = 0.2, resets = 0.0;
  double largest_beta = 1.0;

  static constexpr double kEps = 1e-6;

  Values q, k, v, beta, log_decay, initial_state, output_grad, final_state_grad;

  std::int64_t sequences() const {
    return offsets.empty() ? batch : static_cast<std::int64_t>(offsets.size()) - 1;
  }
  std::int64_t state_size() const { return sequences() * value_heads * key_dim * value_dim; }
  std::int64_t decay_width() const {
    return form == DecayForm::kNone ? 0 : form == DecayForm::kPerToken ? 1 : key_dim;
  }
  double log_decay_at(std::int64_t token, std::int64_t head, std::int64_t channel) const {
    if (form == DecayForm::kNone) return 0;
    const std::int64_t at = token * value_heads + head;
    return log_decay[index(form == DecayForm::kPerToken ? at : at * key_dim + channel)];
  }

  /// Random data, rounded to the storage types so that both sides read the same numbers. Keys are
  /// unit vectors, or become so.
  void fill(unsigned seed) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    const auto random = [&](std::int64_t count) {
      Values values(index(count));
      for (double& value : values) value = normal(engine);
      return values;
    };
    const auto rounded = [](DataType storage, const Values& values) {
      return Memory(storage, values).values();
    };
    const DataType wide = state_type(type);
    const std::int64_t tokens = batch * time;
    q = rounded(type, random(tokens * heads * key_dim));
    k = random(tokens * heads * key_dim);
    for (std::int64_t row = 0; row < tokens * heads && !normalizes; ++row) {
      double squares = 0;
      for (std::int64_t c = 0; c < key_dim; ++c) {
        squares += k[index(row * key_dim + c)] * k[index(row * key_dim + c)];
      }
      for (std::int64_t c = 0; c < key_dim; ++c) k[index(row * key_dim + c)] /= std::sqrt(squares);
    }
    k = rounded(type, k);
    v = rounded(type, random(tokens * value_heads * value_dim));
    output_grad = rounded(type, random(tokens * value_heads * value_dim));
    beta.assign(index(tokens * value_heads), 0);
    for (double& b : beta) b = largest_beta * uniform(engine);
    beta = rounded(wide, beta);
    log_decay.assign(index(tokens * value_heads * decay_width()), 0);
    for (double& g : log_decay) {
      g = -2 * mean_decay * uniform(engine);
      if (uniform(engine) < resets) g = -kInfinity;
    }
    log_decay = rounded(wide, log_decay);
    if (with_state) {
      initial_state = rounded(wide, random(state_size()));
      final_state_grad = rounded(wide, random(state_size()));
    }
  }
};

struct Results {
  Values output, final_state, q_grad, k_grad, v_grad, beta_grad, log_decay_grad, initial_state_grad;
};

/// x / sqrt(sum x^2 + eps), or x.
inline Values unit_rows(const Problem& p, const Values& rows) {
  Values result = rows;
  if (!p.normalizes) return result;
  for (std::size_t row = 0; row < rows.size(); row += index(p.key_dim)) {
    double squares = Problem::kEps;
    for (std::size_t c = row; c < row + index(p.key_dim); ++c) squares += rows[c] * rows[c];
    for (std::size_t c = row; c < row + index(p.key_dim); ++c) result[c] /= std::sqrt(squares);
  }
  return result;
}

/// From the gradient of the unit rows to that of the rows.
inline Values unit_rows_gradient(const Problem& p, const Values& rows, const Values& grads) {
  Values result = grads;
  if (!p.normalizes) return result;
  for (std::size_t row = 0; row < rows.size(); row += index(p.key_dim)) {
    double squares = Problem::kEps, along = 0;
    for (std::size_t c = row; c < row + index(p.key_dim); ++c) {
      squares += rows[c] * rows[c];
      along += rows[c] * grads[c];
    }
    for (std::size_t c = row; c < row + index(p.key_dim); ++c) {
      result[c] = grads[c] / std::sqrt(squares) - rows[c] * along / std::pow(squares, 1.5);
    }
  }
  return result;
}

inline Results recurrence(const Problem& p) {
  const std::size_t K = index(p.key_dim), V = index(p.value_dim);
  const std::int64_t group = p.value_heads / p.heads;
  const Values q = unit_rows(p, p.q), k = unit_rows(p, p.k);
  Results r;
  r.output.assign(p.v.size(), 0);
  r.final_state.assign(index(p.state_size()), 0);
  Values q_grad(q.size()), k_grad(k.size());
  r.v_grad.assign(p.v.size(), 0);
  r.beta_grad.assign(p.beta.size(), 0);
  r.log_decay_grad.assign(p.log_decay.size(), 0);
  r.initial_state_grad = r.final_state;

  for (std::int64_t n = 0; n < p.sequences(); ++n) {
    const std::int64_t begin = p.offsets.empty() ? n * p.time : p.offsets[index(n)];
    const std::int64_t end = p.offsets.empty() ? begin + p.time : p.offsets[index(n) + 1];
    for (std::int64_t head = 0; head < p.value_heads; ++head) {
      const std::size_t state_at = index(n * p.value_heads + head) * K * V;
      std::vector<Values> states{Values(K * V)};  // S_{t-1}
      std::vector<Values> errors;                 // v - S~^T k
      for (std::size_t i = 0; p.with_state && i < K * V; ++i) {
        states[0][i] = p.initial_state[state_at + i];
      }
      const auto key_row = [&](std::int64_t t) { return index(t * p.heads + head / group) * K; };
      const auto value_row = [&](std::int64_t t) { return index(t * p.value_heads + head) * V; };
      const auto decay = [&](std::int64_t t, std::size_t c) {
        return std::exp(p.log_decay_at(t, head, static_cast<std::int64_t>(c)));
      };
      const auto strength = [&](std::int64_t t) { return p.beta[index(t * p.value_heads + head)]; };
      for (std::int64_t t = begin; t < end; ++t) {
        Values s = states.back();
        Values error(V);
        for (std::size_t j = 0; j < V; ++j) error[j] = p.v[value_row(t) + j];
        for (std::size_t c = 0; c < K; ++c) {
          const double d = decay(t, c), key = k[key_row(t) + c];
          for (std::size_t j = 0; j < V; ++j) {
            s[c * V + j] *= d;
            error[j] -= s[c * V + j] * key;
          }
        }
        for (std::size_t c = 0; c < K; ++c) {
          const double write = k[key_row(t) + c] * strength(t), read = p.scale * q[key_row(t) + c];
          for (std::size_t j = 0; j < V; ++j) {
            s[c * V + j] += write * error[j];
            r.output[value_row(t) + j] += read * s[c * V + j];
          }
        }
        states.push_back(std::move(s));
        errors.push_back(std::move(error));
      }

      Values ds(K * V);
      for (std::size_t i = 0; i < K * V; ++i) {
        r.final_state[state_at + i] = states.back()[i];
        if (p.with_state) ds[i] = p.final_state_grad[state_at + i];
      }
      for (std::int64_t t = end - 1; t >= begin; --t) {
        const Values& before = states[index(t - begin)];
        const Values& after = states[index(t - begin) + 1];
        const Values& error = errors[index(t - begin)];
        const double beta = strength(t);
        Values update_grad(V);
        for (std::size_t c = 0; c < K; ++c) {
          const double query = p.scale * q[key_row(t) + c], key = k[key_row(t) + c];
          double query_grad = 0, written = 0;
          for (std::size_t j = 0; j < V; ++j) {
            const double grad = p.output_grad[value_row(t) + j];
            query_grad += p.scale * after[c * V + j] * grad;
            ds[c * V + j] += query * grad;
            update_grad[j] += ds[c * V + j] * key;
            written += ds[c * V + j] * beta * error[j];
          }
          q_grad[key_row(t) + c] += query_grad;
          k_grad[key_row(t) + c] += written;
        }
        for (std::size_t j = 0; j < V; ++j) {
          r.beta_grad[index(t * p.value_heads + head)] += update_grad[j] * error[j];
          r.v_grad[value_row(t) + j] = beta * update_grad[j];
        }
        for (std::size_t c = 0; c < K; ++c) {
          const double d = decay(t, c), key = k[key_row(t) + c];
          double key_grad = 0, decay_grad = 0;
          for (std::size_t j = 0; j < V; ++j) {
            const double error_grad = beta * update_grad[j];
            double& grad = ds[c * V + j];
            key_grad -= d * before[c * V + j] * error_grad;
            grad -= key * error_grad;
            decay_grad += grad * d * before[c * V + j];
            grad *= d;
          }
          k_grad[key_row(t) + c] += key_grad;
          if (p.form == DecayForm::kNone) continue;
          const std::size_t at = index(t * p.value_heads + head);
          r.log_decay_grad[p.form == DecayForm::kPerToken ? at : at * K + c] += decay_grad;
        }
      }
      for (std::size_t i = 0; i < K * V; ++i) r.initial_state_grad[state_at + i] = ds[i];
    }
  }
  r.q_grad = unit_rows_gradient(p, p.q, q_grad);
  r.k_grad = unit_rows_gradient(p, p.k, k_grad);
  return r;
}

/// The library's memory for a problem.
struct Buffers {
  Memory q, k, v, beta, log_decay, initial_state, output_grad, final_state_grad;
  Memory output, final_state, q_grad, k_grad, v_grad, beta_grad, log_decay_grad, initial_state_grad;
  DeltaRuleInputs inputs;

  explicit Buffers(const Problem& p)
      : q(p.type, p.q),
        k(p.type, p.k),
        v(p.type, p.v),
        beta(state_type(p.type), p.beta),
        log_decay(state_type(p.type), p.log_decay),
        initial_state(state_type(p.type), p.initial_state),
        output_grad(p.type, p.output_grad),
        final_state_grad(state_type(p.type), p.final_state_grad),
        output(p.type, p.v.size()),
        final_state(state_type(p.type), index(p.state_size())),
        q_grad(p.type, p.q.size()),
        k_grad(p.type, p.k.size()),
        v_grad(p.type, p.v.size()),
        beta_grad(state_type(p.type), p.beta.size()),
        log_decay_grad(state_type(p.type), p.log_decay.size()),
        initial_state_grad(state_type(p.type), index(p.state_size())) {
    inputs.shape = {p.batch,   p.time,      p.heads, p.value_heads,
                    p.key_dim, p.value_dim, nullptr, p.sequences()};
    if (!p.offsets.empty()) inputs.shape.cu_seqlens = p.offsets.data();
    inputs.dtype = p.type;
    inputs.q = dense(q, p.time, p.heads, p.key_dim);
    inputs.k = dense(k, p.time, p.heads, p.key_dim);
    inputs.v = dense(v, p.time, p.value_heads, p.value_dim);
    inputs.beta = dense(beta, p.time, p.value_heads, 1);
    inputs.decay_form = p.form;
    inputs.log_decay = dense(log_decay, p.time, p.value_heads, p.decay_width());
    if (p.with_state) inputs.initial_state = initial_state.data();
    inputs.scale = p.scale;
    inputs.use_qk_l2norm = p.normalizes;
    inputs.l2norm_eps = Problem::kEps;
    inputs.chunk_size = p.chunk_size;
  }
  Buffers(const Buffers&) = delete;

  void forward(int threads = 1) {
    cpu::delta_rule_forward({inputs, output.data(), final_state.data()}, threads);
  }

  DeltaRuleBackward backward_problem() {
    DeltaRuleBackward problem;
    problem.inputs = inputs;
    problem.output_grad = output_grad.data();
    if (inputs.initial_state != nullptr) problem.final_state_grad = final_state_grad.data();
    problem.q_grad = q_grad.data();
    problem.k_grad = k_grad.data();
    problem.v_grad = v_grad.data();
    problem.beta_grad = beta_grad.data();
    if (inputs.decay_form != DecayForm::kNone) problem.log_decay_grad = log_decay_grad.data();
    problem.initial_state_grad = initial_state_grad.data();
    return problem;
  }

  void backward(int threads = 1) { cpu::delta_rule_backward(backward_problem(), threads); }

  bool same_results(const Buffers& other) const {
    return output == other.output && final_state == other.final_state && same_gradients(other);
  }
  bool same_gradients(const Buffers& other) const {
    return q_grad == other.q_grad && k_grad == other.k_grad && v_grad == other.v_grad &&
           beta_grad == other.beta_grad && log_decay_grad == other.log_decay_grad &&
           initial_state_grad == other.initial_state_grad;
  }
};

inline std::string describe(const Problem& p) {
  const char* forms[] = {"none", "head", "token", "channel"};
  return std::string(" (dtype ") + std::to_string(static_cast<int>(p.type)) + ", decay " +
         forms[static_cast<int>(p.form)] + ", B" + std::to_string(p.batch) + " T" +
         std::to_string(p.time) + " H" + std::to_string(p.heads) + "/" +
         std::to_string(p.value_heads) + " K" + std::to_string(p.key_dim) + " V" +
         std::to_string(p.value_dim) + (p.normalizes ? " normalised" : "") + " chunk " +
         std::to_string(p.chunk_size) + ")";
}

inline void check_forward(const Problem& p, const Results& expected, Buffers& buffers) {
  buffers.forward();
  close(buffers.output.values(), expected.output, tolerance_for(p.type), "output" + describe(p));
  close(buffers.final_state.values(), expected.final_state, tolerance_for(state_type(p.type)),
        "final_state" + describe(p));
}

inline void check_backward(const Problem& p, const Results& expected, Buffers& buffers) {
  buffers.backward();
  const double tolerance = tolerance_for(p.type), wide = tolerance_for(state_type(p.type));
  close(buffers.q_grad.values(), expected.q_grad, tolerance, "q_grad" + describe(p));
  close(buffers.k_grad.values(), expected.k_grad, tolerance, "k_grad" + describe(p));
  close(buffers.v_grad.values(), expected.v_grad, tolerance, "v_grad" + describe(p));
  close(buffers.beta_grad.values(), expected.beta_grad, wide, "beta_grad" + describe(p));
  close(buffers.initial_state_grad.values(), expected.initial_state_grad, wide,
        "initial_state_grad" + describe(p));
  if (p.form == DecayForm::kNone) return;
  close(buffers.log_decay_grad.values(), expected.log_decay_grad, wide,
        "log_decay_grad" + describe(p));
}

template <typename Body>
void for_each_problem(Body&& body) {
  struct Dims {
    std::int64_t batch, time, heads, value_heads, key_dim, value_dim;
  };
  const Dims dims[] = {{2, 37, 2, 2, 5, 7},    {1, 150, 2, 4, 64, 64}, {1, 1, 1, 1, 1, 1},
                       {2, 70, 1, 3, 48, 80},  {1, 130, 2, 2, 17, 33}, {1, 65, 1, 1, 100, 128},
                       {1, 20, 1, 2, 256, 16}, {1, 20, 1, 1, 7, 256}};
  unsigned seed = 0;
  for (const Dims& d : dims) {
    for (const DecayForm form : {DecayForm::kNone, DecayForm::kPerToken, DecayForm::kPerChannel}) {
      for (const DataType type :
           {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBFloat16}) {
        Problem p;
        p.type = type;
        p.form = form;
        p.batch = d.batch;
        p.time = d.time;
        p.heads = d.heads;
        p.value_heads = d.value_heads;
        p.key_dim = d.key_dim;
        p.value_dim = d.value_dim;
        p.with_state = seed % 2 == 0;
        p.normalizes = seed % 3 == 0;
        p.chunk_size = std::vector<int>{0, 16, 32, 64, 16}[seed % 5];
        p.fill(++seed);
        body(p);
      }
    }
  }
}

}  // namespace rankone::testing
