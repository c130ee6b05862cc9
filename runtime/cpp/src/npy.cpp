#include "npy.hpp"

#include <algorithm>
#include <regex>
#include <string_view>

#include "attempt.hpp"

namespace hffnet {
namespace {

constexpr std::size_t kMaxHeader = 10'000;
constexpr std::size_t kPreamble = 10;  // magic, version, length of the header

Failure refusal(const std::string& why) {
  return Failure{Error::kBundle, "is not a readable array: " + why};
}

// The three entries of the header in the order NumPy writes them.
Result<std::smatch> matched(const std::string& header) {
  static const std::regex pattern(R"(\s*\{\s*'descr'\s*:\s*'([^']{1,8})'\s*,\s*'fortran_order'\s*:\s*(True|False)\s*,)"
                                  R"(\s*'shape'\s*:\s*\(\s*([0-9, ]{0,200})\)\s*,?\s*\}\s*)");
  std::smatch match;
  if (!std::regex_match(header, match, pattern)) return refusal("its header is not one NumPy writes");
  return match;
}

std::vector<std::size_t> shape_from(const std::string& text) {
  static const std::regex number("[0-9]{1,9}");
  std::vector<std::size_t> shape;
  for (std::sregex_iterator at(text.begin(), text.end(), number), end; at != end; ++at) {
    shape.push_back(std::stoul(at->str()));
  }
  return shape;
}

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
  const std::string header(text.substr(kPreamble, length));
  ATTEMPT(const std::smatch match, matched(header));
  NpyView view{shape_from(match[3]), content.subspan(kPreamble + length)};
  std::size_t num_bytes = type == NpyType::kUint8 ? 1 : sizeof(float);
  for (const std::size_t axis : view.shape) {
    if (__builtin_mul_overflow(num_bytes, axis, &num_bytes)) return refusal("its shape is beyond reason");
  }
  if (!is_type(match[1], type) || match[2] == "True" || view.shape.size() != num_axes ||
      num_bytes != view.data.size()) {
    return refusal("it is " + match[1].str() + " of shape (" + match[3].str() + ") in " +
                   std::to_string(view.data.size()) + " bytes; expected " +
                   (type == NpyType::kUint8 ? "uint8" : "float32") + " with " + std::to_string(num_axes) +
                   " axes in C order");
  }
  return view;
}

}  // namespace hffnet
