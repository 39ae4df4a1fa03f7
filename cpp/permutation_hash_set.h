// The sets of the hash engine: one partition's layers and the open-addressing tables that keep its
// states apart. Keys are whole states; a hash is only ever where to look.
#pragma once

#include <cstdint>
#include <vector>

#include "permutation_search.h"
#include "permutation_states.h"
#include "permutation_tags.h"

namespace rankone::cpu {

/// Slots of an open-addressing table with linear probing, at most 0.7 full.
class SlotTable {
 public:
  SlotTable() = default;
  explicit SlotTable(MemoryMeter* meter) : slots_(meter) {}

  /// Empties the table and makes it fit for `count` keys.
  void reset(std::size_t count) {
    int bits = 6;
    while ((std::size_t{7} << bits) / 10 < count) ++bits;
    allocate(bits);
  }
  std::size_t capacity() const { return std::size_t{1} << bits_; }
  /// Keys that still fit.
  std::size_t room() const { return capacity() * 7 / 10 - used_; }
  void count_keys(std::size_t keys) { used_ += keys; }
  std::size_t used() const { return used_; }
  std::uint64_t* slots() { return slots_.data(); }
  const std::uint64_t* slots() const { return slots_.data(); }
  std::size_t mask() const { return capacity() - 1; }
  /// `partition_bits` top bits of the hash are the same for all keys here.
  std::size_t slot_of(std::uint64_t hash, int partition_bits) const {
    return static_cast<std::size_t>((hash << partition_bits) >> (64 - bits_));
  }
  void release() {
    slots_.release();
    bits_ = 0;
    used_ = 0;
  }
  bool empty() const { return slots_.size() == 0; }

  /// Doubles the table until `count` more keys fit; `place(slot, value)` gives a value's home.
  template <typename Home>
  void grow(std::size_t count, const Home& home) {
    SlotTable larger;
    larger.slots_ = WordBuffer(slots_.meter());
    int bits = bits_;
    while ((std::size_t{7} << bits) / 10 < used_ + count) ++bits;
    larger.allocate(bits);
    for (std::size_t i = 0; i < capacity(); ++i) {
      const std::uint64_t value = slots_[i];
      if (value == kEmptySlot) continue;
      std::size_t slot = home(larger, value);
      while (larger.slots_[slot] != kEmptySlot) slot = (slot + 1) & larger.mask();
      larger.slots_[slot] = value;
    }
    larger.used_ = used_;
    std::swap(bits_, larger.bits_);
    slots_.swap(larger.slots_);
  }

 private:
  void allocate(int bits) {
    bits_ = bits;
    used_ = 0;
    slots_.resize(std::size_t{1} << bits);
    std::memset(slots_.data(), 0xFF, slots_.size() * 8);
  }

  WordBuffer slots_;
  int bits_ = 0;
  std::size_t used_ = 0;
};

/// What a set needs to know of the graph.
struct SetTraits {
  Tags tags;
  std::int64_t words = 1;
  bool directed = false;   // every layer is remembered
  bool bipartite = false;  // no edge joins two states of a layer
};

/// A list of candidate rows.
struct Candidates {
  const std::uint64_t* rows = nullptr;
  std::size_t count = 0;
};

/// One partition, a word a state.
class WordPartition {
 public:
  WordPartition(const SetTraits* traits, MemoryMeter* meter)
      : traits_(traits), previous_(meter), current_(meter), next_(meter), known_(meter) {}

  std::size_t current_size() const { return current_.size(); }
  std::size_t next_size() const { return next_.size(); }
  const std::uint64_t* current_rows() const { return current_.data(); }

