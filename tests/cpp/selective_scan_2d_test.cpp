// The CPU 2D selective scan against the recurrence it is defined by and that recurrence's
// gradients. RANKONE_INSTRUCTION_SET selects the kernels under test.
#include "rankone/selective_scan_2d.h"

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "selective_scan_2d_recurrence.h"
#include "stored_values.h"

namespace {

using namespace rankone;
using namespace rankone::testing;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Norm-wise error. Twice that of a plain chain of sums: coefficients are exponentials of rounded
/// products, themselves off by some units.
double tolerance(DataType stored) { return 2 * tolerance_for(stored); }

// ---- tensors ----

/// A tensor in memory of one type and layout.
class Stored {
 public:
  Stored() : memory_(DataType::kFloat64, 0) {}
  /// To be written.
  Stored(DataType type, const Cells& cells)
      : cells_(cells), type_(type), memory_(type, index(cells.count() == 0 ? 0 : cells.length)) {}
  Stored(DataType type, const Cells& cells, const Values& values)
      : cells_(cells), type_(type), memory_(type, spread(cells, values)) {}

  CellTensor<void*> tensor() {
    if (cells_.count() == 0) return {};
    const auto& s = cells_.strides;
    return {static_cast<char*>(memory_.data()) + cells_.offset * std::int64_t(size_of(type_)),
            s[0],
            s[1],
            s[2],
            s[3],
            s[4]};
  }
  CellTensor<const void*> const_tensor() {
    const CellTensor<void*> t = tensor();
    return {t.data,          t.batch_stride,   t.row_stride,
            t.column_stride, t.channel_stride, t.state_stride};
  }

  Values values() const {
    const Values all = memory_.values();
    Values result(index(cells_.count()));
    std::vector<bool> used(all.size());
    for (std::int64_t i = 0; i < cells_.count(); ++i) {
      used[cells_.place(i)] = true;
      result[index(i)] = all[cells_.place(i)];
    }
    const double blank = Memory(type_, 1)[0];
    for (std::size_t i = 0; i < all.size(); ++i) {
      check::that(used[i] || all[i] == blank || (std::isnan(all[i]) && std::isnan(blank)),
                  "a gap between elements was written");
    }
    return result;
  }

  bool operator==(const Stored& other) const { return memory_ == other.memory_; }

 private:
  static Values spread(const Cells& cells, const Values& values) {
    Values all(index(cells.count() == 0 ? 0 : cells.length), 0.0);
    for (std::int64_t i = 0; i < cells.count(); ++i) all[cells.place(i)] = values[index(i)];
    return all;
  }

  Cells cells_;
  DataType type_ = DataType::kFloat64;
  Memory memory_;
};

// ---- the library ----

/// The inputs in memory, and the struct that points at them.
struct Operands {
  std::array<Stored, kCellTensors> tensors;
  std::vector<Memory> parameters, initial;
  SelectiveScan2dInputs inputs;

