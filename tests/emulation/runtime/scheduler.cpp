// The SIMT machine: runs the blocks of a grid one after another, the threads of a block as fibers,
// and brings lanes and threads together at collectives and barriers; see simt.h.
//
// A thread runs until it has to wait, and then hands over directly to the next one. Within a warp
// the next lane is drawn at random. Between warps a block either lets the running warp go on until
// all its lanes wait for others (so that one warp gets as far ahead as barriers let it), or jumps
// to another warp now and then; which of the two is drawn per block.
#include <cxxabi.h>
#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"
#include "rankone/core.h"
#include "warp_collective.h"

uint3 threadIdx{};
uint3 blockIdx{};
dim3 blockDim{};
dim3 gridDim{};

namespace rankone::emulation {
namespace {

constexpr unsigned kMaxWarps = kMaxThreads / kWarpSize;
constexpr int kSharedAlignment = 128;
constexpr unsigned char kPoison = 0xff;  // a NaN in every floating-point format, -1 as an integer
/// Far beyond any kernel small enough to emulate, and reached within seconds.
constexpr std::uint64_t kDefaultSpinLimit = std::uint64_t{1} << 27;

/// xorshift64*: the schedule needs speed and repeatability, nothing more.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_((seed + 1) * 0x9e3779b97f4a7c15u | 1u) {
    for (int i = 0; i < 8; ++i) (*this)();
  }
  unsigned operator()() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<unsigned>(state_ * 0x2545f4914f6cdd1du >> 32);
  }
  /// One of the set bits of a nonzero mask. Bits after a gap are drawn more often, which does no
  /// harm.
  unsigned bit_of(std::uint32_t mask) {
    const auto width = static_cast<std::uint64_t>(std::bit_width(mask));
    const auto from = static_cast<unsigned>((*this)() * width >> 32);
    return from + static_cast<unsigned>(std::countr_zero(mask >> from));
  }

 private:
  std::uint64_t state_;
};

enum class ThreadState : std::uint8_t { kReady, kMeeting, kBarrier, kExited };

struct AsyncCopy {
  std::byte* destination;
  const std::byte* source;
  int bytes;
  int valid_bytes;
  std::uint64_t group;
};

struct Thread {
  Context context;
  uint3 index{};
  unsigned number = 0;  // in the block
  ThreadState state = ThreadState::kReady;
  Collective collective{};
  int variant = 0;
  unsigned members = 0;
  int barrier = 0;
  std::vector<AsyncCopy> copies;
  std::uint64_t committed_groups = 0;
};

struct Meeting {
  Collective kind;
  int variant;
  unsigned arrived;
  Lanes lanes;
};

struct Warp {
  std::uint32_t ready = 0;
  std::uint32_t existing = 0;
  int meeting_count = 0;
  std::array<Meeting, kWarpSize> meetings;
};

struct Barrier {
  unsigned expected = 0;
  unsigned arrived = 0;
  std::array<std::uint32_t, kMaxWarps> waiting{};
};

struct FreeDeleter {
  void operator()(std::byte* memory) const { std::free(memory); }
};

const char* collective_name(Collective kind) {
  switch (kind) {
    case Collective::kWarpBarrier:
      return "warp_sync";
    case Collective::kShuffle:
      return "a shuffle";
    case Collective::kBallot:
      return "a vote";
    case Collective::kMmaBf16:
      return "mma (bf16)";
    case Collective::kMmaHalf:
      return "mma (fp16)";
    case Collective::kMmaTf32:
      return "mma (tf32)";
    case Collective::kLdmatrix:
      return "ldmatrix";
    case Collective::kLdmatrixTrans:
      return "ldmatrix.trans";
    case Collective::kStmatrix:
      return "stmatrix";
    case Collective::kStmatrixTrans:
      return "stmatrix.trans";
  }
  return "a collective";
}

std::string index_text(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
         std::to_string(index.z) + ")";
}

