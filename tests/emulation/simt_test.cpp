// The machine under the emulated kernels: barriers, schedules, shared memory, and above all that it
// shows the faults it is there to show: missing barriers, deadlocks, bad launches.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "cpp/check.h"
#include "primitives/async_copy.cuh"
#include "primitives/fragments.cuh"
#include "primitives/warp.cuh"
#include "run_threads.h"

namespace {

using namespace rankone::cuda;
using rankone::CudaError;
namespace emulation = rankone::emulation;

constexpr unsigned kSeeds = 16;

/// The number of seeds under which `run(seed's schedule)` returns true.
template <typename Run>
unsigned count_seeds(const Run& run) {
  unsigned count = 0;
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    emulation::set_schedule_seed(seed);
    count += run() ? 1 : 0;
  }
  emulation::set_schedule_seed(0);
  return count;
}

// ---- barriers ----

/// Each thread passes its number through shared memory to the thread `distance` further on, several
/// rounds in the same place, with the barriers that `kBefore` and `kAfter` leave in.
template <bool kBefore, bool kAfter, typename Sync>
bool rotation_is_right(unsigned threads, unsigned distance, const Sync& sync) {
  constexpr int kRounds = 4;
  struct Shared {
    float at[256];
  };
  bool right = true;
  run_threads(1, threads, sizeof(Shared), [&] {
    auto& shared = shared_memory<Shared>();
    for (int round = 0; round < kRounds; ++round) {
      const float offset = static_cast<float>(1000 * round);
      shared.at[threadIdx.x] = offset + static_cast<float>(threadIdx.x);
      if constexpr (kBefore) sync();
      const unsigned source = (threadIdx.x + distance) % threads;
      if (shared.at[source] != offset + static_cast<float>(source)) right = false;
      if constexpr (kAfter) sync();
    }
  });
  return right;
}

void block_sync_orders_memory_under_every_schedule() {
  check::equal(count_seeds([] { return rotation_is_right<true, true>(256, 100, block_sync); }),
               kSeeds, "the number of seeds with a right result");
}

void a_missing_block_sync_shows() {
  const auto wrong = [](bool right) { return !right; };
  check::that(count_seeds([&] {
                return wrong(rotation_is_right<false, true>(256, 100, block_sync));
              }) >= kSeeds / 2,
              "no barrier between write and read must show under most seeds");
  check::that(count_seeds([&] {
                return wrong(rotation_is_right<true, false>(256, 100, block_sync));
              }) >= kSeeds / 2,
              "no barrier between read and the next write must show under most seeds");
}

void a_missing_warp_sync_shows() {
  const auto sync = [] { warp_sync(); };
  check::equal(count_seeds([&] { return rotation_is_right<true, true>(32, 5, sync); }), kSeeds,
               "the number of seeds with a right result");
  check::that(
      count_seeds([&] { return !rotation_is_right<false, true>(32, 5, sync); }) >= kSeeds / 2,
      "no warp_sync between write and read must show under most seeds");
  check::that(
      count_seeds([&] { return !rotation_is_right<true, false>(32, 5, sync); }) >= kSeeds / 2,
      "no warp_sync between read and the next write must show under most seeds");
}

void a_copy_started_before_its_buffer_is_free_shows() {
  // Two stages; the barrier that frees a stage for the next copy is left out.
  constexpr int kTiles = 4;
  struct Shared {
    float at[2][128];
  };
  alignas(16) static float source[kTiles][128];
  for (int tile = 0; tile < kTiles; ++tile)
    std::fill_n(source[tile], 128, static_cast<float>(tile));
  const auto sums_are_right = [&](bool with_barrier) {
    bool right = true;
    run_threads(1, 64, sizeof(Shared), [&] {
      auto& shared = shared_memory<Shared>();
      const auto start = [&](int tile) {
        if (tile < kTiles && threadIdx.x < 32) {
          copy_async_16(&shared.at[tile % 2][4 * threadIdx.x], &source[tile][4 * threadIdx.x]);
        }
        commit_async();
      };
      start(0);
      for (int tile = 0; tile < kTiles; ++tile) {
        start(tile + 1);
        wait_async<1>();
        block_sync();
        for (int i = 0; i < 128; ++i) {
          if (shared.at[tile % 2][i] != static_cast<float>(tile)) right = false;
        }
        if (with_barrier) block_sync();
      }
    });
    return right;
  };
  check::equal(count_seeds([&] { return sums_are_right(true); }), kSeeds, "right with the barrier");
  check::that(count_seeds([&] { return !sums_are_right(false); }) >= kSeeds / 2,
              "a copy into a stage that is still read must show under most seeds");
}

