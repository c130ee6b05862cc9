// Files that are there whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include "hffnet/result.hpp"

namespace hffnet {

// A descriptor that is closed with its owner. Moves, does not copy.
class FileDescriptor {
 public:
  explicit FileDescriptor(int number = -1) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(other.number_) { other.number_ = -1; }
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();

  bool is_open() const { return number_ >= 0; }
  int number() const { return number_; }

 private:
  int number_;
};

// Writes a new file that only its owner can read, in one piece or several, down to the disk. Failure: errno's words.
Status write_durably(const std::filesystem::path& path, std::initializer_list<std::span<const std::uint8_t>> parts);

// The bytes of a regular file of at most `max_bytes`; none where it does not exist. Failure: errno's words, or that it is
// no regular file or too large.
Result<std::optional<std::vector<std::uint8_t>>> whole_file(const std::filesystem::path& path, std::uint64_t max_bytes);

}  // namespace hffnet