  void insert(const std::vector<Candidates>& lists, int partition_bits, SlotTable& scratch) {
    const Tags& tags = traits_->tags;
    if (traits_->directed) {
      if (known_.empty()) known_.reset(64);
      for (const Candidates& list : lists) insert_list<false, true>(list, partition_bits, known_);
      return;
    }
    const bool needs_current = tags.form != TagForm::kMask || !traits_->bipartite;
    const bool needs_previous = tags.form != TagForm::kMask;
    std::size_t candidates = 0;
    for (const Candidates& list : lists) candidates += list.count;
    scratch.reset((needs_current ? current_.size() : 0) + (needs_previous ? previous_.size() : 0) +
                  next_.size() + candidates / 2 + 64);
    has_all_ones_ = false;
    if (needs_current) place_known(current_, partition_bits, scratch);
    if (needs_previous) place_known(previous_, partition_bits, scratch);
    if (tags.form == TagForm::kNone) {
      place_known(next_, partition_bits, scratch);
      for (const Candidates& list : lists) insert_list<false, true>(list, partition_bits, scratch);
      return;
    }
    insert_list<true, false>({next_.data(), next_.size()}, partition_bits, scratch);
    for (const Candidates& list : lists) {
      if (tags.form == TagForm::kMask) {
        insert_list<true, false>(list, partition_bits, scratch);
      } else {
        insert_list<false, false>(list, partition_bits, scratch);
      }
    }
    collect(scratch);
  }

  void advance() {
    if (!traits_->directed && traits_->tags.form != TagForm::kMask) {
      previous_.swap(current_);
      current_.swap(next_);
    } else {
      current_.swap(next_);
    }
    next_.release();
    current_.fit();
    if (traits_->directed || traits_->tags.form == TagForm::kMask) previous_.release();
  }
  void drop_next() { next_.release(); }

  /// Hands every state to visit(row, layer), layer -1 (earlier), 0 (current), and frees them.
  template <typename Visit>
  void drain(const Visit& visit) {
    for (std::size_t i = 0; i < previous_.size(); ++i) visit(previous_[i], -1);
    previous_.release();
    if (traits_->directed) {
      for (std::size_t i = 0; i < (known_.empty() ? 0 : known_.capacity()); ++i) {
        if (known_.slots()[i] != kEmptySlot) visit(known_.slots()[i], -1);
      }
      if (has_all_ones_) visit(kEmptySlot, -1);
      known_.release();
    }
    for (std::size_t i = 0; i < current_.size(); ++i) visit(current_[i], 0);
    current_.release();
  }
  void restore(std::uint64_t row, int layer, int partition_bits) {
    if (layer == 0) {
      current_.push(row);
    } else if (!traits_->directed) {
      previous_.push(row);
    } else {
      if (known_.empty()) known_.reset(64);
      insert_list<false, false>({&row, 1}, partition_bits, known_);
    }
  }

 private:
  void place_known(const WordBuffer& states, int partition_bits, SlotTable& table) {
    const std::uint64_t key_mask = traits_->tags.key_mask;
    const std::uint64_t flag = traits_->tags.form == TagForm::kNone ? 0 : kKnownFlag;
    std::uint64_t* slots = table.slots();
    const std::size_t mask = table.mask();
    for (std::size_t i = 0; i < states.size(); ++i) {
      const std::uint64_t key = states[i] & key_mask;
      if (key == kEmptySlot) {
        has_all_ones_ = true;
        continue;
      }
      std::size_t slot = table.slot_of(mix(key), partition_bits);
      while (slots[slot] != kEmptySlot) slot = (slot + 1) & mask;
      slots[slot] = key | flag;
    }
    table.count_keys(states.size());
  }

