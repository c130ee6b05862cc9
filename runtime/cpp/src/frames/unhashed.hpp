// A frame that is there before its hash is: hashing a file takes longer than decoding it, and nothing but the record
// needs it.
#pragma once

#include <future>
#include <string>

#include "hffnet/frame.hpp"

namespace hffnet {

struct Unhashed {
  Frame frame;                      // its `sha256` is empty
  std::future<std::string> sha256;  // keeps the file's bytes; waits for the end when it goes
};

// As read_frame.
Result<Unhashed> read_unhashed(const std::string& path, const Limits& limits = {},
                               const std::optional<BarSetting>& bar = {}, bool follow_links = true);

}  // namespace hffnet