void named_barriers_join_groups_of_warps() {
  // Two groups of two warps meet a different number of times; a fifth warp only produces.
  const auto right = [] {
    struct Shared {
      int rounds[4];
      int produced;
    };
    bool ok = true;
    run_threads(1, 160, sizeof(Shared), [&] {
      auto& shared = shared_memory<Shared>();
      const int warp = warp_id();
      if (warp == 4) {
        if (lane_id() == 0) shared.produced = 42;
        barrier_arrive(3, 160);
        return;
      }
      const int group = warp / 2, rounds = group == 0 ? 3 : 7;
      for (int round = 0; round < rounds; ++round) {
        if (lane_id() == 0) shared.rounds[warp] = round;
        barrier_sync(1 + group, 64);
        if (shared.rounds[warp ^ 1] != round) ok = false;
        barrier_sync(1 + group, 64);
      }
      barrier_sync(3, 160);
      if (shared.produced != 42) ok = false;
    });
    return ok;
  };
  check::equal(count_seeds(right), kSeeds, "the number of seeds with a right result");
}

void barrier_arguments_are_checked() {
  check::throws<CudaError>([] { run_threads(1, 64, 0, [] { barrier_sync(0, 64); }); },
                           {"test_kernel", "barrier id 0"});
  check::throws<CudaError>([] { run_threads(1, 64, 0, [] { barrier_sync(16, 64); }); },
                           {"barrier id 16"});
  check::throws<CudaError>([] { run_threads(1, 64, 0, [] { barrier_sync(1, 96); }); },
                           {"barrier of 96 threads"});
  check::throws<CudaError>(
      [] { run_threads(1, 96, 0, [] { barrier_sync(1, warp_id() == 0 ? 64 : 96); }); },
      {"barrier 1 called for"});
}

// ---- deadlocks ----

void a_barrier_that_some_threads_skip_is_reported() {
  check::throws<CudaError>(
      [] {
        run_threads(2, 64, 0, [] {
          if (threadIdx.x < 40) block_sync();
        });
      },
      {"test_kernel", "deadlock in block (", "threads 0-39 at block_sync", "threads 40-63 exited"});
}

void lanes_in_different_collectives_are_reported() {
  check::throws<CudaError>(
      [] {
        run_threads(1, 32, 0, [] {
          if (lane_id() % 2 == 0) {
            shuffle_xor(1, 1);
          } else {
            ballot(true);
          }
        });
      },
      {"deadlock", "in a shuffle of lanes 0xffffffff", "in a vote of lanes 0xffffffff",
       "threads 0, 2, 4", "threads 1, 3, 5"});
}

void a_lane_that_exits_before_an_mma_is_reported() {
  check::throws<CudaError>(
      [] {
        run_threads(1, 64, 0, [] {
          if (threadIdx.x == 50) return;
          Accumulator acc;
          mma(acc, FragmentA<__half>{}, FragmentB<__half>{});
        });
      },
      {"deadlock in block (0, 0, 0)", "threads 32-49, 51-63 in mma (fp16)", "50 exited"});
}

void matrix_instructions_of_different_shape_do_not_meet() {
  check::throws<CudaError>(
      [] {
        run_threads(1, 32, 1024, [] {
          auto* base = static_cast<std::byte*>(emulation::shared_memory(1024));
          std::uint32_t two[2], four[4];
          if (lane_id() < 16) {
            instruction::ldmatrix<false>(two, base);
          } else {
            instruction::ldmatrix<false>(four, base);
          }
        });
      },
      {"threads 0-15 in ldmatrix x2", "threads 16-31 in ldmatrix x4"});
}

