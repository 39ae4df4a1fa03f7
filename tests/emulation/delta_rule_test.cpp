// The CUDA kernels of the delta rule, run by the SIMT emulation, against the plain recurrence in
// double: forward, every gradient, and the step.
#include "rankone/delta_rule.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "cpp/check.h"
#include "delta_rule_case.h"
#include "delta_rule_gradients_kernel.cuh"
#include "delta_rule_segments.cuh"
#include "delta_rule_sweep_kernel.cuh"
#include "simt.h"
#include "token_tensors.h"

namespace {

using namespace delta_rule_case;

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
      p.l2norm = true;
      if (key_dim == 1) {
        // All of the state is what the key reads: a token leaves 1 - beta of it, in which the
        // rounding of beta of it shows 1 / (1 - beta) times as large.
        p.beta_limit = 0.5;
        p.time = 5;
        p.l2norm = false;  // of a single channel only the sign is left
      }
      p.dtype = kTypes[seed % 3];
      p.l2norm = p.l2norm && seed % 2 == 0;
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

void value_heads_of_a_group_share_queries_and_keys() {
  for (const DecayForm form : kForms) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 75;
      p.heads = 2;
      p.value_heads = 6;
      p.key_dim = 24;
      p.value_dim = 33;
      expect_matches_recurrence(p);
    }
  }
}

void queries_and_keys_are_normalised_in_the_kernel() {
  for (const DecayForm form : kForms) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 75;
      p.heads = 1;
      p.value_heads = 2;
      p.key_dim = 36;
      p.key_norm = 7.0;
      p.l2norm = true;
      expect_matches_recurrence(p);
    }
  }
}

void packed_sequences_restart_and_may_be_empty() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 150;
    p.heads = p.value_heads = 2;
    p.cu_seqlens = {0, 0, 1, 70, 70, 86, 150, 150};
    expect_matches_recurrence(p);
    p.value_heads = 4;
    p.dtype = DataType::kBFloat16;
    p.initial_state = p.final_state_grad = false;
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
      p.heads = p.value_heads = 2;
      p.dtype = layout == Layout::kHeadsFirst ? DataType::kBFloat16 : DataType::kFloat16;
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
    Problem p;
    p.form = form;
    p.reset_share = 1.0;
    const Data data = make_data(p);
    for (const double grad : run_kernels(p, data).log_decay_grad.values()) {
      check::equal(grad, 0.0, "gradient of a log-decay of -inf");
    }
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

/// The state and what it predicts pass 65504 by far, the outputs do not.
void half_survives_large_states() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.dtype = DataType::kFloat16;
    p.time = 80;
    p.magnitude = 1e4;
    p.final_state_grad = false;
    p.key_norm = 0.05;
    p.beta_limit = 400.0;  // beta |k|^2 up to 1
    p.scale = 1e-5;
    expect_matches_recurrence(p);
  }
}

/// beta in [0, 2]: transitions with negative eigenvalues, still no expansion.
void beta_may_exceed_one() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 120;
    p.beta_limit = 2.0;
    p.dtype = DataType::kBFloat16;
    expect_matches_recurrence(p);
    p.dtype = DataType::kFloat32;
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

/// One key for all time, beta = 1 and no decay: after the first token the state predicts 4096, and
/// all that a token writes is what its v differs by. That is lost where the prediction or the state
/// is rounded to T first: 16-bit neighbours of 4096 are 4 or 32 apart.
void a_small_residual_against_a_large_state_is_exact() {
  for (const DataType dtype : {DataType::kBFloat16, DataType::kFloat16}) {
    for (const DecayForm form : kForms) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 40;
      p.strength = 0.0;
      p.initial_state = false;
      Data data = make_data(p);
      // k = (1/2, 1/2, 1/2, 1/2, 0, ...): exact in every type.
      std::vector<double> keys(data.k.values.size()), ones(data.beta.values.size(), 1.0);
      for (std::size_t i = 0; i < keys.size(); ++i) {
        keys[i] = i % static_cast<std::size_t>(p.key_dim) < 4 ? 0.5 : 0.0;
      }
      data.k = make_tensor(p.batch, p.time, p.heads, p.key_dim, dtype, p.layout, keys);
      data.q = make_tensor(p.batch, p.time, p.heads, p.key_dim, dtype, p.layout, keys);
      data.beta =
          make_tensor(p.batch, p.time, p.value_heads, 1, DataType::kFloat32, p.layout, ones);
      data.v = make_tensor(p.batch, p.time, p.value_heads, p.value_dim, dtype, p.layout,
                           std::vector<double>(data.v.values.size(), 4096.0));
      // The state starts out 2 away from what it should be: S^T k = 4098.
      data.initial_state.assign(static_cast<std::size_t>(p.key_dim * p.value_dim), 0.0f);
      for (int64_t c = 0; c < 4; ++c) {
        for (int64_t j = 0; j < p.value_dim; ++j) {
          data.initial_state[c * p.value_dim + j] = 2049.0f;
        }
      }
      const std::vector<double> state = run_kernels(p, data).final_state.values();
      for (int64_t i = 0; i < 4 * p.value_dim; ++i) {
        // u = -2 to 16 bits of 4098; S = 2049 - 1.
        check::that(std::abs(state[i] - 2048.0) <= 4098.0 * 0x1p-16,
                    p.describe() + "state " + std::to_string(state[i]) + ", expected 2048");
      }
    }
  }
}

