// From a frame's picture to the network's input, (size, size) uint8; as hffnet.runtime.preprocess.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hffnet/export.h"
#include "hffnet/result.hpp"

namespace hffnet {

enum class Depth { kUint8, kUint16, kFloat32 };

constexpr std::size_t bytes_per_pixel(Depth depth) {
  return depth == Depth::kUint8 ? 1 : depth == Depth::kUint16 ? 2 : 4;
}

// Grey pixels that somebody else owns, for the length of one call. Rows are `row_bytes` apart.
struct GreyView {
  const void* data;
  Depth depth;
  std::size_t height;
  std::size_t width;
  std::size_t row_bytes;
};

// How pictures become network inputs; travels in the bundle's manifest.
struct PreprocessSpec {
  std::size_t size = 224;        // side of the square input, pixels
  double low = 0.001;            // quantile of the resized picture that becomes 0 (nearest rank)
  double high = 0.999;           // ... that becomes 255
  double min_span = 1.0 / 64.0;  // least distance of the two, as a share of full scale
};

// Antialiased resize of the whole view, then a percentile stretch. Keeps its buffers: one per worker, not thread-safe.
class HFFNET_API Preprocessor {
 public:
  explicit Preprocessor(const PreprocessSpec& spec) : spec_(spec) {}

  // The network's input, size x size, valid until the next call. Error::kFrame for an empty view
  // or pixels that are not finite numbers.
  Result<std::span<const std::uint8_t>> operator()(const GreyView& picture);

 private:
  PreprocessSpec spec_;
  std::vector<float> small_;
  std::vector<float> rows_;
  std::vector<float> ranked_;
  std::vector<std::uint16_t> places_;
  std::vector<std::uint8_t> stretched_;
};

}  // namespace hffnet
