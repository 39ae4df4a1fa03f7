#include <rankone/linear_attention.h>

#include <cstdio>
int main() {
  const float ones[4] = {1, 1, 1, 1};
  float output[4];
  rankone::ConstTokens tokens{ones, 4, 1, 1};
  rankone::LinearAttentionForward problem;
  problem.inputs = {.shape = {.batch = 1,
                              .time = 4,
                              .heads = 1,
                              .kv_heads = 1,
                              .key_dim = 1,
                              .value_dim = 1,
                              .num_sequences = 1},
                    .q = tokens,
                    .k = tokens,
                    .v = tokens};
  problem.output = output;
  rankone::cpu::linear_attention_forward(problem, 1);
  std::printf("%g %g %g %g\n", output[0], output[1], output[2], output[3]);
}
