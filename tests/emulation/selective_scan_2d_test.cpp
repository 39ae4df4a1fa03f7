// The CUDA kernels of the 2D selective scan, run by the SIMT emulation, against the plain
// recurrence and its adjoint in double, cell by cell with all states kept.
#include "rankone/selective_scan_2d.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cpp/check.h"
#include "simt.h"
#include "token_tensors.h"

namespace {

using namespace token_tensors;

using rankone::CellTensor;
using rankone::ScanDiscretization;
using rankone::ScanParameter;
using rankone::ScanStructure;
using rankone::SelectiveScan2dBackward;
using rankone::SelectiveScan2dForward;
using rankone::SelectiveScan2dInputs;
using rankone::SelectiveScan2dStep;

using Values = std::vector<double>;

struct Problem {
  ScanDiscretization discretization = ScanDiscretization::kZoh;
  ScanStructure structure = ScanStructure::kDiagonal;
  DataType dtype = DataType::kFloat32;
  int64_t batch = 2, rows = 5, columns = 7, channels = 6, states = 4;
  int64_t heads[2] = {0, 0};         // 0: one a channel
  int64_t groups[4] = {1, 1, 1, 1};  // of B1, B2, C1, C2; 0: static
  bool scalar_a = false;             // A is (channels, 1)
  bool coupled[2] = {true, true};    // A2, A3 given
  bool single = false;
  bool skip = true, gate = true, bias = true, softplus = true, gamma = true;
  bool reverse_rows = false, reverse_columns = false;
  bool initial_states = true, final_states_grad = true;
  bool scattered = false;   // cells in (columns, batch, channels, rows) order, last axis strided
  double step_scale = 1.0;  // without softplus: steps are uniform below it
  double zero_a = 0.0;      // share of A1 and A4 that is zero
  unsigned seed = 1;

  int64_t head_count(int kind) const { return heads[kind] == 0 ? channels : heads[kind]; }
  bool has_steps() const { return discretization != ScanDiscretization::kNone; }
  bool companion() const { return structure == ScanStructure::kCompanion; }
  int64_t cells() const { return batch * rows * columns; }
  std::string describe() const {
    std::ostringstream text;
    text << "discretization " << static_cast<int>(discretization)
         << (companion() ? " companion" : "") << " dtype " << static_cast<int>(dtype) << " grid "
         << batch << "x" << rows << "x" << columns << "x" << channels << " states " << states
         << " heads " << heads[0] << "," << heads[1] << " groups " << groups[0] << "," << groups[1]
         << "," << groups[2] << "," << groups[3] << (scalar_a ? " scalar" : "")
         << (single ? " single" : "") << " coupled " << coupled[0] << coupled[1] << " reverse "
         << reverse_rows << reverse_columns << " seed " << seed << ": ";
    return text.str();
  }
};

/// A (batch, rows, columns, fourth[, states]) tensor in memory, and its values in double.
struct Cells {
  std::array<int64_t, 5> sizes{};
  std::array<int64_t, 5> strides{};
  int64_t elements = 0;
  DataType dtype = DataType::kFloat32;
  std::vector<std::byte> storage;

  Cells() = default;
  Cells(std::array<int64_t, 5> shape, DataType type, bool scattered) : sizes(shape), dtype(type) {
    // Order of the axes from the slowest on; scattered: batch inside columns, rows innermost but
    // one, and a gap between neighbours.
    const std::array<int, 5> plain{0, 1, 2, 3, 4}, mixed{2, 0, 4, 3, 1};
    int64_t stride = scattered ? 2 : 1;
    const std::array<int, 5>& order = scattered ? mixed : plain;
    for (int i = 4; i >= 0; --i) {
      strides[order[i]] = stride;
      stride *= sizes[order[i]];
    }
    elements = stride;
    storage.assign(static_cast<std::size_t>(elements * size_of(type)), std::byte{0xff});
  }
  int64_t count() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3] * sizes[4]; }
  int64_t place(int64_t index) const {
    int64_t offset = 0;
    for (int axis = 4; axis >= 0; --axis) {
      offset += index % sizes[axis] * strides[axis];
      index /= sizes[axis];
    }
    return offset;
  }
  void write(Values& values) {
    for (int64_t i = 0; i < count(); ++i) {
      values[i] = round_to(dtype, values[i]);
      write_element(storage.data() + place(i) * size_of(dtype), dtype, values[i]);
    }
  }
  Values read() const {
    Values values(static_cast<std::size_t>(count()));
    for (int64_t i = 0; i < count(); ++i) {
      values[i] = read_element(storage.data() + place(i) * size_of(dtype), dtype);
    }
    return values;
  }
  template <typename Pointer>
  CellTensor<Pointer> view() {
    if (elements == 0) return {};
    return {storage.data(), strides[0], strides[1], strides[2], strides[3], strides[4]};
  }
};

/// Everything a problem reads, in grid order.
struct Data {
  Values x, z, dt[2], vectors[4], a[4], skip, bias[2], gamma;  // vectors: B1, B2, C1, C2
  Values initial[4], y_grad, final_grad[4];  // column h1, column h2, row h1, row h2
  Cells x_cells, z_cells, dt_cells[2], vector_cells[4], y_grad_cells;
  std::vector<float> floats_a[4], floats_skip, floats_bias[2], floats_gamma, floats_vectors[4];
  std::vector<float> floats_initial[4], floats_final_grad[4];
};

bool wants_border(const Problem& p, int border) { return !p.single || border == 0; }

int64_t border_size(const Problem& p, int border) {
  return p.batch * (border < 2 ? p.rows : p.columns) * p.channels * p.states;
}

void round_floats(Values& values, std::vector<float>& floats) {
  floats.assign(values.begin(), values.end());
  values.assign(floats.begin(), floats.end());
}