void threads_at_different_barriers_are_reported() {
  check::throws<CudaError>([] { run_threads(1, 64, 0, [] { barrier_sync(1 + warp_id(), 64); }); },
                           {"threads 0-31 at barrier 1", "threads 32-63 at barrier 2"});
}

void members_must_name_the_caller_and_existing_lanes() {
  check::throws<CudaError>([] { run_threads(1, 32, 0, [] { ballot(true, 0x0000ffffu); }); },
                           {"a vote of lanes 0x0000ffff", "must name the caller"});
  check::throws<CudaError>([] { run_threads(1, 16, 0, [] { warp_sync(); }); },
                           {"only lanes of the block (0x0000ffff)"});
}

void an_endless_spin_is_reported() {
  emulation::set_spin_limit(100000);
  int flag = 0;
  const auto spin = [&] {
    // Block 0 waits for block 1, which runs after it under some seed.
    run_threads(2, 32, 0, [&] {
      if (blockIdx.x == 1) {
        atomic_exchange(&flag, 1);
      } else {
        while (atomic_add(&flag, 0) == 0) {
        }
      }
    });
  };
  unsigned reported = 0;
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    emulation::set_schedule_seed(seed);
    flag = 0;
    try {
      spin();
    } catch (const CudaError& error) {
      check::that(std::string(error.what()).find("endless spin") != std::string::npos,
                  error.what());
      ++reported;
    }
  }
  emulation::set_schedule_seed(0);
  emulation::set_spin_limit(std::uint64_t{1} << 27);
  check::that(reported > 0 && reported < kSeeds, "one order of the blocks ends, the other cannot");
}

void a_thread_may_wait_for_another_through_an_atomic() {
  const auto ends = [] {
    int flag = 0, seen = 0, value = 0;
    run_threads(1, 128, 0, [&] {
      if (threadIdx.x == 0) {
        value = 7;
        atomic_exchange(&flag, 1);
      } else if (threadIdx.x == 127) {
        while (atomic_add(&flag, 0) == 0) {
        }
        seen = value;
      }
    });
    return seen == 7;
  };
  check::equal(count_seeds(ends), kSeeds, "the number of seeds with a right result");
}

void the_machine_works_after_an_error() {
  for (int repeat = 0; repeat < 3; ++repeat) {
    check::throws<CudaError>(
        [] {
          run_threads(1, 256, 0, [] {
            if (threadIdx.x != 13) block_sync();
          });
        },
        {"deadlock"});
    check::that(rotation_is_right<true, true>(256, 100, block_sync), "the launch after an error");
  }
}

// ---- schedules ----

std::vector<int> order_of_threads(unsigned seed) {
  emulation::set_schedule_seed(seed);
  std::vector<int> order;
  run_threads(3, 64, 0, [&] { order.push_back(static_cast<int>(blockIdx.x * 64 + threadIdx.x)); });
  emulation::set_schedule_seed(0);
  return order;
}

void a_seed_gives_one_schedule_and_seeds_differ() {
  std::set<std::vector<int>> orders;
  std::set<int> first_blocks;
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    const auto order = order_of_threads(seed);
    check::that(order == order_of_threads(seed), "the same seed must repeat its schedule");
    orders.insert(order);
    first_blocks.insert(order.front() / 64);
    auto sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (int i = 0; i < 3 * 64; ++i) {
      check::equal(sorted[static_cast<std::size_t>(i)], i, "the thread that ran once");
    }
  }
  check::equal(orders.size(), std::size_t{kSeeds}, "the number of different schedules");
  check::equal(first_blocks.size(), std::size_t{3}, "the number of blocks that came first");
}

void schedules_let_one_warp_run_ahead_or_mix_warps() {
  constexpr int kSteps = 20;
  int far_ahead = 0, mixed = 0;
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    emulation::set_schedule_seed(seed);
    std::vector<int> warps;
    run_threads(1, 128, 0, [&] {
      for (int i = 0; i < kSteps; ++i) {
        if (lane_id() == 0) warps.push_back(warp_id());
        warp_sync();
      }
    });
    const auto other =
        std::find_if(warps.begin(), warps.end(), [&](int warp) { return warp != warps.front(); });
    const auto lead = other - warps.begin();
    if (lead == kSteps) ++far_ahead;
    if (lead < kSteps / 2) ++mixed;
  }
  emulation::set_schedule_seed(0);
  check::that(far_ahead >= 4, "seeds that let a warp finish first: " + std::to_string(far_ahead));
  check::that(mixed >= 4, "seeds that mix warps: " + std::to_string(mixed));
}