/// More states than the backward pass keeps at a time: it goes through the sequences in ranges.
/// What it keeps grows with the device.
void ranges_of_positions_join_in_the_backward_pass() {
  const Multiprocessors one(1);
  for (const DecayForm form : {DecayForm::kPerToken, DecayForm::kPerChannel}) {
    Problem p;
    p.form = form;
    p.time = 300;
    p.heads = p.value_heads = 4;
    p.key_dim = p.value_dim = 128;
    expect_matches_recurrence(p);
    p.cu_seqlens = {0, 3, 3, 200, 300};
    expect_matches_recurrence(p);
  }
}

/// Runs `body` with so many multiprocessors that one head's time is split, and fails where it is
/// not: the states of the segments lie in the workspace.
void expect_matches_split(const Problem& p) {
  const Multiprocessors many(64);
  const Data data = make_data(p);
  DeltaRuleForward forward;
  forward.inputs = make_inputs(p, data);
  check::that(rankone::cuda::delta_rule_forward_workspace(forward) > 0,
              p.describe() + "time is split, with a state a segment in the workspace");
  expect_matches_recurrence(p);
}

void split_time_matches_the_recurrence() {
  unsigned seed = 700;
  for (const DecayForm form : kForms) {
    for (const DataType dtype : kTypes) {
      Problem p;
      p.form = form;
      p.dtype = dtype;
      p.time = 1050;
      p.initial_state = p.final_state_grad = seed % 4 != 0;
      p.l2norm = seed % 2 == 0;
      p.beta_limit = seed % 3 == 0 ? 2.0 : 1.0;
      p.seed = ++seed;
      expect_matches_split(p);
    }
  }
  // Several tiles of key and value channels, none of them whole, and grouped heads.
  Problem p;
  p.dtype = DataType::kBFloat16;
  p.heads = 1;
  p.value_heads = 2;
  p.time = 1100;
  p.key_dim = 70;
  p.value_dim = 50;
  expect_matches_split(p);
  p.form = DecayForm::kPerChannel;
  p.reset_share = 0.01;
  expect_matches_split(p);
}

/// Every sequence is cut into as many segments, of which the short ones leave some empty.
void split_time_restarts_with_packed_sequences() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 3300;
    p.cu_seqlens = {0, 3, 3300, 3300};
    expect_matches_split(p);
  }
}

/// What a segment starts from is as exact as a state in registers: here it predicts v to within the
/// roundoff of T, and the residual is what that leaves.
void split_time_keeps_small_residuals() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.dtype = DataType::kBFloat16;
    p.time = 1050;
    p.strength = 0.0;
    Data data = make_data(p);
    // v = S^T k rounded, of one and the same state.
    for (int64_t t = 0; t < p.time; ++t) {
      for (int64_t j = 0; j < p.value_dim; ++j) {
        double predicted = 0.0;
        for (int64_t c = 0; c < p.key_dim; ++c) {
          predicted += data.initial_state[c * p.value_dim + j] * data.k.values[t * p.key_dim + c];
        }
        data.v.values[t * p.value_dim + j] = predicted;
      }
    }
    data.v = make_tensor(1, p.time, 1, p.value_dim, p.dtype, p.layout, data.v.values);
    const Results expected = reference(p, data);
    const auto drift = [&](int count) {
      const Multiprocessors device(count);
      const KernelOutputs outputs = run_kernels(p, data);
      // Not of the state itself, which hardly moves, but of what it has moved by.
      std::vector<double> moved(expected.final_state.size());
      for (std::size_t i = 0; i < moved.size(); ++i) {
        moved[i] = expected.final_state[i] - data.initial_state[i];
      }
      return relative_error(outputs.final_state.values(), expected.final_state, moved);
    };
    const double whole = drift(1), split = drift(64);
    std::ostringstream text;
    text << p.describe() << "relative error of the change of the state " << split << " split, "
         << whole << " unsplit";
    if (std::getenv("SHOW_ERRORS") != nullptr) std::printf("%s\n", text.str().c_str());
    check::that(split <= 1.5 * whole, text.str());
  }
}

