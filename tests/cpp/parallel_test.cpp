// The thread pool: every task runs once, errors come back, and neither nested calls, concurrent
// callers nor a fork can hang it.
#include "parallel.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"

namespace {

using rankone::cpu::parallel_for;

void every_task_runs_once() {
  for (const int threads : {1, 2, 3, 8}) {
    for (const std::int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      parallel_for(tasks, threads,
                   [&](std::int64_t task, int) { runs[static_cast<std::size_t>(task)]++; });
      for (const std::atomic<int>& count : runs) check::equal(count.load(), 1, "runs of a task");
    }
  }
}

void workers_are_numbered_below_the_thread_count() {
  constexpr int kThreads = 4;
  std::vector<std::atomic<int>> inside(kThreads);
  std::atomic<bool> shared{false}, outside{false};
  parallel_for(2000, kThreads, [&](std::int64_t, int worker) {
    if (worker < 0 || worker >= kThreads) {
      outside = true;
      return;
    }
    std::atomic<int>& count = inside[static_cast<std::size_t>(worker)];
    if (count.fetch_add(1) != 0) shared = true;
    count.fetch_sub(1);
  });
  check::that(!outside, "a worker number is outside [0, num_threads)");
  check::that(!shared, "two threads had one worker number at a time");
}

void several_threads_take_part() {
  // The tasks wait for each other, so one thread alone could not finish them.
  constexpr int kThreads = 3;
  std::atomic<int> arrived{0};
  std::atomic<bool> late{false};
  parallel_for(kThreads, kThreads, [&](std::int64_t, int) {
    arrived++;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (arrived < kThreads) {
      if (std::chrono::steady_clock::now() > deadline) {
        late = true;
        return;
      }
      std::this_thread::yield();
    }
  });
  check::that(!late, "the tasks did not run at the same time");
}

void an_exception_reaches_the_caller_and_stops_the_rest() {
  for (const int threads : {1, 2, 4}) {
    std::atomic<std::int64_t> runs{0};
    check::throws<std::runtime_error>(
        [&] {
          parallel_for(1000000, threads, [&](std::int64_t task, int) {
            runs++;
            if (task == 5) throw std::runtime_error("task five");
          });
        },
        {"task five"});
    check::that(runs < 1000000, "all tasks ran after the error");
    std::atomic<int> after{0};
    parallel_for(10, threads, [&](std::int64_t, int) { after++; });
    check::equal(after.load(), 10, "tasks of the next call");
  }
}

void nested_calls_run_on_the_calling_thread() {
  std::atomic<int> runs{0};
  std::atomic<bool> moved{false};
  parallel_for(8, 4, [&](std::int64_t, int) {
    const std::thread::id outer = std::this_thread::get_id();
    parallel_for(8, 4, [&](std::int64_t, int worker) {
      runs++;
      if (std::this_thread::get_id() != outer || worker != 0) moved = true;
    });
  });
  check::equal(runs.load(), 64, "runs");
  check::that(!moved, "a nested task left its thread");
}

void concurrent_callers_all_finish() {
  std::atomic<std::int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 6; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        parallel_for(10, 3, [&](std::int64_t task, int) { sum += task; });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  check::equal(sum.load(), std::int64_t{6} * 300 * 45, "sum over all tasks");
}

void a_forked_child_makes_its_own_threads() {
  std::atomic<int> warm{0};
  parallel_for(8, 3, [&](std::int64_t, int) { warm++; });
  const pid_t child = fork();
  check::that(child >= 0, "fork failed");
  if (child == 0) {
    alarm(60);
    std::atomic<int> runs{0};
    for (int round = 0; round < 100; ++round) {
      parallel_for(8, 3, [&](std::int64_t, int) { runs++; });
    }
    _exit(runs == 800 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  check::that(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child hung or lost tasks");
  std::atomic<int> runs{0};
  parallel_for(8, 3, [&](std::int64_t, int) { runs++; });
  check::equal(runs.load(), 8, "tasks of the parent after the fork");
}

void a_process_that_used_the_pool_exits() {
  const pid_t child = fork();
  check::that(child >= 0, "fork failed");
  if (child == 0) {
    alarm(60);
    std::atomic<int> runs{0};
    parallel_for(8, 3, [&](std::int64_t, int) { runs++; });
    std::exit(runs == 8 ? 0 : 1);  // runs the static destructors, which join the threads
  }
  int status = 0;
  waitpid(child, &status, 0);
  check::that(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the process did not exit cleanly");
}

}  // namespace

int main(int argc, char** argv) {
  return check::run(
      argc, argv,
      {{"every task runs once", every_task_runs_once},
       {"workers are numbered below the thread count", workers_are_numbered_below_the_thread_count},
       {"several threads take part", several_threads_take_part},
       {"an exception reaches the caller and stops the rest",
        an_exception_reaches_the_caller_and_stops_the_rest},
       {"nested calls run on the calling thread", nested_calls_run_on_the_calling_thread},
       {"concurrent callers all finish", concurrent_callers_all_finish},
       {"a forked child makes its own threads", a_forked_child_makes_its_own_threads},
       {"a process that used the pool exits", a_process_that_used_the_pool_exits}});
}
