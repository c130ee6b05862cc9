#include "engines/build_progress.hpp"

#include <algorithm>

namespace hffnet {

void BuildProgress::start(const std::string& phase, const std::string& parent, int num_steps) {
  phases_[phase] = {parent, std::max(num_steps, 1), 0};
}

void BuildProgress::step(const std::string& phase, int step) {
  const auto known = phases_.try_emplace(phase, Phase{"", step + 1, 0}).first;
  known->second.done = std::min(step + 1, known->second.num_steps);
  double share = 0.0;
  std::string name = phase;
  for (std::size_t level = 0; level < phases_.size(); ++level) {  // bounded, should two phases name each other
    const auto found = phases_.find(name);
    if (found == phases_.end()) break;
    const Phase& outer = found->second;
    share = std::min((outer.done + share) / outer.num_steps, 1.0);
    name = outer.parent;
  }
  share_ = std::max(share_, share);
}

}  // namespace hffnet
