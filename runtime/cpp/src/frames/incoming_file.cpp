#include "frames/incoming_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "attempt.hpp"
#include "frames/samples.hpp"
#include "hffnet/frame.hpp"
#include "sha256.hpp"

namespace hffnet {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 18U;  // bytes that are read before the other thread is told

Failure unreadable(const std::string& path, int number) {
  return Failure{Error::kFrame, path + ": cannot be read (" + std::strerror(number) +
                                    "). An existing, readable frame was expected: check path and permissions."};
}

}  // namespace

IncomingFile::IncomingFile(std::string path, int descriptor, std::size_t size)
    : path_(std::move(path)),
      descriptor_(descriptor),
      size_(size),
      bytes_(std::make_unique_for_overwrite<std::uint8_t[]>(size)) {}

IncomingFile::~IncomingFile() {
  ::close(descriptor_);
}

Result<std::shared_ptr<IncomingFile>> IncomingFile::open(const std::string& path, std::size_t max_bytes,
                                                         bool follow_links) {
  struct Opened {
    int number;
    ~Opened() {
      if (number >= 0) ::close(number);
    }
  } opened{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (follow_links ? 0 : O_NOFOLLOW))};
  struct stat about {};
  if (opened.number < 0 || ::fstat(opened.number, &about) != 0) return unreadable(path, errno);
  if (!S_ISREG(about.st_mode)) {
    return Failure{Error::kFrame, path + ": a file was expected, a folder, pipe or device found. Give a frame's path."};
  }
  Limits limits;
  limits.max_file_bytes = max_bytes;
  const auto size = static_cast<std::size_t>(about.st_size);
  ATTEMPT_DONE(check_file_size(size, limits, path));
  auto* const file = new IncomingFile(path, opened.number, size);
  opened.number = -1;
  return std::shared_ptr<IncomingFile>(file);
}

Status IncomingFile::read() {
  std::size_t filled = 0;
  int reason = 0;
  while (filled < size_ && reason == 0) {
    const ssize_t got = ::read(descriptor_, bytes_.get() + filled, std::min(kPiece, size_ - filled));
    if (got == 0) break;
    if (got > 0) {
      filled += static_cast<std::size_t>(got);
      state_.store(filled);
      state_.notify_one();
    } else if (errno != EINTR) {
      reason = errno;
    }
  }
  state_.store(filled | kEnd);
  state_.notify_one();
  if (reason != 0) return unreadable(path_, reason);
  return Done{};
}

std::string IncomingFile::sha256() const {
  Sha256 hash;
  for (std::uint64_t done = 0;;) {
    const std::uint64_t now = state_.load(), there = now & ~kEnd;
    hash.add({bytes_.get() + done, static_cast<std::size_t>(there - done)});
    done = there;
    if ((now & kEnd) != 0) return hash.hex();
    state_.wait(now);
  }
}

}  // namespace hffnet
