// Times of the CUDA kernels of the 2D selective scan and its 1D case: forward, backward and one
// column.
//
// cells/s counts states: one of either kind for every cell, channel and component. flop/s counts
// one exponential, 4 FMA and 2 products a kind of state forward, and four times that backward.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cuda_benchmark.h"
#include "rankone/selective_scan_2d.h"

namespace {

using rankone::DataType;
using rankone::ScanDiscretization;
using rankone::ScanParameter;
using rankone::bench::allocate;
using rankone::bench::DeviceMemory;
using rankone::bench::random_memory;

struct Problem {
  std::int64_t batch;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t channels;
  std::int64_t states;
  ScanDiscretization discretization;
  DataType dtype;
  bool single;
  bool scalar = false;   // A is one value a channel
  bool one_way = false;  // A2 absent

  std::int64_t cells() const { return batch * rows * columns; }
  std::int64_t numbers() const { return cells() * channels; }
  std::int64_t kinds() const { return single ? 1 : 2; }
  std::int64_t element() const { return dtype == DataType::kFloat32 ? 4 : 2; }
  std::int64_t column_states() const { return batch * rows * channels * states; }
  /// x, the steps and the vectors, once.
  double input_bytes() const {
    return 1.0 * element() * ((1 + kinds()) * numbers() + 2 * kinds() * cells() * states);
  }
  double output_bytes() const { return 1.0 * element() * numbers(); }
  double state_cells() const { return 1.0 * numbers() * states; }
  double forward_flops() const { return 11.0 * kinds() * state_cells(); }
  std::string name() const {
    constexpr const char* kNames[] = {"zoh", "mamba", "exp", "none"};
    return std::string(single    ? "one_axis/"
                       : one_way ? "one_way/"
                                 : "both/") +
           kNames[static_cast<int>(discretization)] + (scalar ? "/scalar/" : "/") +
           rankone::bench::name_of(dtype) + "/B:" + std::to_string(batch) +
           "/V:" + std::to_string(rows) + "/T:" + std::to_string(columns) +
           "/D:" + std::to_string(channels) + "/N:" + std::to_string(states);
  }
};

template <typename Pointer>
rankone::CellTensor<Pointer> contiguous(Pointer data, const Problem& p, std::int64_t fourth,
                                        std::int64_t states) {
  const std::int64_t cell = fourth * states;
  return {data, p.rows * p.columns * cell, p.columns * cell, cell, states, 1};
}

class InputSet {
 public:
  InputSet(const Problem& p, std::uint64_t seed) {
    inputs_.shape = {.batch = p.batch,
                     .rows = p.rows,
                     .columns = p.columns,
                     .channels = p.channels,
                     .states = p.states,
                     .dt1_heads = p.channels,
                     .dt2_heads = p.single ? 0 : p.channels,
                     .B1_groups = 1,
                     .B2_groups = 1,
                     .C1_groups = 1,
                     .C2_groups = 1};
    inputs_.dtype = p.dtype;
    inputs_.discretization = p.discretization;
    inputs_.single_axis = p.single;
    const auto cells = [&](std::int64_t fourth, std::int64_t states, float low, float high) {
      const void* data = keep(
          random_memory(p.dtype, p.cells() * fourth * states, seed + memory_.size(), low, high));
      return contiguous(data, p, fourth, states);
    };
    inputs_.x = cells(p.channels, 1, -1, 1);
    inputs_.dt1 = cells(p.channels, 1, 0.01f, 0.3f);
    inputs_.B1 = cells(1, p.states, -1, 1);
    inputs_.C1 = cells(1, p.states, -1, 1);
    if (!p.single) {
      inputs_.dt2 = cells(p.channels, 1, 0.01f, 0.3f);
      inputs_.B2 = cells(1, p.states, -1, 1);
      inputs_.C2 = cells(1, p.states, -1, 1);
    }
    const auto parameter = [&](float low, float high) -> ScanParameter {
      const std::int64_t width = p.scalar ? 1 : p.states;
      const void* data = keep(
          random_memory(DataType::kFloat32, p.channels * width, seed + memory_.size(), low, high));
      return {data, width, p.scalar ? 0 : 1};
    };
    inputs_.A1 = parameter(-1.5f, -0.5f);
    if (!p.single) {
      if (!p.one_way) inputs_.A2 = parameter(-0.4f, 0.4f);
      inputs_.A3 = parameter(-0.4f, 0.4f);
      inputs_.A4 = parameter(-1.5f, -0.5f);
    }
  }

  const rankone::SelectiveScan2dInputs& inputs() const { return inputs_; }

 private:
  const void* keep(DeviceMemory memory) {
    memory_.push_back(std::move(memory));
    return memory_.back().get();
  }

