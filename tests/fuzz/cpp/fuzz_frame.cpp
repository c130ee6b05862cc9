// libFuzzer harness of the frame reader, with all that happens to a frame before the engine: metadata, info bar,
// gates, preprocess.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "hffnet/frame.hpp"
#include "hffnet/gates.hpp"
#include "hffnet/preprocess.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Small limits: time and memory are what a fuzzer has least of.
  const hffnet::Limits limits{std::size_t{1} << 20U, std::size_t{1} << 20U, std::size_t{1} << 23U};
  const auto frame = hffnet::frame_from_bytes({data, size}, "fuzzed", limits);
  if (!frame.ok()) {
    if (frame.failure().error != hffnet::Error::kFrame || frame.failure().sentence.empty()) std::abort();
    return 0;
  }
  const hffnet::GreyView picture = frame.value().picture();
  if (picture.height == 0 || picture.width == 0) std::abort();
  static_cast<void>(hffnet::check_gates(picture));
  hffnet::Preprocessor preprocess({64});
  if (!preprocess(picture).ok()) std::abort();
  return 0;
}
