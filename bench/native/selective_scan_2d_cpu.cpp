// The CPU 2D selective scan on one thread (or --threads=N): forward, backward and one column, over
// the grid's shape, state counts and discretisations, and the 1D scan in both memory orders.
//
// Counters: states/s counts grid cells x channels x states; bytes/s each input and output once.
// `of_copy` is the share of the rate at which memory is copied, read and written, measured first:
// at 16 states the scan is bound by its exponentials, so the share says how far from memory-bound.
#include <cstring>
#include <ctime>

#include "cpu_benchmark.h"
#include "parallel.h"
#include "rankone/selective_scan_2d.h"

namespace {

using namespace rankone;
using namespace rankone::bench;

double measured_copy_rate = 0;

/// This thread's processor time, the clock of google-benchmark's rates.
double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Bytes read and written a second by copies of arrays larger than a core's share of any cache.
double copy_rate() {
  constexpr std::int64_t kBytes = std::int64_t{128} << 20, kPieces = 64;
  constexpr int kRounds = 8;
  const std::vector<char> source(kBytes, 1);
  std::vector<char> target(kBytes);
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const double start = thread_seconds();
    cpu::parallel_for(kPieces, num_threads, [&](std::int64_t piece, int) {
      std::memcpy(target.data() + piece * (kBytes / kPieces),
                  source.data() + piece * (kBytes / kPieces), kBytes / kPieces);
    });
    best = std::max(best, 2.0 * static_cast<double>(kBytes) / (thread_seconds() - start));
  }
  return best;
}

struct Sizes {
  std::int64_t batch, rows, columns, channels, states;

  std::int64_t cells() const { return batch * rows * columns; }
  std::int64_t values() const { return cells() * channels; }
  std::int64_t vectors() const { return cells() * states; }
};

struct Form {
  const char* name;
  ScanDiscretization rule = ScanDiscretization::kZoh;
  ScanStructure structure = ScanStructure::kDiagonal;
  bool single_axis = false;
  bool one_rate = false;
  bool channel_last = true;  // else (batch, channels[, states], rows, columns), as mamba-ssm's
};

constexpr Form kForms[] = {
    {"zoh"},
    {"mamba", ScanDiscretization::kMamba},
    {"exp", ScanDiscretization::kExp},
    {"none", ScanDiscretization::kNone},
    {"zoh_one_rate", ScanDiscretization::kZoh, ScanStructure::kDiagonal, false, true},
    {"companion", ScanDiscretization::kZoh, ScanStructure::kCompanion},
};
constexpr Form kForms1d[] = {
    {"mamba_1d", ScanDiscretization::kMamba, ScanStructure::kDiagonal, true},
    {"mamba_1d_channel_first", ScanDiscretization::kMamba, ScanStructure::kDiagonal, true, false,
     false},
};

/// Everything float32, one step a channel, one group of B and C.
struct Operands {
  Sizes s;
  Form form;
  Floats x, dt1, dt2, B1, B2, C1, C2, A1, A2, A3, A4, D, gamma, y_grad;
  Floats y, x_grad, dt1_grad, dt2_grad, B1_grad, B2_grad, C1_grad, C2_grad;
  Floats A1_grad, A2_grad, A3_grad, A4_grad, D_grad, gamma_grad;
  Floats column_h1, column_h2;
  SelectiveScan2dInputs inputs;

  template <typename Pointer>
  CellTensor<Pointer> cells(Pointer data, std::int64_t width, bool states) const {
    const std::int64_t grid = s.rows * s.columns;
    if (form.channel_last) {
      return {data, grid * width, s.columns * width, width, states ? width : 1, 1};
    }
    return {data, grid * width, s.columns, 1, states ? grid * width : grid, grid};
  }
  ConstCells read(const Floats& values, bool states = false) const {
    return cells<const void*>(values.data(), states ? s.states : s.channels, states);
  }
  MutableCells write(Floats& values, bool states = false) const {
    return cells<void*>(values.data(), states ? s.states : s.channels, states);
  }

