// The 2D selective scan as its recurrence states it, cell by cell in double, for tests: a problem
// with its random data, and the recurrence written once on a tape of operations, whose reverse-mode
// differentiation gives every gradient.
#pragma once

#include <array>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "rankone/selective_scan_2d.h"
#include "stored_values.h"

namespace rankone::testing {

using Rule = ScanDiscretization;
using Structure = ScanStructure;

// ---- a tape of double operations ----

class Tape {
 public:
  int push(double value, int a = -1, double by_a = 0, int b = -1, double by_b = 0) {
    values.push_back(value);
    operations.push_back({a, b, by_a, by_b});
    return static_cast<int>(values.size()) - 1;
  }

  /// Derivatives of the sum of seeds[i].second * seeds[i].first by every number.
  Values differentiate(const std::vector<std::pair<int, double>>& seeds) const {
    Values adjoints(values.size(), 0.0);
    for (const auto& [number, weight] : seeds) adjoints[index(number)] += weight;
    for (std::size_t i = values.size(); i-- > 0;) {
      const Operation& op = operations[i];
      if (op.a >= 0) adjoints[index(op.a)] += op.by_a * adjoints[i];
      if (op.b >= 0) adjoints[index(op.b)] += op.by_b * adjoints[i];
    }
    return adjoints;
  }

  void clear() {
    values.clear();
    operations.clear();
  }

  Values values;

 private:
  struct Operation {
    int a, b;
    double by_a, by_b;
  };
  std::vector<Operation> operations;
};

inline Tape tape;

struct Number {
  int at = -1;

  double value() const { return tape.values[index(at)]; }
};

inline Number constant(double value) { return {tape.push(value)}; }
inline Number operator+(Number a, Number b) {
  return {tape.push(a.value() + b.value(), a.at, 1, b.at, 1)};
}
inline Number operator*(Number a, Number b) {
  return {tape.push(a.value() * b.value(), a.at, b.value(), b.at, a.value())};
}
inline Number operator-(Number a, Number b) {
  return {tape.push(a.value() - b.value(), a.at, 1, b.at, -1)};
}
inline Number unary(Number a, double value, double slope) {
  return {tape.push(value, a.at, slope)};
}
inline Number exponential(Number a) { return unary(a, std::exp(a.value()), std::exp(a.value())); }
/// 1 - exp(-a)
inline Number moved_share(Number a) {
  return unary(a, -std::expm1(-a.value()), std::exp(-a.value()));
}
inline Number softplus(Number a) {
  if (a.value() > 20) return a;
  return unary(a, std::log1p(std::exp(a.value())), 1 / (1 + std::exp(-a.value())));
}
inline Number silu(Number a) {
  const double s = 1 / (1 + std::exp(-a.value()));
  return unary(a, a.value() * s, s * (1 + a.value() * (1 - s)));
}
/// (exp(z) - 1) / z
inline Number phi(Number a) {
  const double z = a.value();
  const double value = z == 0 ? 1 : std::expm1(z) / z;
  const double slope =
      std::fabs(z) < 1e-2
          ? 0.5 + z * (1. / 3 + z * (1. / 8 + z * (1. / 30 + z * (1. / 144 + z / 840))))
          : (std::exp(z) - value) / z;
  return unary(a, value, slope);
}

// ---- tensors ----

/// Memory order of a (batch, rows, columns, channels, states) tensor.
enum class Layout {
  kChannelLast,  // as listed
  kColumnLast,   // (batch, channels, states, rows, columns), as mamba-ssm's
  kSpread,       // as listed, with gaps, channels reversed in memory
};

struct Cells {
  std::array<std::int64_t, 5> sizes{}, strides{};
  std::int64_t offset = 0, length = 0;