std::string hexadecimal(unsigned value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

std::uint64_t seed_from_environment() {
  const char* text = std::getenv("RANKONE_EMULATION_SEED");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 0);
}

class Machine {
 public:
  void launch(const LaunchRequest& request, void (*thread)(const void*), const void* context);

  void block_barrier() { wait_at_barrier(0, thread_count_, true); }
  void named_barrier(int id, int threads, bool wait);
  void meet(Collective kind, int variant, unsigned members, void* operand,
            void (*compute)(const Lanes&));
  void before_atomic();

  void* shared_memory(std::size_t bytes);
  void check_shared(const char* instruction, const void* address, std::size_t bytes) const;
  void start_copy(void* destination, const void* source, int bytes, int valid_bytes);
  void commit_copies() { ++running_->committed_groups; }
  void wait_copies(int pending_groups);

  unsigned lane() const { return running_->number % kWarpSize; }

  std::mutex mutex;
  std::uint64_t seed = seed_from_environment();
  std::uint64_t spin_limit = kDefaultSpinLimit;
  int multiprocessors = 4;
  Statistics current;
  Statistics last;

 private:
  void check_request(const LaunchRequest& request) const;
  void allocate_shared(std::size_t bytes);
  void run_block(unsigned block_number);
  void check_shared_guard();
  static void thread_main();
  [[noreturn]] void exit_thread();
  [[noreturn]] void stop();
  [[noreturn]] void stop_in_deadlock();

  Thread* next_ready();
  void resume(Thread& next, bool ends = false);
  void wait();
  void make_ready(unsigned warp, std::uint32_t lanes);
  void wait_at_barrier(int id, unsigned threads, bool wait);
  std::string deadlock_report() const;

  Context launcher_;
  std::vector<Stack> stacks_;
  std::array<Thread, kMaxThreads> threads_;
  std::array<Warp, kMaxWarps> warps_;
  std::array<Barrier, kNamedBarriers> barriers_;
  std::uint32_t ready_warps_ = 0;
  Thread* running_ = nullptr;
  unsigned thread_count_ = 0;
  unsigned live_ = 0;
  unsigned jump_chance_ = 0;  // of 2^32, at each handover
  std::uint64_t idle_atomics_ = 0;
  Random random_{0};

  std::unique_ptr<std::byte, FreeDeleter> shared_;
  std::size_t shared_bytes_ = 0;

  void (*thread_)(const void*) = nullptr;
  const void* thread_context_ = nullptr;
  std::string error_;
};

Machine& machine() {
  static Machine instance;
  return instance;
}

std::string kernel_name(const LaunchRequest& request) {
  if (request.name != nullptr) return request.name;
  const auto readable = [](const char* symbol) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> text(
        abi::__cxa_demangle(symbol, nullptr, nullptr, &status), &std::free);
    return std::string(status == 0 ? text.get() : symbol);
  };
  Dl_info info{};
  if (dladdr(request.function, &info) != 0 && info.dli_saddr == request.function) {
    return readable(info.dli_sname);
  }
  return "kernel taking " + readable(request.arguments->name());
}

void Machine::check_request(const LaunchRequest& request) const {
  const auto refuse = [&](const std::string& message) {
    throw CudaError(kernel_name(request), message);
  };
  const auto text = [](const dim3& size) { return index_text({size.x, size.y, size.z}); };
  const dim3& block = request.block;
  const dim3& grid = request.grid;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64) {
    refuse("invalid configuration: block " + text(block) + ", expected 1 to " +
           std::to_string(kMaxThreads) + " threads, at most 64 in z");
  }
  constexpr unsigned kMaxGridX = 0x7fffffffu, kMaxGridYz = 65535;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMaxGridX || grid.y > kMaxGridYz ||
      grid.z > kMaxGridYz) {
    refuse("invalid configuration: grid " + text(grid) +
           ", expected 1 to 2147483647 in x and 1 to 65535 in y and z");
  }
  if (request.shared_bytes > kMaxSharedBytes) {
    refuse("invalid argument: " + std::to_string(request.shared_bytes) +
           " bytes of shared memory, expected at most " + std::to_string(kMaxSharedBytes));
  }
}

