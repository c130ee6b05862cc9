#include "sources/capture_link.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace hffnet::sources {
namespace {

constexpr std::size_t kOffset = 64;       // pixels begin on a cache line
constexpr std::size_t kHeaderBytes = 32;  // <BBBxIIQQI
constexpr std::size_t kMostText = 2000;   // a message stays below PIPE_BUF, so that it is written whole

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);  // both sides run on one machine
}

template <class T>
T get(const std::string& bytes, std::size_t place) {
  T value;
  std::memcpy(&value, bytes.data() + place, sizeof value);
  return value;
}

}  // namespace

Slots::Slots(int descriptor, std::size_t slot_bytes) : descriptor_(descriptor), slot_bytes_(slot_bytes) {
  struct stat status {};
  // Beyond its end, memory that is touched ends the process.
  const bool is_there = slot_bytes > kOffset && slot_bytes <= kSlotBytes && ::fstat(descriptor, &status) == 0 &&
                        static_cast<std::uint64_t>(status.st_size) >= kNumSlots * slot_bytes;
  if (!is_there) return;
  void* memory = ::mmap(nullptr, kNumSlots * slot_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory != MAP_FAILED) memory_ = static_cast<std::uint8_t*>(memory);
}

Slots::~Slots() {
  if (memory_ != nullptr) ::munmap(memory_, kNumSlots * slot_bytes_);
}

bool Slots::lock(std::size_t slot, bool held) const {
  struct flock range {};
  range.l_type = held ? F_WRLCK : F_UNLCK;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(slot);
  range.l_len = 1;
  return ::fcntl(descriptor_, F_SETLK, &range) == 0;
}

std::optional<std::uint8_t> Slots::write(const GreyView& pixels, std::uint64_t index) {
  const std::size_t row_bytes = pixels.width * bytes_per_pixel(pixels.depth);
  if (row_bytes == 0 || pixels.height > (slot_bytes_ - kOffset) / row_bytes) return std::nullopt;
  std::size_t slot = (newest_ + 1) % kNumSlots;
  while (slot != newest_ && !lock(slot, true)) slot = (slot + 1) % kNumSlots;
  if (slot == newest_) return std::nullopt;  // cannot be: the reader holds one slot at most
  std::uint8_t* start = memory_ + slot * slot_bytes_;
  std::memcpy(start, &index, sizeof index);
  for (std::size_t y = 0; y < pixels.height; ++y) {
    std::memcpy(start + kOffset + y * row_bytes, static_cast<const std::uint8_t*>(pixels.data) + y * pixels.row_bytes,
                row_bytes);
  }
  lock(slot, false);
  newest_ = slot;
  return static_cast<std::uint8_t>(slot);
}

std::optional<std::vector<std::uint8_t>> Slots::take(const Message& message) {
  const std::size_t row_bytes = std::size_t{message.width} * bytes_per_pixel(message.depth);
  const bool fits = message.slot < kNumSlots && message.height > 0 && row_bytes > 0 &&
                    message.height <= (slot_bytes_ - kOffset) / row_bytes;
  if (!fits || !lock(message.slot, true)) return std::nullopt;
  const std::uint8_t* start = memory_ + message.slot * slot_bytes_;
  std::uint64_t index = 0;
  std::memcpy(&index, start, sizeof index);
  std::optional<std::vector<std::uint8_t>> pixels;
  if (index == message.index) pixels.emplace(start + kOffset, start + kOffset + message.height * row_bytes);
  lock(message.slot, false);
  return pixels;
}

bool send(int descriptor, const Message& message) {
  const std::string text = message.text.substr(0, kMostText);
  std::string bytes;
  put(bytes, static_cast<std::uint8_t>(message.kind));
  put(bytes, message.slot);
  put(bytes, static_cast<std::uint8_t>(message.depth));
  put(bytes, std::uint8_t{0});
  put(bytes, message.height);
  put(bytes, message.width);
  put(bytes, message.index);
  put(bytes, message.captured_ns);
  put(bytes, static_cast<std::uint32_t>(text.size()));
  bytes += text;
  ssize_t written = 0;
  do {
    written = ::write(descriptor, bytes.data(), bytes.size());
  } while (written < 0 && errno == EINTR);
  return written == static_cast<ssize_t>(bytes.size());
}

std::vector<Message> Inbox::receive(double timeout_s, int other) {
  std::vector<Message> messages;
  int timeout_ms = static_cast<int>(timeout_s * 1e3);
  while (!is_closed_) {
    std::array<pollfd, 2> waited{{{descriptor_, POLLIN, 0}, {other, POLLIN, 0}}};
    const int num_ready = ::poll(waited.data(), waited.size(), timeout_ms);
    if (num_ready <= 0 || waited[0].revents == 0) break;
    std::array<char, 1 << 16> part{};
    const ssize_t got = ::read(descriptor_, part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    is_closed_ = got <= 0;
    if (got > 0) bytes_.append(part.data(), static_cast<std::size_t>(got));
    for (Message& message : whole()) messages.push_back(std::move(message));
    if (!messages.empty()) timeout_ms = 0;
  }
  return messages;
}

std::vector<Message> Inbox::whole() {
  std::vector<Message> messages;
  std::size_t start = 0;
  while (bytes_.size() - start >= kHeaderBytes) {
    const auto text_bytes = get<std::uint32_t>(bytes_, start + 28);
    const auto kind = get<std::uint8_t>(bytes_, start);
    const auto depth = get<std::uint8_t>(bytes_, start + 2);
    if (text_bytes > kMostText || kind < 1 || kind > 5 || depth > 2) {  // not what a capture process writes
      is_closed_ = true;
      break;
    }
    if (bytes_.size() - start - kHeaderBytes < text_bytes) break;
    messages.push_back({static_cast<Kind>(kind), get<std::uint8_t>(bytes_, start + 1), static_cast<Depth>(depth),
                        get<std::uint32_t>(bytes_, start + 4), get<std::uint32_t>(bytes_, start + 8),
                        get<std::uint64_t>(bytes_, start + 12), get<std::uint64_t>(bytes_, start + 20),
                        bytes_.substr(start + kHeaderBytes, text_bytes)});
    start += kHeaderBytes + text_bytes;
  }
  bytes_.erase(0, start);
  return messages;
}

}  // namespace hffnet::sources