  Cells() = default;
  Cells(const std::array<std::int64_t, 5>& dims, Layout layout) : sizes(dims) {
    const std::array<int, 5> order = layout == Layout::kColumnLast
                                         ? std::array<int, 5>{0, 3, 4, 1, 2}
                                         : std::array<int, 5>{0, 1, 2, 3, 4};
    length = 1;
    for (int i = 4; i >= 0; --i) {
      const std::size_t axis = index(order[index(i)]);
      if (layout == Layout::kSpread && i % 2 == 0) ++length;
      strides[axis] = length;
      length = strides[axis] * sizes[axis];
    }
    if (layout == Layout::kSpread) {
      offset = (sizes[3] - 1) * strides[3];
      strides[3] = -strides[3];
    }
    length += 1;
  }

  std::int64_t count() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3] * sizes[4]; }

  /// Where element i, in listed order, lies.
  std::size_t place(std::int64_t i) const {
    std::int64_t at = offset;
    for (int axis = 4; axis >= 0; --axis) {
      at += i % sizes[index(axis)] * strides[index(axis)];
      i /= sizes[index(axis)];
    }
    return index(at);
  }
};

// ---- a problem ----

enum Tensor { kX, kDt1, kDt2, kZ, kB1, kB2, kC1, kC2, kCellTensors };
enum Parameter { kA1, kA2, kA3, kA4, kD, kDt1Bias, kDt2Bias, kGamma, kParameters };
enum Border { kColumnH1, kColumnH2, kRowH1, kRowH2, kBorders };
inline const char* const kTensorNames[] = {"x", "dt1", "dt2", "z", "B1", "B2", "C1", "C2"};
inline const char* const kParameterNames[] = {"A1", "A2",       "A3",       "A4",
                                              "D",  "dt1_bias", "dt2_bias", "gamma"};
inline const char* const kBorderNames[] = {"column_h1", "column_h2", "row_h1", "row_h2"};

struct Problem {
  DataType type = DataType::kFloat64;
  std::int64_t batch = 1, rows = 1, columns = 1, channels = 1, states = 1;
  Rule rule = Rule::kZoh;
  Structure structure = Structure::kDiagonal;
  bool single = false, softplus = false, reverse_rows = false, reverse_columns = false;
  std::int64_t heads1 = 0, heads2 = 0;  // 0: one a channel
  std::array<std::int64_t, 4> groups{1, 1, 1, 1};
  bool gated = false, skips = false, biased = false, one_rate = false;
  bool coupled2 = true, coupled3 = true;  // A2, A3 given
  bool with_states = false;
  Layout layout = Layout::kChannelLast;
  double step = 0.4;  // mean dt

  std::array<Values, kCellTensors> tensors;
  std::array<Values, kParameters> parameters;
  std::array<Values, kBorders> initial, final_grad;
  Values y_grad;

  bool stepped() const { return rule != Rule::kNone; }
  std::int64_t heads(int tensor) const {
    const std::int64_t given = tensor == kDt1 ? heads1 : heads2;
    return given == 0 ? channels : given;
  }
  bool has(int tensor) const {
    switch (tensor) {
      case kDt1:
        return stepped();
      case kDt2:
        return stepped() && !single;
      case kZ:
        return gated;
      case kB2:
      case kC2:
        return !single;
      default:
        return true;
    }
  }
  bool is_static(int tensor) const { return tensor >= kB1 && groups[index(tensor - kB1)] == 0; }
  std::array<std::int64_t, 5> sizes(int tensor) const {
    if (!has(tensor)) return {0, 0, 0, 0, 0};
    if (is_static(tensor)) return {1, 1, 1, channels, states};
    if (tensor >= kB1) return {batch, rows, columns, groups[index(tensor - kB1)], states};
    const std::int64_t last = tensor == kDt1 || tensor == kDt2 ? heads(tensor) : channels;
    return {batch, rows, columns, last, 1};
  }
  Cells cells(int tensor) const { return {sizes(tensor), layout}; }
  Cells y_cells() const { return {{batch, rows, columns, channels, 1}, layout}; }
  DataType type_of(int tensor) const { return is_static(tensor) ? state_type(type) : type; }

