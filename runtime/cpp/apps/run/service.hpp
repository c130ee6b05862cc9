// What a supervisor hears of a run: systemd's notifications, one datagram each (sd_notify(3)); as
// hffnet.runtime.service. Signs of life come from the loop that classifies and from nowhere else.
#pragma once

#include <optional>
#include <string>

namespace hffnet::apps {

constexpr double kBeatS = 1.0;  // the loop gives a sign of life at least this often while it waits

class Service {
 public:
  Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;
  ~Service() { tell("STOPPING=1"); }

  // Everything was opened and proved sound.
  void ready(const std::string& status) const { tell("READY=1\nSTATUS=" + status); }
  // The loop that classifies is alive; cheap.
  void beat();

 private:
  void tell(const std::string& state) const;

  std::string address_;
  std::optional<double> ping_s_;
  double pinged_at_ = 0.0;
};

}  // namespace hffnet::apps