  explicit Operands(const Problem& p) {
    const DataType wide = state_type(p.type);
    for (int k = 0; k < kCellTensors; ++k) {
      if (p.has(k)) {
        tensors[index(k)] = Stored(p.type_of(k), p.cells(k), p.tensors[index(k)]);
      }
    }
    for (const Values& values : p.parameters) parameters.emplace_back(wide, values);
    for (const Values& values : p.initial) initial.emplace_back(wide, values);

    const auto cells = [&](Tensor k) { return tensors[index(k)].const_tensor(); };
    const auto vector = [&](Parameter k) -> const void* {
      return p.has_parameter(k) ? parameters[index(k)].data() : nullptr;
    };
    const auto matrix = [&](Parameter k) -> ScanParameter {
      if (!p.has_parameter(k)) return {};
      return {vector(k), p.states, p.one_rate ? 0 : 1};
    };
    const auto border = [&](Border k) -> const void* {
      return p.initial[index(k)].empty() ? nullptr : initial[index(k)].data();
    };
    inputs.shape = {p.batch,
                    p.rows,
                    p.columns,
                    p.channels,
                    p.states,
                    p.has(kDt1) ? p.heads(kDt1) : 0,
                    p.has(kDt2) ? p.heads(kDt2) : 0,
                    p.groups[0],
                    p.single ? 0 : p.groups[1],
                    p.groups[2],
                    p.single ? 0 : p.groups[3]};
    inputs.dtype = p.type;
    inputs.discretization = p.rule;
    inputs.structure = p.structure;
    inputs.single_axis = p.single;
    inputs.dt_softplus = p.softplus;
    inputs.reverse_rows = p.reverse_rows;
    inputs.reverse_columns = p.reverse_columns;
    inputs.x = cells(kX);
    inputs.dt1 = cells(kDt1);
    inputs.dt2 = cells(kDt2);
    inputs.z = cells(kZ);
    inputs.B1 = cells(kB1);
    inputs.B2 = cells(kB2);
    inputs.C1 = cells(kC1);
    inputs.C2 = cells(kC2);
    inputs.A1 = matrix(kA1);
    inputs.A2 = matrix(kA2);
    inputs.A3 = matrix(kA3);
    inputs.A4 = matrix(kA4);
    inputs.D = vector(kD);
    inputs.dt1_bias = vector(kDt1Bias);
    inputs.dt2_bias = vector(kDt2Bias);
    inputs.gamma = vector(kGamma);
    inputs.initial_states = {border(kColumnH1), border(kColumnH2), border(kRowH1), border(kRowH2)};
  }
};

/// What a forward and a backward wrote.
struct Written {
  Stored y;
  std::array<Stored, kCellTensors> tensor_grads;
  std::vector<Memory> final_states, initial_grad, parameter_grads;