  bool has_parameter(int p) const {
    switch (p) {
      case kA1:
        return true;
      case kA2:
        return !single && coupled2;
      case kA3:
        return !single && coupled3;
      case kA4:
        return !single;
      case kD:
        return skips;
      case kDt1Bias:
        return biased && stepped();
      case kDt2Bias:
        return biased && stepped() && !single;
      default:
        return structure == Structure::kCompanion && !single && coupled2;
    }
  }
  std::int64_t parameter_size(int p) const {
    if (!has_parameter(p)) return 0;
    if (p <= kA4) return channels * states;
    return p == kDt1Bias ? heads(kDt1) : p == kDt2Bias ? heads(kDt2) : channels;
  }
  std::int64_t border_size(int border) const {
    if (single && border != kColumnH1) return 0;
    return batch * (border <= kColumnH2 ? rows : columns) * channels * states;
  }

  /// Random data, rounded to the storage types so that both sides read the same numbers. Rates and
  /// couplings are stable; under kNone and kExp too.
  void fill(unsigned seed) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    const auto rounded = [](DataType storage, const Values& values) {
      return Memory(storage, values).values();
    };
    const auto make = [&](DataType storage, std::int64_t count, const auto& draw) {
      Values values(index(count));
      for (double& value : values) value = draw();
      return rounded(storage, values);
    };
    const auto gauss = [&] { return normal(engine); };
    for (int k = 0; k < kCellTensors; ++k) {
      const bool dt = k == kDt1 || k == kDt2;
      tensors[index(k)] = make(type_of(k), Cells(sizes(k), Layout::kChannelLast).count(), [&] {
        return !dt ? normal(engine) : softplus ? normal(engine) - 1 : 2 * step * uniform(engine);
      });
    }
    const DataType wide = state_type(type);
    const bool none = rule == Rule::kNone, exp = rule == Rule::kExp;
    for (int p = 0; p < kParameters; ++p) {
      const bool own = p == kA1 || p == kA4, other = p == kA2 || p == kA3;
      parameters[index(p)] = make(wide, parameter_size(p), [&] {
        const double u = uniform(engine);
        if (p == kDt1Bias || p == kDt2Bias) return 0.3 * u;
        if (p == kGamma) return u - 0.5;
        if (structure == Structure::kCompanion && p <= kA2) return (2 * u - 1) / states;
        if (own) return none ? 0.8 * u - 0.2 : -0.3 - 2 * u;
        if (other) return none ? 0.4 * u - 0.2 : exp ? -3 - 4 * u : 0.6 * u - 0.3;
        return normal(engine);
      });
      if (one_rate && p <= kA4 && has_parameter(p)) {
        Values& a = parameters[index(p)];
        for (std::int64_t i = 0; i < channels * states; ++i) {
          a[index(i)] = a[index(i / states * states)];
        }
      }
    }
    y_grad = make(type, batch * rows * columns * channels, gauss);
    for (int k = 0; k < kBorders; ++k) {
      if (!with_states) continue;
      initial[index(k)] = make(wide, border_size(k), gauss);
      final_grad[index(k)] = make(wide, border_size(k), gauss);
    }
  }
};

struct Results {
  Values y;
  std::array<Values, kBorders> final_states, initial_grad;
  std::array<Values, kCellTensors> tensor_grads;
  std::array<Values, kParameters> parameter_grads;
};

// ---- the recurrence ----

/// One cell of one channel: from the states to the left (h1, h2) and above to the cell's own.
struct CellStates {
  std::vector<Number> h1, h2;
};

