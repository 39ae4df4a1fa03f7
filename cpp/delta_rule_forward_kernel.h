// The delta rule over a sequence, for one instruction set: chunks in order, the value heads of one
// key head side by side.
#pragma once

#include "delta_rule_chunk_kernel.h"

namespace rankone::cpu::RANKONE_ISA {

template <typename T>
class DeltaForward {
 public:
  DeltaForward(const DeltaRuleTask& task, Arena& arena)
      : task_(task),
        key_dim_(task.k.columns),
        value_dim_(task.v.columns),
        columns_(task.column_end - task.column_begin),
        panels_((columns_ + kPanel<T> - 1) / kPanel<T>),
        state_size_(static_cast<std::int64_t>(panels_) * key_dim_ * kPanel<T>),
        chunk_(task, arena) {
    const std::int64_t chunk = task.chunk_size;
    values_ = arena.take<T>(panels_ * chunk * kPanel<T>);
    updates_ = arena.take<T>(chunk * kPanel<T>);
    outputs_ = arena.take<T>(chunk * kPanel<T>);
    states_ = arena.take<T>(task.value_heads * state_size_);
  }

  void run() {
    const std::int64_t stored = static_cast<std::int64_t>(key_dim_) * value_dim_;
    for (int head = 0; head < task_.value_heads; ++head) {
      const T* initial = static_cast<const T*>(task_.initial_state);
      load_state<T>(initial == nullptr ? nullptr : initial + head * stored, key_dim_, value_dim_,
                    task_.column_begin, columns_, states_ + head * state_size_);
    }
    const bool queries = task_.output.data != nullptr;
    for (std::int64_t index = 0; index < chunk_.chunks(); ++index) {
      chunk_.enter(index, queries);
      for (int head = 0; head < task_.value_heads; ++head) run_head(head, queries);
    }
    T* final_state = static_cast<T*>(task_.final_state);
    for (int head = 0; final_state != nullptr && head < task_.value_heads; ++head) {
      store_state<T>(states_ + head * state_size_, key_dim_, value_dim_, task_.column_begin,
                     columns_, final_state + head * stored);
    }
  }

 private:
  void run_head(int head, bool queries) {
    chunk_.select(head);
    chunk_.read_values(task_.v, head, task_.column_begin, columns_, values_);
    for_each_panel(vectors_for<T>(columns_), [&](auto vectors, int panel) {
      constexpr int V = decltype(vectors)::value;
      T* state =
          states_ + head * state_size_ + static_cast<std::int64_t>(panel) * key_dim_ * kPanel<T>;
      const T* values = values_ + static_cast<std::int64_t>(panel) * task_.chunk_size * kPanel<T>;
      chunk_.template solve<V>(state, values, nullptr, updates_);
      if (queries) {
        chunk_.template outputs<V>(state, updates_, outputs_);
        const int begin = panel * kPanel<T>;
        write_chunk<T>(task_.output, chunk_.tokens(), head, task_.column_begin + begin,
                       smaller(kPanel<T>, columns_ - begin), outputs_, kPanel<T>);
      }
      chunk_.template advance<V>(updates_, state);
    });
  }

  const DeltaRuleTask& task_;
  const int key_dim_, value_dim_, columns_, panels_;
  const std::int64_t state_size_;

  DeltaChunk<T> chunk_;
  T* values_ = nullptr;   // [panel][token][kPanel]
  T* updates_ = nullptr;  // of one panel
  T* outputs_ = nullptr;
  T* states_ = nullptr;  // of each value head, in panels
};

}  // namespace rankone::cpu::RANKONE_ISA
