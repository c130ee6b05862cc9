// SHA-256 through OpenSSL.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace hffnet {

// Lower-case hexadecimal digest.
std::string sha256_of(std::span<const std::uint8_t> bytes);

// The same of several pieces, one after the other.
std::string sha256_of_parts(std::span<const std::span<const std::uint8_t>> parts);

}  // namespace hffnet