  std::vector<DeviceMemory> memory_;
  rankone::SelectiveScan2dInputs inputs_;
};

std::vector<InputSet> input_sets(const Problem& p) {
  return rankone::bench::input_sets(p.input_bytes(),
                                    [&](std::uint64_t seed) { return InputSet(p, seed); });
}

/// As rankone::bench::measure, and the rate of states.
template <typename Call>
void measure(benchmark::State& state, const Problem& p, const std::vector<InputSet>& sets,
             double flops, double bytes, const Call& call) {
  rankone::bench::measure(state, sets, flops, bytes, call);
  state.counters["cells/s"] =
      benchmark::Counter(p.state_cells(), benchmark::Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& state, const Problem& p) {
  const std::vector<InputSet> sets = input_sets(p);
  const DeviceMemory y = allocate(p.numbers() * p.element());
  rankone::SelectiveScan2dForward call;
  call.inputs = sets[0].inputs();
  call.y = contiguous(y.get(), p, p.channels, 1);
  const DeviceMemory workspace = allocate(rankone::cuda::selective_scan_2d_forward_workspace(call));
  const double bytes = p.input_bytes() + p.output_bytes();
  measure(state, p, sets, p.forward_flops(), bytes, [&](const InputSet& set) {
    call.inputs = set.inputs();
    rankone::cuda::selective_scan_2d_forward(call, workspace.get(), nullptr);
  });
}

void backward(benchmark::State& state, const Problem& p) {
  const std::vector<InputSet> sets = input_sets(p);
  const DeviceMemory y_grad = random_memory(p.dtype, p.numbers(), 7, -1, 1);
  std::vector<DeviceMemory> memory;
  const auto cells = [&](std::int64_t fourth, std::int64_t states) {
    memory.push_back(allocate(p.cells() * fourth * states * p.element()));
    return contiguous(memory.back().get(), p, fourth, states);
  };
  const auto parameter = [&] {
    memory.push_back(allocate(p.channels * p.states * sizeof(float)));
    return memory.back().get();
  };
  rankone::SelectiveScan2dBackward call;
  call.inputs = sets[0].inputs();
  call.y_grad = contiguous<const void*>(y_grad.get(), p, p.channels, 1);
  call.x_grad = cells(p.channels, 1);
  call.dt1_grad = cells(p.channels, 1);
  call.B1_grad = cells(1, p.states);
  call.C1_grad = cells(1, p.states);
  call.A1_grad = parameter();
  if (!p.single) {
    call.dt2_grad = cells(p.channels, 1);
    call.B2_grad = cells(1, p.states);
    call.C2_grad = cells(1, p.states);
    if (!p.one_way) call.A2_grad = parameter();
    call.A3_grad = parameter();
    call.A4_grad = parameter();
  }
  const DeviceMemory workspace =
      allocate(rankone::cuda::selective_scan_2d_backward_workspace(call));
  const double bytes = 2 * p.input_bytes() + p.output_bytes();
  measure(state, p, sets, 4 * p.forward_flops(), bytes, [&](const InputSet& set) {
    call.inputs = set.inputs();
    rankone::cuda::selective_scan_2d_backward(call, workspace.get(), nullptr);
  });
}

void step(benchmark::State& state, const Problem& p) {
  const std::vector<InputSet> sets = input_sets(p);
  const DeviceMemory y = allocate(p.numbers() * p.element());
  const std::int64_t count = p.column_states();
  const DeviceMemory h1 = random_memory(DataType::kFloat32, count, 5, -1, 1);
  const DeviceMemory h2 = random_memory(DataType::kFloat32, count, 6, -1, 1);
  rankone::SelectiveScan2dStep call;
  call.y = contiguous(y.get(), p, p.channels, 1);
  call.column_h1 = h1.get();
  call.column_h2 = p.single ? nullptr : h2.get();
  const double bytes = p.input_bytes() + p.output_bytes() + 2.0 * sizeof(float) * p.kinds() * count;
  measure(state, p, sets, p.forward_flops(), bytes, [&](const InputSet& set) {
    call.inputs = set.inputs();
    call.inputs.initial_states.column_h1 = call.column_h1;
    call.inputs.initial_states.column_h2 = call.column_h2;
    rankone::cuda::selective_scan_2d_step(call, nullptr);
  });
}

void add_sweeps(const Problem& problem) {
  rankone::bench::add("forward", forward, problem);
  rankone::bench::add("backward", backward, problem);
}

void add_all() {
  for (const DataType dtype : {DataType::kFloat32, DataType::kBFloat16}) {
    for (const ScanDiscretization discretization :
         {ScanDiscretization::kZoh, ScanDiscretization::kMamba}) {
      Problem full{64, 8, 512, 256, 16, discretization, dtype, false};
      add_sweeps(full);
      full.scalar = true;
      add_sweeps(full);
    }
    // Images: 56 x 56 patches.
    add_sweeps({16, 56, 56, 192, 16, ScanDiscretization::kZoh, dtype, false});
    // A forecaster's window: few blocks, so one channel a thread.
    add_sweeps({8, 7, 96, 64, 16, ScanDiscretization::kZoh, dtype, false});
    Problem one_way{1, 8, 4096, 64, 16, ScanDiscretization::kZoh, dtype, false};
    one_way.one_way = true;
    add_sweeps(one_way);
    // Mamba's own shapes; the second one is cut into segments.
    add_sweeps({8, 1, 2048, 2048, 16, ScanDiscretization::kMamba, dtype, true});
    add_sweeps({1, 1, 16384, 1536, 16, ScanDiscretization::kMamba, dtype, true});
    for (const std::int64_t rows : {7, 321}) {
      rankone::bench::add<Problem>("step", step,
                                   {1, rows, 1, 256, 16, ScanDiscretization::kZoh, dtype, false});
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return rankone::bench::run(argc, argv, add_all); }
