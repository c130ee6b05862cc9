// A value, or the reason why there is none. Nothing in hffnet's public functions throws.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace hffnet {

// What kind of thing went wrong; the same kinds as the exceptions of hffnet.runtime.errors.
enum class Error {
  kConfig,   // a setting or option is wrong
  kFrame,    // a frame cannot be read or is refused
  kBundle,   // a bundle is corrupt, foreign, or of another version
  kGraph,    // an ONNX graph is not of the form a bundle may hold
  kEngine,   // an engine cannot be built, opened or trusted on this machine
  kMissing,  // an engine or device was asked for that is not here
  kSource,   // a source of frames cannot be opened or has failed for good
  kRecord,   // rows cannot be read, written or trusted
};

// Exit code of a program that ends with this error; docs/reference/exit-codes.md.
constexpr int exit_code(Error error) {
  switch (error) {
    case Error::kConfig:
      return 2;
    case Error::kEngine:
    case Error::kMissing:
      return 4;
    case Error::kFrame:
    case Error::kBundle:
    case Error::kGraph:
    case Error::kSource:
    case Error::kRecord:
      return 3;
  }
  return 3;
}

// A sentence for a person: what was found, what was expected, what to do.
struct Failure {
  Error error;
  std::string sentence;
};

// Holds T or a Failure. Moves with its T; asking for what is not there is a programming error.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
  Result(Failure failure) : held_(std::in_place_index<1>, std::move(failure)) {}

  bool ok() const { return held_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & { return std::get<0>(held_); }
  const T& value() const& { return std::get<0>(held_); }
  T&& value() && { return std::get<0>(std::move(held_)); }

  const Failure& failure() const& { return std::get<1>(held_); }
  Failure&& failure() && { return std::get<1>(std::move(held_)); }

 private:
  std::variant<T, Failure> held_;
};

// For functions that have nothing to return but success.
struct Done {};
using Status = Result<Done>;

}  // namespace hffnet
