// A file's bytes while they are read: one thread reads, another hashes what is there already.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "hffnet/result.hpp"

namespace hffnet {

class IncomingFile {
 public:
  // A regular file, opened and its memory taken; nothing is read yet. Error::kFrame where it cannot be, is no file, or
  // has more than `max_bytes`. Never waits on a pipe or a device.
  static Result<std::shared_ptr<IncomingFile>> open(const std::string& path, std::size_t max_bytes, bool follow_links);

  IncomingFile(const IncomingFile&) = delete;
  IncomingFile& operator=(const IncomingFile&) = delete;
  ~IncomingFile();

  std::size_t size() const { return size_; }
  // Reads to the end that the file had when it was opened; what is written later belongs to another read.
  Status read();
  // What was read.
  std::span<const std::uint8_t> bytes() const { return {bytes_.get(), state_.load() & ~kEnd}; }
  // Of everything that `read` reads, waiting for its end, from any thread.
  std::string sha256() const;

 private:
  static constexpr std::uint64_t kEnd = std::uint64_t{1} << 63U;

  IncomingFile(std::string path, int descriptor, std::size_t size);

  std::string path_;
  int descriptor_;
  std::size_t size_;
  std::unique_ptr<std::uint8_t[]> bytes_;  // not filled with zeros before
  std::atomic<std::uint64_t> state_{0};    // how many are there; kEnd is added when no more will come
};

}  // namespace hffnet
