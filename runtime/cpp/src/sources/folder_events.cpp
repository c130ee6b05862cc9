#include "sources/folder_events.hpp"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cmath>

namespace hffnet::sources {
namespace {

constexpr double kGatherS = 0.005;  // files that come together are looked at together

}  // namespace

FolderEvents::FolderEvents(bool is_on) : descriptor_(is_on ? ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK) : -1) {}

FolderEvents::~FolderEvents() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FolderEvents::follow(const std::string& folder) const {
  if (descriptor_ < 0) return;
  ::inotify_add_watch(descriptor_, folder.c_str(), IN_CLOSE_WRITE | IN_MOVED_TO | IN_ONLYDIR);
}

void FolderEvents::wait(double seconds, const Stop& stop) const {
  if (descriptor_ < 0) {
    stop.wait(seconds);
    return;
  }
  std::array<pollfd, 2> waited{{{descriptor_, POLLIN, 0}, {stop.descriptor(), POLLIN, 0}}};
  if (::poll(waited.data(), waited.size(), static_cast<int>(std::ceil(seconds * 1e3))) <= 0) return;
  if (waited[0].revents == 0 || stop.wait(kGatherS)) return;
  std::array<char, 1 << 14> events{};
  while (::read(descriptor_, events.data(), events.size()) > 0) {
  }
}

}  // namespace hffnet::sources