Data make_data(const Problem& p) {
  Random random(p.seed);
  Data data;
  const auto cells = [&](Values& values, Cells& target, int64_t fourth, int64_t states,
                         double magnitude) {
    target = Cells({p.batch, p.rows, p.columns, fourth, states}, p.dtype, p.scattered);
    if (values.empty()) values = random.normal(target.count(), magnitude);
    target.write(values);
  };
  cells(data.x, data.x_cells, p.channels, 1, 1.0);
  cells(data.y_grad, data.y_grad_cells, p.channels, 1, 1.0);
  if (p.gate) cells(data.z, data.z_cells, p.channels, 1, 1.0);
  const int kinds = p.single ? 1 : 2;
  for (int kind = 0; kind < kinds && p.has_steps(); ++kind) {
    const int64_t heads = p.head_count(kind);
    if (!p.softplus) {
      data.dt[kind].resize(static_cast<std::size_t>(p.cells() * heads));
      for (double& value : data.dt[kind]) value = p.step_scale * (0.02 + random.uniform());
    }
    cells(data.dt[kind], data.dt_cells[kind], heads, 1, 1.0);
    if (p.bias) {
      data.bias[kind].resize(static_cast<std::size_t>(heads));
      for (double& value : data.bias[kind]) value = 0.1 * p.step_scale * random.uniform();
      round_floats(data.bias[kind], data.floats_bias[kind]);
    }
  }
  for (int k = 0; k < 4; ++k) {
    if (p.single && k % 2 == 1) continue;
    if (p.groups[k] > 0) {
      cells(data.vectors[k], data.vector_cells[k], p.groups[k], p.states, 1.0);
    } else {
      data.vectors[k] = random.normal(p.channels * p.states, 1.0);
      round_floats(data.vectors[k], data.floats_vectors[k]);
    }
  }
  const int64_t width = p.scalar_a ? 1 : p.states;
  for (int i = 0; i < 4; ++i) {
    const bool own = i == 0 || i == 3;
    if ((p.single && i > 0) || (i == 1 && !p.coupled[0]) || (i == 2 && !p.coupled[1])) continue;
    Values& a = data.a[i];
    a.resize(static_cast<std::size_t>(p.channels * width));
    for (double& value : a) {
      const double u = random.uniform();
      switch (p.discretization) {
        case ScanDiscretization::kZoh:
        case ScanDiscretization::kMamba:
          value = own ? (random.uniform() < p.zero_a ? 0.0 : -0.1 - 1.5 * u) : 0.6 * (u - 0.5);
          break;
        case ScanDiscretization::kExp:
          value = -1.5 - u;  // stable at the steps of these tests
          break;
        case ScanDiscretization::kNone:
          value = own ? 0.2 + 0.6 * u : 0.4 * (u - 0.5);
          break;
      }
      if (p.companion() && i < 2) value = (u - 0.5) / static_cast<double>(p.states);
    }
    round_floats(a, data.floats_a[i]);
  }
  if (p.skip) {
    data.skip = random.normal(p.channels, 1.0);
    round_floats(data.skip, data.floats_skip);
  }
  if (p.companion() && p.gamma) {
    data.gamma = random.normal(p.channels, 0.2);
    round_floats(data.gamma, data.floats_gamma);
  }
  for (int border = 0; border < 4; ++border) {
    if (!wants_border(p, border)) continue;
    if (p.initial_states) {
      data.initial[border] = random.normal(border_size(p, border), 1.0);
      round_floats(data.initial[border], data.floats_initial[border]);
    }
    if (p.final_states_grad) {
      data.final_grad[border] = random.normal(border_size(p, border), 1.0);
      round_floats(data.final_grad[border], data.floats_final_grad[border]);
    }
  }
  return data;
}

// ---- the plain recurrence ----

/// G(dt, A) = (exp(dt A) - 1) / A and its derivative by A.
double hold(double step, double a) { return a == 0.0 ? step : std::expm1(step * a) / a; }
double hold_by_a(double step, double a) {
  const double z = step * a;
  if (std::abs(z) < 0.1) {
    double power = 1.0, sum = 0.0;  // sum of z^k / (k! (k + 2))
    for (int k = 0; k < 12; ++k) {
      sum += power / (k + 2);
      power *= z / (k + 1);
    }
    return step * step * sum;
  }
  return (step * std::exp(z) - hold(step, a)) / a;
}

struct Results {
  Values y, final[4];
  Values x_grad, z_grad, dt_grad[2], vector_grad[4], a_grad[4], skip_grad, bias_grad[2], gamma_grad;
  Values initial_grad[4];
};

class Reference {
 public:
  Reference(const Problem& problem, const Data& values) : p(problem), data(values) {}

  Results run() {
    r.y.assign(data.x.size(), 0.0);
    r.x_grad.assign(data.x.size(), 0.0);
    r.z_grad.assign(data.z.size(), 0.0);
    for (int kind = 0; kind < 2; ++kind) {
      r.dt_grad[kind].assign(data.dt[kind].size(), 0.0);
      r.bias_grad[kind].assign(data.bias[kind].size(), 0.0);
    }
    for (int k = 0; k < 4; ++k) {
      r.vector_grad[k].assign(data.vectors[k].size(), 0.0);
      r.a_grad[k].assign(data.a[k].size(), 0.0);
      if (wants_border(p, k)) {
        r.final[k].assign(static_cast<std::size_t>(border_size(p, k)), 0.0);
        r.initial_grad[k].assign(static_cast<std::size_t>(border_size(p, k)), 0.0);
      }
    }
    r.skip_grad.assign(data.skip.size(), 0.0);
    r.gamma_grad.assign(data.gamma.size(), 0.0);
    for (int64_t b = 0; b < p.batch; ++b) {
      for (int64_t d = 0; d < p.channels; ++d) channel(b, d);
    }
    return std::move(r);
  }

 private:
  struct Cell {
    Values h1, h2, left1, left2, up1, up2;
    double raw[2], step[2];
    Values l1, l2;  // the adjoints
  };

  int64_t grid_cell(int64_t b, int64_t v, int64_t t) const {
    const int64_t row = p.reverse_rows ? p.rows - 1 - v : v;
    const int64_t column = p.reverse_columns ? p.columns - 1 - t : t;
    return (b * p.rows + row) * p.columns + column;
  }
  double* vector(std::array<Values, 4>& all, int k, int64_t cell, int64_t d) const {
    if (all[k].empty()) return nullptr;
    if (p.groups[k] == 0) return &all[k][d * p.states];
    const int64_t group = d / (p.channels / p.groups[k]);
    return &all[k][(cell * p.groups[k] + group) * p.states];
  }
  const double* vector(int k, int64_t cell, int64_t d) const {
    if (data.vectors[k].empty()) return nullptr;
    if (p.groups[k] == 0) return &data.vectors[k][d * p.states];
    const int64_t group = d / (p.channels / p.groups[k]);
    return &data.vectors[k][(cell * p.groups[k] + group) * p.states];
  }
  double* vector_grad(int k, int64_t cell, int64_t d) {
    return &r.vector_grad[k][vector(k, cell, d) - data.vectors[k].data()];
  }
  int64_t a_place(int64_t d, int64_t n) const { return p.scalar_a ? d : d * p.states + n; }
  double a(int i, int64_t d, int64_t n) const {
    return data.a[i].empty() ? 0.0 : data.a[i][a_place(d, n)];
  }
  int64_t head_place(int kind, int64_t cell, int64_t d) const {
    const int64_t heads = p.head_count(kind);
    return cell * heads + d / (p.channels / heads);
  }
  int64_t border(int which, int64_t b, int64_t place, int64_t d, int64_t n) const {
    const int64_t places = which < 2 ? p.rows : p.columns;
    return ((b * places + place) * p.channels + d) * p.states + n;
  }
  double gamma(int64_t d) const { return data.gamma.empty() ? 1.0 : data.gamma[d]; }

