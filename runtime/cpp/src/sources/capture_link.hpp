// What a capture process and the program share: slots for frames in memory, and a pipe of short messages; byte for
// byte hffnet.runtime.sources.capture_link, so that either side may be Python's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hffnet/frame.hpp"

namespace hffnet::sources {

enum class Kind : std::uint8_t { kOpened = 1, kFrame = 2, kNothing = 3, kEnded = 4, kFailed = 5 };

// kNothing: a read gave no frame. kEnded: there are no more. kFailed: `text` says why.
struct Message {
  Kind kind = Kind::kNothing;
  std::uint8_t slot = 0;
  Depth depth = Depth::kUint8;
  std::uint32_t height = 0;
  std::uint32_t width = 0;
  std::uint64_t index = 0;        // of the frame, from 0
  std::uint64_t captured_ns = 0;  // monotonic clock
  std::string text = {};
};

constexpr std::size_t kNumSlots = 3;                               // one read, one the newest, one to write to
constexpr std::size_t kSlotBytes = std::size_t{64} * 1024 * 1024;  // largest frame; memory is taken where written

// Both sides' view of the shared memory. Slots are locked with the kernel's record locks, which a killed process gives
// back, and carry the index of their frame, so that one that was written over meanwhile is noticed.
class Slots {
 public:
  // Of an anonymous file that stays the caller's; `ok` is false where it cannot be mapped.
  Slots(int descriptor, std::size_t slot_bytes);
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;
  ~Slots();
  bool ok() const { return memory_ != nullptr; }

  // Puts a frame into a slot that is neither the newest nor being read; none where it is too large.
  std::optional<std::uint8_t> write(const GreyView& pixels, std::uint64_t index);
  // A copy of the frame a message told of, packed; none where a newer one took its place.
  std::optional<std::vector<std::uint8_t>> take(const Message& message);

 private:
  bool lock(std::size_t slot, bool held) const;

  int descriptor_;
  std::size_t slot_bytes_;
  std::uint8_t* memory_ = nullptr;
  std::size_t newest_ = 0;
};

// Writes a message; waits while the reader is 64 KiB behind. False where the reader is gone.
bool send(int descriptor, const Message& message);

// The reading end of the message pipe.
class Inbox {
 public:
  explicit Inbox(int descriptor) : descriptor_(descriptor) {}

  // Everything that has come, waiting for the first at most so long, or until `other` becomes readable.
  std::vector<Message> receive(double timeout_s, int other);
  // The writer is gone.
  bool is_closed() const { return is_closed_; }

 private:
  std::vector<Message> whole();

  int descriptor_;
  std::string bytes_;
  bool is_closed_ = false;
};

}  // namespace hffnet::sources
