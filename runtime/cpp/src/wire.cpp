#include "wire.hpp"

#include <cstddef>

namespace hffnet::wire {
namespace {

constexpr const char* kUnreadable = "the file is not a readable ONNX model";

// Length of the UTF-8 sequence that begins at `at`, 0 where there is none (RFC 3629, section 4).
std::size_t utf8_length(Bytes text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return at + i < text.size() ? text[at + i] : 0U; };
  const auto follows = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
    return byte(i) >= low && byte(i) <= high;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const unsigned low = first == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : 0xBF;
    return follows(1, low, high) && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned low = first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xF4 ? 0x8F : 0xBF;
    return follows(1, low, high) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

Bytes Field::message() const {
  if (!is_message_) throw Unsound{"the file is not an ONNX model: a number where a message is expected"};
  return bytes_;
}

std::uint64_t Field::value() const {
  if (is_message_) throw Unsound{"the file is not an ONNX model: a message where a number is expected"};
  return value_;
}

std::string Field::text() const {
  const Bytes bytes = message();
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t length = utf8_length(bytes, at);
    if (length == 0) throw Unsound{kUnreadable};
    at += length;
  }
  return {bytes.begin(), bytes.end()};
}

Field Reader::next() {
  const std::uint64_t key = varint();
  const std::uint64_t number = key >> 3U;
  switch (key & 7U) {
    case 0:
      return {number, varint()};
    case 1:
      return {number, take(8)};
    case 2:
      return {number, take(varint())};
    case 5:
      return {number, take(4)};
    default:
      throw Unsound{"the file is not an ONNX model: wire type " + std::to_string(key & 7U)};
  }
}

std::uint64_t Reader::varint() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (rest_.empty()) throw Unsound{kUnreadable};
    const std::uint64_t byte = rest_.front();
    rest_ = rest_.subspan(1);
    if (shift < 64) value |= (byte & 0x7FU) << shift;
    if (byte < 0x80) return value;
  }
  throw Unsound{"the file is not an ONNX model: a number of more than ten bytes"};
}

Bytes Reader::take(std::uint64_t length) {
  if (length > rest_.size()) throw Unsound{"the ONNX model is cut off"};
  const Bytes taken = rest_.first(static_cast<std::size_t>(length));
  rest_ = rest_.subspan(static_cast<std::size_t>(length));
  return taken;
}

}  // namespace hffnet::wire