  /// kMerge: a repeat's tags join the first's. kAppend: a new key goes to next_ at once.
  template <bool kMerge, bool kAppend>
  void insert_list(const Candidates& list, int partition_bits, SlotTable& table) {
    constexpr std::size_t kPiece = 2048, kAhead = 8;
    const std::uint64_t key_mask = traits_->tags.key_mask;
    for (std::size_t first = 0; first < list.count; first += kPiece) {
      const std::size_t count = std::min(kPiece, list.count - first);
      if (table.room() < count) {
        table.grow(count, [&](const SlotTable& larger, std::uint64_t value) {
          return larger.slot_of(mix(value & key_mask), partition_bits);
        });
      }
      if constexpr (kAppend) next_.reserve(next_.size() + count);
      const std::uint64_t* rows = list.rows + first;
      std::uint64_t* slots = table.slots();
      const std::size_t mask = table.mask();
      std::size_t homes[kAhead];
      const auto look = [&](std::size_t i) {
        const std::size_t home = table.slot_of(mix(rows[i] & key_mask), partition_bits);
        __builtin_prefetch(&slots[home], 1);
        homes[i % kAhead] = home;
      };
      for (std::size_t i = 0; i < std::min(kAhead, count); ++i) look(i);
      std::size_t fresh = 0;
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t row = rows[i];
        std::size_t slot = homes[i % kAhead];
        if (i + kAhead < count) look(i + kAhead);
        if constexpr (kAppend) {
          if (row == kEmptySlot) {
            if (!has_all_ones_) next_.push(row);
            has_all_ones_ = true;
            continue;
          }
        }
        std::uint64_t value = slots[slot];
        while (value != kEmptySlot && ((value ^ row) & key_mask) != 0) {
          slot = (slot + 1) & mask;
          value = slots[slot];
        }
        const bool is_new = value == kEmptySlot;
        fresh += is_new;
        if constexpr (kMerge) {
          slots[slot] = is_new ? row : value | row;
        } else {
          slots[slot] = is_new ? row : value;
        }
        if constexpr (kAppend) {
          if (is_new) next_.push(row);
        }
      }
      table.count_keys(fresh);
    }
  }

  void collect(const SlotTable& table) {
    next_.reset(table.used());
    const std::uint64_t* slots = table.slots();
    std::uint64_t* out = next_.data();
    std::size_t count = 0;
    for (std::size_t i = 0; i < table.capacity(); ++i) {
      // An empty slot has the flag set, too.
      if ((slots[i] & kKnownFlag) != 0) continue;
      out[count++] = slots[i];
    }
    next_.resize(count);
  }

  const SetTraits* traits_;
  WordBuffer previous_, current_, next_;
  SlotTable known_;  // directed: every state so far
  bool has_all_ones_ = false;
};

/// One partition, several words a state: the rows lie in one array (earlier layers that are still
/// needed, the current, the next) and the table holds 32 bits of the hash and a row number.
template <int kWords>
class RowPartition {
 public:
  RowPartition(const SetTraits* traits, MemoryMeter* meter)
      : traits_(traits), rows_(meter), known_(meter) {}

  std::size_t current_size() const { return next_begin_ - current_begin_; }
  std::size_t next_size() const { return num_rows() - next_begin_; }
  const std::uint64_t* current_rows() const { return rows_.data() + current_begin_ * words(); }

  void insert(const std::vector<Candidates>& lists, int partition_bits, SlotTable& scratch) {
    SlotTable& table = traits_->directed ? known_ : scratch;
    if (!traits_->directed) {
      const std::size_t first =
          traits_->tags.form == TagForm::kMask && traits_->bipartite ? next_begin_ : 0;
      std::size_t candidates = 0;
      for (const Candidates& list : lists) candidates += list.count;
      table.reset(num_rows() - first + candidates / 2 + 64);
      for (std::size_t i = first; i < num_rows(); ++i) place(i, partition_bits, table);
    } else if (table.empty()) {
      table.reset(64);
    }
    for (const Candidates& list : lists) {
      for (std::size_t i = 0; i < list.count; ++i) {
        insert_row(list.rows + i * words(), partition_bits, table);
      }
    }
  }