  bool operator==(const Written& other) const = default;
};

Written run(const Problem& p, int num_threads) {
  Operands o(p);
  const DataType wide = state_type(p.type);
  Written w;
  w.y = Stored(p.type, p.y_cells());
  for (int k = 0; k < kBorders; ++k) {
    w.final_states.emplace_back(wide, index(p.border_size(k)));
    w.initial_grad.emplace_back(wide, index(p.border_size(k)));
  }
  const auto states = [&](std::vector<Memory>& memory) -> ScanStates<void*> {
    const auto at = [&](int k) {
      return p.border_size(k) == 0 ? nullptr : memory[index(k)].data();
    };
    return {at(0), at(1), at(2), at(3)};
  };
  cpu::selective_scan_2d_forward({o.inputs, w.y.tensor(), states(w.final_states)}, num_threads);

  for (int k = 0; k < kCellTensors; ++k) {
    if (p.has(k)) w.tensor_grads[index(k)] = Stored(p.type_of(k), p.cells(k));
  }
  for (int k = 0; k < kParameters; ++k) {
    w.parameter_grads.emplace_back(wide, index(p.parameter_size(k)));
  }
  Stored y_grad(p.type, p.y_cells(), p.y_grad);
  std::vector<Memory> final_grad;
  for (const Values& values : p.final_grad) final_grad.emplace_back(wide, values);
  const auto final_at = [&](int k) -> const void* {
    return p.final_grad[index(k)].empty() ? nullptr : final_grad[index(k)].data();
  };
  const auto parameter = [&](int k) {
    return p.has_parameter(k) ? w.parameter_grads[index(k)].data() : nullptr;
  };
  SelectiveScan2dBackward b;
  b.inputs = o.inputs;
  b.y_grad = y_grad.const_tensor();
  b.final_states_grad = {final_at(0), final_at(1), final_at(2), final_at(3)};
  MutableCells* const fields[] = {&b.x_grad,  &b.dt1_grad, &b.dt2_grad, &b.z_grad,
                                  &b.B1_grad, &b.B2_grad,  &b.C1_grad,  &b.C2_grad};
  for (int k = 0; k < kCellTensors; ++k) *fields[k] = w.tensor_grads[index(k)].tensor();
  b.A1_grad = parameter(kA1);
  b.A2_grad = parameter(kA2);
  b.A3_grad = parameter(kA3);
  b.A4_grad = parameter(kA4);
  b.D_grad = parameter(kD);
  b.dt1_bias_grad = parameter(kDt1Bias);
  b.dt2_bias_grad = parameter(kDt2Bias);
  b.gamma_grad = parameter(kGamma);
  b.initial_states_grad = states(w.initial_grad);
  cpu::selective_scan_2d_backward(b, num_threads);
  return w;
}

/// Holds forward and backward to the recurrence.
void expect_recurrence(Problem p, unsigned seed = 1) {
  p.fill(seed);
  const Results expected = recurrence(p);
  const Written w = run(p, 2);
  const std::string where = " (" + std::to_string(p.batch) + " x " + std::to_string(p.rows) +
                            " x " + std::to_string(p.columns) + " x " + std::to_string(p.channels) +
                            ", " + std::to_string(p.states) + " states, type " +
                            std::to_string(static_cast<int>(p.type)) + ", rule " +
                            std::to_string(static_cast<int>(p.rule)) + ")";
  close(w.y.values(), expected.y, tolerance(p.type), "y" + where);
  const double wide = tolerance(state_type(p.type));
  for (std::size_t k = 0; k < kBorders; ++k) {
    close(w.final_states[k].values(), expected.final_states[k], wide,
          std::string("final ") + kBorderNames[k] + where);
    if (!p.with_states) continue;
    close(w.initial_grad[k].values(), expected.initial_grad[k], wide,
          std::string("gradient of initial ") + kBorderNames[k] + where);
  }
  for (std::size_t k = 0; k < kCellTensors; ++k) {
    if (!p.has(static_cast<int>(k))) continue;
    close(w.tensor_grads[k].values(), expected.tensor_grads[k],
          tolerance(p.type_of(static_cast<int>(k))),
          std::string("gradient of ") + kTensorNames[k] + where);
  }
  // Sums of unit-sized terms over the cells, which may cancel, are held to the terms' norm.
  const double cells = static_cast<double>(p.batch * p.rows * p.columns);
  for (std::size_t k = 0; k < kParameters; ++k) {
    const Values& grads = expected.parameter_grads[k];
    close(w.parameter_grads[k].values(), grads, wide,
          std::string("gradient of ") + kParameterNames[k] + where,
          std::sqrt(cells * static_cast<double>(grads.size())));
  }
}

/// One with everything a rule has.
Problem full(Rule rule, DataType type = DataType::kFloat64) {
  Problem p;
  p.type = type;
  p.rule = rule;
  p.batch = 2;
  p.rows = 5;
  p.columns = 11;
  p.channels = 6;
  p.states = 4;
  p.gated = p.skips = p.with_states = true;
  p.biased = p.softplus = rule != Rule::kNone;
  return p;
}

constexpr Rule kRules[] = {Rule::kZoh, Rule::kMamba, Rule::kExp, Rule::kNone};

// ---- cases ----

void every_rule_is_its_recurrence() {
  for (const DataType type : {DataType::kFloat64, DataType::kFloat32}) {
    for (const Rule rule : kRules) {
      Problem p = full(rule, type);
      expect_recurrence(p);
      p.gated = p.skips = p.with_states = p.biased = p.softplus = false;
      expect_recurrence(p, 2);
    }
  }
}

void one_axis_is_its_recurrence() {
  for (const DataType type : {DataType::kFloat64, DataType::kFloat32}) {
    for (const Rule rule : kRules) {
      Problem p = full(rule, type);
      p.single = true;
      expect_recurrence(p);
      p.rows = 1;
      p.columns = 300;
      p.channels = 19;
      p.batch = 1;
      expect_recurrence(p, 2);
    }
  }
}

void companion_is_its_recurrence() {
  for (const bool single : {false, true}) {
    for (const std::int64_t states : {1, 2, 7}) {
      for (const std::int64_t groups : {0, 1, 3}) {
        Problem p = full(Rule::kZoh, states == 7 ? DataType::kFloat32 : DataType::kFloat64);
        p.structure = Structure::kCompanion;
        p.single = single;
        p.states = states;
        p.columns = 17;
        p.groups = {groups, 1, groups, 1};
        expect_recurrence(p, static_cast<unsigned>(states));
      }
    }
  }
  Problem p = full(Rule::kZoh);
  p.structure = Structure::kCompanion;
  p.coupled2 = p.coupled3 = false;
  expect_recurrence(p);
}

void couplings_may_be_absent() {
  for (const Rule rule : kRules) {
    for (const int which : {0, 1, 2}) {
      Problem p = full(rule);
      p.coupled2 = which == 1;
      p.coupled3 = which == 2;
      expect_recurrence(p);
    }
  }
}

void one_rate_a_channel_is_its_recurrence() {
  for (const Rule rule : kRules) {
    for (const bool single : {false, true}) {
      Problem p = full(rule, single ? DataType::kFloat32 : DataType::kFloat64);
      p.one_rate = true;
      p.single = single;
      p.channels = 17;
      expect_recurrence(p);
    }
  }
}

void channels_share_steps_by_heads() {
  for (const std::int64_t heads : {1, 2, 3, 12, 36}) {
    Problem p = full(Rule::kZoh, heads == 3 ? DataType::kFloat32 : DataType::kFloat64);
    p.channels = 36;
    p.rows = 3;
    p.columns = 6;
    p.heads1 = heads;
    p.heads2 = 36 / heads;
    expect_recurrence(p);
  }
}

void channels_share_projections_by_groups() {
  const std::array<std::int64_t, 4> forms[] = {{2, 2, 2, 2},  {36, 36, 36, 36}, {0, 0, 0, 0},
                                               {1, 0, 4, 12}, {9, 1, 0, 3},     {0, 1, 1, 1}};
  for (const auto& groups : forms) {
    for (const bool single : {false, true}) {
      Problem p = full(single ? Rule::kMamba : Rule::kZoh,
                       groups[0] == 9 ? DataType::kFloat32 : DataType::kFloat64);
      p.channels = 36;
      p.rows = 3;
      p.columns = 6;
      p.states = 3;
      p.groups = groups;
      p.single = single;
      expect_recurrence(p);
    }
  }
}

void any_memory_order_gives_the_same() {
  for (const Layout layout : {Layout::kColumnLast, Layout::kSpread}) {
    for (const DataType type : {DataType::kFloat64, DataType::kFloat32, DataType::kBFloat16}) {
      for (const std::int64_t groups : {1, 0, 5}) {
        Problem p = full(Rule::kZoh, type);
        p.layout = layout;
        p.channels = 20;
        p.columns = 37;
        p.states = 5;
        p.groups = {groups, groups, groups, groups};
        p.heads2 = 10;
        expect_recurrence(p);
      }
    }
  }
}

void either_axis_may_be_reversed() {
  for (const int which : {1, 2, 3}) {
    for (const std::int64_t groups : {1, 0}) {
      Problem p = full(Rule::kZoh);
      p.reverse_rows = which & 1;
      p.reverse_columns = which & 2;
      p.groups = {groups, 1, groups, 1};
      p.heads1 = 2;
      p.layout = which == 3 ? Layout::kColumnLast : Layout::kChannelLast;
      expect_recurrence(p);
      p.single = true;
      p.rule = Rule::kMamba;
      expect_recurrence(p);
    }
  }
}

void any_size_is_its_recurrence() {
  const std::array<std::int64_t, 5> sizes[] = {
      {1, 1, 1, 1, 1},   {1, 1, 40, 3, 5},  {1, 40, 1, 3, 5},  {3, 1, 200, 2, 3}, {2, 200, 1, 2, 3},
      {1, 9, 17, 16, 1}, {1, 17, 9, 33, 2}, {1, 33, 66, 1, 2}, {1, 8, 16, 8, 16}, {1, 2, 3, 5, 64},
      {5, 3, 2, 7, 33},  {1, 7, 130, 4, 3}, {1, 1, 4000, 2, 2}};
  for (const auto& size : sizes) {
    for (const DataType type : {DataType::kFloat32, DataType::kFloat64}) {
      Problem p = full(Rule::kZoh, type);
      p.batch = size[0];
      p.rows = size[1];
      p.columns = size[2];
      p.channels = size[3];
      p.states = size[4];
      expect_recurrence(p);
    }
  }
}

void small_types_round_inputs_and_outputs_alone() {
  for (const DataType type : {DataType::kFloat16, DataType::kBFloat16}) {
    for (const std::int64_t channels : {6, 32}) {
      Problem p = full(Rule::kZoh, type);
      p.channels = channels;
      p.columns = 40;
      p.groups = {1, 2, 0, 1};
      expect_recurrence(p);
      p.groups = {1, 1, 1, 1};
      p.heads1 = 2;
      expect_recurrence(p);
    }
  }
}

/// Rates and steps of 0, tiny ones and ones on both sides of where the slope changes its formula.
void small_rates_and_steps_lose_nothing() {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64}) {
    for (const Rule rule : {Rule::kZoh, Rule::kMamba, Rule::kExp}) {
      Problem p = full(rule, type);
      p.softplus = p.biased = false;
      p.states = 8;
      p.fill(3);
      const double scales[] = {0, 1e-30, -1e-8, 1e-4, -1e-2, 0.3, -0.36, -3};
      for (const int which : {kA1, kA4}) {
        for (std::int64_t i = 0; i < p.channels * p.states; ++i) {
          p.parameters[index(which)][index(i)] = scales[i % 8];
        }
        p.parameters[index(which)] = Memory(state_type(type), p.parameters[index(which)]).values();
      }
      for (const int which : {kDt1, kDt2}) {
        for (std::size_t i = 0; i < p.tensors[index(which)].size(); i += 3) {
          p.tensors[index(which)][i] = i % 2 == 0 ? 0 : 1;
        }
      }
      const Results expected = recurrence(p);
      const Written w = run(p, 1);
      close(w.y.values(), expected.y, tolerance(type), "y");
      for (const std::size_t k : {kDt1, kDt2, kB1, kB2, kX}) {
        close(w.tensor_grads[k].values(), expected.tensor_grads[k], tolerance(type),
              kTensorNames[k]);
      }
      for (const std::size_t k : {kA1, kA2, kA3, kA4}) {
        close(w.parameter_grads[k].values(), expected.parameter_grads[k], tolerance(type),
              kParameterNames[k]);
      }
    }
  }
}

