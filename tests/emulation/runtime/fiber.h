// Fibers: stacks of their own, entered and left by an explicit switch. x86-64 and aarch64 (ELF)
// save the callee-saved registers by hand, some nanoseconds a switch; ucontext, which makes a
// system call to save the signal mask, serves everything else and RANKONE_EMULATION_UCONTEXT
// builds.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(RANKONE_EMULATION_UCONTEXT) && defined(__ELF__) && \
    (defined(__x86_64__) || defined(__aarch64__))
#define RANKONE_EMULATION_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define RANKONE_EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RANKONE_EMULATION_ASAN 1
#endif
#endif

namespace rankone::emulation {

/// A mapped stack with an inaccessible page below it: an overflow ends the program at once.
class Stack {
 public:
  Stack();
  ~Stack();
  Stack(Stack&& other) noexcept;
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  Stack& operator=(Stack&&) = delete;

  std::byte* bottom() const { return bottom_; }
  static std::size_t size();

  /// Tells AddressSanitizer to forget the frames that an abandoned fiber left behind.
  void forget_frames();

 private:
  std::byte* bottom_ = nullptr;
};

/// A suspended flow of control: the launching thread's or a fiber's.
class Context {
 public:
  /// Makes the next switch here call `entry` on `stack`. `color` staggers the first frame, because
  /// stacks that all start at the same offset of a page would share a few cache sets.
  void prepare(const Stack& stack, unsigned color, void (*entry)());

  /// Suspends this context, whose code is running, and resumes `next`. A context that `ends` is not
  /// resumed until it is prepared again.
  void switch_to(Context& next, bool ends = false);

  /// To be called first by `entry`.
  static void entered();

 private:
#ifdef RANKONE_EMULATION_ASSEMBLY
  void* stack_pointer_ = nullptr;
#else
  ucontext_t state_;
#endif
#ifdef RANKONE_EMULATION_ASAN
  void arrived();
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
#endif
};

}  // namespace rankone::emulation
