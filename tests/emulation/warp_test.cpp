// The warp's other instructions in cuda/primitives, asynchronous copies, shuffles, votes and
// atomics, against their description in the PTX ISA and plain loops.
#include "primitives/warp.cuh"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "cpp/check.h"
#include "primitives/async_copy.cuh"
#include "run_threads.h"

namespace {

using namespace rankone::cuda;
using rankone::CudaError;
namespace emulation = rankone::emulation;

constexpr int kLanes = kWarpSize;
constexpr unsigned kSeeds = 8;

// ---- asynchronous copies ----

void copies_land_only_at_the_wait_that_covers_them() {
  alignas(16) float source[3][kLanes * 4];
  for (int group = 0; group < 3; ++group) {
    for (int i = 0; i < kLanes * 4; ++i) source[group][i] = static_cast<float>(1000 * group + i);
  }
  struct Shared {
    float at[3][kLanes * 4];
  };
  int wrong = 0;
  run_warp(sizeof(Shared), [&] {
    auto& shared = shared_memory<Shared>();
    const int first = 4 * lane_id();
    const auto landed = [&](int group) {
      return shared.at[group][first] == source[group][first] &&
             shared.at[group][first + 3] == source[group][first + 3];
    };
    const auto expect = [&](bool first_group, bool second, bool third) {
      if (landed(0) != first_group || landed(1) != second || landed(2) != third) ++wrong;
    };
    copy_async_16(&shared.at[0][first], &source[0][first]);
    commit_async();
    copy_async_16(&shared.at[1][first], &source[1][first]);
    commit_async();
    copy_async_16(&shared.at[2][first], &source[2][first]);
    expect(false, false, false);
    if (!std::isnan(shared.at[0][first])) ++wrong;
    wait_async<2>();
    expect(false, false, false);
    wait_async<1>();
    expect(true, false, false);
    wait_async<0>();
    expect(true, true, false);  // the third copy was never committed
    commit_async();
    wait_async<0>();
    expect(true, true, true);
  });
  check::equal(wrong, 0, "the number of lanes that saw a copy too early or too late");
}

void empty_groups_count() {
  alignas(16) float source[4] = {1, 2, 3, 4};
  float early = 0, late = 0;
  run_warp(16, [&] {
    struct Shared {
      float at[4];
    };
    auto& shared = shared_memory<Shared>();
    if (lane_id() == 0) copy_async_16(shared.at, source);
    commit_async();
    wait_async<1>();
    if (lane_id() == 0) early = shared.at[0];
    commit_async();
    wait_async<1>();
    if (lane_id() == 0) late = shared.at[0];
  });
  check::that(std::isnan(early), "the youngest group must still be under way");
  check::equal(late, 1.0f, "the element after an empty group was committed");
}

void invalid_copies_fill_with_zeros_and_read_nothing() {
  // Six floats and no more: AddressSanitizer would see a read past them.
  void* memory = nullptr;
  check::equal(posix_memalign(&memory, 16, 6 * sizeof(float)), 0, "posix_memalign");
  const std::unique_ptr<float, decltype(&std::free)> source(static_cast<float*>(memory),
                                                            &std::free);
  std::fill_n(source.get(), 6, 7.0f);
  struct alignas(16) Shared {
    float at[12];
  };
  float copied[12];
  run_warp(sizeof(Shared), [&] {
    auto& shared = shared_memory<Shared>();
    if (lane_id() == 0) {
      copy_async_16(&shared.at[0], source.get() + 8, false);
      copy_async_16(&shared.at[4], source.get(), true);
      copy_async<16>(&shared.at[8], source.get() + 4, 8);
      commit_async();
      wait_async<0>();
      std::copy(shared.at, shared.at + 12, copied);
    }
  });
  const float expected[12] = {0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 0, 0};
  for (int i = 0; i < 12; ++i) check::equal(copied[i], expected[i], "element " + std::to_string(i));
}

void copies_of_4_and_8_bytes_move_their_size() {
  alignas(16) const float source[4] = {1, 2, 3, 4};
  float copied[4];
  run_warp(16, [&] {
    struct Shared {
      float at[4];
    };
    auto& shared = shared_memory<Shared>();
    if (lane_id() == 0) {
      copy_async<4>(&shared.at[1], &source[3]);
      copy_async<8>(&shared.at[2], &source[0]);
      commit_async();
      wait_async<0>();
      std::copy(shared.at, shared.at + 4, copied);
    }
  });
  check::that(std::isnan(copied[0]), "the first element was not written");
  check::that(copied[1] == 4 && copied[2] == 1 && copied[3] == 2, "the copied elements");
}

void copy_addresses_must_be_aligned_and_in_shared_memory() {
  alignas(16) float source[8] = {};
  float outside[8];
  const auto copy = [&](auto destination_of, const float* from, int bytes) {
    run_warp(32, [&] {
      auto* base = static_cast<std::byte*>(emulation::shared_memory(32));
      if (lane_id() == 3) copy_async<16>(destination_of(base), from, bytes);
    });
  };
  check::throws<CudaError>([&] { copy([](std::byte* base) { return base + 8; }, source, 16); },
                           {"copy_async", "shared address", "16-byte aligned", "(3, 0, 0)"});
  check::throws<CudaError>([&] { copy([](std::byte* base) { return base; }, source + 1, 16); },
                           {"copy_async", "global address", "16-byte aligned"});
  check::throws<CudaError>(
      [&] { copy([&](std::byte*) { return static_cast<void*>(outside); }, source, 16); },
      {"copy_async", "outside the block's shared memory"});
  check::throws<CudaError>([&] { copy([](std::byte* base) { return base; }, source, 17); },
                           {"17 valid bytes"});
}

// ---- shuffles, votes, reductions ----

// PTX ISA, shfl.sync, with the segment of `width` lanes that starts at `first`.
int documented_source(emulation::ShuffleMode mode, int lane, int operand, int width) {
  const int segment_mask = kLanes - width;  // c = segment_mask << 8 | clamp
  const int max_lane = (lane & segment_mask) | ((kLanes - 1) & ~segment_mask);
  const int min_lane = lane & segment_mask;
  int source = lane;
  bool in_range = false;
  switch (mode) {
    case emulation::ShuffleMode::kUp:
      source = lane - operand, in_range = source >= min_lane;
      break;
    case emulation::ShuffleMode::kDown:
      source = lane + operand, in_range = source <= max_lane;
      break;
    case emulation::ShuffleMode::kXor:
      source = lane ^ operand, in_range = source <= max_lane;
      break;
    case emulation::ShuffleMode::kIdx:
      source = min_lane | (operand & ~segment_mask), in_range = source <= max_lane;
      break;
  }
  return in_range ? source : lane;
}

template <typename T>
void shuffles_move_values_as_documented() {
  using emulation::ShuffleMode;
  const auto value_of = [](int lane) { return static_cast<T>(lane) * static_cast<T>(3) + 1; };
  for (const int width : {1, 2, 4, 8, 16, 32}) {
    for (int operand = 0; operand < kLanes; ++operand) {
      T received[4][kLanes];
      run_warp(0, [&] {
        const int lane = lane_id();
        const T value = value_of(lane);
        received[0][lane] = shuffle_idx(value, operand, width);
        received[1][lane] = shuffle_up(value, operand, width);
        received[2][lane] = shuffle_down(value, operand, width);
        received[3][lane] = shuffle_xor(value, operand, width);
      });
      const ShuffleMode modes[] = {ShuffleMode::kIdx, ShuffleMode::kUp, ShuffleMode::kDown,
                                   ShuffleMode::kXor};
      for (int mode = 0; mode < 4; ++mode) {
        for (int lane = 0; lane < kLanes; ++lane) {
          check::equal(received[mode][lane],
                       value_of(documented_source(modes[mode], lane, operand, width)),
                       "mode " + std::to_string(mode) + " width " + std::to_string(width) +
                           " operand " + std::to_string(operand) + " lane " + std::to_string(lane));
        }
      }
    }
  }
}

void shuffle_sources_may_differ_between_lanes() {
  int received[kLanes];
  run_warp(0, [&] { received[lane_id()] = shuffle_idx(lane_id(), 31 - lane_id()); });
  for (int lane = 0; lane < kLanes; ++lane) check::equal(received[lane], 31 - lane, "a reversal");
}

void parts_of_a_warp_meet_on_their_own() {
  // The two halves make different numbers of calls.
  int sums[kLanes];
  run_warp(0, [&] {
    const int lane = lane_id();
    const unsigned members = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    int value = lane;
    for (int distance = 1; distance < (lane < 16 ? 16 : 4); distance *= 2) {
      value += shuffle_xor(value, distance, kWarpSize, members);
    }
    warp_sync();
    sums[lane] = value;
  });
  for (int lane = 0; lane < kLanes; ++lane) {
    int expected = 0;
    const int span = lane < 16 ? 16 : 4;
    for (int other = lane / span * span; other < (lane / span + 1) * span; ++other)
      expected += other;
    check::equal(sums[lane], expected, "the sum of lane " + std::to_string(lane));
  }
}

void votes_report_the_predicates_of_the_members() {
  unsigned ballots[kLanes], half_ballots[kLanes];
  bool any_third[kLanes], any_none[kLanes], all_third[kLanes], all_every[kLanes];
  run_warp(0, [&] {
    const int lane = lane_id();
    const bool third = lane % 3 == 0;
    ballots[lane] = ballot(third);
    any_third[lane] = any(third);
    any_none[lane] = any(lane > 31);
    all_third[lane] = all(third);
    all_every[lane] = all(lane < 32);
    half_ballots[lane] = lane < 16 ? ballot(third, 0xffffu) : ballot(!third, 0xffff0000u);
  });
  unsigned expected = 0;
  for (int lane = 0; lane < kLanes; lane += 3) expected |= 1u << lane;
  for (int lane = 0; lane < kLanes; ++lane) {
    check::equal(ballots[lane], expected, "ballot");
    check::equal(half_ballots[lane], lane < 16 ? expected & 0xffffu : ~expected & 0xffff0000u,
                 "ballot of a half");
    check::that(any_third[lane] && !any_none[lane], "any");
    check::that(!all_third[lane] && all_every[lane], "all");
  }
}

void reductions_cover_segments() {
  float sums[kLanes], maxima[kLanes];
  unsigned long long segment_sums[kLanes];
  int segment_maxima[kLanes];
  run_warp(0, [&] {
    const int lane = lane_id();
    sums[lane] = warp_sum(static_cast<float>(lane));
    maxima[lane] = warp_max(lane == 7 ? 5.0f : -static_cast<float>(lane));
    segment_sums[lane] = warp_sum(1ull << lane, 8);
    segment_maxima[lane] = warp_max(lane ^ 5, 4);
  });
  for (int lane = 0; lane < kLanes; ++lane) {
    check::equal(sums[lane], 496.0f, "the sum");
    check::equal(maxima[lane], 5.0f, "the maximum");
    check::equal(segment_sums[lane], 0xffull << (lane / 8 * 8), "the sum over 8 lanes");
    int expected = 0;
    for (int other = lane / 4 * 4; other < lane / 4 * 4 + 4; ++other) {
      expected = std::max(expected, other ^ 5);
    }
    check::equal(segment_maxima[lane], expected, "the maximum over 4 lanes");
  }
}

// ---- atomics ----

template <typename T>
void atomics_combine_all_threads() {
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    emulation::set_schedule_seed(seed);
    T sum = 0, smallest = 1000, largest = 0, bits = 0, kept = static_cast<T>(0xff), owner = 0;
    std::vector<int> tickets(256);
    int claims = 0;
    run_threads(4, 64, 0, [&] {
      const T id = static_cast<T>(blockIdx.x * blockDim.x + threadIdx.x);
      const T ticket = atomic_add(&sum, T{1});
      tickets[static_cast<std::size_t>(ticket)] += 1;
      atomic_min(&smallest, static_cast<T>(id + 5));
      atomic_max(&largest, id);
      atomic_or(&bits, static_cast<T>(T{1} << (id % 8)));
      atomic_and(&kept, static_cast<T>(~(T{1} << (id % 4))));
      if (atomic_compare_exchange(&owner, T{0}, static_cast<T>(id + 1)) == 0) ++claims;
    });
    check::equal(sum, T{256}, "the count");
    for (const int times : tickets) check::equal(times, 1, "how often a ticket was drawn");
    check::equal(smallest, T{5}, "the minimum");
    check::equal(largest, T{255}, "the maximum");
    check::equal(bits, static_cast<T>(0xff), "the union");
    check::equal(kept, static_cast<T>(0xf0), "the intersection");
    check::equal(claims, 1, "the number of threads that claimed the slot");
  }
  emulation::set_schedule_seed(0);
}