void an_infinite_step_forgets_the_state() {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64}) {
    Problem p = full(Rule::kZoh, type);
    p.single = true;
    p.gated = p.skips = p.softplus = p.biased = false;
    p.fill(4);
    Problem rest = p;
    // From column 3 on the state is -B x / A at that column, whatever came before.
    for (std::int64_t cell = 0; cell < p.batch * p.rows * p.columns; ++cell) {
      for (std::int64_t d = 0; d < p.channels; ++d) {
        const std::size_t at = index(cell * p.channels + d);
        if (cell % p.columns == 3) p.tensors[kDt1][at] = rest.tensors[kDt1][at] = kInfinity;
        if (cell % p.columns < 3) rest.tensors[kX][at] = 100;
      }
    }
    const Values y = run(p, 1).y.values(), other = run(rest, 1).y.values();
    for (std::int64_t i = 0; i < p.batch * p.rows * p.columns * p.channels; ++i) {
      const bool after = i / p.channels % p.columns >= 3;
      check::that(std::isfinite(y[index(i)]), "y is not finite");
      check::that((y[index(i)] == other[index(i)]) == after, "what an infinite step forgets");
    }
  }
  // One head for all channels: its gradient, a sum over lanes, stays finite.
  Problem p = full(Rule::kZoh);
  p.softplus = p.biased = false;
  p.heads1 = p.heads2 = 1;
  p.fill(4);
  p.tensors[kDt1][3] = p.tensors[kDt2][7] = kInfinity;
  const Written w = run(p, 1);
  for (const std::size_t k : {kX, kDt1, kDt2, kB1, kC1}) {
    for (const double value : w.tensor_grads[k].values()) {
      check::that(std::isfinite(value), std::string("gradient of ") + kTensorNames[k]);
    }
  }
}

