#include "sources/stop.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <ctime>

namespace hffnet::sources {

Stop::Stop() : descriptor_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Stop::~Stop() {
  ::close(descriptor_);
}

bool Stop::set() noexcept {
  const int before = errno;
  const bool is_first = !is_set();
  const std::uint64_t one = 1;
  const ssize_t written = ::write(descriptor_, &one, sizeof one);
  errno = before;
  return is_first && written == static_cast<ssize_t>(sizeof one);
}

bool Stop::is_set() const noexcept {
  pollfd waited{descriptor_, POLLIN, 0};
  return ::poll(&waited, 1, 0) == 1;
}

bool Stop::wait(double seconds) const {
  const double end = monotonic_s() + seconds;
  pollfd waited{descriptor_, POLLIN, 0};
  while (true) {
    const double left_ms = std::clamp((end - monotonic_s()) * 1e3, 0.0, 60e3);
    // Rounded up: a wait that ends early would spin.
    if (::poll(&waited, 1, static_cast<int>(left_ms + 0.999)) == 1) return true;
    if (monotonic_s() >= end) return false;
  }
}

double monotonic_s() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace hffnet::sources