  /// The factors of kind's new state and their derivatives.
  struct Factors {
    double decay, coupling, input;
    double decay_step, decay_own, coupling_step, coupling_own, coupling_other, input_step,
        input_own;
  };
  Factors factors(int kind, double step, int64_t d, int64_t n) const {
    const double own = a(kind == 0 ? 0 : 3, d, n), other = a(kind == 0 ? 1 : 2, d, n);
    Factors f{};
    if (!p.has_steps()) return {own, other, 1.0, 0, 1, 0, 0, 1, 0, 0};
    f.decay = std::exp(step * own);
    f.decay_step = own * f.decay;
    f.decay_own = step * f.decay;
    if (p.discretization == ScanDiscretization::kMamba) {
      f.input = step;
      f.input_step = 1.0;
    } else {
      f.input = hold(step, own);
      f.input_step = f.decay;
      f.input_own = hold_by_a(step, own);
    }
    if (p.discretization == ScanDiscretization::kExp) {
      if (!p.coupled[kind]) return f;
      f.coupling = std::exp(step * other);
      f.coupling_step = other * f.coupling;
      f.coupling_other = step * f.coupling;
    } else {
      f.coupling = f.input * other;
      f.coupling_step = f.input_step * other;
      f.coupling_own = f.input_own * other;
      f.coupling_other = f.input;
    }
    return f;
  }

  void channel(int64_t b, int64_t d) {
    const int64_t states = p.states;
    std::vector<Cell> cells(static_cast<std::size_t>(p.rows * p.columns));
    const auto at = [&](int64_t v, int64_t t) -> Cell& { return cells[v * p.columns + t]; };
    const auto initial = [&](int which, int64_t place) {
      Values h(static_cast<std::size_t>(states), 0.0);
      if (data.initial[which].empty()) return h;
      for (int64_t n = 0; n < states; ++n)
        h[n] = data.initial[which][border(which, b, place, d, n)];
      return h;
    };
    for (int64_t v = 0; v < p.rows; ++v) {
      for (int64_t t = 0; t < p.columns; ++t) {
        Cell& c = at(v, t);
        const int64_t cell = grid_cell(b, v, t);
        const double x = data.x[cell * p.channels + d];
        c.left1 = t > 0 ? at(v, t - 1).h1 : initial(0, v);
        c.left2 = t > 0 ? at(v, t - 1).h2 : initial(1, v);
        c.up1 = v > 0 ? at(v - 1, t).h1 : initial(2, t);
        c.up2 = v > 0 ? at(v - 1, t).h2 : initial(3, t);
        for (int kind = 0; kind < 2; ++kind) {
          c.raw[kind] = c.step[kind] = 0.0;
          if (data.dt[kind].empty()) continue;
          c.raw[kind] = data.dt[kind][head_place(kind, cell, d)];
          if (!data.bias[kind].empty()) c.raw[kind] += data.bias[kind][head_place(kind, 0, d)];
          c.step[kind] = p.softplus ? std::log1p(std::exp(c.raw[kind])) : c.raw[kind];
        }
        c.h1.resize(static_cast<std::size_t>(states));
        c.h2.assign(static_cast<std::size_t>(states), 0.0);
        c.l1.assign(static_cast<std::size_t>(states), 0.0);
        c.l2.assign(static_cast<std::size_t>(states), 0.0);
        double y = data.skip.empty() ? 0.0 : data.skip[d] * x;
        for (int64_t n = 0; n < states; ++n) {
          const double b1 = vector(0, cell, d)[n];
          if (p.companion()) {
            c.h1[n] =
                std::exp(-c.step[0]) * c.left1[n] - std::expm1(-c.step[0]) * drive(c, d, n, b1, x);
          } else {
            const Factors f = factors(0, c.step[0], d, n);
            c.h1[n] = f.decay * c.left1[n] + f.coupling * c.left2[n] + f.input * b1 * x;
          }
          y += vector(2, cell, d)[n] * c.h1[n];
          if (p.single) continue;
          const Factors f = factors(1, c.step[1], d, n);
          c.h2[n] =
              f.decay * c.up2[n] + f.coupling * c.up1[n] + f.input * vector(1, cell, d)[n] * x;
          y += vector(3, cell, d)[n] * c.h2[n];
        }
        const double g = data.y_grad[cell * p.channels + d];
        if (!data.z.empty()) {
          const double z = data.z[cell * p.channels + d];
          const double sigmoid = 1.0 / (1.0 + std::exp(-z));
          r.z_grad[cell * p.channels + d] = g * y * sigmoid * (1.0 + z * (1.0 - sigmoid));
          y *= z * sigmoid;
        }
        r.y[cell * p.channels + d] = y;
        for (int64_t n = 0; n < states; ++n) {
          if (t + 1 == p.columns) r.final[0][border(0, b, v, d, n)] = c.h1[n];
          if (p.single) continue;
          if (t + 1 == p.columns) r.final[1][border(1, b, v, d, n)] = c.h2[n];
          if (v + 1 == p.rows) r.final[2][border(2, b, t, d, n)] = c.h1[n];
          if (v + 1 == p.rows) r.final[3][border(3, b, t, d, n)] = c.h2[n];
        }
      }
    }
    adjoint(b, d, cells);
  }

  /// What h1 is driven by in the companion structure.
  double drive(const Cell& c, int64_t d, int64_t n, double b1, double x) const {
    const int64_t last = p.states - 1;
    double sum = (n > 0 ? c.left1[n - 1] : 0.0) + a(0, d, n) * c.left1[last] + b1 * x;
    if (p.coupled[0]) {
      sum += gamma(d) * ((n > 0 ? c.left2[n - 1] : 0.0) + a(1, d, n) * c.left2[last]);
    }
    return sum;
  }

