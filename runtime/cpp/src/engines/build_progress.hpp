// How far a build is, from the library's own nested phases, which are not equally long; as Python's Phases.
#pragma once

#include <map>
#include <string>

namespace hffnet {

class BuildProgress {
 public:
  // A phase begins within `parent`, or by itself where that is empty.
  void start(const std::string& phase, const std::string& parent, int num_steps);
  // A step is done, counted from 0.
  void step(const std::string& phase, int step);
  // A phase is over; its parent reports the step.
  void finish(const std::string& phase) { phases_.erase(phase); }

  // 0 to 1; never goes back.
  double share() const { return share_; }

 private:
  struct Phase {
    std::string parent;
    int num_steps;
    int done;
  };
  std::map<std::string, Phase> phases_;
  double share_ = 0.0;
};

}  // namespace hffnet