void a_cell_reaches_only_cells_after_it() {
  Problem p = full(Rule::kZoh, DataType::kFloat32);
  p.fill(5);
  Problem other = p;
  for (std::int64_t d = 0; d < p.channels; ++d) {
    other.tensors[kX][index((1 * p.columns + 2) * p.channels + d)] += 1;
  }
  const Values a = run(p, 1).y.values(), b = run(other, 1).y.values();
  for (std::int64_t i = 0; i < p.batch * p.rows * p.columns * p.channels; ++i) {
    const std::int64_t t = i / p.channels % p.columns, v = i / p.channels / p.columns % p.rows;
    const bool reached = i < p.rows * p.columns * p.channels && v >= 1 && t >= 2;
    check::equal(a[index(i)] != b[index(i)], reached, "y changes");
  }
}

/// Rows [row, row + rows) and columns likewise of a problem without states.
Problem part_of(const Problem& p, std::int64_t row, std::int64_t rows, std::int64_t column,
                std::int64_t columns) {
  Problem part = p;
  part.rows = rows;
  part.columns = columns;
  const auto cut = [&](const Values& values) {
    const std::int64_t width =
        static_cast<std::int64_t>(values.size()) / (p.batch * p.rows * p.columns);
    Values result;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      for (std::int64_t v = row; v < row + rows; ++v) {
        const auto first = values.begin() + ((b * p.rows + v) * p.columns + column) * width;
        result.insert(result.end(), first, first + columns * width);
      }
    }
    return result;
  };
  for (int k = 0; k < kCellTensors; ++k) {
    if (p.has(k) && !p.is_static(k)) part.tensors[index(k)] = cut(p.tensors[index(k)]);
  }
  part.y_grad = cut(p.y_grad);
  return part;
}