void atomic_exchange_hands_every_value_on_once() {
  unsigned slot = 0;
  unsigned long long seen = 0;
  run_threads(1, 64, 0, [&] { seen += atomic_exchange(&slot, threadIdx.x + 1); });
  check::equal(seen + slot, 64ull * 65 / 2, "the sum of all values handed on");
}

void atomic_add_wraps() {
  int counter = std::numeric_limits<int>::max();
  run_threads(1, 1, 0, [&] { atomic_add(&counter, 1); });
  check::equal(counter, std::numeric_limits<int>::min(), "the counter");
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {
          {"copies land only at the wait that covers them",
           copies_land_only_at_the_wait_that_covers_them},
          {"empty groups count", empty_groups_count},
          {"invalid copies fill with zeros and read nothing",
           invalid_copies_fill_with_zeros_and_read_nothing},
          {"copies of 4 and 8 bytes move their size", copies_of_4_and_8_bytes_move_their_size},
          {"copy addresses must be aligned and in shared memory",
           copy_addresses_must_be_aligned_and_in_shared_memory},
          {"shuffles move floats as documented", shuffles_move_values_as_documented<float>},
          {"shuffles move 64-bit integers as documented",
           shuffles_move_values_as_documented<unsigned long long>},
          {"shuffle sources may differ between lanes", shuffle_sources_may_differ_between_lanes},
          {"parts of a warp meet on their own", parts_of_a_warp_meet_on_their_own},
          {"votes report the predicates of the members",
           votes_report_the_predicates_of_the_members},
          {"reductions cover segments", reductions_cover_segments},
          {"atomics combine all threads, int", atomics_combine_all_threads<int>},
          {"atomics combine all threads, unsigned", atomics_combine_all_threads<unsigned>},
          {"atomics combine all threads, unsigned long long",
           atomics_combine_all_threads<unsigned long long>},
          {"atomic_exchange hands every value on once", atomic_exchange_hands_every_value_on_once},
          {"atomic_add wraps", atomic_add_wraps},
      });
}
