#include "npy.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

namespace hffnet {
namespace {

constexpr std::size_t kMaxHeader = 10'000;
constexpr std::size_t kMaxAxes = 8;
constexpr std::size_t kPreamble = 10;  // magic, version, length of the header

Failure refusal(const std::string& why) {
  return Failure{Error::kBundle, "is not a readable array: " + why};
}

// What the header says: three entries in the order NumPy writes them.
struct Header {
  std::string type;
  bool fortran_order = false;
  std::vector<std::size_t> shape;
};

// Reads the header's Python literal from left to right.
class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : rest_(text) {}

  // Nothing where the header is not one NumPy writes.
  std::optional<Header> read() {
    Header header;
    bool good = take("{") && take("'descr'") && take(":") && take("'");
    const std::size_t quote = std::min(rest_.find('\''), rest_.size());
    header.type = std::string(rest_.substr(0, quote));
    rest_.remove_prefix(quote);
    good = good && take("'") && take(",") && take("'fortran_order'") && take(":");
    header.fortran_order = take("True");
    good = good && (header.fortran_order || take("False")) && take(",") && take("'shape'") && take(":") && take("(");
    while (good && !take(")")) good = take_axis(header.shape) && (take(",") || rest_.substr(0, 1) == ")");
    take(",");
    good = good && take("}") && take("");
    if (!good || !rest_.empty()) return std::nullopt;
    return header;
  }

 private:
  // Skips white space, then takes `word` if it comes next; "" takes white space alone.
  bool take(std::string_view word) {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n')) rest_.remove_prefix(1);
    if (rest_.substr(0, word.size()) != word) return false;
    rest_.remove_prefix(word.size());
    return true;
  }

  bool take_axis(std::vector<std::size_t>& shape) {
    take("");
    std::size_t axis = 0;
    const auto read = std::from_chars(rest_.data(), rest_.data() + rest_.size(), axis);
    rest_.remove_prefix(static_cast<std::size_t>(read.ptr - rest_.data()));
    shape.push_back(axis);
    return read.ec == std::errc() && shape.size() <= kMaxAxes;
  }

  std::string_view rest_;
};

bool is_type(const std::string& name, NpyType type) {
  return type == NpyType::kUint8 ? name == "|u1" || name == "<u1" || name == "u1" : name == "<f4" || name == "f4";
}

}  // namespace

Result<NpyView> npy_from_bytes(std::span<const std::uint8_t> content, NpyType type, std::size_t num_axes) {
  const std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
  if (content.size() < kPreamble || text.substr(0, 8) != std::string_view("\x93NUMPY\x01\x00", 8)) {
    return refusal("NumPy's format 1.0 was expected");
  }
  const std::size_t length = content[8] | static_cast<std::size_t>(content[9]) << 8U;
  if (length > kMaxHeader || kPreamble + length > content.size()) return refusal("its header is cut off or too long");
  const auto header = HeaderReader(text.substr(kPreamble, length)).read();
  if (!header) return refusal("its header is not one NumPy writes");
  NpyView view{header->shape, content.subspan(kPreamble + length)};
  std::size_t num_bytes = type == NpyType::kUint8 ? 1 : sizeof(float);
  for (const std::size_t axis : view.shape) {
    if (__builtin_mul_overflow(num_bytes, axis, &num_bytes)) return refusal("its shape is beyond reason");
  }
  if (!is_type(header->type, type) || header->fortran_order || view.shape.size() != num_axes ||
      num_bytes != view.data.size()) {
    return refusal("it is " + header->type + " with " + std::to_string(view.shape.size()) + " axes in " +
                   std::to_string(view.data.size()) + " bytes; expected " +
                   (type == NpyType::kUint8 ? "uint8" : "float32") + " with " + std::to_string(num_axes) +
                   " axes in C order, all of it there");
  }
  return view;
}

}  // namespace hffnet