// ---- indices, shared memory, launches ----

void indices_cover_grid_and_block() {
  std::set<std::vector<unsigned>> seen;
  run_threads({3, 2, 2}, {4, 3, 2}, 0, [&] {
    seen.insert({blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z});
    if (blockDim.x != 4 || blockDim.y != 3 || blockDim.z != 2 || gridDim.x != 3 || gridDim.y != 2 ||
        gridDim.z != 2) {
      seen.clear();
    }
  });
  check::equal(seen.size(), std::size_t{3 * 2 * 2 * 4 * 3 * 2}, "the number of threads seen");
  check::equal((*seen.rbegin())[0], 2u, "the last block's x");
}

void shared_memory_is_poison_at_the_start_of_every_block() {
  struct Shared {
    float value;
    __half half;
    __nv_bfloat16 bfloat;
    int integer;
  };
  int poisoned = 0;
  run_threads(5, 1, sizeof(Shared), [&] {
    auto& shared = shared_memory<Shared>();
    if (std::isnan(shared.value) && std::isnan(to_float(shared.half)) &&
        std::isnan(to_float(shared.bfloat)) && shared.integer == -1) {
      ++poisoned;
    }
    shared = {};
  });
  check::equal(poisoned, 5, "the number of blocks that found poison");
}

void a_layout_larger_than_the_launch_is_reported() {
  struct Shared {
    float at[64];
  };
  check::throws<CudaError>(
      [] { run_threads(1, 32, 252, [] { shared_memory<Shared>().at[0] = 0; }); },
      {"test_kernel", "256 bytes in a launch with 252"});
}

void a_write_past_shared_memory_is_reported() {
#if defined(__SANITIZE_ADDRESS__)
  // AddressSanitizer would end the process at such a write: ask it where the memory ends instead.
  bool inside = true, outside = false;
  run_threads(1, 1, 40, [&] {
    const auto* base = static_cast<const char*>(emulation::shared_memory(40));
    inside = __asan_address_is_poisoned(base + 39) != 0;
    outside = __asan_address_is_poisoned(base + 40) != 0;
  });
  check::that(!inside && outside, "the memory must end after 40 bytes");
#else
  check::throws<CudaError>(
      [] {
        run_threads(1, 1, 40, [] { static_cast<char*>(emulation::shared_memory(40))[43] = 0; });
      },
      {"wrote 3 bytes past the 40 bytes of shared memory"});
#endif
}

void impossible_launches_are_refused() {
  const auto nothing = [] {};
  check::throws<CudaError>([&] { run_threads(1, 0, 0, nothing); },
                           {"test_kernel", "block (0, 1, 1)", "1 to 1024 threads"});
  check::throws<CudaError>([&] { run_threads(1, 1025, 0, nothing); }, {"block (1025, 1, 1)"});
  check::throws<CudaError>([&] { run_threads(1, {1, 1, 65}, 0, nothing); }, {"block (1, 1, 65)"});
  check::throws<CudaError>([&] { run_threads(0, 32, 0, nothing); }, {"grid (0, 1, 1)"});
  check::throws<CudaError>([&] { run_threads({1, 70000, 1}, 32, 0, nothing); },
                           {"grid (1, 70000, 1)"});
  check::throws<CudaError>([&] { run_threads(1, 32, 228 * 1024, nothing); },
                           {"233472 bytes of shared memory", "at most 232448"});
}

struct NamedArguments {
  int* counter;
  int step;
};

__global__ void __launch_bounds__(64)
    named_kernel(__grid_constant__ const NamedArguments arguments) {
  atomic_add(arguments.counter, arguments.step);
}