  void adjoint(int64_t b, int64_t d, std::vector<Cell>& cells) {
    const int64_t states = p.states;
    const auto at = [&](int64_t v, int64_t t) -> Cell& { return cells[v * p.columns + t]; };
    for (int border_index = 0; border_index < 4; ++border_index) {
      if (data.final_grad[border_index].empty()) continue;
      const int64_t places = border_index < 2 ? p.rows : p.columns;
      for (int64_t place = 0; place < places; ++place) {
        Cell& c = border_index < 2 ? at(place, p.columns - 1) : at(p.rows - 1, place);
        Values& l = border_index % 2 == 0 ? c.l1 : c.l2;
        for (int64_t n = 0; n < states; ++n) {
          l[n] += data.final_grad[border_index][border(border_index, b, place, d, n)];
        }
      }
    }
    for (int64_t v = p.rows - 1; v >= 0; --v) {
      for (int64_t t = p.columns - 1; t >= 0; --t) {
        Cell& c = at(v, t);
        const int64_t cell = grid_cell(b, v, t);
        const int64_t place = cell * p.channels + d;
        const double x = data.x[place];
        double g = data.y_grad[place];
        if (!data.z.empty()) g *= data.z[place] / (1.0 + std::exp(-data.z[place]));
        double x_grad = data.skip.empty() ? 0.0 : data.skip[d] * g;
        if (!data.skip.empty()) r.skip_grad[d] += g * x;
        double step_grad[2] = {0.0, 0.0};
        const auto add_left = [&](int kind, int64_t n, double value) {
          if (t > 0) {
            (kind == 0 ? at(v, t - 1).l1 : at(v, t - 1).l2)[n] += value;
          } else if (wants_border(p, kind)) {
            r.initial_grad[kind][border(kind, b, v, d, n)] += value;
          }
        };
        const auto add_up = [&](int kind, int64_t n, double value) {
          if (v > 0) {
            (kind == 0 ? at(v - 1, t).l1 : at(v - 1, t).l2)[n] += value;
          } else {
            r.initial_grad[2 + kind][border(2 + kind, b, t, d, n)] += value;
          }
        };
        const auto add_a = [&](int i, int64_t n, double value) {
          if (!r.a_grad[i].empty()) r.a_grad[i][a_place(d, n)] += value;
        };
        for (int64_t n = 0; n < states; ++n) {
          c.l1[n] += g * vector(2, cell, d)[n];
          vector_grad(2, cell, d)[n] += g * c.h1[n];
          if (p.single) continue;
          c.l2[n] += g * vector(3, cell, d)[n];
          vector_grad(3, cell, d)[n] += g * c.h2[n];
        }
        for (int64_t n = 0; n < states; ++n) {
          const double b1 = vector(0, cell, d)[n];
          const double l1 = c.l1[n];
          if (p.companion()) {
            const int64_t last = states - 1;
            const double e = std::exp(-c.step[0]), hold1 = -std::expm1(-c.step[0]);
            const double weight = hold1 * l1;
            step_grad[0] += e * l1 * (drive(c, d, n, b1, x) - c.left1[n]);
            add_left(0, n, e * l1);
            if (n > 0) add_left(0, n - 1, weight);
            add_left(0, last, weight * a(0, d, n));
            add_a(0, n, weight * c.left1[last]);
            vector_grad(0, cell, d)[n] += weight * x;
            x_grad += weight * b1;
            if (p.coupled[0]) {
              if (n > 0) add_left(1, n - 1, gamma(d) * weight);
              add_left(1, last, gamma(d) * weight * a(1, d, n));
              add_a(1, n, gamma(d) * weight * c.left2[last]);
              if (!r.gamma_grad.empty()) {
                r.gamma_grad[d] +=
                    weight * ((n > 0 ? c.left2[n - 1] : 0.0) + a(1, d, n) * c.left2[last]);
              }
            }
          } else {
            const Factors f = factors(0, c.step[0], d, n);
            add_left(0, n, f.decay * l1);
            if (!p.single) add_left(1, n, f.coupling * l1);
            step_grad[0] += l1 * (f.decay_step * c.left1[n] + f.coupling_step * c.left2[n] +
                                  f.input_step * b1 * x);
            add_a(0, n,
                  l1 * (f.decay_own * c.left1[n] + f.coupling_own * c.left2[n] +
                        f.input_own * b1 * x));
            add_a(1, n, l1 * f.coupling_other * c.left2[n]);
            vector_grad(0, cell, d)[n] += l1 * f.input * x;
            x_grad += l1 * f.input * b1;
          }
          if (p.single) continue;
          const double l2 = c.l2[n], b2 = vector(1, cell, d)[n];
          const Factors f = factors(1, c.step[1], d, n);
          add_up(1, n, f.decay * l2);
          add_up(0, n, f.coupling * l2);
          step_grad[1] +=
              l2 * (f.decay_step * c.up2[n] + f.coupling_step * c.up1[n] + f.input_step * b2 * x);
          add_a(3, n,
                l2 * (f.decay_own * c.up2[n] + f.coupling_own * c.up1[n] + f.input_own * b2 * x));
          add_a(2, n, l2 * f.coupling_other * c.up1[n]);
          vector_grad(1, cell, d)[n] += l2 * f.input * x;
          x_grad += l2 * f.input * b2;
        }
        r.x_grad[place] = x_grad;
        for (int kind = 0; kind < 2; ++kind) {
          if (data.dt[kind].empty()) continue;
          double grad = step_grad[kind];
          if (p.softplus) grad /= 1.0 + std::exp(-c.raw[kind]);
          r.dt_grad[kind][head_place(kind, cell, d)] += grad;
          if (!data.bias[kind].empty()) r.bias_grad[kind][head_place(kind, 0, d)] += grad;
        }
      }
    }
  }

  const Problem& p;
  const Data& data;
  Results r;
};

// ---- the kernels ----

