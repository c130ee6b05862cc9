// Numbers at a place in a file's bytes, for headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace hffnet {

using Bytes = std::span<const std::uint8_t>;

// `width` bytes at `place` as an unsigned number; nothing where they are not all there.
inline std::optional<std::uint64_t> number_at(Bytes data, std::uint64_t place, std::size_t width, bool little) {
  if (place > data.size() || width > data.size() - place) return std::nullopt;
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < width; ++i) {
    value = value << 8U | data[static_cast<std::size_t>(place) + (little ? width - 1 - i : i)];
  }
  return value;
}

}  // namespace hffnet