void launch_passes_arguments_by_value_and_names_kernels() {
  int counter = 0;
  launch(named_kernel, {2, 64}, {&counter, 3});
  check::equal(counter, 2 * 64 * 3, "the counter");
  // The kernel has no name of its own in the symbol table: its arguments' type stands in.
  check::throws<CudaError>([&] { launch(named_kernel, {1, 2000}, {&counter, 3}); },
                           {"NamedArguments"});
}

void a_launch_counts_what_its_threads_did() {
  struct Shared {
    float4 at[64];
  };
  alignas(16) static float source[4] = {};
  run_threads(2, 64, sizeof(Shared), [] {
    auto& shared = shared_memory<Shared>();
    copy_async_16(&shared.at[threadIdx.x], source);
    commit_async();
    wait_async<0>();
    block_sync();
    Accumulator acc;
    mma(acc, FragmentA<__half>{}, FragmentB<__half>{});
    mma(acc, FragmentA<float>{}, FragmentB<float>{});
    std::uint32_t registers[1];
    instruction::ldmatrix<false>(registers, &shared.at[lane_id()]);
    warp_sum(1);
  });
  const emulation::Statistics done = emulation::last_launch();
  check::equal(done.blocks, 2u, "blocks");
  check::equal(done.block_barriers, 2u, "block barriers");
  check::equal(done.copied_bytes, 2u * 64 * 16, "bytes copied");
  check::equal(done.mma, 2u * 2 * 7, "mma: one of fp16 and six of tf32 a warp");
  check::equal(done.ldmatrix, 2u * 2, "ldmatrix");
  check::equal(done.shuffles, 2u * 2 * 5, "shuffles");
}

void device_limits_are_what_a_test_sets() {
  emulation::set_multiprocessors(132);
  check::equal(device_limits().multiprocessors, 132, "multiprocessors");
  emulation::set_multiprocessors(4);
  check::equal(device_limits().multiprocessors, 4, "multiprocessors");
  check::equal(device_limits().shared_bytes_per_block, 227 * 1024, "shared memory");
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {
          {"block_sync orders memory under every schedule",
           block_sync_orders_memory_under_every_schedule},
          {"a missing block_sync shows", a_missing_block_sync_shows},
          {"a missing warp_sync shows", a_missing_warp_sync_shows},
          {"a copy started before its buffer is free shows",
           a_copy_started_before_its_buffer_is_free_shows},
          {"named barriers join groups of warps", named_barriers_join_groups_of_warps},
          {"barrier arguments are checked", barrier_arguments_are_checked},
          {"a barrier that some threads skip is reported",
           a_barrier_that_some_threads_skip_is_reported},
          {"lanes in different collectives are reported",
           lanes_in_different_collectives_are_reported},
          {"a lane that exits before an mma is reported",
           a_lane_that_exits_before_an_mma_is_reported},
          {"matrix instructions of different shape do not meet",
           matrix_instructions_of_different_shape_do_not_meet},
          {"threads at different barriers are reported",
           threads_at_different_barriers_are_reported},
          {"members must name the caller and existing lanes",
           members_must_name_the_caller_and_existing_lanes},
          {"an endless spin is reported", an_endless_spin_is_reported},
          {"a thread may wait for another through an atomic",
           a_thread_may_wait_for_another_through_an_atomic},
          {"the machine works after an error", the_machine_works_after_an_error},
          {"a seed gives one schedule and seeds differ",
           a_seed_gives_one_schedule_and_seeds_differ},
          {"schedules let one warp run ahead or mix warps",
           schedules_let_one_warp_run_ahead_or_mix_warps},
          {"indices cover grid and block", indices_cover_grid_and_block},
          {"shared memory is poison at the start of every block",
           shared_memory_is_poison_at_the_start_of_every_block},
          {"a layout larger than the launch is reported",
           a_layout_larger_than_the_launch_is_reported},
          {"a write past shared memory is reported", a_write_past_shared_memory_is_reported},
          {"impossible launches are refused", impossible_launches_are_refused},
          {"launch passes arguments by value and names kernels",
           launch_passes_arguments_by_value_and_names_kernels},
          {"a launch counts what its threads did", a_launch_counts_what_its_threads_did},
          {"device limits are what a test sets", device_limits_are_what_a_test_sets},
      });
}