void states_carry_over_in_quadrants() {
  for (const Structure structure : {Structure::kDiagonal, Structure::kCompanion}) {
    Problem p = full(Rule::kZoh);
    p.structure = structure;
    p.with_states = false;
    p.rows = 11;
    p.columns = 23;
    p.fill(6);
    const Written whole = run(p, 1);
    const std::int64_t up = 4, before = 9;
    const auto with = [](Problem part, const std::vector<Memory>* left,
                         const std::vector<Memory>* above) {
      if (left != nullptr) {
        for (const int k : {kColumnH1, kColumnH2})
          part.initial[index(k)] = (*left)[index(k)].values();
      }
      if (above != nullptr) {
        for (const int k : {kRowH1, kRowH2}) part.initial[index(k)] = (*above)[index(k)].values();
      }
      return part;
    };
    const Written a = run(with(part_of(p, 0, up, 0, before), nullptr, nullptr), 1);
    const Written b =
        run(with(part_of(p, 0, up, before, p.columns - before), &a.final_states, nullptr), 1);
    const Written c =
        run(with(part_of(p, up, p.rows - up, 0, before), nullptr, &a.final_states), 1);
    const Written d = run(with(part_of(p, up, p.rows - up, before, p.columns - before),
                               &c.final_states, &b.final_states),
                          1);
    Problem expected = p;
    expected.tensors[kX] = whole.y.values();
    const auto quadrant = [&](const Written& w, std::int64_t row, std::int64_t rows,
                              std::int64_t column, std::int64_t columns) {
      close(w.y.values(), part_of(expected, row, rows, column, columns).tensors[kX],
            tolerance(p.type), "a quadrant");
    };
    quadrant(a, 0, up, 0, before);
    quadrant(b, 0, up, before, p.columns - before);
    quadrant(c, up, p.rows - up, 0, before);
    quadrant(d, up, p.rows - up, before, p.columns - before);
  }
}

