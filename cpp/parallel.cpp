// The thread pool behind parallel_for. One pool a process, made on first use; its memory is never
// freed, its threads are joined when the process or the library ends.
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace rankone::cpu {
namespace {

struct Job {
  Job(ParallelBody body, void* context, std::int64_t num_tasks, int num_workers)
      : body(body), context(context), num_tasks(num_tasks), num_workers(num_workers) {}

  const ParallelBody body;
  void* const context;
  const std::int64_t num_tasks;
  const int num_workers;  // pool threads that may join, besides the caller
  std::atomic<std::int64_t> next_task{0};
  std::mutex error_mutex;
  std::exception_ptr error;

  void run(int worker) {
    for (;;) {
      const std::int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      try {
        body(context, task, worker);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next_task.store(num_tasks, std::memory_order_relaxed);
      }
    }
  }
};

void run_serially(std::int64_t num_tasks, ParallelBody body, void* context) {
  for (std::int64_t task = 0; task < num_tasks; ++task) body(context, task, 0);
}

class Pool {
 public:
  /// False when another call holds the pool, or the pool is closed: nothing was run then.
  bool try_run(Job& job) {
    if (held_.exchange(true, std::memory_order_acquire)) return false;
    const bool ran = run_held(job);
    held_.store(false, std::memory_order_release);
    return ran;
  }

  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  bool run_held(Job& job) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return false;
      add_threads(job.num_workers);
      job_ = &job;
      joined_ = 0;
      ++generation_;
    }
    wake_.notify_all();
    job.run(0);
    std::unique_lock lock(mutex_);
    job_ = nullptr;  // a thread that wakes from here on finds nothing to join
    idle_.wait(lock, [this] { return running_ == 0; });
    return true;
  }

  void add_threads(int count) {
    while (static_cast<int>(threads_.size()) < count) {
      try {
        threads_.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        return;  // the system grants no more threads: those that exist share the tasks
      }
    }
  }

  void work() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] {
        return closed_ || (job_ != nullptr && generation_ != seen && joined_ < job_->num_workers);
      });
      if (closed_) return;
      Job& job = *job_;
      seen = generation_;
      const int worker = ++joined_;
      ++running_;
      lock.unlock();
      job.run(worker);
      lock.lock();
      if (--running_ == 0) idle_.notify_one();
    }
  }

  std::atomic<bool> held_{false};
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  int joined_ = 0;   // pool threads that took part in this job
  int running_ = 0;  // of these, the ones still inside it
  std::uint64_t generation_ = 0;
  bool closed_ = false;
};

// The pool is reached through this pointer alone: a forked child has none of its parent's threads
// and perhaps a held lock, so it forgets the parent's pool and makes its own.
std::atomic<Pool*> current_pool{nullptr};

struct PoolCloser {
  ~PoolCloser() {
    if (Pool* pool = current_pool.load(std::memory_order_acquire)) pool->close();
  }
};

Pool* make_pool() {
  static std::mutex making;
#if defined(__unix__) || defined(__APPLE__)
  static const int registered =
      pthread_atfork([] { making.lock(); }, [] { making.unlock(); },
                     [] {
                       current_pool.store(nullptr, std::memory_order_release);
                       making.unlock();
                     });
  static_cast<void>(registered);
#endif
  const std::lock_guard lock(making);
  Pool* pool = current_pool.load(std::memory_order_acquire);
  if (pool == nullptr) {
    static PoolCloser closer;
    static_cast<void>(closer);
    pool = std::make_unique<Pool>().release();  // outlives every caller; see the file's header
    current_pool.store(pool, std::memory_order_release);
  }
  return pool;
}

}  // namespace

void parallel_for(std::int64_t num_tasks, int num_threads, ParallelBody body, void* context) {
  const int num_workers =
      static_cast<int>(std::min<std::int64_t>(std::max(num_threads, 1), num_tasks)) - 1;
  if (num_workers <= 0) {
    run_serially(num_tasks, body, context);
    return;
  }
  Pool* pool = current_pool.load(std::memory_order_acquire);
  if (pool == nullptr) pool = make_pool();
  Job job{body, context, num_tasks, num_workers};
  if (!pool->try_run(job)) {
    run_serially(num_tasks, body, context);
  } else if (job.error) {
    std::rethrow_exception(job.error);
  }
}

}  // namespace rankone::cpu