SelectiveScan2dInputs make_inputs(const Problem& p, Data& data) {
  SelectiveScan2dInputs inputs;
  inputs.shape = {.batch = p.batch,
                  .rows = p.rows,
                  .columns = p.columns,
                  .channels = p.channels,
                  .states = p.states,
                  .dt1_heads = p.has_steps() ? p.head_count(0) : 0,
                  .dt2_heads = p.has_steps() && !p.single ? p.head_count(1) : 0,
                  .B1_groups = p.groups[0],
                  .B2_groups = p.groups[1],
                  .C1_groups = p.groups[2],
                  .C2_groups = p.groups[3]};
  inputs.dtype = p.dtype;
  inputs.discretization = p.discretization;
  inputs.structure = p.structure;
  inputs.single_axis = p.single;
  inputs.dt_softplus = p.softplus && p.has_steps();
  inputs.reverse_rows = p.reverse_rows;
  inputs.reverse_columns = p.reverse_columns;
  using Const = const void*;
  inputs.x = data.x_cells.view<Const>();
  inputs.dt1 = data.dt_cells[0].view<Const>();
  inputs.dt2 = data.dt_cells[1].view<Const>();
  inputs.z = data.z_cells.view<Const>();
  rankone::ConstCells* const vectors[] = {&inputs.B1, &inputs.B2, &inputs.C1, &inputs.C2};
  for (int k = 0; k < 4; ++k) {
    if (data.vectors[k].empty()) continue;
    *vectors[k] = p.groups[k] > 0
                      ? data.vector_cells[k].view<Const>()
                      : rankone::ConstCells{data.floats_vectors[k].data(), 0, 0, 0, p.states, 1};
  }
  ScanParameter* const matrices[] = {&inputs.A1, &inputs.A2, &inputs.A3, &inputs.A4};
  for (int i = 0; i < 4; ++i) {
    if (data.a[i].empty()) continue;
    *matrices[i] = {data.floats_a[i].data(), p.scalar_a ? 1 : p.states, p.scalar_a ? 0 : 1};
  }
  const auto optional = [](const std::vector<float>& floats) -> const void* {
    return floats.empty() ? nullptr : floats.data();
  };
  inputs.D = optional(data.floats_skip);
  inputs.dt1_bias = optional(data.floats_bias[0]);
  inputs.dt2_bias = optional(data.floats_bias[1]);
  inputs.gamma = optional(data.floats_gamma);
  inputs.initial_states = {optional(data.floats_initial[0]), optional(data.floats_initial[1]),
                           optional(data.floats_initial[2]), optional(data.floats_initial[3])};
  return inputs;
}

/// Device memory of exactly the size asked for, filled with NaN.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) : storage_(bytes, std::byte{0xff}) {}
  void* data() { return storage_.empty() ? nullptr : storage_.data(); }

 private:
  std::vector<std::byte> storage_;
};

struct KernelOutputs {
  Values y, final[4];
  Values x_grad, z_grad, dt_grad[2], vector_grad[4], a_grad[4], skip_grad, bias_grad[2], gamma_grad;
  Values initial_grad[4];
  bool operator==(const KernelOutputs&) const = default;
};

void run_forward(const Problem& p, Data& data, KernelOutputs& result) {
  Cells y({p.batch, p.rows, p.columns, p.channels, 1}, p.dtype, p.scattered);
  std::vector<Output> final;
  for (int border = 0; border < 4; ++border) {
    final.emplace_back(wants_border(p, border) ? border_size(p, border) : 0, DataType::kFloat32);
  }
  SelectiveScan2dForward problem;
  problem.inputs = make_inputs(p, data);
  problem.y = y.view<void*>();
  problem.final_states = {final[0].data(), p.single ? nullptr : final[1].data(),
                          p.single ? nullptr : final[2].data(),
                          p.single ? nullptr : final[3].data()};
  DeviceMemory workspace(rankone::cuda::selective_scan_2d_forward_workspace(problem));
  rankone::cuda::selective_scan_2d_forward(problem, workspace.data(), nullptr);
  result.y = y.read();
  for (int border = 0; border < 4; ++border) result.final[border] = final[border].values();
}

void run_backward(const Problem& p, Data& data, KernelOutputs& result) {
  const auto cells = [&](bool wanted, int64_t fourth, int64_t states) {
    return wanted ? Cells({p.batch, p.rows, p.columns, fourth, states}, p.dtype, p.scattered)
                  : Cells();
  };
  Cells x = cells(true, p.channels, 1), z = cells(p.gate, p.channels, 1), dt[2], vectors[4];
  std::vector<Output> bias, static_vectors, a, initial;
  const int kinds = p.single ? 1 : 2;
  for (int kind = 0; kind < 2; ++kind) {
    dt[kind] = cells(kind < kinds && p.has_steps(), p.head_count(kind), 1);
    bias.emplace_back(data.bias[kind].size(), DataType::kFloat32);
  }
  for (int k = 0; k < 4; ++k) {
    const bool exists = !data.vectors[k].empty();
    vectors[k] = cells(exists && p.groups[k] > 0, p.groups[k], p.states);
    static_vectors.emplace_back(exists && p.groups[k] == 0 ? p.channels * p.states : 0,
                                DataType::kFloat32);
    a.emplace_back(data.a[k].empty() ? 0 : p.channels * p.states, DataType::kFloat32);
    initial.emplace_back(wants_border(p, k) ? border_size(p, k) : 0, DataType::kFloat32);
  }
  Output skip(data.skip.size(), DataType::kFloat32), gamma(data.gamma.size(), DataType::kFloat32);
  const auto optional = [](Output& output) {
    return output.bytes().empty() ? nullptr : output.data();
  };
  const auto borders = [](const std::vector<float>(&floats)[4], int border) -> const void* {
    return floats[border].empty() ? nullptr : floats[border].data();
  };

  SelectiveScan2dBackward problem;
  problem.inputs = make_inputs(p, data);
  problem.y_grad = data.y_grad_cells.view<const void*>();
  problem.final_states_grad = {
      borders(data.floats_final_grad, 0), borders(data.floats_final_grad, 1),
      borders(data.floats_final_grad, 2), borders(data.floats_final_grad, 3)};
  problem.x_grad = x.view<void*>();
  problem.z_grad = z.view<void*>();
  problem.dt1_grad = dt[0].view<void*>();
  problem.dt2_grad = dt[1].view<void*>();
  rankone::MutableCells* const vector_grads[] = {&problem.B1_grad, &problem.B2_grad,
                                                 &problem.C1_grad, &problem.C2_grad};
  for (int k = 0; k < 4; ++k) {
    if (data.vectors[k].empty()) continue;
    *vector_grads[k] = p.groups[k] > 0
                           ? vectors[k].view<void*>()
                           : rankone::MutableCells{static_vectors[k].data(), 0, 0, 0, p.states, 1};
  }
  problem.A1_grad = optional(a[0]);
  problem.A2_grad = optional(a[1]);
  problem.A3_grad = optional(a[2]);
  problem.A4_grad = optional(a[3]);
  problem.D_grad = optional(skip);
  problem.dt1_bias_grad = optional(bias[0]);
  problem.dt2_bias_grad = optional(bias[1]);
  problem.gamma_grad = optional(gamma);
  problem.initial_states_grad = {optional(initial[0]), optional(initial[1]), optional(initial[2]),
                                 optional(initial[3])};
  DeviceMemory workspace(rankone::cuda::selective_scan_2d_backward_workspace(problem));
  rankone::cuda::selective_scan_2d_backward(problem, workspace.data(), nullptr);

  result.x_grad = x.read();
  if (p.gate) result.z_grad = z.read();
  for (int kind = 0; kind < 2; ++kind) {
    if (!data.dt[kind].empty()) result.dt_grad[kind] = dt[kind].read();
    result.bias_grad[kind] = bias[kind].values();
  }
  for (int k = 0; k < 4; ++k) {
    result.vector_grad[k] = p.groups[k] > 0 && !data.vectors[k].empty()
                                ? vectors[k].read()
                                : static_vectors[k].values();
    result.a_grad[k] = a[k].values();
    if (p.scalar_a && !data.a[k].empty()) {
      // What the kernel gives is (channels, states); the parameter has one value a channel.
      Values sums(static_cast<std::size_t>(p.channels), 0.0);
      for (int64_t i = 0; i < p.channels * p.states; ++i) sums[i / p.states] += result.a_grad[k][i];
      result.a_grad[k] = sums;
    }
    result.initial_grad[k] = initial[k].values();
  }
  result.skip_grad = skip.values();
  result.gamma_grad = gamma.values();
}