/// join_delta_segments against products in double, with tiles that are not whole.
void segments_join_in_both_directions() {
  constexpr int kSegments = 3;
  const int dims[][2] = {{1, 1}, {24, 20}, {130, 33}, {256, 16}};
  for (const auto& [key_dim, value_dim] : dims) {
    for (const bool reversed : {false, true}) {
      for (const bool from_zero : {false, true}) {
        constexpr int64_t kHeads = 2;
        const int64_t elements = key_dim * value_dim;
        Random random(static_cast<unsigned>(key_dim + reversed));
        std::vector<float> states = to_floats(random.normal(kHeads * kSegments * elements, 1.0));
        const std::vector<float> transitions = to_floats(random.normal(
            kHeads * kSegments * key_dim * key_dim, 1.0 / std::sqrt(static_cast<double>(key_dim))));
        const std::vector<float> initial = to_floats(random.normal(kHeads * elements, 1.0));
        std::vector<double> starts, ends;
        for (int64_t head = 0; head < kHeads; ++head) {
          std::vector<double> state(static_cast<std::size_t>(elements));
          for (int64_t i = 0; !from_zero && i < elements; ++i) {
            state[i] = initial[head * elements + i];
          }
          std::vector<double> head_starts(static_cast<std::size_t>(kSegments * elements));
          for (int turn = 0; turn < kSegments; ++turn) {
            const int64_t segment = reversed ? kSegments - 1 - turn : turn;
            std::copy(state.begin(), state.end(), head_starts.begin() + segment * elements);
            const float* a = &transitions[(head * kSegments + segment) * key_dim * key_dim];
            std::vector<double> after(state.size());
            for (int64_t c = 0; c < key_dim; ++c) {
              for (int64_t j = 0; j < value_dim; ++j) {
                double& sum = after[c * value_dim + j];
                sum = states[(head * kSegments + segment) * elements + c * value_dim + j];
                for (int64_t d = 0; d < key_dim; ++d) {
                  sum += (reversed ? a[d * key_dim + c] : a[c * key_dim + d]) *
                         state[d * value_dim + j];
                }
              }
            }
            state = std::move(after);
          }
          starts.insert(starts.end(), head_starts.begin(), head_starts.end());
          ends.insert(ends.end(), state.begin(), state.end());
        }
        Output final(ends.size(), DataType::kFloat32);
        rankone::cuda::DeltaJoinArguments join{};
        join.states = states.data();
        join.transitions = transitions.data();
        join.initial = from_zero ? nullptr : initial.data();
        join.final = static_cast<float*>(final.data());
        join.heads = kHeads;
        join.segments = kSegments;
        join.key_dim = key_dim;
        join.value_dim = value_dim;
        rankone::cuda::join_delta_segments(join, reversed, nullptr);
        const std::string name = "join " + std::to_string(key_dim) + "x" +
                                 std::to_string(value_dim) + (reversed ? " reversed" : "");
        const double tolerance = forward_tolerance(DataType::kFloat32);
        expect_close(name + " starts", {states.begin(), states.end()}, starts, tolerance);
        expect_close(name + " end", final.values(), ends, tolerance);
      }
    }
  }
}

/// The smallest of the supported devices, compute capability 8.6 and 12.0, allow 99 KB a block;
/// here is the most that one warp and one chunk take.
void every_kernel_fits_a_small_device() {
  using namespace rankone::cuda;
  constexpr int kSmallDevice = 99 * 1024;
  const auto check_type = [&]<typename T>() {
    for (const auto decay : {DeltaDecay::kScalar, DeltaDecay::kChannel}) {
      for (const int columns : {64, 128, 256}) {
        const int sweep = with_delta_kernel(decay, columns, []<int kKey, DeltaDecay kDecay>() {
          return make_delta_layout<T, kKey, kDecay>(1, 1, false, true).bytes;
        });
        const int gradients =
            with_gradient_kernel(decay, columns, [&]<int kValue, DeltaDecay kDecay>() {
              const int parts = (columns + kValue - 1) / kValue;
              return make_gradient_layout<DeltaStored<T>, kValue, kDecay>(1, kDeltaChunk, parts)
                  .bytes;
            });
        check::that(std::max(sweep, gradients) <= kSmallDevice,
                    "decay " + std::to_string(static_cast<int>(decay)) + " columns " +
                        std::to_string(columns) + " bytes " + std::to_string(sweep) + " and " +
                        std::to_string(gradients));
      }
    }
  };
  check_type.operator()<float>();
  check_type.operator()<__half>();
  check_type.operator()<__nv_bfloat16>();
}