void steps_in_place_are_the_scan() {
  for (const bool single : {false, true}) {
    for (const DataType type : {DataType::kFloat64, DataType::kBFloat16}) {
      Problem p = full(single ? Rule::kMamba : Rule::kZoh, type);
      p.single = single;
      p.fill(7);
      for (const int k : {kRowH1, kRowH2}) p.initial[index(k)].clear();
      const Written whole = run(p, 1);
      Problem expected = p;
      expected.tensors[kX] = whole.y.values();
      Memory h1(state_type(type), p.initial[kColumnH1]), h2(state_type(type), p.initial[kColumnH2]);
      for (std::int64_t t = 0; t < p.columns; ++t) {
        Problem column = part_of(p, 0, p.rows, t, 1);
        Operands o(column);
        o.inputs.initial_states = {h1.data(), single ? nullptr : h2.data(), nullptr, nullptr};
        Stored y(type, column.y_cells());
        cpu::selective_scan_2d_step({o.inputs, y.tensor(), h1.data(), single ? nullptr : h2.data()},
                                    2);
        close(y.values(), part_of(expected, 0, p.rows, t, 1).tensors[kX], tolerance(type),
              "a step's y");
      }
      close(h1.values(), whole.final_states[kColumnH1].values(), tolerance(state_type(type)),
            "h1 after all steps");
      close(h2.values(), whole.final_states[kColumnH2].values(), tolerance(state_type(type)),
            "h2 after all steps");
    }
  }
}

void threads_do_not_change_a_bit() {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat16}) {
    for (const std::int64_t groups : {1, 7, 0}) {
      Problem p = full(Rule::kZoh, type);
      p.channels = 70;
      p.heads1 = 5;
      p.rows = 9;
      p.columns = 21;
      p.groups = {groups, groups, 1, groups};
      p.fill(8);
      const Written one = run(p, 1);
      for (const int threads : {2, 5}) {
        check::that(run(p, threads) == one, "the result depends on the number of threads");
      }
    }
  }
}

void unwanted_gradients_may_be_null() {
  Problem p = full(Rule::kZoh);
  p.groups = {1, 2, 0, 1};
  p.heads2 = 2;
  p.fill(9);
  const Written all = run(p, 1);
  Operands o(p);
  Stored y_grad(p.type, p.y_cells(), p.y_grad);
  SelectiveScan2dBackward b;
  b.inputs = o.inputs;
  b.y_grad = y_grad.const_tensor();
  std::vector<Memory> final_grad;
  for (const Values& values : p.final_grad) final_grad.emplace_back(p.type, values);
  b.final_states_grad = {final_grad[0].data(), final_grad[1].data(), final_grad[2].data(),
                         final_grad[3].data()};
  cpu::selective_scan_2d_backward(b, 2);
  Stored x_grad(p.type, p.cells(kX)), B2_grad(p.type, p.cells(kB2));
  b.x_grad = x_grad.tensor();
  b.B2_grad = B2_grad.tensor();
  cpu::selective_scan_2d_backward(b, 2);
  check::that(x_grad == all.tensor_grads[kX] && B2_grad == all.tensor_grads[kB2],
              "a gradient depends on which others are wanted");
}

void an_empty_batch_has_gradients_of_zero() {
  Problem p = full(Rule::kZoh);
  p.batch = 0;
  p.fill(10);
  const Written w = run(p, 2);
  for (std::size_t k = 0; k < kParameters; ++k) {
    for (const double value : w.parameter_grads[k].values()) {
      check::equal(value, 0.0, kParameterNames[k]);
    }
  }
}