/// Bounds on |actual - expected| / |expected| (2-norms): float32 is held to half the accuracy the
/// op promises; 16-bit results are rounded once more, by at most twice `roundoff`.
double forward_tolerance(const Problem& p) {
  const double single = 2e-6 * std::sqrt(static_cast<double>(p.rows + p.columns)) / 2;
  return p.dtype == DataType::kFloat32 ? single : single + 2.0 * roundoff(p.dtype);
}

/// Backward chains twice as many roundings.
double backward_tolerance(const Problem& p) { return 2.0 * forward_tolerance(p); }

void expect_matches(const Problem& p) {
  Data data = make_data(p);
  const Results expected = Reference(p, data).run();
  KernelOutputs actual;
  run_forward(p, data, actual);
  const std::string name = p.describe();
  expect_close(name + "y", actual.y, expected.y, forward_tolerance(p));
  Problem single = p;
  single.dtype = DataType::kFloat32;
  for (int border = 0; border < 4; ++border) {
    if (!wants_border(p, border)) continue;
    expect_close(name + "final state " + std::to_string(border), actual.final[border],
                 expected.final[border], forward_tolerance(single));
  }
  run_backward(p, data, actual);
  const double cells = backward_tolerance(p), sums = backward_tolerance(single);
  expect_close(name + "x_grad", actual.x_grad, expected.x_grad, cells);
  expect_close(name + "z_grad", actual.z_grad, expected.z_grad, cells);
  expect_close(name + "D_grad", actual.skip_grad, expected.skip_grad, sums);
  expect_close(name + "gamma_grad", actual.gamma_grad, expected.gamma_grad, sums);
  for (int kind = 0; kind < 2; ++kind) {
    const std::string number = std::to_string(kind + 1);
    expect_close(name + "dt_grad " + number, actual.dt_grad[kind], expected.dt_grad[kind], cells);
    expect_close(name + "bias_grad " + number, actual.bias_grad[kind], expected.bias_grad[kind],
                 sums);
  }
  const char* const vectors[] = {"B1", "B2", "C1", "C2"};
  for (int k = 0; k < 4; ++k) {
    expect_close(name + vectors[k] + "_grad", actual.vector_grad[k], expected.vector_grad[k],
                 p.groups[k] > 0 ? cells : sums);
    expect_close(name + "A" + std::to_string(k + 1) + "_grad", actual.a_grad[k], expected.a_grad[k],
                 sums);
    if (wants_border(p, k)) {
      expect_close(name + "initial state grad " + std::to_string(k), actual.initial_grad[k],
                   expected.initial_grad[k], sums);
    }
  }
}

constexpr ScanDiscretization kDiscretizations[] = {
    ScanDiscretization::kZoh, ScanDiscretization::kMamba, ScanDiscretization::kExp,
    ScanDiscretization::kNone};

/// A problem of every form of the inner loop: all discretisations, scalar A, companion.
std::vector<Problem> every_form() {
  std::vector<Problem> problems;
  for (const ScanDiscretization discretization : kDiscretizations) {
    for (const bool scalar : {false, true}) {
      Problem p;
      p.discretization = discretization;
      p.scalar_a = scalar;
      p.bias = p.softplus = discretization != ScanDiscretization::kNone;
      problems.push_back(p);
    }
  }
  Problem p;
  p.structure = ScanStructure::kCompanion;
  problems.push_back(p);
  return problems;
}

/// Multiprocessors the kernels are told of, until the end of the scope: few give a thread four
/// channels, many one channel and, where they may, segments.
class Multiprocessors {
 public:
  explicit Multiprocessors(int count) { rankone::emulation::set_multiprocessors(count); }
  ~Multiprocessors() { rankone::emulation::set_multiprocessors(before_); }
  Multiprocessors(const Multiprocessors&) = delete;
  Multiprocessors& operator=(const Multiprocessors&) = delete;

 private:
  int before_ = rankone::emulation::multiprocessors();
};
constexpr int kWideOnly = 1;
constexpr int kNarrow = 64;

void every_form_matches_the_recurrence() {
  unsigned seed = 0;
  for (Problem p : every_form()) {
    for (const int multiprocessors : {kWideOnly, kNarrow}) {
      const Multiprocessors scope(multiprocessors);
      p.seed = ++seed;
      expect_matches(p);
    }
  }
}

void every_form_of_one_axis_matches_the_recurrence() {
  unsigned seed = 50;
  for (Problem p : every_form()) {
    p.single = true;
    for (const int multiprocessors : {kWideOnly, kNarrow}) {
      const Multiprocessors scope(multiprocessors);
      p.columns = 11;
      p.seed = ++seed;
      expect_matches(p);
    }
  }
}