// Outside AddressSanitizer, which sees every access past the end, a guard behind the memory shows
// writes past it when the block ends.
#ifdef RANKONE_EMULATION_ASAN
constexpr std::size_t kGuardBytes = 0;
#else
constexpr std::size_t kGuardBytes = 256;
#endif

void Machine::allocate_shared(std::size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kSharedAlignment, bytes + kGuardBytes) != 0) throw std::bad_alloc();
  shared_.reset(static_cast<std::byte*>(memory));
  shared_bytes_ = bytes;
}

void Machine::check_shared_guard() {
  for (std::size_t i = 0; i < kGuardBytes; ++i) {
    if (shared_.get()[shared_bytes_ + i] != std::byte{kPoison}) {
      error_ = "block " + index_text(blockIdx) + ": a thread wrote " + std::to_string(i) +
               " bytes past the " + std::to_string(shared_bytes_) + " bytes of shared memory";
      return;
    }
  }
}

void Machine::launch(const LaunchRequest& request, void (*thread)(const void*),
                     const void* context) {
  const std::lock_guard lock(mutex);
  check_request(request);

  blockDim = request.block;
  gridDim = request.grid;
  thread_count_ = blockDim.x * blockDim.y * blockDim.z;
  thread_ = thread;
  thread_context_ = context;
  current = {};
  error_.clear();
  random_ = Random(seed);
  allocate_shared(request.shared_bytes);
  while (stacks_.size() < thread_count_) stacks_.emplace_back();

  const std::uint64_t blocks = std::uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  if (blocks > 0xffffffffu) {
    throw CudaError(kernel_name(request), "a grid of more than 2^32 blocks cannot be emulated");
  }
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  for (std::size_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random_() % i]);

  for (const unsigned block : order) {
    run_block(block);
    if (error_.empty()) check_shared_guard();
    if (!error_.empty()) {
      for (Stack& stack : stacks_) stack.forget_frames();
      throw CudaError(kernel_name(request), error_);
    }
  }
  last = current;
}

void Machine::run_block(unsigned block_number) {
  blockIdx = {block_number % gridDim.x, block_number / gridDim.x % gridDim.y,
              block_number / gridDim.x / gridDim.y};
  std::memset(shared_.get(), kPoison, shared_bytes_ + kGuardBytes);
  barriers_.fill({});
  ready_warps_ = 0;
  live_ = thread_count_;
  idle_atomics_ = 0;
  constexpr unsigned kOneInEight = 1u << 29;
  jump_chance_ = random_() % 2 == 0 ? 0 : kOneInEight;

  for (unsigned w = 0; w * kWarpSize < thread_count_; ++w) {
    Warp& warp = warps_[w];
    const unsigned lanes = std::min(thread_count_ - w * kWarpSize, unsigned{kWarpSize});
    warp.existing = 0xffffffffu >> (kWarpSize - lanes);
    warp.ready = 0;
    warp.meeting_count = 0;
    make_ready(w, warp.existing);
  }
  for (unsigned i = 0; i < thread_count_; ++i) {
    Thread& thread = threads_[i];
    thread.number = i;
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    thread.copies.clear();
    thread.committed_groups = 0;
    thread.context.prepare(stacks_[i], i, &Machine::thread_main);
  }

  running_ = nullptr;
  Thread& first = *next_ready();
  running_ = &first;
  threadIdx = first.index;
  launcher_.switch_to(first.context);
  ++current.blocks;
}

