// Arrays as NumPy stores them, format version 1.0 (numpy.lib.format), C order, uint8 or little-endian float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hffnet/result.hpp"

namespace hffnet {

enum class NpyType { kUint8, kFloat32 };

// An array inside bytes that somebody else owns.
struct NpyView {
  std::vector<std::size_t> shape;
  std::span<const std::uint8_t> data;
};

// Checks type, number of axes and that shape and bytes agree, before anything is allocated (Error::kBundle, a sentence
// without the file's name).
Result<NpyView> npy_from_bytes(std::span<const std::uint8_t> content, NpyType type, std::size_t num_axes);

}  // namespace hffnet
