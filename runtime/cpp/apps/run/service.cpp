#include "service.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "sources/stop.hpp"

namespace hffnet::apps {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

Service::Service() : address_(variable("NOTIFY_SOCKET")) {
  const std::string wanted = variable("WATCHDOG_USEC"), process = variable("WATCHDOG_PID");
  double wanted_us = 0.0;
  const auto read = std::from_chars(wanted.data(), wanted.data() + wanted.size(), wanted_us);
  const bool is_ours = process.empty() || process == std::to_string(::getpid());
  if (is_ours && read.ec == std::errc() && wanted_us > 0.0) ping_s_ = wanted_us / 1e6 / 3.0;
}

void Service::beat() {
  const double now = sources::monotonic_s();
  if (!ping_s_ || now - pinged_at_ < *ping_s_) return;
  pinged_at_ = now;
  tell("WATCHDOG=1");
}

void Service::tell(const std::string& state) const {
  sockaddr_un address{};
  if (address_.empty() || address_.size() >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, address_.data(), address_.size());
  if (address_[0] == '@') address.sun_path[0] = '\0';
  const int sender = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (sender < 0) return;
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  // A supervisor that is gone must not end the run.
  static_cast<void>(::sendto(sender, state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                             reinterpret_cast<const sockaddr*>(&address), length));
  ::close(sender);
}

}  // namespace hffnet::apps
