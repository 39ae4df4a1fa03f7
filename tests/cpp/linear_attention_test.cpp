// CPU linear attention against the recurrence it is defined by, one token at a time in double, and
// its adjoint. RANKONE_INSTRUCTION_SET selects the kernels under test.
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "linear_attention_problem.h"

namespace {

using namespace rankone;
using namespace rankone::testing;

void forward_equals_the_recurrence() {
  for_each_problem([](const Problem& p) {
    Buffers buffers(p);
    check_forward(p, recurrence(p), buffers);
  });
}

void gradients_equal_the_adjoint_recurrence() {
  for_each_problem([](const Problem& p) {
    Buffers buffers(p);
    check_backward(p, recurrence(p), buffers);
  });
}

void results_do_not_depend_on_the_thread_count() {
  for_each_problem([](const Problem& p) {
    Buffers one(p), many(p);
    one.forward(1);
    one.backward(1);
    many.forward(13);
    many.backward(13);
    const bool same = one.output == many.output && one.final_state == many.final_state &&
                      one.q_grad == many.q_grad && one.k_grad == many.k_grad &&
                      one.v_grad == many.v_grad && one.log_decay_grad == many.log_decay_grad &&
                      one.initial_state_grad == many.initial_state_grad;
    check::that(same, "13 threads gave other bits than 1" + describe(p));
  });
}

void packed_sequences_restart_and_empty_ones_keep_their_state() {
  for (const DecayForm form :
       {DecayForm::kNone, DecayForm::kPerHead, DecayForm::kPerToken, DecayForm::kPerChannel}) {
    Problem p;
    p.type = DataType::kFloat64;
    p.form = form;
    p.time = 90;
    p.heads = 4;
    p.kv_heads = 2;
    p.key_dim = 6;
    p.value_dim = 9;
    p.offsets = {0, 0, 17, 17, 81, 82, 90, 90};
    p.with_state = true;
    p.fill(7);
    const Results expected = recurrence(p);
    Buffers buffers(p);
    check_forward(p, expected, buffers);
    check_backward(p, expected, buffers);
    const Values final_state = buffers.final_state.values();
    const Values gradient = buffers.initial_state_grad.values();
    const std::size_t size = static_cast<std::size_t>(p.kv_heads * p.key_dim * p.columns());
    for (std::size_t i = 0; i < size; ++i) {
      check::equal(final_state[i], p.initial_state[i], "state of an empty sequence");
      check::equal(gradient[i], p.final_state_grad[i], "state gradient of an empty sequence");
    }
  }
}

void a_zero_decay_is_an_exact_reset() {
  for (const DecayForm form : {DecayForm::kPerToken, DecayForm::kPerChannel}) {
    for (const std::int64_t reset : {1, 5, 16, 40, 64, 65}) {
      Problem p;
      p.form = form;
      p.time = 100;
      p.key_dim = 8;
      p.value_dim = 5;
      p.with_state = true;
      p.fill(3);
      const std::int64_t width = form == DecayForm::kPerChannel ? p.key_dim : 1;
      for (std::int64_t c = 0; c < width; ++c) {
        p.log_decay[static_cast<std::size_t>(reset * width + c)] = -kInfinity;
      }
      Buffers buffers(p);
      check_forward(p, recurrence(p), buffers);
      check_backward(p, recurrence(p), buffers);
      const Values decay_grad = buffers.log_decay_grad.values();
      for (std::int64_t c = 0; c < width; ++c) {
        check::equal(decay_grad[static_cast<std::size_t>(reset * width + c)], 0.0,
                     "decay gradient at the reset");
      }
      // What came before the reset leaves no trace at all, however large.
      const Values output = buffers.output.values();
      Problem other = p;
      for (std::int64_t i = 0; i < reset * p.key_dim; ++i) {
        other.k[static_cast<std::size_t>(i)] *= 1e30;
      }
      Buffers changed(other);
      changed.forward();
      const Values after = changed.output.values();
      for (std::size_t i = static_cast<std::size_t>(reset * p.value_dim); i < output.size(); ++i) {
        check::equal(after[i], output[i], "output after the reset");
      }
    }
  }
}

void frequent_resets_and_strong_decays_stay_finite() {
  for (const DecayForm form : {DecayForm::kPerHead, DecayForm::kPerToken, DecayForm::kPerChannel}) {
    for (const double mean : {1.0, 30.0, 1e4}) {
      Problem p;
      p.form = form;
      p.time = 130;
      p.heads = p.kv_heads = 2;
      p.key_dim = 20;
      p.value_dim = 12;
      p.with_state = true;
      p.mean_decay = mean;
      p.resets = 0.2;
      p.fill(11);
      const Results expected = recurrence(p);
      Buffers buffers(p);
      check_forward(p, expected, buffers);
      check_backward(p, expected, buffers);
    }
  }
}

void long_sequences_keep_single_precision() {
  // The error of float32 against double may not exceed 2e-6 of the result's norm at 4096 tokens.
  for (const DecayForm form :
       {DecayForm::kNone, DecayForm::kPerHead, DecayForm::kPerToken, DecayForm::kPerChannel}) {
    for (const double mean : {1e-3, 0.05}) {
      Problem p;
      p.form = form;
      p.time = 4096;
      p.key_dim = p.value_dim = 16;
      p.mean_decay = mean;
      p.fill(5);
      const Results expected = recurrence(p);
      Buffers buffers(p);
      buffers.forward();
      buffers.backward();
      close(buffers.output.values(), expected.output, 2e-6, "output" + describe(p));
      close(buffers.q_grad.values(), expected.q_grad, 2e-6, "q_grad" + describe(p));
      close(buffers.k_grad.values(), expected.k_grad, 2e-6, "k_grad" + describe(p));
      close(buffers.v_grad.values(), expected.v_grad, 2e-6, "v_grad" + describe(p));
    }
  }
}

void inputs_may_have_any_strides() {
  Problem p;
  p.time = 75;
  p.heads = 4;
  p.kv_heads = 2;
  p.key_dim = 10;
  p.value_dim = 6;
  p.form = DecayForm::kPerChannel;
  p.fill(13);
  Buffers dense_buffers(p), strided(p);
  dense_buffers.forward();
  dense_buffers.backward();

  // q time-reversed in memory, k and v interleaved in one wide row, all heads' decays equal.
  Values reversed(p.q.size());
  const std::size_t row = static_cast<std::size_t>(p.heads * p.key_dim);
  for (std::size_t t = 0; t < 75; ++t) {
    std::copy_n(p.q.begin() + static_cast<std::ptrdiff_t>(t * row), row,
                reversed.begin() + static_cast<std::ptrdiff_t>((74 - t) * row));
  }
  Memory q(p.type, reversed);
  strided.inputs.q = {static_cast<float*>(q.data()) + 74 * row, 0, -static_cast<std::int64_t>(row),
                      p.key_dim};
  Values packed;
  for (std::int64_t t = 0; t < p.time; ++t) {
    for (std::int64_t head = 0; head < p.kv_heads; ++head) {
      const std::int64_t at = t * p.kv_heads + head;
      for (std::int64_t c = 0; c < p.key_dim; ++c) {
        packed.push_back(p.k[static_cast<std::size_t>(at * p.key_dim + c)]);
      }
      for (std::int64_t c = 0; c < p.value_dim; ++c) {
        packed.push_back(p.v[static_cast<std::size_t>(at * p.value_dim + c)]);
      }
    }
  }
  Memory key_value(p.type, packed);
  const std::int64_t width = p.key_dim + p.value_dim;
  strided.inputs.k = {key_value.data(), 0, p.kv_heads * width, width};
  strided.inputs.v = {static_cast<float*>(key_value.data()) + p.key_dim, 0, p.kv_heads * width,
                      width};
  strided.forward();
  strided.backward();
  check::that(strided.output == dense_buffers.output && strided.q_grad == dense_buffers.q_grad &&
                  strided.k_grad == dense_buffers.k_grad &&
                  strided.v_grad == dense_buffers.v_grad &&
                  strided.log_decay_grad == dense_buffers.log_decay_grad,
              "strided inputs gave other bits");
}

void a_broadcast_decay_has_a_gradient_per_token() {
  Problem p;
  p.time = 80;
  p.key_dim = p.value_dim = 8;
  p.form = DecayForm::kPerToken;
  p.fill(17);
  p.log_decay.assign(80, -0.25);
  Buffers dense_buffers(p), broadcast(p);
  dense_buffers.backward();
  broadcast.inputs.log_decay.time_stride = 0;
  broadcast.backward();
  check::that(dense_buffers.log_decay_grad == broadcast.log_decay_grad,
              "time stride 0 gave another gradient");
}

void later_tokens_never_reach_earlier_outputs() {
  for (const DecayForm form : {DecayForm::kNone, DecayForm::kPerToken, DecayForm::kPerChannel}) {
    Problem p;
    p.time = 70;
    p.key_dim = p.value_dim = 12;
    p.form = form;
    p.fill(19);
    Buffers buffers(p);
    buffers.forward();
    const Values before = buffers.output.values();
    Problem other = p;
    constexpr std::int64_t kFrom = 37;
    for (std::int64_t i = kFrom * 12; i < 70 * 12; ++i) {
      other.q[static_cast<std::size_t>(i)] = 1e19;
      other.k[static_cast<std::size_t>(i)] = 1e19;
      other.v[static_cast<std::size_t>(i)] = -3;
    }
    Buffers changed(other);
    changed.forward();
    const Values after = changed.output.values();
    for (std::size_t i = 0; i < kFrom * 12; ++i) {
      check::equal(after[i], before[i], "output before the change");
    }
  }
}

void gradients_that_nobody_wants_are_not_computed() {
  Problem p;
  p.time = 40;
  p.key_dim = p.value_dim = 8;
  p.form = DecayForm::kPerToken;
  p.fill(23);
  Buffers all(p), some(p);
  all.backward();
  LinearAttentionBackward problem;
  problem.inputs = some.inputs;
  problem.output_grad = some.output_grad.data();
  problem.v_grad = some.v_grad.data();
  cpu::linear_attention_backward(problem, 2);
  check::that(some.v_grad == all.v_grad, "v_grad alone has other bits");
  problem.v_grad = nullptr;
  problem.log_decay_grad = some.log_decay_grad.data();
  cpu::linear_attention_backward(problem, 2);
  check::that(some.log_decay_grad == all.log_decay_grad, "log_decay_grad alone has other bits");
}

void steps_walk_the_recurrence() {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kBFloat16}) {
    for (const DecayForm form :
         {DecayForm::kNone, DecayForm::kPerHead, DecayForm::kPerToken, DecayForm::kPerChannel}) {
      for (const int dims : {1, 7, 80, 256}) {
        Problem p;
        p.type = type;
        p.form = form;
        p.batch = 2;
        p.heads = dims == 80 ? 14 : 4;
        p.kv_heads = 2;
        p.key_dim = dims;
        p.value_dim = dims == 7 ? 65 : dims;
        p.ones = dims == 80;
        for (const bool with_state : {false, true}) {
          p.with_state = with_state;
          p.fill(29);
          const Results expected = recurrence(p);
          Buffers buffers(p);
          for (const int threads : {1, 4}) {
            cpu::linear_attention_step(
                {buffers.inputs, buffers.output.data(), buffers.final_state.data()}, threads);
            const DataType output_type = p.ones ? state_type(p.type) : p.type;
            close(buffers.output.values(), expected.output, tolerance_for(output_type),
                  "step output" + describe(p));
            close(buffers.final_state.values(), expected.final_state,
                  tolerance_for(state_type(p.type)), "step state" + describe(p));
          }
        }
      }
    }
  }
}