void every_grid_shape_matches_the_recurrence() {
  unsigned seed = 100;
  const int64_t grids[][2] = {{1, 1}, {1, 9}, {9, 1}, {2, 3}, {8, 8}, {9, 20}, {20, 9}, {17, 3}};
  for (Problem p : every_form()) {
    const auto& [rows, columns] = grids[seed % 8];
    p.rows = rows;
    p.columns = columns;
    p.batch = 1;
    p.seed = ++seed;
    expect_matches(p);
  }
  for (const auto& [rows, columns] : grids) {
    Problem p;
    p.rows = rows;
    p.columns = columns;
    p.dtype = kTypes[seed % 3];
    p.seed = ++seed;
    expect_matches(p);
  }
}

void every_state_and_channel_count_matches_the_recurrence() {
  unsigned seed = 200;
  const int64_t sizes[][2] = {{1, 1},   {2, 70}, {3, 5},  {5, 40},
                              {16, 20}, {17, 9}, {33, 5}, {64, 5}};
  for (const auto& [states, channels] : sizes) {
    for (const ScanStructure structure : {ScanStructure::kDiagonal, ScanStructure::kCompanion}) {
      const Multiprocessors scope(seed % 2 == 0 ? kWideOnly : kNarrow);
      Problem p;
      p.structure = structure;
      p.states = states;
      p.channels = channels;
      p.rows = 3;
      p.columns = 4;
      p.batch = 1;
      p.seed = ++seed;
      expect_matches(p);
    }
  }
}

void every_dtype_matches_the_recurrence() {
  for (const DataType dtype : kTypes) {
    for (Problem p : every_form()) {
      p.dtype = dtype;
      p.states = 6;
      p.rows = 3;
      expect_matches(p);
    }
  }
}

void heads_and_groups_may_be_shared_or_static() {
  unsigned seed = 300;
  const int64_t groups[][4] = {{2, 1, 1, 4}, {12, 3, 0, 1}, {0, 0, 0, 0}, {4, 6, 2, 12}};
  for (const auto& group : groups) {
    for (const bool single : {false, true}) {
      for (const int multiprocessors : {kWideOnly, kNarrow}) {
        const Multiprocessors scope(multiprocessors);
        Problem p;
        p.channels = 12;
        p.states = multiprocessors == kNarrow ? 3 : 7;
        for (int k = 0; k < 4; ++k) p.groups[k] = group[k];
        p.heads[0] = 3;
        p.heads[1] = 4;
        p.single = single;
        p.seed = ++seed;
        expect_matches(p);
      }
    }
  }
}

void options_may_be_absent() {
  unsigned seed = 400;
  for (Problem p : every_form()) {
    p.skip = p.gate = p.bias = p.softplus = p.gamma = false;
    p.initial_states = p.final_states_grad = false;
    p.step_scale = 0.5;
    p.seed = ++seed;
    expect_matches(p);
  }
}

void couplings_may_be_absent() {
  unsigned seed = 500;
  for (Problem p : every_form()) {
    for (const bool first : {false, true}) {
      p.coupled[0] = first;
      p.coupled[1] = !first;
      p.seed = ++seed;
      expect_matches(p);
    }
    p.coupled[0] = p.coupled[1] = false;
    expect_matches(p);
  }
}

void axes_may_be_reversed() {
  unsigned seed = 600;
  for (const bool rows : {false, true}) {
    for (const bool columns : {false, true}) {
      for (const bool tall : {false, true}) {
        Problem p;
        p.reverse_rows = rows;
        p.reverse_columns = columns;
        if (tall) std::swap(p.rows, p.columns);
        p.seed = ++seed;
        expect_matches(p);
        p.single = true;
        expect_matches(p);
      }
    }
  }
}

void strides_are_arbitrary() {
  for (const bool tall : {false, true}) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.scattered = true;
      p.dtype = dtype;
      p.channels = 8;
      p.groups[0] = 2;
      p.groups[2] = 4;
      p.heads[0] = 4;
      p.reverse_columns = true;
      if (tall) std::swap(p.rows, p.columns);
      expect_matches(p);
    }
  }
}

/// Where dt A is small, G = (exp(dt A) - 1) / A loses all digits unless it is a series.
void small_steps_keep_their_accuracy() {
  for (const double scale : {1e-7, 1e-4, 3e-2, 0.3}) {
    for (const ScanDiscretization discretization :
         {ScanDiscretization::kZoh, ScanDiscretization::kExp}) {
      for (const bool scalar : {false, true}) {
        Problem p;
        p.discretization = discretization;
        p.scalar_a = scalar;
        p.softplus = false;
        p.step_scale = scale;
        p.zero_a = 0.3;
        p.skip = false;
        p.initial_states = p.final_states_grad = false;
        // Not to be amplified: couplings of exp tend to 1.
        if (discretization == ScanDiscretization::kExp) p.coupled[0] = p.coupled[1] = false;
        expect_matches(p);
      }
    }
  }
}

void an_infinite_step_is_a_pure_companion_step() {
  Problem p;
  p.structure = ScanStructure::kCompanion;
  p.rows = 2;
  p.columns = 12;
  p.softplus = p.bias = p.skip = p.gate = p.initial_states = p.final_states_grad = false;
  p.gamma = true;
  p.states = 5;
  Data data = make_data(p);
  // a1 = 0, gamma = 0, B1 = e_0, C2 = 0: y[v,t] = sum_i C1_i x[v,t-i].
  std::fill(data.floats_a[0].begin(), data.floats_a[0].end(), 0.0f);
  std::fill(data.floats_gamma.begin(), data.floats_gamma.end(), 0.0f);
  Values b1(data.vectors[0].size()), c2(data.vectors[3].size(), 0.0);
  for (std::size_t i = 0; i < b1.size(); ++i) b1[i] = i % 5 == 0 ? 1.0 : 0.0;
  data.vector_cells[0].write(b1);
  data.vector_cells[3].write(c2);
  Values steps(data.dt[0].size(), std::numeric_limits<double>::infinity());
  data.dt_cells[0].write(steps);
  KernelOutputs actual;
  run_forward(p, data, actual);
  Values expected(actual.y.size(), 0.0);
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t v = 0; v < p.rows; ++v) {
      for (int64_t t = 0; t < p.columns; ++t) {
        const int64_t cell = (b * p.rows + v) * p.columns + t;
        for (int64_t d = 0; d < p.channels; ++d) {
          for (int64_t i = 0; i < p.states && i <= t; ++i) {
            expected[cell * p.channels + d] +=
                data.vectors[2][cell * p.states + i] * data.x[(cell - i) * p.channels + d];
          }
        }
      }
    }
  }
  expect_close("autoregression", actual.y, expected, 1e-6);
}