void Machine::thread_main() {
  Context::entered();
  Machine& m = machine();
  try {
    m.thread_(m.thread_context_);
  } catch (const std::exception& error) {
    m.error_ = "block " + index_text(blockIdx) + ", thread " + index_text(m.running_->index) +
               ": " + error.what();
  }
  // Not from within the handler: the exceptions in flight belong to the host's thread, and the
  // launcher's must not meet this fiber's.
  if (!m.error_.empty()) m.stop();
  m.exit_thread();
}

void Machine::stop() {
  running_->context.switch_to(launcher_);
  std::abort();  // a stopped fiber is never resumed
}

void Machine::stop_in_deadlock() {
  error_ = deadlock_report();
  stop();
}

void Machine::exit_thread() {
  running_->state = ThreadState::kExited;
  idle_atomics_ = 0;
  if (--live_ == 0) {
    running_->context.switch_to(launcher_, true);
    std::abort();
  }
  Thread* next = next_ready();
  if (next == nullptr) stop_in_deadlock();
  resume(*next, true);
  std::abort();
}

/// Takes a thread from the ready ones, null when there is none.
Thread* Machine::next_ready() {
  if (ready_warps_ == 0) return nullptr;
  unsigned w = running_ != nullptr ? running_->number / kWarpSize : kMaxWarps;
  const bool stay = w < kMaxWarps && (ready_warps_ >> w & 1u) != 0 &&
                    (jump_chance_ == 0 || random_() >= jump_chance_);
  if (!stay) w = random_.bit_of(ready_warps_);
  Warp& warp = warps_[w];
  const unsigned lane = random_.bit_of(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) ready_warps_ &= ~(1u << w);
  return &threads_[w * kWarpSize + lane];
}

void Machine::resume(Thread& next, bool ends) {
  Thread& previous = *running_;
  if (&next == &previous) return;
  ++current.context_switches;
  running_ = &next;
  threadIdx = next.index;
  previous.context.switch_to(next.context, ends);
}

/// Hands over until another thread makes the running one ready and the schedule comes back to it.
void Machine::wait() {
  Thread* next = next_ready();
  if (next == nullptr) stop_in_deadlock();
  resume(*next);
}

void Machine::make_ready(unsigned warp, std::uint32_t lanes) {
  if (lanes == 0) return;
  warps_[warp].ready |= lanes;
  ready_warps_ |= 1u << warp;
  for (std::uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    threads_[warp * kWarpSize + static_cast<unsigned>(std::countr_zero(rest))].state =
        ThreadState::kReady;
  }
}

void Machine::wait_at_barrier(int id, unsigned threads, bool wait) {
  Barrier& barrier = barriers_[static_cast<std::size_t>(id)];
  if (barrier.arrived == 0) {
    barrier.expected = threads;
  } else if (barrier.expected != threads) {
    fail("barrier " + std::to_string(id) + " called for " + std::to_string(threads) +
         " threads while others wait there for " + std::to_string(barrier.expected));
  }
  if (++barrier.arrived == barrier.expected) {
    for (unsigned w = 0; w * kWarpSize < thread_count_; ++w) make_ready(w, barrier.waiting[w]);
    barrier = {};
    idle_atomics_ = 0;
    ++current.block_barriers;
    return;
  }
  if (!wait) return;
  barrier.waiting[running_->number / kWarpSize] |= 1u << lane();
  running_->state = ThreadState::kBarrier;
  running_->barrier = id;
  this->wait();
}

void Machine::named_barrier(int id, int threads, bool wait) {
  if (id < 1 || id >= kNamedBarriers) {
    fail("barrier id " + std::to_string(id) + ", expected 1 to " +
         std::to_string(kNamedBarriers - 1));
  }
  if (threads <= 0 || threads % kWarpSize != 0 || static_cast<unsigned>(threads) > thread_count_) {
    fail("barrier of " + std::to_string(threads) +
         " threads, expected a multiple of 32 up to the block's " + std::to_string(thread_count_));
  }
  wait_at_barrier(id, static_cast<unsigned>(threads), wait);
}