void concurrent_calls_do_not_disturb_each_other() {
  Problem p;
  p.time = 300;
  p.heads = p.kv_heads = 4;
  p.key_dim = p.value_dim = 32;
  p.form = DecayForm::kPerToken;
  p.fill(31);
  Buffers alone(p), first(p), second(p);
  alone.forward(2);
  alone.backward(2);
  std::thread other([&] {
    for (int round = 0; round < 20; ++round) {
      second.forward(2);
      second.backward(2);
    }
  });
  for (int round = 0; round < 20; ++round) {
    first.forward(2);
    first.backward(2);
  }
  other.join();
  check::that(first.output == alone.output && second.output == alone.output &&
                  first.k_grad == alone.k_grad && second.k_grad == alone.k_grad &&
                  second.log_decay_grad == alone.log_decay_grad,
              "calls running at once gave other bits");
}

void bad_arguments_are_named() {
  Problem p;
  p.time = 4;
  p.heads = p.kv_heads = 2;
  p.key_dim = p.value_dim = 3;
  p.fill(37);
  const auto rejects = [&](const std::vector<std::string>& parts, auto&& change) {
    Buffers buffers(p);
    LinearAttentionForward problem{buffers.inputs, buffers.output.data(), nullptr};
    change(problem);
    check::throws<ArgumentError>([&] { cpu::linear_attention_forward(problem, 1); }, parts);
  };
  rejects({"heads:", "kv_heads = 2", "got 3"}, [](auto& a) { a.inputs.shape.heads = 3; });
  rejects({"key_dim:", "1 to 256", "got 257"}, [](auto& a) { a.inputs.shape.key_dim = 257; });
  rejects({"value_dim:", "got 0"}, [](auto& a) { a.inputs.shape.value_dim = 0; });
  rejects({"chunk_size:", "got 48"}, [](auto& a) { a.inputs.chunk_size = 48; });
  rejects({"scale:", "finite"}, [](auto& a) { a.inputs.scale = kInfinity; });
  rejects({"log_decay:", "null"}, [](auto& a) {
    a.inputs.decay_form = DecayForm::kPerToken;
    a.inputs.log_decay.data = nullptr;
  });
  rejects({"output:", "null"}, [](auto& a) { a.output = nullptr; });
  rejects({"q:", "null"}, [](auto& a) { a.inputs.q.data = nullptr; });
  rejects({"num_sequences:", "got 5"}, [](auto& a) { a.inputs.shape.num_sequences = 5; });
  static const std::int64_t late[] = {1, 4}, falling[] = {0, 3, 2, 4}, shorter[] = {0, 3};
  const auto offsets = [](const std::int64_t* cu_seqlens, std::int64_t count) {
    return [=](auto& a) {
      a.inputs.shape.cu_seqlens = cu_seqlens;
      a.inputs.shape.num_sequences = count;
    };
  };
  rejects({"cu_seqlens:", "start at 0"}, offsets(late, 1));
  rejects({"cu_seqlens:", "3 before 2"}, offsets(falling, 3));
  rejects({"cu_seqlens:", "end at time = 4", "got 3"}, offsets(shorter, 1));

  Buffers buffers(p);
  LinearAttentionStep step{buffers.inputs, buffers.output.data(), buffers.final_state.data()};
  check::throws<ArgumentError>([&] { cpu::linear_attention_step(step, 1); },
                               {"time:", "expected 1", "got 4"});
}

}  // namespace