/// Long axes and few blocks: one axis and one-way couplings are cut into segments.
void segments_of_the_long_axis_join() {
  const Multiprocessors scope(4);
  unsigned seed = 700;
  for (Problem p : every_form()) {
    for (const int which : {0, 1, 2, 3}) {  // one axis, A2 only, A3 only, neither
      if (p.companion() && which > 0) continue;
      p.single = which == 0;
      p.coupled[0] = which == 1;
      p.coupled[1] = which == 2;
      p.batch = 1;
      p.rows = which == 0 ? 2 : 3;
      p.columns = 390 + 7 * which;
      p.channels = 3;
      p.reverse_columns = which % 2 == 1;
      p.seed = ++seed;
      if (which == 3) std::swap(p.rows, p.columns);
      expect_matches(p);
    }
  }
}

void any_schedule_gives_the_same_bits() {
  const std::uint64_t seed = rankone::emulation::schedule_seed();
  for (Problem p : every_form()) {
    p.rows = 10;
    p.columns = 12;
    p.states = 5;
    p.dtype = DataType::kBFloat16;
    Data data = make_data(p);
    rankone::emulation::set_schedule_seed(1);
    KernelOutputs first;
    run_forward(p, data, first);
    run_backward(p, data, first);
    for (const std::uint64_t other : {2, 3}) {
      rankone::emulation::set_schedule_seed(other);
      KernelOutputs again;
      run_forward(p, data, again);
      run_backward(p, data, again);
      check::that(again == first, p.describe() + "the schedule changes the result");
    }
  }
  rankone::emulation::set_schedule_seed(seed);
}

void a_step_is_one_column() {
  unsigned seed = 800;
  for (Problem p : every_form()) {
    for (const int64_t rows : {1, 6, 19}) {
      p.single = seed % 5 == 0;
      p.columns = 1;
      p.rows = rows;
      p.dtype = kTypes[seed % 3];
      p.reverse_rows = seed % 2 == 0;
      p.seed = ++seed;
      Data data = make_data(p);
      for (int border = p.single ? 4 : 2; border < 4; ++border) {
        data.initial[border].clear();
        data.floats_initial[border].clear();
      }
      const Results expected = Reference(p, data).run();
      Cells y({p.batch, p.rows, 1, p.channels, 1}, p.dtype, false);
      SelectiveScan2dStep step;
      step.inputs = make_inputs(p, data);
      step.y = y.view<void*>();
      // In place.
      step.column_h1 = data.floats_initial[0].data();
      step.column_h2 = data.floats_initial[1].data();
      rankone::cuda::selective_scan_2d_step(step, nullptr);
      expect_close(p.describe() + "step y", y.read(), expected.y, forward_tolerance(p));
      for (int border = 0; border < (p.single ? 1 : 2); ++border) {
        const std::vector<float>& state = data.floats_initial[border];
        expect_close(p.describe() + "step state", {state.begin(), state.end()},
                     expected.final[border], 1e-5);
      }
    }
  }
}

void nothing_is_launched_for_an_empty_grid() {
  for (const int axis : {0, 1, 2}) {
    Problem p;
    (axis == 0 ? p.batch : axis == 1 ? p.rows : p.columns) = 0;
    SelectiveScan2dForward problem;
    Data data;
    problem.inputs = make_inputs(p, data);
    check::equal(rankone::cuda::selective_scan_2d_forward_workspace(problem), std::size_t{0},
                 "workspace");
    rankone::cuda::selective_scan_2d_forward(problem, nullptr, nullptr);
  }
}

void bad_arguments_are_refused_by_name() {
  const auto refuses = [](const std::function<void(SelectiveScan2dInputs&)>& spoil,
                          const std::vector<std::string>& parts) {
    Problem p;
    Data data = make_data(p);
    SelectiveScan2dForward problem;
    problem.inputs = make_inputs(p, data);
    spoil(problem.inputs);
    check::throws<rankone::ArgumentError>(
        [&] { rankone::cuda::selective_scan_2d_forward(problem, nullptr, nullptr); }, parts);
  };
  refuses([](auto& inputs) { inputs.dtype = DataType::kFloat64; }, {"dtype", "float64"});
  refuses([](auto& inputs) { inputs.shape.states = 65; }, {"states", "64", "65"});
  refuses([](auto& inputs) { inputs.shape.states = 0; }, {"states", "0"});
  refuses([](auto& inputs) { inputs.shape.dt1_heads = 4; }, {"dt1_heads", "6", "4"});
  refuses([](auto& inputs) { inputs.shape.C2_groups = 5; }, {"C2_groups", "6", "5"});
  refuses(
      [](auto& inputs) {
        inputs.structure = ScanStructure::kCompanion;
        inputs.discretization = ScanDiscretization::kMamba;
      },
      {"discretization", "companion"});
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {{"every form matches the recurrence", every_form_matches_the_recurrence},
       {"every form of one axis matches the recurrence",
        every_form_of_one_axis_matches_the_recurrence},
       {"every grid shape matches the recurrence", every_grid_shape_matches_the_recurrence},
       {"every state and channel count matches the recurrence",
        every_state_and_channel_count_matches_the_recurrence},
       {"every dtype matches the recurrence", every_dtype_matches_the_recurrence},
       {"heads and groups may be shared or static", heads_and_groups_may_be_shared_or_static},
       {"options may be absent", options_may_be_absent},
       {"couplings may be absent", couplings_may_be_absent},
       {"axes may be reversed", axes_may_be_reversed},
       {"strides are arbitrary", strides_are_arbitrary},
       {"small steps keep their accuracy", small_steps_keep_their_accuracy},
       {"an infinite step is a pure companion step", an_infinite_step_is_a_pure_companion_step},
       {"segments of the long axis join", segments_of_the_long_axis_join},
       {"any schedule gives the same bits", any_schedule_gives_the_same_bits},
       {"a step is one column", a_step_is_one_column},
       {"nothing is launched for an empty grid", nothing_is_launched_for_an_empty_grid},
       {"bad arguments are refused by name", bad_arguments_are_refused_by_name}});
}