void Machine::meet(Collective kind, int variant, unsigned members, void* operand,
                   void (*compute)(const Lanes&)) {
  const unsigned w = running_->number / kWarpSize;
  const unsigned lane_bit = 1u << lane();
  Warp& warp = warps_[w];
  if ((members & lane_bit) == 0 || (members & ~warp.existing) != 0) {
    fail(std::string(collective_name(kind)) + " of lanes " + hexadecimal(members) +
         ", which must name the caller (lane " + std::to_string(lane()) +
         ") and only lanes of the block (" + hexadecimal(warp.existing) + ")");
  }
  int i = 0;
  while (i < warp.meeting_count &&
         (warp.meetings[i].kind != kind || warp.meetings[i].variant != variant ||
          warp.meetings[i].lanes.members != members)) {
    ++i;
  }
  Meeting& meeting = warp.meetings[i];
  if (i == warp.meeting_count) {
    ++warp.meeting_count;
    meeting.kind = kind;
    meeting.variant = variant;
    meeting.arrived = 0;
    meeting.lanes.members = members;
    std::fill(std::begin(meeting.lanes.operands), std::end(meeting.lanes.operands), nullptr);
  }
  meeting.arrived |= lane_bit;
  meeting.lanes.operands[lane()] = operand;
  if (meeting.arrived == members) {
    compute(meeting.lanes);
    make_ready(w, members & ~lane_bit);
    meeting = warp.meetings[--warp.meeting_count];
    idle_atomics_ = 0;
    return;
  }
  running_->state = ThreadState::kMeeting;
  running_->collective = kind;
  running_->variant = variant;
  running_->members = members;
  wait();
}

void Machine::before_atomic() {
  if (++idle_atomics_ > spin_limit) {
    fail("endless spin: " + std::to_string(spin_limit) +
         " atomics in the block with no barrier, collective or exit between them");
  }
  constexpr unsigned kOneInSixteen = 16;
  if (random_() % kOneInSixteen != 0) return;
  make_ready(running_->number / kWarpSize, 1u << lane());
  // Any warp: the thread that would release a spinning one may be in another.
  Thread* running = std::exchange(running_, nullptr);
  Thread* next = next_ready();
  running_ = running;
  resume(*next);
}

std::string Machine::deadlock_report() const {
  const auto state_text = [](const Thread& thread) -> std::string {
    switch (thread.state) {
      case ThreadState::kExited:
        return "exited";
      case ThreadState::kBarrier:
        return thread.barrier == 0 ? "at block_sync"
                                   : "at barrier " + std::to_string(thread.barrier);
      case ThreadState::kMeeting: {
        std::string text = std::string("in ") + collective_name(thread.collective);
        if (thread.variant != 0) text += " x" + std::to_string(thread.variant);
        return text + " of lanes " + hexadecimal(thread.members);
      }
      case ThreadState::kReady:
        break;
    }
    return "ready";
  };
  std::map<std::string, std::string> numbers_of;
  for (unsigned i = 0; i < thread_count_;) {
    const std::string state = state_text(threads_[i]);
    unsigned end = i + 1;
    while (end < thread_count_ && state_text(threads_[end]) == state) ++end;
    std::string& numbers = numbers_of[state];
    if (!numbers.empty()) numbers += ", ";
    numbers += std::to_string(i);
    if (end - i > 1) numbers += "-" + std::to_string(end - 1);
    i = end;
  }
  std::string report = "deadlock in block " + index_text(blockIdx) + ", no thread can go on:";
  const char* separator = " ";
  for (const auto& [state, numbers] : numbers_of) {
    report += separator + ("threads " + numbers + " " + state);
    separator = "; ";
  }
  return report;
}

void* Machine::shared_memory(std::size_t bytes) {
  if (bytes > shared_bytes_) {
    fail("shared memory layout of " + std::to_string(bytes) + " bytes in a launch with " +
         std::to_string(shared_bytes_));
  }
  return shared_.get();
}