void wrong_arguments_are_named() {
  Problem p = full(Rule::kZoh);
  p.fill(11);
  Operands o(p);
  Stored y(p.type, p.y_cells());
  const auto rejects = [&](const auto& change, const std::vector<std::string>& parts) {
    SelectiveScan2dForward problem{o.inputs, y.tensor(), {}};
    change(problem);
    check::throws<ArgumentError>([&] { cpu::selective_scan_2d_forward(problem, 1); }, parts);
  };
  using Problem = SelectiveScan2dForward;
  rejects([](Problem& q) { q.inputs.shape.states = 65; }, {"states: ", "1 to 64", "got 65"});
  rejects([](Problem& q) { q.inputs.shape.states = 0; }, {"states: ", "got 0"});
  rejects([](Problem& q) { q.inputs.shape.rows = 0; }, {"rows: ", "got 0"});
  rejects([](Problem& q) { q.inputs.shape.columns = 0; }, {"columns: ", "got 0"});
  rejects([](Problem& q) { q.inputs.shape.batch = -1; }, {"batch: ", "got -1"});
  rejects([](Problem& q) { q.inputs.shape.dt1_heads = 4; },
          {"dt1_heads: ", "channels = 6", "got 4"});
  rejects([](Problem& q) { q.inputs.shape.C2_groups = 5; },
          {"C2_groups: ", "channels = 6", "got 5"});
  rejects([](Problem& q) { q.inputs.x.data = nullptr; }, {"x: ", "null"});
  rejects([](Problem& q) { q.inputs.dt2.data = nullptr; }, {"dt2: ", "null"});
  rejects([](Problem& q) { q.inputs.A1.data = nullptr; }, {"A1: ", "null"});
  rejects([](Problem& q) { q.inputs.A4.data = nullptr; }, {"A4: ", "null"});
  rejects([](Problem& q) { q.inputs.B2.data = nullptr; }, {"B2: ", "null"});
  rejects([](Problem& q) { q.y.data = nullptr; }, {"y: ", "null"});
  rejects([](Problem& q) { q.inputs.gamma = q.inputs.D; }, {"gamma: ", "companion"});
  rejects([](Problem& q) { q.inputs.single_axis = true; }, {"with single_axis"});
  rejects([](Problem& q) { q.inputs.discretization = Rule::kNone; }, {"dt1: ", "kNone"});
  rejects([](Problem& q) { q.inputs.discretization = static_cast<Rule>(4); },
          {"discretization: ", "got 4"});
  rejects([](Problem& q) { q.inputs.structure = static_cast<Structure>(2); },
          {"structure: ", "got 2"});
  rejects([](Problem& q) { q.inputs.dtype = static_cast<DataType>(9); }, {"dtype: ", "got 9"});
  rejects(
      [](Problem& q) {
        q.inputs.structure = Structure::kCompanion;
        q.inputs.discretization = Rule::kMamba;
      },
      {"discretization: ", "companion"});
  SelectiveScan2dStep step{o.inputs, y.tensor(), nullptr, nullptr};
  check::throws<ArgumentError>([&] { cpu::selective_scan_2d_step(step, 1); },
                               {"columns: ", "got 11"});
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {{"every rule is its recurrence", every_rule_is_its_recurrence},
       {"one axis is its recurrence", one_axis_is_its_recurrence},
       {"companion is its recurrence", companion_is_its_recurrence},
       {"couplings may be absent", couplings_may_be_absent},
       {"one rate a channel is its recurrence", one_rate_a_channel_is_its_recurrence},
       {"channels share steps by heads", channels_share_steps_by_heads},
       {"channels share projections by groups", channels_share_projections_by_groups},
       {"any memory order gives the same", any_memory_order_gives_the_same},
       {"either axis may be reversed", either_axis_may_be_reversed},
       {"any size is its recurrence", any_size_is_its_recurrence},
       {"small types round inputs and outputs alone", small_types_round_inputs_and_outputs_alone},
       {"small rates and steps lose nothing", small_rates_and_steps_lose_nothing},
       {"an infinite step forgets the state", an_infinite_step_forgets_the_state},
       {"a cell reaches only cells after it", a_cell_reaches_only_cells_after_it},
       {"states carry over in quadrants", states_carry_over_in_quadrants},
       {"steps in place are the scan", steps_in_place_are_the_scan},
       {"threads do not change a bit", threads_do_not_change_a_bit},
       {"unwanted gradients may be null", unwanted_gradients_may_be_null},
       {"an empty batch has gradients of zero", an_empty_batch_has_gradients_of_zero},
       {"wrong arguments are named", wrong_arguments_are_named}});
}
