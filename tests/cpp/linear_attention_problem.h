// A problem of linear attention, its results by the recurrence, one token at a time in double, and
// by its adjoint, and the library's memory for it.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "rankone/linear_attention.h"
#include "stored_values.h"

namespace rankone::testing {

struct Problem {
  DataType type = DataType::kFloat32;
  std::int64_t batch = 1, time = 1, heads = 1, kv_heads = 1, key_dim = 1, value_dim = 1;
  bool ones = false;
  DecayForm form = DecayForm::kNone;
  int chunk_size = 0;
  double scale = 0.3;
  std::vector<std::int64_t> offsets;  // empty: not packed
  bool with_state = false;            // an initial state and a gradient of the final state
  double mean_decay = 0.2, resets = 0.0;

  Values q, k, v, log_decay, initial_state, output_grad, final_state_grad;

  std::int64_t columns() const { return value_dim + (ones ? 1 : 0); }
  std::int64_t sequences() const {
    return offsets.empty() ? batch : static_cast<std::int64_t>(offsets.size()) - 1;
  }
  std::int64_t state_size() const { return sequences() * kv_heads * key_dim * columns(); }
  std::int64_t decay_size() const {
    switch (form) {
      case DecayForm::kNone:
        return 0;
      case DecayForm::kPerHead:
        return kv_heads;
      case DecayForm::kPerToken:
        return batch * time * kv_heads;
      case DecayForm::kPerChannel:
        break;
    }
    return batch * time * kv_heads * key_dim;
  }
  double log_decay_at(std::int64_t token, std::int64_t head, std::int64_t channel) const {
    switch (form) {
      case DecayForm::kNone:
        return 0;
      case DecayForm::kPerHead:
        return log_decay[static_cast<std::size_t>(head)];
      case DecayForm::kPerToken:
        return log_decay[static_cast<std::size_t>(token * kv_heads + head)];
      case DecayForm::kPerChannel:
        break;
    }
    return log_decay[static_cast<std::size_t>((token * kv_heads + head) * key_dim + channel)];
  }

  /// Random data, rounded to the storage types so that both sides read the same numbers.
  void fill(unsigned seed) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    const auto random = [&](std::int64_t count, DataType storage) {
      Values values(static_cast<std::size_t>(count));
      for (double& value : values) value = normal(engine);
      return Memory(storage, values).values();
    };
    const DataType wide = state_type(type);
    q = random(batch * time * heads * key_dim, type);
    k = random(batch * time * kv_heads * key_dim, type);
    v = random(batch * time * kv_heads * value_dim, type);
    output_grad = random(batch * time * heads * columns(), ones ? wide : type);
    log_decay.assign(static_cast<std::size_t>(decay_size()), 0);
    for (double& g : log_decay) {
      g = -2 * mean_decay * uniform(engine);
      if (uniform(engine) < resets) g = -kInfinity;
    }
    log_decay = Memory(wide, log_decay).values();
    if (with_state) {
      initial_state = random(state_size(), wide);
      final_state_grad = random(state_size(), wide);
    }
  }
};

struct Results {
  Values output, final_state, q_grad, k_grad, v_grad, log_decay_grad, initial_state_grad;
};

