#include "engines/durable_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace hffnet {
namespace {

Failure failed() {
  return {Error::kEngine, std::generic_category().message(errno)};
}

bool write_all(int file, std::span<const std::uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

// To the end, whatever size the file system names: some of the kernel's own files name none.
bool read_all(int file, std::vector<std::uint8_t>& bytes, std::uint64_t max_bytes) {
  std::size_t filled = 0;
  for (;;) {
    if (filled == bytes.size()) bytes.resize(filled + 4096);
    const ssize_t got = ::read(file, bytes.data() + filled, bytes.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;
    filled += static_cast<std::size_t>(got);
    if (got == 0 || filled > max_bytes) break;
  }
  bytes.resize(filled);
  return filled <= max_bytes;
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (number_ >= 0) ::close(number_);
}

Status write_durably(const std::filesystem::path& path, std::initializer_list<std::span<const std::uint8_t>> parts) {
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.is_open() || ::fchmod(file.number(), 0600) != 0) return failed();
  for (const auto& part : parts) {
    if (!write_all(file.number(), part)) return failed();
  }
  if (::fsync(file.number()) != 0) return failed();
  return Done{};
}

Result<std::optional<std::vector<std::uint8_t>>> whole_file(const std::filesystem::path& path,
                                                            std::uint64_t max_bytes) {
  using Content = std::optional<std::vector<std::uint8_t>>;
  // Not blocking: a pipe of that name must not stop the program.
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.is_open() && errno == ENOENT) return Content();
  struct stat found {};
  if (!file.is_open() || ::fstat(file.number(), &found) != 0) return failed();
  if (!S_ISREG(found.st_mode) || static_cast<std::uint64_t>(found.st_size) > max_bytes) {
    return Failure{Error::kEngine, "it is damaged"};
  }
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(found.st_size) + 1);
  if (!read_all(file.number(), bytes, max_bytes)) return Failure{Error::kEngine, "it could not be read whole"};
  return Content(std::move(bytes));
}

}  // namespace hffnet