void Machine::check_shared(const char* instruction, const void* address, std::size_t bytes) const {
  const auto begin = reinterpret_cast<std::uintptr_t>(shared_.get());
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  if (at < begin || at + bytes > begin + shared_bytes_) {
    fail(std::string(instruction) + ": address outside the block's shared memory (offset " +
         std::to_string(static_cast<std::intptr_t>(at - begin)) + " of " +
         std::to_string(shared_bytes_) + " bytes)");
  }
  if (at % bytes != 0) {
    fail(std::string(instruction) + ": shared address at offset " + std::to_string(at - begin) +
         " is not " + std::to_string(bytes) + "-byte aligned");
  }
}

void Machine::start_copy(void* destination, const void* source, int bytes, int valid_bytes) {
  check_shared("copy_async", destination, static_cast<std::size_t>(bytes));
  if (reinterpret_cast<std::uintptr_t>(source) % static_cast<unsigned>(bytes) != 0) {
    fail("copy_async: global address is not " + std::to_string(bytes) + "-byte aligned");
  }
  if (valid_bytes < 0 || valid_bytes > bytes) {
    fail("copy_async: " + std::to_string(valid_bytes) + " valid bytes, expected 0 to " +
         std::to_string(bytes));
  }
  std::memset(destination, kPoison, static_cast<std::size_t>(bytes));
  running_->copies.push_back({static_cast<std::byte*>(destination),
                              static_cast<const std::byte*>(source), bytes, valid_bytes,
                              running_->committed_groups});
  current.copied_bytes += static_cast<std::uint64_t>(valid_bytes);
}

void Machine::wait_copies(int pending_groups) {
  Thread& thread = *running_;
  auto copy = thread.copies.begin();
  while (copy != thread.copies.end() &&
         copy->group + static_cast<unsigned>(pending_groups) < thread.committed_groups) {
    const auto valid = static_cast<std::size_t>(copy->valid_bytes);
    if (valid > 0) std::memcpy(copy->destination, copy->source, valid);
    std::memset(copy->destination + valid, 0, static_cast<std::size_t>(copy->bytes) - valid);
    ++copy;
  }
  thread.copies.erase(thread.copies.begin(), copy);
}

}  // namespace

void set_schedule_seed(std::uint64_t seed) { machine().seed = seed; }
std::uint64_t schedule_seed() { return machine().seed; }
void set_spin_limit(std::uint64_t atomics) { machine().spin_limit = atomics; }
void set_multiprocessors(int count) { machine().multiprocessors = count; }
int multiprocessors() { return machine().multiprocessors; }
Statistics last_launch() { return machine().last; }
Statistics& statistics() { return machine().current; }

void launch(const LaunchRequest& request, void (*thread)(const void*), const void* context) {
  machine().launch(request, thread, context);
}

void fail(const std::string& message) { throw Error(message); }
int current_lane() { return static_cast<int>(machine().lane()); }
void check_shared(const char* instruction, const void* address, std::size_t bytes) {
  machine().check_shared(instruction, address, bytes);
}
void meet(Collective kind, int variant, unsigned members, void* operand,
          void (*compute)(const Lanes&)) {
  machine().meet(kind, variant, members, operand, compute);
}

void* shared_memory(std::size_t bytes) { return machine().shared_memory(bytes); }
void block_barrier() { machine().block_barrier(); }
void named_barrier(int id, int threads, bool wait) { machine().named_barrier(id, threads, wait); }
void before_atomic() { machine().before_atomic(); }
void start_copy(void* destination, const void* source, int bytes, int valid_bytes) {
  machine().start_copy(destination, source, bytes, valid_bytes);
}
void commit_copies() { machine().commit_copies(); }
void wait_copies(int pending_groups) { machine().wait_copies(pending_groups); }

}  // namespace rankone::emulation
