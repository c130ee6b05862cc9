// Options that every program takes.
#pragma once

#include <string>
#include <vector>

#include "hffnet/engine.hpp"
#include "hffnet/result.hpp"

namespace hffnet::apps {

struct Options {
  EngineOptions engine;
  double seconds = 5.0;  // how long to measure
  bool help = false;
  std::vector<std::string> words;  // what is not an option
};

// Error::kConfig for an option that is not known or lacks its value.
Result<Options> options_from(int argc, char** argv, const std::string& usage);

}  // namespace hffnet::apps
