// Stored samples -> one grey channel in the depth the microscope wrote; the table is in hffnet.runtime.grey.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hffnet/frame.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

enum class Kind { kUnsigned, kSigned, kReal };

// Decoded samples, native byte order, interleaved, rows without gaps.
struct Samples {
  Kind kind = Kind::kUnsigned;
  std::size_t bytes_per_sample = 1;  // 1, 2, 4 or 8
  std::size_t height = 0;
  std::size_t width = 0;
  std::size_t channels = 1;  // grey, grey + alpha, RGB, RGBA
  std::vector<std::uint8_t> bytes;
};

// One finite grey channel. `bits` per stored sample where fewer than the type holds; `white_is_zero` is TIFF's
// MinIsWhite.
Result<GreyPixels> grey_from_samples(Samples samples, const std::string& name, std::optional<unsigned> bits = {},
                                     bool white_is_zero = false);

// Grey levels of a palette image: `indices` with one channel of 8 or 16 bit, `colormap` with red, then green, then blue,
// 0..65535; writers that mean 0..255 are recognised.
Result<GreyPixels> grey_from_palette(const Samples& indices, std::span<const std::uint16_t> colormap,
                                     const std::string& name);

// Refuse by size, before memory is asked for.
Status check_file_size(std::size_t num_bytes, const Limits& limits, const std::string& name);
Status check_picture_size(std::uint64_t width, std::uint64_t height, std::uint64_t samples,
                          std::uint64_t bytes_per_sample, const Limits& limits, const std::string& name);

}  // namespace hffnet
