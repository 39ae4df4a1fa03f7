// Files of packed states for the external engine: written whole, read as sorted streams, merged by
// a heap.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "permutation_search.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace rankone::cpu {

namespace fs = std::filesystem;

/// Files of this size, and manifests of such layers, are forced to the disk: what a loss of power
/// takes besides is noticed by its size and found again in no time.
constexpr std::size_t kDurableBytes = std::size_t{1} << 20;

/// A full disk ends the search, anything else is an error.
[[noreturn]] inline void fail(const std::string& action, const fs::path& path) {
  if (errno == ENOSPC) throw SearchEnd{BfsStatus::kDiskLimit};
  throw Error("scratch_dir: cannot " + action + " " + path.string() + ": " +
              std::generic_category().message(errno));
}

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

inline File open_file(const fs::path& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode));
  if (file == nullptr) fail("open", path);
  std::setvbuf(file.get(), nullptr, _IONBF, 0);
  return file;
}

/// Writes whole files: to a temporary name first, renamed once they are complete. Nothing written
/// makes no file.
class FileWriter {
 public:
  FileWriter(fs::path path, std::size_t buffer_bytes)
      : path_(std::move(path)),
        temporary_(path_.string() + ".part"),
        buffer_(std::max<std::size_t>(buffer_bytes / 8, 64)) {}

  void write(const std::uint64_t* words, std::size_t count) {
    while (count > 0) {
      const std::size_t piece = std::min(count, buffer_.size() - used_);
      std::copy_n(words, piece, buffer_.data() + used_);
      used_ += piece;
      words += piece;
      count -= piece;
      if (used_ == buffer_.size()) flush();
    }
  }
  void finish() {
    flush();
    if (file_ == nullptr) return;
#if defined(__unix__) || defined(__APPLE__)
    if (written_ >= kDurableBytes && fsync(fileno(file_.get())) != 0) fail("write", temporary_);
#endif
    if (std::fclose(file_.release()) != 0) fail("write", temporary_);
    std::error_code error;
    fs::rename(temporary_, path_, error);
    if (error)
      throw Error("scratch_dir: cannot rename " + temporary_.string() + ": " + error.message());
  }

 private:
  void flush() {
    if (used_ == 0) return;
    if (file_ == nullptr) file_ = open_file(temporary_, "wb");
    if (std::fwrite(buffer_.data(), 8, used_, file_.get()) != used_) fail("write", temporary_);
    written_ += used_ * 8;
    used_ = 0;
  }

  const fs::path path_, temporary_;
  File file_;
  std::vector<std::uint64_t> buffer_;
  std::size_t used_ = 0, written_ = 0;
};

/// Rows in ascending order, from a file or from memory.
class RowStream {
 public:
  RowStream(const fs::path& path, std::size_t words, std::size_t buffer_bytes, bool known)
      : known_(known),
        words_(words),
        path_(path),
        file_(open_file(path, "rb")),
        buffer_(std::max<std::size_t>(buffer_bytes / 8 / words, 1) * words) {
    refill();
  }
  RowStream(const std::uint64_t* rows, std::size_t count, std::size_t words)
      : words_(words), at_(rows), end_(rows + count * words) {}

  bool done() const { return at_ == end_; }
  bool known() const { return known_; }
  const std::uint64_t* row() const { return at_; }
  void next() {
    at_ += words_;
    if (at_ == end_ && file_ != nullptr) refill();
  }

 private:
  void refill() {
    const std::size_t read = std::fread(buffer_.data(), 8, buffer_.size(), file_.get());
    if (read < buffer_.size() && std::ferror(file_.get()) != 0) fail("read", path_);
    if (read % words_ != 0) throw Error("scratch_dir: " + path_.string() + " ends within a state");
    at_ = buffer_.data();
    end_ = at_ + read;
  }

  bool known_ = false;
  std::size_t words_;
  fs::path path_;
  File file_;
  std::vector<std::uint64_t> buffer_;
  const std::uint64_t* at_ = nullptr;
  const std::uint64_t* end_ = nullptr;
};

/// The least row of several streams. Equal rows come by the number of their stream.
class StreamHeap {
 public:
  StreamHeap(std::vector<RowStream>& streams, std::size_t words)
      : streams_(streams), words_(words) {
    for (std::size_t i = 0; i < streams.size(); ++i) {
      if (!streams[i].done()) heap_.push_back({*streams[i].row(), i});
    }
    for (std::size_t i = heap_.size() / 2; i-- > 0;) sift(i);
  }

  bool empty() const { return heap_.empty(); }
  const std::uint64_t* row() const { return streams_[heap_[0].stream].row(); }
  bool known() const { return streams_[heap_[0].stream].known(); }
  void advance() {
    RowStream& stream = streams_[heap_[0].stream];
    stream.next();
    if (stream.done()) {
      heap_[0] = heap_.back();
      heap_.pop_back();
    } else {
      heap_[0].first = *stream.row();
    }
    if (!heap_.empty()) sift(0);
  }

 private:
  struct Entry {
    std::uint64_t first;  // word of the stream's row
    std::size_t stream;
  };

  bool less(const Entry& left, const Entry& right) const {
    if (left.first != right.first) return left.first < right.first;
    const std::uint64_t *a = streams_[left.stream].row(), *b = streams_[right.stream].row();
    for (std::size_t i = 1; i < words_; ++i) {
      if (a[i] != b[i]) return a[i] < b[i];
    }
    return left.stream < right.stream;
  }
  void sift(std::size_t at) {
    const Entry entry = heap_[at];
    for (;;) {
      std::size_t child = 2 * at + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && less(heap_[child + 1], heap_[child])) ++child;
      if (!less(heap_[child], entry)) break;
      heap_[at] = heap_[child];
      at = child;
    }
    heap_[at] = entry;
  }

  std::vector<RowStream>& streams_;
  const std::size_t words_;
  std::vector<Entry> heap_;
};

}  // namespace rankone::cpu
