// Reading a bundle: every byte of which is accounted for before anything parses it; as hffnet.runtime.bundle.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hffnet/export.h"
#include "hffnet/manifest.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

// Test vectors: real frames and the float network's logits for them.
struct Vectors {
  std::size_t num_frames;
  std::vector<std::uint8_t> frames;  // num_frames x size x size
  std::vector<float> logits;         // num_frames x ΣC
};

// A sound bundle: manifest read, every member's size and hash checked, every graph's true precision known.
// Owns the open file; moves, does not copy. Not thread-safe.
class HFFNET_API Bundle {
 public:
  // Opens a bundle and checks all of it. Error::kBundle for one that is damaged, changed, made by a newer hffnet, or
  // holds anything it may not.
  static Result<Bundle> open(const std::string& path);

  Bundle(Bundle&&) noexcept;
  Bundle& operator=(Bundle&&) noexcept;
  ~Bundle();

  const std::string& path() const;
  const Manifest& manifest() const;
  // Of manifest.json, which itself holds the hash of everything else: the model's identity.
  const std::string& sha256() const;

  // The bytes of one member, hashed again as they are read: the file may have changed since.
  Result<std::vector<std::uint8_t>> member(std::string_view name) const;
  Result<Vectors> vectors() const;

 private:
  struct Held;
  explicit Bundle(std::unique_ptr<Held> held);

  std::unique_ptr<Held> held_;
};

}  // namespace hffnet
