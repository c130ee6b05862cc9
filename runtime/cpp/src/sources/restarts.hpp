// When to try again: back-off with jitter, and never more than a few restarts a minute; as
// hffnet.runtime.sources.restarts. Pure arithmetic on a clock.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <utility>

namespace hffnet::sources {

class Restarts {
 public:
  // `chance`: uniform in [0, 1), for the jitter that keeps many clients from coming back at once.
  explicit Restarts(std::function<double()> chance) : chance_(std::move(chance)) {}

  void started(double now) {
    started_.push_back(now);
    if (started_.size() > kMost) started_.pop_front();
  }

  // Seconds to wait after a failure. A source that had worked steadily begins again with the shortest wait.
  double wait_s(double now, double worked_s) {
    num_failed_ = worked_s >= kSteadyS ? 1 : num_failed_ + 1;
    const double longest = std::min(kFirstS * std::pow(2.0, std::min(num_failed_ - 1, 10)), kLongestS);
    double wait = std::max(kFirstS, longest * (0.5 + 0.5 * chance_()));
    if (started_.size() == kMost) wait = std::max(wait, started_.front() + kWithinS - now);
    return wait;
  }

 private:
  static constexpr double kFirstS = 1.0, kLongestS = 30.0, kSteadyS = 10.0, kWithinS = 60.0;
  static constexpr std::size_t kMost = 5;  // Frigate's supervisor: at most 5 restarts in 60 s

  std::function<double()> chance_;
  int num_failed_ = 0;
  std::deque<double> started_;
};

}  // namespace hffnet::sources
