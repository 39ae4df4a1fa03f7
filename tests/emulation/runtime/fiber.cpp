// Stacks and context switches of the emulation; see fiber.h.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <utility>

#ifdef RANKONE_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef RANKONE_EMULATION_ASSEMBLY

// Saves the callee-saved registers on the running stack, its pointer in *save, and continues with
// what an earlier call saved at `resume`.
extern "C" void rankone_emulation_switch(void** save, void* resume);

#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl rankone_emulation_switch
.hidden rankone_emulation_switch
.type rankone_emulation_switch, @function
rankone_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size rankone_emulation_switch, . - rankone_emulation_switch
)");
#else
asm(R"(
.text
.p2align 4
.globl rankone_emulation_switch
.hidden rankone_emulation_switch
.type rankone_emulation_switch, %function
rankone_emulation_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size rankone_emulation_switch, . - rankone_emulation_switch
)");
#endif
#endif

namespace rankone::emulation {
namespace {

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

constexpr std::size_t kMaxColorBytes = 4096;

#ifdef RANKONE_EMULATION_ASAN
Context* switched_from = nullptr;
#endif

}  // namespace

std::size_t Stack::size() {
  // Red zones make frames several times larger. Only pages that are touched cost memory.
#ifdef RANKONE_EMULATION_ASAN
  return 512 * 1024;
#else
  return 128 * 1024;
#endif
}

Stack::Stack() {
  void* mapped = mmap(nullptr, page_size() + size(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  mprotect(mapped, page_size(), PROT_NONE);
  bottom_ = static_cast<std::byte*>(mapped) + page_size();
}

Stack::~Stack() {
  if (bottom_ == nullptr) return;
  forget_frames();
  munmap(bottom_ - page_size(), page_size() + size());
}

Stack::Stack(Stack&& other) noexcept : bottom_(std::exchange(other.bottom_, nullptr)) {}

void Stack::forget_frames() {
#ifdef RANKONE_EMULATION_ASAN
  __asan_unpoison_memory_region(bottom_, size());
#endif
}

void Context::prepare(const Stack& stack, unsigned color, void (*entry)()) {
  const std::size_t usable = Stack::size() - (color * 320u) % kMaxColorBytes;
#ifdef RANKONE_EMULATION_ASSEMBLY
  auto* top = reinterpret_cast<void**>(stack.bottom() + usable / 16 * 16);
#if defined(__x86_64__)
  // Six registers, the address `ret` takes, and a null return address that ends backtraces. At a
  // function's first instruction the stack pointer is 8 modulo 16.
  void** saved = top - 8;
  std::memset(saved, 0, 8 * sizeof(void*));
  saved[6] = reinterpret_cast<void*>(entry);
#else
  void** saved = top - 20;
  std::memset(saved, 0, 20 * sizeof(void*));
  saved[11] = reinterpret_cast<void*>(entry);  // x30
#endif
  stack_pointer_ = saved;
#else
  getcontext(&state_);
  state_.uc_stack.ss_sp = stack.bottom();
  state_.uc_stack.ss_size = usable / 16 * 16;
  state_.uc_link = nullptr;
  makecontext(&state_, entry, 0);
#endif
#ifdef RANKONE_EMULATION_ASAN
  fake_stack_ = nullptr;
  bottom_ = stack.bottom();
  size_ = Stack::size();
#endif
}

void Context::switch_to(Context& next, [[maybe_unused]] bool ends) {
#ifdef RANKONE_EMULATION_ASAN
  switched_from = this;
  __sanitizer_start_switch_fiber(ends ? nullptr : &fake_stack_, next.bottom_, next.size_);
#endif
#ifdef RANKONE_EMULATION_ASSEMBLY
  rankone_emulation_switch(&stack_pointer_, next.stack_pointer_);
#else
  swapcontext(&state_, &next.state_);
#endif
#ifdef RANKONE_EMULATION_ASAN
  arrived();
#endif
}

#ifdef RANKONE_EMULATION_ASAN
void Context::arrived() {
  // The launching thread's stack is learned from the first switch away from it.
  __sanitizer_finish_switch_fiber(fake_stack_, &switched_from->bottom_, &switched_from->size_);
}
#endif

void Context::entered() {
#ifdef RANKONE_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &switched_from->bottom_, &switched_from->size_);
#endif
}

}  // namespace rankone::emulation
