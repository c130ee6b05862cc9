// Notices that the wall clock was set: boards without a battery start in 1970 and jump at the first sync; as
// hffnet.runtime.events.
#pragma once

#include <chrono>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>

#include "sources/stop.hpp"

namespace hffnet::apps {

inline double wall_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

class ClockWatch {
 public:
  explicit ClockWatch(std::function<double()> clock = sources::monotonic_s, std::function<double()> wall = wall_s)
      : clock_(std::move(clock)), wall_(std::move(wall)), last_(clock_()), last_wall_(wall_()) {}

  // Seconds the wall clock was set by since the last call, forward positive; none where it was not.
  std::optional<double> jump_s() {
    const double now = clock_(), now_wall = wall_();
    const double passed = now - last_, jump = now_wall - last_wall_ - passed;
    last_ = now;
    last_wall_ = now_wall;
    if (std::abs(jump) > kJumpS + kDrift * passed) return jump;
    return std::nullopt;
  }

 private:
  static constexpr double kJumpS = 2.0;   // more than time synchronisation slews between two rows
  static constexpr double kDrift = 1e-3;  // slewing moves a clock by at most 500 ppm

  std::function<double()> clock_, wall_;
  double last_, last_wall_;
};

}  // namespace hffnet::apps
