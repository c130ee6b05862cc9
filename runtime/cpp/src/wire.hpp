// The protobuf wire format (https://protobuf.dev/programming-guides/encoding/), as far as onnx.proto needs it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace hffnet::wire {

using Bytes = std::span<const std::uint8_t>;

// Thrown for what is not sound protobuf or not allowed; facts_from_onnx turns it into a Failure.
struct Unsound {
  std::string sentence;
};

// One field of a message: a number, or the bytes of a message, text or packed numbers.
class Field {
 public:
  Field(std::uint64_t number, std::uint64_t value) : number_(number), value_(value) {}
  Field(std::uint64_t number, Bytes bytes) : number_(number), bytes_(bytes), is_message_(true) {}

  std::uint64_t number() const { return number_; }
  bool is_message() const { return is_message_; }
  Bytes message() const;
  std::uint64_t value() const;
  // The bytes as text; Unsound where they are not UTF-8.
  std::string text() const;

 private:
  std::uint64_t number_;
  std::uint64_t value_ = 0;
  Bytes bytes_{};
  bool is_message_ = false;
};

// Reads the fields of one message one after the other; nothing is copied.
class Reader {
 public:
  explicit Reader(Bytes message) : rest_(message) {}

  bool at_end() const { return rest_.empty(); }
  Field next();
  std::uint64_t varint();

 private:
  Bytes take(std::uint64_t length);

  Bytes rest_;
};

}  // namespace hffnet::wire