inline CellStates advance(const Problem& p, const CellStates& left, const CellStates& above,
                          Number dt1, Number dt2, Number x,
                          const std::array<std::vector<Number>, 4>& A, Number gamma,
                          const std::vector<Number>& B1, const std::vector<Number>& B2) {
  const std::size_t N = index(p.states);
  CellStates result{std::vector<Number>(N), std::vector<Number>(N)};
  const auto held = [&](Number dt, Number a) {
    return p.rule == Rule::kMamba ? dt : dt * phi(dt * a);
  };
  for (std::size_t n = 0; n < N; ++n) {
    if (p.structure == Structure::kCompanion) {
      const auto companion = [&](const std::vector<Number>& a, const std::vector<Number>& h) {
        const Number last = a[n] * h[N - 1];
        return n == 0 ? last : last + h[n - 1];
      };
      const Number g = moved_share(dt1);
      Number target = companion(A[0], left.h1) + B1[n] * x;
      if (!p.single && p.coupled2) target = target + gamma * companion(A[1], left.h2);
      result.h1[n] = left.h1[n] + g * (target - left.h1[n]);
    } else if (p.rule == Rule::kNone) {
      result.h1[n] = A[0][n] * left.h1[n] + B1[n] * x;
      if (!p.single && p.coupled2) result.h1[n] = result.h1[n] + A[1][n] * left.h2[n];
    } else {
      const Number G = held(dt1, A[0][n]);
      result.h1[n] = exponential(dt1 * A[0][n]) * left.h1[n] + G * (B1[n] * x);
      if (!p.single && p.coupled2) {
        const Number A2 = p.rule == Rule::kExp ? exponential(dt1 * A[1][n]) : G * A[1][n];
        result.h1[n] = result.h1[n] + A2 * left.h2[n];
      }
    }
    if (p.single) continue;
    if (p.rule == Rule::kNone) {
      result.h2[n] = A[3][n] * above.h2[n] + B2[n] * x;
      if (p.coupled3) result.h2[n] = result.h2[n] + A[2][n] * above.h1[n];
    } else {
      const Number G = held(dt2, A[3][n]);
      result.h2[n] = exponential(dt2 * A[3][n]) * above.h2[n] + G * (B2[n] * x);
      if (p.coupled3) {
        const Number A3 = p.rule == Rule::kExp ? exponential(dt2 * A[2][n]) : G * A[2][n];
        result.h2[n] = result.h2[n] + A3 * above.h1[n];
      }
    }
  }
  return result;
}