inline Results recurrence(const Problem& p) {
  const std::size_t K = static_cast<std::size_t>(p.key_dim);
  const std::size_t V = static_cast<std::size_t>(p.columns());
  const std::size_t group = static_cast<std::size_t>(p.heads / p.kv_heads);
  Results r;
  r.output.assign(p.output_grad.size(), 0);
  r.q_grad.assign(p.q.size(), 0);
  r.k_grad.assign(p.k.size(), 0);
  r.v_grad.assign(p.v.size(), 0);
  r.final_state.assign(static_cast<std::size_t>(p.state_size()), 0);
  r.initial_state_grad = r.final_state;
  const std::int64_t decay_grads =
      p.form == DecayForm::kPerHead ? p.sequences() * p.kv_heads : p.decay_size();
  r.log_decay_grad.assign(static_cast<std::size_t>(decay_grads), 0);

  for (std::int64_t n = 0; n < p.sequences(); ++n) {
    const std::int64_t begin =
        p.offsets.empty() ? n * p.time : p.offsets[static_cast<std::size_t>(n)];
    const std::int64_t end =
        p.offsets.empty() ? begin + p.time : p.offsets[static_cast<std::size_t>(n) + 1];
    for (std::int64_t head = 0; head < p.kv_heads; ++head) {
      const std::size_t state_at =
          static_cast<std::size_t>((n * p.kv_heads + head) * p.key_dim * p.columns());
      std::vector<Values> states{Values(K * V)};
      if (p.with_state) {
        for (std::size_t i = 0; i < K * V; ++i) states[0][i] = p.initial_state[state_at + i];
      }
      const auto key = [&](std::int64_t t, std::size_t c) {
        return p.k[static_cast<std::size_t>(t * p.kv_heads + head) * K + c];
      };
      const auto value = [&](std::int64_t t, std::size_t j) {
        if (j >= static_cast<std::size_t>(p.value_dim)) return 1.0;
        return p.v[static_cast<std::size_t>((t * p.kv_heads + head) * p.value_dim) + j];
      };
      for (std::int64_t t = begin; t < end; ++t) {
        Values s = states.back();
        for (std::size_t c = 0; c < K; ++c) {
          const double decay = std::exp(p.log_decay_at(t, head, static_cast<std::int64_t>(c)));
          for (std::size_t j = 0; j < V; ++j) {
            s[c * V + j] = decay * s[c * V + j] + key(t, c) * value(t, j);
          }
        }
        for (std::size_t g = 0; g < group; ++g) {
          const std::size_t row =
              static_cast<std::size_t>(t * p.heads) + static_cast<std::size_t>(head) * group + g;
          for (std::size_t c = 0; c < K; ++c) {
            for (std::size_t j = 0; j < V; ++j) {
              r.output[row * V + j] += p.scale * p.q[row * K + c] * s[c * V + j];
              r.q_grad[row * K + c] += p.scale * s[c * V + j] * p.output_grad[row * V + j];
            }
          }
        }
        states.push_back(std::move(s));
      }
      Values ds(K * V);
      for (std::size_t i = 0; i < K * V; ++i) {
        r.final_state[state_at + i] = states.back()[i];
        if (p.with_state) ds[i] = p.final_state_grad[state_at + i];
      }
      for (std::int64_t t = end - 1; t >= begin; --t) {
        for (std::size_t g = 0; g < group; ++g) {
          const std::size_t row =
              static_cast<std::size_t>(t * p.heads) + static_cast<std::size_t>(head) * group + g;
          for (std::size_t c = 0; c < K; ++c) {
            for (std::size_t j = 0; j < V; ++j) {
              ds[c * V + j] += p.scale * p.q[row * K + c] * p.output_grad[row * V + j];
            }
          }
        }
        const Values& before = states[static_cast<std::size_t>(t - begin)];
        for (std::size_t c = 0; c < K; ++c) {
          const double decay = std::exp(p.log_decay_at(t, head, static_cast<std::int64_t>(c)));
          double decay_grad = 0;
          for (std::size_t j = 0; j < V; ++j) {
            double& d = ds[c * V + j];
            r.k_grad[static_cast<std::size_t>(t * p.kv_heads + head) * K + c] += d * value(t, j);
            if (j < static_cast<std::size_t>(p.value_dim)) {
              r.v_grad[static_cast<std::size_t>((t * p.kv_heads + head) * p.value_dim) + j] +=
                  d * key(t, c);
            }
            decay_grad += d * decay * before[c * V + j];
            d *= decay;
          }
          const std::size_t token_head = static_cast<std::size_t>(t * p.kv_heads + head);
          if (p.form == DecayForm::kPerHead) {
            r.log_decay_grad[static_cast<std::size_t>(n * p.kv_heads + head)] += decay_grad;
          } else if (p.form == DecayForm::kPerToken) {
            r.log_decay_grad[token_head] += decay_grad;
          } else if (p.form == DecayForm::kPerChannel) {
            r.log_decay_grad[token_head * K + c] += decay_grad;
          }
        }
      }
      for (std::size_t i = 0; i < K * V; ++i) r.initial_state_grad[state_at + i] = ds[i];
    }
  }
  return r;
}

/// The library's memory for a problem.
struct Buffers {
  Memory q, k, v, log_decay, initial_state, output_grad, final_state_grad;
  Memory output, final_state, q_grad, k_grad, v_grad, log_decay_grad, initial_state_grad;
  LinearAttentionInputs inputs;

  explicit Buffers(const Problem& p)
      : q(p.type, p.q),
        k(p.type, p.k),
        v(p.type, p.v),
        log_decay(state_type(p.type), p.log_decay),
        initial_state(state_type(p.type), p.initial_state),
        output_grad(p.ones ? state_type(p.type) : p.type, p.output_grad),
        final_state_grad(state_type(p.type), p.final_state_grad),
        output(p.ones ? state_type(p.type) : p.type, p.output_grad.size()),
        final_state(state_type(p.type), static_cast<std::size_t>(p.state_size())),
        q_grad(p.type, p.q.size()),
        k_grad(p.type, p.k.size()),
        v_grad(p.type, p.v.size()),
        log_decay_grad(state_type(p.type), static_cast<std::size_t>(p.form == DecayForm::kPerHead
                                                                        ? p.sequences() * p.kv_heads
                                                                        : p.decay_size())),
        initial_state_grad(state_type(p.type), static_cast<std::size_t>(p.state_size())) {
    inputs.shape = {p.batch,     p.time, p.heads, p.kv_heads,   p.key_dim,
                    p.value_dim, p.ones, nullptr, p.sequences()};
    if (!p.offsets.empty()) inputs.shape.cu_seqlens = p.offsets.data();
    inputs.dtype = p.type;
    inputs.q = dense(q, p.time, p.heads, p.key_dim);
    inputs.k = dense(k, p.time, p.kv_heads, p.key_dim);
    inputs.v = dense(v, p.time, p.kv_heads, p.value_dim);
    inputs.decay_form = p.form;
    inputs.log_decay =
        dense(log_decay, p.time, p.kv_heads, p.form == DecayForm::kPerChannel ? p.key_dim : 1);
    if (p.with_state) inputs.initial_state = initial_state.data();
    inputs.scale = p.scale;
    inputs.chunk_size = p.chunk_size;
  }
  Buffers(const Buffers&) = delete;