  Operands(const Sizes& sizes, const Form& f) : s(sizes), form(f) {
    const bool none = f.rule == ScanDiscretization::kNone;
    const std::int64_t matrix = s.channels * s.states;
    const std::int64_t stride = f.one_rate ? 0 : 1;
    inputs.shape = {s.batch,
                    s.rows,
                    s.columns,
                    s.channels,
                    s.states,
                    none ? 0 : s.channels,
                    none || f.single_axis ? 0 : s.channels,
                    1,
                    f.single_axis ? 0 : 1,
                    1,
                    f.single_axis ? 0 : 1};
    inputs.discretization = f.rule;
    inputs.structure = f.structure;
    inputs.single_axis = f.single_axis;
    const auto parameter = [&](Floats& values, float low, float high, unsigned seed) {
      values = random_values(matrix, low, high, seed);
      return ScanParameter{values.data(), s.states, stride};
    };
    const auto fill = [&](Floats& values, std::int64_t count, float low, unsigned seed) {
      values = random_values(count, low, 1, seed);
    };
    const bool companion = f.structure == ScanStructure::kCompanion;
    const float width = companion ? 1.0F / static_cast<float>(s.states) : 0.3F;
    fill(x, s.values(), -1, 1);
    fill(B1, s.vectors(), -1, 2);
    fill(C1, s.vectors(), -1, 3);
    inputs.A1 = companion ? parameter(A1, -width, width, 4)
                          : parameter(A1, none ? 0.1F : -2.0F, none ? 0.6F : -0.5F, 4);
    inputs.x = read(x);
    inputs.B1 = read(B1, true);
    inputs.C1 = read(C1, true);
    if (!none) {
      fill(dt1, s.values(), 0.01F, 5);
      inputs.dt1 = read(dt1);
    }
    if (!f.single_axis) {
      if (!none) {
        fill(dt2, s.values(), 0.01F, 6);
        inputs.dt2 = read(dt2);
      }
      fill(B2, s.vectors(), -1, 7);
      fill(C2, s.vectors(), -1, 8);
      inputs.B2 = read(B2, true);
      inputs.C2 = read(C2, true);
      const bool exp = f.rule == ScanDiscretization::kExp;
      inputs.A2 = parameter(A2, exp ? -6.0F : -width, exp ? -3.0F : width, 9);
      inputs.A3 = parameter(A3, exp ? -6.0F : -0.3F, exp ? -3.0F : 0.3F, 10);
      inputs.A4 = parameter(A4, none ? 0.1F : -2.0F, none ? 0.6F : -0.5F, 11);
    }
    D = random_values(s.channels, -1, 1, 12);
    inputs.D = D.data();
    if (companion) {
      gamma = random_values(s.channels, -0.5F, 0.5F, 13);
      inputs.gamma = gamma.data();
    }
    y_grad = random_values(s.values(), -1, 1, 14);
    for (Floats* values : {&y, &x_grad, &dt1_grad, &dt2_grad}) values->resize(x.size());
    for (Floats* values : {&B1_grad, &B2_grad, &C1_grad, &C2_grad}) values->resize(B1.size());
    for (Floats* values : {&A1_grad, &A2_grad, &A3_grad, &A4_grad}) {
      values->resize(static_cast<std::size_t>(matrix));
    }
    D_grad.resize(D.size());
    gamma_grad.resize(D.size());
    column_h1.resize(static_cast<std::size_t>(s.batch * s.rows * matrix));
    column_h2.resize(column_h1.size());
  }

  SelectiveScan2dBackward backward() {
    SelectiveScan2dBackward b;
    b.inputs = inputs;
    b.y_grad = read(y_grad);
    b.x_grad = write(x_grad);
    b.B1_grad = write(B1_grad, true);
    b.C1_grad = write(C1_grad, true);
    b.A1_grad = A1_grad.data();
    b.D_grad = D_grad.data();
    if (inputs.dt1.data != nullptr) b.dt1_grad = write(dt1_grad);
    if (inputs.single_axis) return b;
    if (inputs.dt2.data != nullptr) b.dt2_grad = write(dt2_grad);
    b.B2_grad = write(B2_grad, true);
    b.C2_grad = write(C2_grad, true);
    b.A2_grad = A2_grad.data();
    b.A3_grad = A3_grad.data();
    b.A4_grad = A4_grad.data();
    if (inputs.gamma != nullptr) b.gamma_grad = gamma_grad.data();
    return b;
  }