inline Results recurrence(const Problem& p) {
  tape.clear();
  const std::int64_t R = p.rows, T = p.columns, D = p.channels, N = p.states;
  const auto record = [](const Values& values) {
    std::vector<Number> numbers;
    for (const double value : values) numbers.push_back(constant(value));
    return numbers;
  };
  std::array<std::vector<Number>, kCellTensors> tensors;
  std::array<std::vector<Number>, kParameters> parameters;
  std::array<std::vector<Number>, kBorders> initial, final_states;
  for (std::size_t k = 0; k < kCellTensors; ++k) tensors[k] = record(p.tensors[k]);
  for (std::size_t k = 0; k < kParameters; ++k) parameters[k] = record(p.parameters[k]);
  for (std::size_t k = 0; k < kBorders; ++k) {
    initial[k] = record(p.initial[k]);
    final_states[k].resize(index(p.border_size(static_cast<int>(k))));
  }
  std::vector<Number> y(p.y_grad.size());
  const Number zero = constant(0), one = constant(1);

  for (std::int64_t b = 0; b < p.batch; ++b) {
    for (std::int64_t d = 0; d < D; ++d) {
      std::array<std::vector<Number>, 4> A;
      for (std::size_t k = 0; k < 4; ++k) {
        if (!p.has_parameter(static_cast<int>(k))) continue;
        for (std::int64_t n = 0; n < N; ++n) A[k].push_back(parameters[k][index(d * N + n)]);
      }
      // In scan order; `length` cells of a border.
      const auto border = [&](const std::vector<Number>& h1, const std::vector<Number>& h2,
                              std::int64_t length) {
        std::vector<CellStates> states(index(length));
        for (std::int64_t i = 0; i < length; ++i) {
          for (std::int64_t n = 0; n < N; ++n) {
            const std::size_t at = index(((b * length + i) * D + d) * N + n);
            states[index(i)].h1.push_back(h1.empty() ? zero : h1[at]);
            states[index(i)].h2.push_back(h2.empty() ? zero : h2[at]);
          }
        }
        return states;
      };
      std::vector<CellStates> left = border(initial[kColumnH1], initial[kColumnH2], R);
      std::vector<CellStates> above = border(initial[kRowH1], initial[kRowH2], T);
      for (std::int64_t i = 0; i < R; ++i) {
        for (std::int64_t j = 0; j < T; ++j) {
          const std::int64_t v = p.reverse_rows ? R - 1 - i : i;
          const std::int64_t t = p.reverse_columns ? T - 1 - j : j;
          const std::int64_t cell = (b * R + v) * T + t;
          const auto step = [&](int tensor, int bias) {
            if (!p.has(tensor)) return zero;
            const std::int64_t heads = p.heads(tensor), head = d / (D / heads);
            Number dt = tensors[index(tensor)][index(cell * heads + head)];
            if (p.has_parameter(bias)) dt = dt + parameters[index(bias)][index(head)];
            return p.softplus ? softplus(dt) : dt;
          };
          const auto vector = [&](int tensor) {
            std::vector<Number> result;
            if (!p.has(tensor)) return result;
            const std::int64_t groups = p.groups[index(tensor - kB1)];
            const std::int64_t row = groups == 0 ? d : cell * groups + d / (D / groups);
            for (std::int64_t n = 0; n < N; ++n) {
              result.push_back(tensors[index(tensor)][index(row * N + n)]);
            }
            return result;
          };
          const Number x = tensors[kX][index(cell * D + d)];
          const Number gamma = p.has_parameter(kGamma) ? parameters[kGamma][index(d)] : one;
          const CellStates own =
              advance(p, left[index(i)], above[index(j)], step(kDt1, kDt1Bias),
                      step(kDt2, kDt2Bias), x, A, gamma, vector(kB1), vector(kB2));
          const std::vector<Number> C1 = vector(kC1), C2 = vector(kC2);
          Number sum = p.skips ? parameters[kD][index(d)] * x : zero;
          for (std::size_t n = 0; n < index(N); ++n) {
            sum = sum + C1[n] * own.h1[n];
            if (!p.single) sum = sum + C2[n] * own.h2[n];
          }
          if (p.gated) sum = sum * silu(tensors[kZ][index(cell * D + d)]);
          y[index(cell * D + d)] = sum;
          left[index(i)] = own;
          if (!p.single) above[index(j)] = own;
        }
      }
      const auto keep = [&](Border which, const std::vector<CellStates>& states, bool first) {
        if (p.border_size(which) == 0) return;
        const std::int64_t length = static_cast<std::int64_t>(states.size());
        for (std::int64_t i = 0; i < length; ++i) {
          for (std::int64_t n = 0; n < N; ++n) {
            final_states[which][index(((b * length + i) * D + d) * N + n)] =
                first ? states[index(i)].h1[index(n)] : states[index(i)].h2[index(n)];
          }
        }
      };
      keep(kColumnH1, left, true);
      keep(kColumnH2, left, false);
      keep(kRowH1, above, true);
      keep(kRowH2, above, false);
    }
  }

  std::vector<std::pair<int, double>> seeds;
  for (std::size_t i = 0; i < y.size(); ++i) seeds.emplace_back(y[i].at, p.y_grad[i]);
  for (std::size_t k = 0; k < kBorders; ++k) {
    for (std::size_t i = 0; i < p.final_grad[k].size(); ++i) {
      seeds.emplace_back(final_states[k][i].at, p.final_grad[k][i]);
    }
  }
  const Values adjoints = tape.differentiate(seeds);
  const auto values_of = [](const std::vector<Number>& numbers) {
    Values values;
    for (const Number& number : numbers) values.push_back(number.value());
    return values;
  };
  const auto grads_of = [&](const std::vector<Number>& numbers) {
    Values values;
    for (const Number& number : numbers) values.push_back(adjoints[index(number.at)]);
    return values;
  };
  Results r;
  r.y = values_of(y);
  for (std::size_t k = 0; k < kBorders; ++k) {
    r.final_states[k] = values_of(final_states[k]);
    r.initial_grad[k] = grads_of(initial[k]);
  }
  for (std::size_t k = 0; k < kCellTensors; ++k) r.tensor_grads[k] = grads_of(tensors[k]);
  for (std::size_t k = 0; k < kParameters; ++k) r.parameter_grads[k] = grads_of(parameters[k]);
  return r;
}

}  // namespace rankone::testing
