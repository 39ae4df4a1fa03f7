// Every primitive once, for every element type: compiled by nvcc for each architecture and by the
// host compiler for the emulation, so that a wrapper which only one of them accepts does not pass.
#include "primitives/async_copy.cuh"
#include "primitives/bits.cuh"
#include "primitives/device_memory.cuh"
#include "primitives/fragments.cuh"
#include "primitives/launch.cuh"
#include "primitives/warp.cuh"

namespace rankone::cuda::primitives_compile {

constexpr int kThreads = 64;
constexpr int kLd = 72;

template <typename T>
struct Shared {
  T a[64 * kLd];
  T b[64 * kLd];
  T result[64 * kLd];
};

template <typename T>
struct Arguments {
  const T* input;
  T* output;
  unsigned* counters;
  unsigned long long* long_counters;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    use_every_primitive(__grid_constant__ const Arguments<T> arguments) {
  auto& shared = shared_memory<Shared<T>>();
  constexpr int kPerCopy = 16 / sizeof(T);
  for (int i = static_cast<int>(threadIdx.x) * kPerCopy; i < 64 * kLd; i += kThreads * kPerCopy) {
    copy_async_16(&shared.a[i], arguments.input + i, i < 63 * kLd);
    copy_async<8>(&shared.b[i], arguments.input + i);
    copy_async<4>(&shared.b[i + kPerCopy / 2], arguments.input + i, 0);
  }
  commit_async();
  wait_async<1>();
  wait_async<0>();
  block_sync();
  if (warp_id() == 0) {
    barrier_arrive(1, kThreads);
  } else {
    barrier_sync(1, kThreads);
  }

  const FragmentBPair<T> b = load_b_pair(shared.b, kLd);
  const FragmentBPair<T> b_trans = load_b_trans_pair(shared.b, kLd);
  Accumulator left, right;
  mma(left, load_a(shared.a, kLd), b.left);
  mma(right, load_a_trans(shared.a, kLd), b.right);
  mma(left, to_a<T>(left, right), b_trans.left);
  mma(right, to_a<T>(right, left), b_trans.right);
  Accumulator chunk;
  mma(chunk, load_a(shared.a, kLd), load_b(shared.b, kLd));
  mma(chunk, load_a(shared.a, kLd), load_b_trans(shared.b, kLd));
  add(left, chunk);
  T* result = shared.result + 32 * warp_id() * kLd;
  store_accumulator(result, kLd, left);
  store_accumulator_trans(result + 16, kLd, right);
  store_accumulator_pair(result + 32, kLd, left, right);
  store_accumulator_trans_pair(result + 48, kLd, right, left);
  warp_sync();

  const int lane = lane_id();
  float value = to_float(result[lane]);
  value += shuffle_idx(value, 3) + shuffle_up(value, 1) + shuffle_down(value, 2, 16);
  value = warp_sum(value) + warp_max(fast_exp(value)) + fast_exp2(warp_max(value, 8));
  const unsigned votes =
      ballot(value > 0) + (any(value > 1) ? 1u : 0u) + (all(value > 2) ? 1u : 0u);
  arguments.output[threadIdx.x] = from_float<T>(value);

  const int place = population_count(votes & lower_lanes(lane)) + lowest_bit(votes | 1);
  const std::uint64_t high = multiply_high(load_volatile(&arguments.long_counters[3]), votes);
  arguments.counters[5] = static_cast<unsigned>(place) + static_cast<unsigned>(high);

  atomic_add(&arguments.counters[0], votes);
  atomic_min(&arguments.counters[1], votes);
  atomic_max(&arguments.counters[2], votes);
  atomic_or(&arguments.counters[3], votes);
  atomic_and(&arguments.counters[4], votes);
  device_fence();
  atomic_exchange(&arguments.long_counters[0], 1ull);
  atomic_compare_exchange(&arguments.long_counters[1], 0ull, 1ull);
  atomic_add(&arguments.long_counters[2], shuffle_xor(1ull, 1));
}

template <typename T>
void run(const Arguments<T>& arguments, cudaStream_t stream) {
  launch(use_every_primitive<T>, {1, kThreads, sizeof(Shared<T>), stream}, arguments);
}

void launch_every_kernel(const Arguments<__nv_bfloat16>& bfloat16, const Arguments<__half>& half,
                         const Arguments<float>& single, cudaStream_t stream) {
  if (device_limits().multiprocessors == 0) return;
  run(bfloat16, stream);
  run(half, stream);
  run(single, stream);
  unsigned counters[2] = {};
  fill_bytes(single.counters, 0, sizeof(counters), stream);
  copy_to_device(single.counters, counters, sizeof(counters), stream);
  copy_on_device(half.counters, single.counters, sizeof(counters), stream);
  copy_to_host(counters, half.counters, sizeof(counters), stream);
}

}  // namespace rankone::cuda::primitives_compile