  void forward(int threads = 1) {
    cpu::linear_attention_forward({inputs, output.data(), final_state.data()}, threads);
  }

  void backward(int threads = 1) {
    LinearAttentionBackward problem;
    problem.inputs = inputs;
    problem.output_grad = output_grad.data();
    if (inputs.initial_state != nullptr) problem.final_state_grad = final_state_grad.data();
    problem.q_grad = q_grad.data();
    problem.k_grad = k_grad.data();
    problem.v_grad = v_grad.data();
    if (inputs.decay_form != DecayForm::kNone) problem.log_decay_grad = log_decay_grad.data();
    problem.initial_state_grad = initial_state_grad.data();
    cpu::linear_attention_backward(problem, threads);
  }
};

inline std::string describe(const Problem& p) {
  const char* forms[] = {"none", "head", "token", "channel"};
  return std::string(" (dtype ") + std::to_string(static_cast<int>(p.type)) + ", decay " +
         forms[static_cast<int>(p.form)] + ", B" + std::to_string(p.batch) + " T" +
         std::to_string(p.time) + " H" + std::to_string(p.heads) + "/" +
         std::to_string(p.kv_heads) + " K" + std::to_string(p.key_dim) + " V" +
         std::to_string(p.value_dim) + (p.ones ? "+1" : "") + " chunk " +
         std::to_string(p.chunk_size) + ")";
}

inline void check_forward(const Problem& p, const Results& expected, Buffers& buffers) {
  buffers.forward();
  const DataType output_type = p.ones ? state_type(p.type) : p.type;
  close(buffers.output.values(), expected.output, tolerance_for(output_type),
        "output" + describe(p));
  close(buffers.final_state.values(), expected.final_state, tolerance_for(state_type(p.type)),
        "final_state" + describe(p));
}

inline void check_backward(const Problem& p, const Results& expected, Buffers& buffers) {
  buffers.backward();
  const double tolerance = tolerance_for(p.type);
  const double wide = tolerance_for(state_type(p.type));
  close(buffers.q_grad.values(), expected.q_grad, tolerance, "q_grad" + describe(p));
  close(buffers.k_grad.values(), expected.k_grad, tolerance, "k_grad" + describe(p));
  close(buffers.v_grad.values(), expected.v_grad, tolerance, "v_grad" + describe(p));
  close(buffers.initial_state_grad.values(), expected.initial_state_grad, wide,
        "initial_state_grad" + describe(p));
  if (p.form == DecayForm::kNone) return;
  // The formula sums q dq - k dk over later tokens: what it may lose is measured against the size
  // of those terms, summed the same way (a shared decay sums once more, over time).
  Values terms(p.q.size());
  for (std::size_t i = 0; i < terms.size(); ++i) terms[i] = p.q[i] * expected.q_grad[i];
  const double spread = std::sqrt(static_cast<double>(p.time));
  const double lost = norm(terms) * (p.form == DecayForm::kPerHead ? spread * spread : spread);
  close(buffers.log_decay_grad.values(), expected.log_decay_grad, wide,
        "log_decay_grad" + describe(p), lost);
}

template <typename Body>
void for_each_problem(Body&& body) {
  struct Dims {
    std::int64_t batch, time, heads, kv_heads, key_dim, value_dim;
  };
  const Dims dims[] = {{2, 37, 2, 2, 5, 7},    {1, 150, 4, 2, 64, 64}, {1, 1, 1, 1, 1, 1},
                       {2, 70, 3, 1, 48, 80},  {1, 130, 2, 2, 17, 33}, {1, 65, 1, 1, 100, 128},
                       {1, 20, 2, 1, 256, 16}, {1, 20, 1, 1, 7, 256}};
  unsigned seed = 0;
  for (const Dims& d : dims) {
    for (const DecayForm form :
         {DecayForm::kNone, DecayForm::kPerHead, DecayForm::kPerToken, DecayForm::kPerChannel}) {
      for (const DataType type :
           {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBFloat16}) {
        Problem p;
        p.type = type;
        p.form = form;
        p.batch = d.batch;
        p.time = d.time;
        p.heads = d.heads;
        p.kv_heads = d.kv_heads;
        p.key_dim = d.key_dim;
        p.value_dim = d.value_dim;
        p.with_state = seed % 2 == 0;
        p.ones = seed % 3 == 0;
        p.chunk_size = std::vector<int>{0, 16, 32, 64, 128}[seed % 5];
        p.fill(++seed);
        body(p);
      }
    }
  }
}

}  // namespace rankone::testing