void any_number_of_multiprocessors_gives_the_same_bits() {
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 70;
    p.key_dim = 24;
    p.value_dim = 130;
    p.dtype = DataType::kBFloat16;
    const Data data = make_data(p);
    const auto run_on = [&](int count) {
      const Multiprocessors device(count);
      return run_kernels(p, data);
    };
    const KernelOutputs few = run_on(1), many = run_on(64);
    check::that(few.output.bytes() == many.output.bytes(), p.describe() + "output");
    check::that(few.final_state.bytes() == many.final_state.bytes(), p.describe() + "state");
    check::that(few.v_grad.bytes() == many.v_grad.bytes(), p.describe() + "v_grad");
    expect_matches_recurrence(p);
  }
}

void any_schedule_gives_the_same_bits() {
  const std::uint64_t seed = rankone::emulation::schedule_seed();
  for (const DecayForm form : kForms) {
    Problem p;
    p.form = form;
    p.time = 140;
    p.heads = 1;
    p.value_heads = 2;
    p.key_dim = 40;
    p.value_dim = 36;
    p.l2norm = true;
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
      p.heads = 2;
      p.value_heads = 6;
      p.key_dim = key_dim;
      p.value_dim = value_dim;
      p.dtype = kTypes[seed % 3];
      p.initial_state = seed % 5 != 0;
      p.l2norm = seed % 2 == 0;
      p.reset_share = 0.2;
      p.seed = ++seed;
      const Data data = make_data(p);
      const Results expected = reference(p, data);
      Output output(data.output_grad.values.size(), p.dtype);
      Output state(expected.final_state.size(), DataType::kFloat32);
      DeltaRuleStep step;
      step.inputs = make_inputs(p, data);
      step.output = output.data();
      step.state_out = state.data();
      rankone::cuda::delta_rule_step(step, nullptr);
      // Nothing is rounded to 16 bits but the output.
      expect_close(p.describe() + "step output", output.values(), expected.output,
                   p.dtype == DataType::kFloat32 ? 2e-6 : roundoff(p.dtype));
      expect_close(p.describe() + "step state", state.values(), expected.final_state, 2e-6);
    }
  }
}

void a_step_may_write_its_state_in_place() {
  Problem p;
  p.time = 1;
  p.key_dim = 20;
  p.value_dim = 40;
  Data data = make_data(p);
  const Results expected = reference(p, data);
  Output output(data.output_grad.values.size(), p.dtype);
  DeltaRuleStep step;
  step.inputs = make_inputs(p, data);
  step.output = output.data();
  step.state_out = data.initial_state.data();
  rankone::cuda::delta_rule_step(step, nullptr);
  expect_close("state in place", {data.initial_state.begin(), data.initial_state.end()},
               expected.final_state, 2e-6);
}

void float64_is_refused_by_name() {
  DeltaRuleForward forward;
  forward.inputs.shape = {1, 1, 1, 1, 1, 1, nullptr, 1};
  forward.inputs.dtype = DataType::kFloat64;
  check::throws<rankone::ArgumentError>(
      [&] { rankone::cuda::delta_rule_forward(forward, nullptr, nullptr); }, {"dtype", "float64"});
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {{"every form and length matches the recurrence",
        every_form_and_length_matches_the_recurrence},
       {"every head dim matches the recurrence", every_head_dim_matches_the_recurrence},
       {"every dtype and form matches the recurrence", every_dtype_and_form_matches_the_recurrence},
       {"value heads of a group share queries and keys",
        value_heads_of_a_group_share_queries_and_keys},
       {"queries and keys are normalised in the kernel",
        queries_and_keys_are_normalised_in_the_kernel},
       {"packed sequences restart and may be empty", packed_sequences_restart_and_may_be_empty},
       {"strides are arbitrary", strides_are_arbitrary},
       {"minus infinity is an exact reset", minus_infinity_is_an_exact_reset},
       {"strong decays stay finite", strong_decays_stay_finite},
       {"half survives large states", half_survives_large_states},
       {"beta may exceed one", beta_may_exceed_one},
       {"states may be absent", states_may_be_absent},
       {"no tokens leave the state as it was", no_tokens_leave_the_state_as_it_was},
       {"a small residual against a large state is exact",
        a_small_residual_against_a_large_state_is_exact},
       {"ranges of positions join in the backward pass",
        ranges_of_positions_join_in_the_backward_pass},
       {"split time matches the recurrence", split_time_matches_the_recurrence},
       {"split time restarts with packed sequences", split_time_restarts_with_packed_sequences},
       {"split time keeps small residuals", split_time_keeps_small_residuals},
       {"segments join in both directions", segments_join_in_both_directions},
       {"every kernel fits a small device", every_kernel_fits_a_small_device},
       {"any number of multiprocessors gives the same bits",
        any_number_of_multiprocessors_gives_the_same_bits},
       {"any schedule gives the same bits", any_schedule_gives_the_same_bits},
       {"a step is one token of the recurrence", a_step_is_one_token_of_the_recurrence},
       {"a step may write its state in place", a_step_may_write_its_state_in_place},
       {"float64 is refused by name", float64_is_refused_by_name}});
}