  void advance() {
    const bool keeps_current = !traits_->directed && traits_->tags.form != TagForm::kMask;
    const std::size_t dropped = traits_->directed ? 0
                                : keeps_current   ? current_begin_
                                                  : next_begin_;
    const std::size_t total = num_rows();
    if (dropped > 0) {
      std::memmove(rows_.data(), rows_.data() + dropped * words(), (total - dropped) * words() * 8);
      rows_.resize((total - dropped) * words());
    }
    current_begin_ = next_begin_ - dropped;
    next_begin_ = total - dropped;
    rows_.fit();
  }
  void drop_next() { rows_.resize(next_begin_ * words()); }

  template <typename Visit>
  void drain(const Visit& visit) {
    for (std::size_t i = 0; i < next_begin_; ++i) {
      visit(&rows_[i * words()], i < current_begin_ ? -1 : 0);
    }
    rows_.release();
    known_.release();
    current_begin_ = next_begin_ = 0;
  }
  /// Rows of earlier layers come before those of the current one.
  void restore(const std::uint64_t* row, int layer, int partition_bits) {
    rows_.append(row, words());
    ++next_begin_;
    if (layer < 0) ++current_begin_;
    if (!traits_->directed) return;
    if (known_.empty()) known_.reset(64);
    if (known_.room() == 0) grow(1, partition_bits, known_);
    place(next_begin_ - 1, partition_bits, known_);
  }

 private:
  std::size_t words() const {
    return kWords > 0 ? kWords : static_cast<std::size_t>(traits_->words);
  }
  std::size_t num_rows() const { return rows_.size() / words(); }

  std::uint64_t hash(const std::uint64_t* row) const {
    return hash_row(row, static_cast<std::int64_t>(words()), traits_->tags.key_mask);
  }
  bool equal(const std::uint64_t* left, const std::uint64_t* right) const {
    const std::size_t last = words() - 1;
    std::uint64_t difference = (left[last] ^ right[last]) & traits_->tags.key_mask;
    for (std::size_t i = 0; i < last; ++i) difference |= left[i] ^ right[i];
    return difference == 0;
  }
  static std::uint64_t slot_value(std::uint64_t hash, std::size_t row) { return hash << 32 | row; }

  void grow(std::size_t count, int partition_bits, SlotTable& table) {
    table.grow(count, [&](const SlotTable& larger, std::uint64_t value) {
      return larger.slot_of(hash(&rows_[(value & 0xFFFFFFFFU) * words()]), partition_bits);
    });
  }

  void place(std::size_t row, int partition_bits, SlotTable& table) {
    const std::uint64_t h = hash(&rows_[row * words()]);
    std::size_t slot = table.slot_of(h, partition_bits);
    while (table.slots()[slot] != kEmptySlot) slot = (slot + 1) & table.mask();
    table.slots()[slot] = slot_value(h, row);
    table.count_keys(1);
  }

  void insert_row(const std::uint64_t* row, int partition_bits, SlotTable& table) {
    if (table.room() == 0) grow(table.capacity(), partition_bits, table);
    const std::uint64_t h = hash(row);
    std::uint64_t* slots = table.slots();
    std::size_t slot = table.slot_of(h, partition_bits);
    for (; slots[slot] != kEmptySlot; slot = (slot + 1) & table.mask()) {
      if (((slots[slot] ^ (h << 32)) >> 32) != 0) continue;
      const std::size_t other = slots[slot] & 0xFFFFFFFFU;
      std::uint64_t* known = &rows_[other * words()];
      if (!equal(known, row)) continue;
      if (traits_->tags.form == TagForm::kMask && other >= next_begin_) {
        known[words() - 1] |= row[words() - 1];
      }
      return;
    }
    slots[slot] = slot_value(h, num_rows());
    table.count_keys(1);
    rows_.append(row, words());
  }

  const SetTraits* traits_;
  WordBuffer rows_;
  std::size_t current_begin_ = 0, next_begin_ = 0;  // in rows
  SlotTable known_;                                 // directed: every state so far
};

}  // namespace rankone::cpu
