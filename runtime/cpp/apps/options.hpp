// Options of the programs; each takes those that its usage names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hffnet/engine.hpp"
#include "hffnet/frame.hpp"
#include "hffnet/result.hpp"

namespace hffnet::apps {

struct Options {
  EngineOptions engine;
  double seconds = 5.0;               // how long to measure
  std::string jsonl = "-";            // where rows go
  std::vector<std::string> done;      // earlier rows
  std::optional<double> idle_exit_s;  // --once is 0
  std::optional<BarSetting> bar;
  bool help = false;
  std::vector<std::string> words;  // what is not an option
};

// Frames of one size come one after the other: memory of the last is kept for the next, up to 64 MB. From the system, which
// gives it page by page, it takes 1 ms for a frame of 2 MB. Call it before anything else.
void keep_memory();

// Error::kConfig for an option that the usage does not name or that lacks its value.
Result<Options> options_from(int argc, char** argv, const std::string& usage);

}  // namespace hffnet::apps