int main(int argc, char** argv) {
  std::printf("instruction set: %s\n", cpu::linear_attention_instruction_set());
  return check::run(
      argc, argv,
      {{"forward equals the recurrence", forward_equals_the_recurrence},
       {"gradients equal the adjoint recurrence", gradients_equal_the_adjoint_recurrence},
       {"results do not depend on the thread count", results_do_not_depend_on_the_thread_count},
       {"packed sequences restart and empty ones keep their state",
        packed_sequences_restart_and_empty_ones_keep_their_state},
       {"a zero decay is an exact reset", a_zero_decay_is_an_exact_reset},
       {"frequent resets and strong decays stay finite",
        frequent_resets_and_strong_decays_stay_finite},
       {"long sequences keep single precision", long_sequences_keep_single_precision},
       {"inputs may have any strides", inputs_may_have_any_strides},
       {"a broadcast decay has a gradient per token", a_broadcast_decay_has_a_gradient_per_token},
       {"later tokens never reach earlier outputs", later_tokens_never_reach_earlier_outputs},
       {"gradients that nobody wants are not computed",
        gradients_that_nobody_wants_are_not_computed},
       {"steps walk the recurrence", steps_walk_the_recurrence},
       {"concurrent calls do not disturb each other", concurrent_calls_do_not_disturb_each_other},
       {"bad arguments are named", bad_arguments_are_named}});
}
