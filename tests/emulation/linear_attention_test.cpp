// The CUDA kernels of linear attention, run by the SIMT emulation, against the plain recurrence in
// double: forward, every gradient, and the step.
#include "rankone/linear_attention.h"

#include <cstdint>
#include <string>
#include <vector>

#include "cpp/check.h"
#include "linear_attention_case.h"
#include "linear_attention_sweep_kernel.cuh"
#include "simt.h"
#include "token_tensors.h"

namespace {

using namespace linear_attention_case;

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

/// Enough multiprocessors that one head's time is split.
void split_time_matches_the_recurrence() {
  const Multiprocessors many(64);
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
  // Sweeps whose kernels differ in the tokens of a stage read the same segments' states.
  for (const DecayForm form : {DecayForm::kPerToken, DecayForm::kPerChannel}) {
    Problem p;
    p.form = form;
    p.time = 1620;
    p.key_dim = 150;
    p.value_dim = 8;
    p.dtype = DataType::kBFloat16;
    expect_matches_recurrence(p);
  }
  Problem p;
  p.time = 2100;
  p.cu_seqlens = {0, 3, 3, 2100};
  p.heads = 2;
  expect_matches_recurrence(p);
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

/// The smallest of the supported devices, compute capability 8.6 and 12.0, allow 99 KB a block;
/// here is the most that one warp and one stage take.
void every_kernel_fits_a_small_device() {
  using namespace rankone::cuda;
  constexpr int kSmallDevice = 99 * 1024;
  const auto check_type = [&]<typename T>() {
    for (const auto decay :
         {SweepDecay::kScalar, SweepDecay::kKeyChannel, SweepDecay::kValueChannel}) {
      for (const int key_columns : {64, 128, 256}) {
        const int bytes = with_kernel(decay, key_columns, []<int kKey, SweepDecay kDecay>() {
          return make_layout<T, kKey, kDecay>(1, 1).bytes;
        });
        check::that(bytes <= kSmallDevice, "decay " + std::to_string(static_cast<int>(decay)) +
                                               " columns " + std::to_string(key_columns) +
                                               " bytes " + std::to_string(bytes));
      }
    }
  };
  check_type.operator()<float>();
  check_type.operator()<__half>();
  check_type.operator()<__nv_bfloat16>();
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
       {"every dtype and form matches the recurrence", every_dtype_and_form_matches_the_recurrence},
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
       {"every kernel fits a small device", every_kernel_fits_a_small_device},
       {"float64 is refused by name", float64_is_refused_by_name}});
}