  /// Of x and the steps, and of B and C.
  double input_bytes() const {
    const int axes = form.single_axis ? 1 : 2;
    const int steps = form.rule == ScanDiscretization::kNone ? 0 : axes;
    return 4.0 * static_cast<double>((1 + steps) * s.values() + 2 * axes * s.vectors());
  }
};

void count_states(benchmark::State& state, const Sizes& s, double bytes) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  state.counters["states/s"] = Counter(static_cast<double>(s.values() * s.states), rate);
  state.counters["bytes/s"] = Counter(bytes, rate);
  state.counters["of_copy"] = Counter(bytes / measured_copy_rate, rate);
}

Sizes sizes_of(const benchmark::State& state) {
  return {state.range(0), state.range(1), state.range(2), state.range(3), state.range(4)};
}

void forward(benchmark::State& state, const Form& form) {
  Operands o(sizes_of(state), form);
  const SelectiveScan2dForward problem{o.inputs, o.write(o.y), {}};
  for (auto _ : state) cpu::selective_scan_2d_forward(problem, num_threads);
  count_states(state, o.s, o.input_bytes() + 4.0 * static_cast<double>(o.s.values()));
}

void backward(benchmark::State& state, const Form& form) {
  Operands o(sizes_of(state), form);
  const SelectiveScan2dBackward problem = o.backward();
  for (auto _ : state) cpu::selective_scan_2d_backward(problem, num_threads);
  count_states(state, o.s, 2 * o.input_bytes() + 4.0 * static_cast<double>(o.s.values()));
}

/// In place, as a decoder calls it.
void step(benchmark::State& state, const Form& form) {
  Operands o(sizes_of(state), form);
  void* const h2 = form.single_axis ? nullptr : o.column_h2.data();
  o.inputs.initial_states.column_h1 = o.column_h1.data();
  o.inputs.initial_states.column_h2 = h2;
  const SelectiveScan2dStep problem{o.inputs, o.write(o.y), o.column_h1.data(), h2};
  for (auto _ : state) cpu::selective_scan_2d_step(problem, num_threads);
  const double states = static_cast<double>(o.column_h1.size()) * (form.single_axis ? 1 : 2);
  count_states(state, o.s,
               o.input_bytes() + 4.0 * static_cast<double>(o.s.values()) + 8.0 * states);
}

void register_shapes(const std::string& name, void (*run)(benchmark::State&, const Form&),
                     const Form& form, const std::vector<std::vector<std::int64_t>>& shapes) {
  auto* entry = benchmark::RegisterBenchmark((name + "/" + form.name).c_str(), run, form);
  entry->ArgNames({"B", "V", "T", "D", "N"})->Unit(benchmark::kMicrosecond);
  for (const std::vector<std::int64_t>& shape : shapes) entry->Args(shape);
}

void register_all() {
  measured_copy_rate = copy_rate();
  benchmark::AddCustomContext("copy_gbytes", std::to_string(measured_copy_rate / 1e9));
  const std::vector<std::vector<std::int64_t>> one = {{8, 7, 96, 64, 16}};
  // Twice the columns, twice the rows, an image, few and many states.
  const std::vector<std::vector<std::int64_t>> grid = {{8, 7, 96, 64, 16},  {8, 7, 192, 64, 16},
                                                       {8, 14, 96, 64, 16}, {1, 64, 64, 64, 16},
                                                       {8, 7, 96, 64, 4},   {8, 7, 96, 64, 32}};
  const std::vector<std::vector<std::int64_t>> sequences = {{1, 1, 2048, 256, 16},
                                                            {1, 1, 4096, 256, 16}};
  for (const Form& form : kForms) {
    const bool first = &form == kForms;
    register_shapes("forward", forward, form, first ? grid : one);
    register_shapes("backward", backward, form, first ? grid : one);
    register_shapes("step", step, form, {{8, 7, 1, 64, 16}});
  }
  for (const Form& form : kForms1d) {
    register_shapes("forward", forward, form, sequences);
    register_shapes("backward", backward, form, sequences);
    register_shapes("step", step, form, {{16, 1, 1, 1024, 16}});
  }
}

}  // namespace

int main(int argc, char** argv) { return rankone::bench::run(argc, argv, register_all); }
