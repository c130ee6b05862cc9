// SHA-256 through OpenSSL.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace hffnet {

// The hash of bytes that come piece by piece.
class Sha256 {
 public:
  Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  ~Sha256();

  void add(std::span<const std::uint8_t> bytes);
  // Lower-case hexadecimal digest; nothing can be added after it.
  std::string hex();

 private:
  struct Held;
  std::unique_ptr<Held> held_;
};

// Lower-case hexadecimal digest.
std::string sha256_of(std::span<const std::uint8_t> bytes);

// The same of several pieces, one after the other.
std::string sha256_of_parts(std::span<const std::span<const std::uint8_t>> parts);

}  // namespace hffnet
