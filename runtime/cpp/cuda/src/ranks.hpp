// What the stretch kernel is told, from the specification; host only.
#pragma once

#include <cmath>

#include "hffnet/preprocess.hpp"
#include "picture.hpp"

namespace hffnet::cuda {

// Nearest rank, halves to even like Python's round.
inline std::uint32_t rank_of(double quantile, std::size_t count) {
  return static_cast<std::uint32_t>(std::nearbyint(quantile * static_cast<double>(count - 1)));
}

inline Stretch stretch_from(const PreprocessSpec& spec, Depth depth) {
  const std::size_t count = spec.size * spec.size;
  const double full = depth == Depth::kUint8 ? 255.0 : depth == Depth::kUint16 ? 65535.0 : 1.0;
  return {rank_of(spec.low, count), rank_of(spec.high, count), spec.min_span * full};
}

}  // namespace hffnet::cuda
