// The entry states and errors of a sequence's chunks, recalled from the last chunk to the first.
//
// A first sweep in order keeps them, for all chunks or, past a bound on memory, for the last span
// of chunks alone: of each earlier span it keeps the state at its start, and the span is swept
// again when its turn comes. The second sweep repeats the first, bit for bit.
#pragma once

#include "delta_rule_chunk_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

/// What one thread may keep before it sweeps twice: 8 MiB, or about the square root of the number
/// of chunks. Larger than the cache: reading a state back costs less than making it again.
inline constexpr std::int64_t kRecallBytes = std::int64_t{8} << 20;

template <typename T>
class DeltaRecall {
 public:
  DeltaRecall(const DeltaRuleTask& task, DeltaChunk<T>& chunk, Arena& arena)
      : task_(task),
        chunk_(chunk),
        key_dim_(task.k.columns),
        value_dim_(task.v.columns),
        chunks_(chunk.chunks()) {
    const std::int64_t panels = (value_dim_ + kPanel<T> - 1) / kPanel<T>;
    state_size_ = panels * key_dim_ * kPanel<T>;
    rows_size_ = panels * task.chunk_size * kPanel<T>;
    const std::int64_t heads = task.value_heads;
    span_ = kRecallBytes / (heads * (state_size_ + rows_size_) * std::int64_t{sizeof(T)});
    while (span_ * span_ < chunks_) ++span_;
    if (span_ > chunks_) span_ = chunks_;
    const std::int64_t spans = chunks_ == 0 ? 0 : (chunks_ + span_ - 1) / span_;
    entry_states_ = arena.take<T>(span_ * heads * state_size_);
    errors_ = arena.take<T>(span_ * heads * rows_size_);
    span_states_ = arena.take<T>((spans > 1 ? spans - 1 : 0) * heads * state_size_);
    states_ = arena.take<T>(heads * state_size_);
    values_ = arena.take<T>(rows_size_);
    updates_ = arena.take<T>(static_cast<std::int64_t>(task.chunk_size) * kPanel<T>);
  }

  /// Before the last chunk is reached.
  void start() {
    const std::int64_t stored = static_cast<std::int64_t>(key_dim_) * value_dim_;
    const T* initial = static_cast<const T*>(task_.initial_state);
    for (int head = 0; head < task_.value_heads; ++head) {
      load_state<T>(initial == nullptr ? nullptr : initial + head * stored, key_dim_, value_dim_, 0,
                    value_dim_, states_ + head * state_size_);
    }
    const std::int64_t size = task_.value_heads * state_size_;
    for (std::int64_t index = 0; index < chunks_; ++index) {
      const std::int64_t span = index / span_;
      if (index % span_ == 0 && (span + 1) * span_ < chunks_) {
        copy(states_, size, span_states_ + span * size);
      }
      sweep(index, states_, index + 1 < chunks_);
    }
  }

  /// Before the values of a chunk are asked for; each chunk in turn, the last one first.
  void reach(std::int64_t index) {
    if (index + 1 == chunks_ || index % span_ != span_ - 1) return;
    T* states = span_states_ + index / span_ * task_.value_heads * state_size_;
    for (std::int64_t i = index + 1 - span_; i <= index; ++i) sweep(i, states, i < index);
  }

  /// In panels of value columns.
  T* entry_state(std::int64_t index, int head) const {
    return entry_states_ + (index % span_ * task_.value_heads + head) * state_size_;
  }
  /// In panels of value columns, tokens in rows.
  T* errors(std::int64_t index, int head) const {
    return errors_ + (index % span_ * task_.value_heads + head) * rows_size_;
  }

 private:
  static void copy(const T* source, std::int64_t count, T* target) {
    for (std::int64_t i = 0; i < count; i += kLanes<T>) store<T>(target + i, load<T>(source + i));
  }

  /// Keeps what enters a chunk and takes `states` to what leaves it.
  void sweep(std::int64_t index, T* states, bool advances) {
    chunk_.enter(index, false);
    for (int head = 0; head < task_.value_heads; ++head) {
      T* state = states + head * state_size_;
      copy(state, state_size_, entry_state(index, head));
      chunk_.select(head);
      chunk_.read_values(task_.v, head, 0, value_dim_, values_);
      for_each_panel(vectors_for<T>(value_dim_), [&](auto vectors, int panel) {
        constexpr int V = decltype(vectors)::value;
        const std::int64_t rows = static_cast<std::int64_t>(panel) * task_.chunk_size * kPanel<T>;
        T* panel_state = state + static_cast<std::int64_t>(panel) * key_dim_ * kPanel<T>;
        chunk_.template solve<V>(panel_state, values_ + rows, errors(index, head) + rows, updates_);
        if (advances) chunk_.template advance<V>(updates_, panel_state);
      });
    }
  }

  const DeltaRuleTask& task_;
  DeltaChunk<T>& chunk_;
  const int key_dim_, value_dim_;
  const std::int64_t chunks_;
  std::int64_t state_size_, rows_size_;  // of one value head: a state, a chunk's value rows
  std::int64_t span_;                    // chunks whose entry states and errors are kept at a time

  T* entry_states_ = nullptr;  // [chunk of the span][value head]
  T* errors_ = nullptr;        // [chunk of the span][value head]
  T* span_states_ = nullptr;   // [span, all but the last][value head]
  T* states_ = nullptr;        // [value head]
  T* values_ = nullptr;        // of one value head, in panels
  T* updates_ = nullptr;       // of one panel
};

}  // namespace rankone::cpu::RANKONE_ISA
