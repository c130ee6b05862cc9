#include "canonical_json.hpp"

#include <array>
#include <charconv>
#include <cstdlib>
#include <map>

namespace hffnet {
namespace {

// Shortest digits that give the number back, laid out as Python does: an exponent below -4 and from 16 on.
std::string repr(double value) {
  std::array<char, 32> buffer{};
  const auto written = std::to_chars(buffer.begin(), buffer.end(), value, std::chars_format::scientific);
  const std::string text(buffer.data(), written.ptr);
  const std::size_t mark = text.find('e');
  const int exponent = std::atoi(text.c_str() + mark + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const std::string sign = text[0] == '-' ? "-" : "";
  std::string digits;
  for (const char letter : text.substr(sign.size(), mark - sign.size())) {
    if (letter != '.') digits += letter;
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

void write(const nlohmann::ordered_json& value, std::string& out) {
  if (value.is_object()) {
    std::map<std::string, const nlohmann::ordered_json*> sorted;
    for (const auto& [key, item] : value.items()) sorted[key] = &item;
    char before = '{';
    for (const auto& [key, item] : sorted) {
      out += before;
      before = ',';
      out += nlohmann::ordered_json(key).dump() + ':';
      write(*item, out);
    }
    out += sorted.empty() ? "{}" : "}";
  } else if (value.is_array()) {
    char before = '[';
    for (const auto& item : value) {
      out += before;
      before = ',';
      write(item, out);
    }
    out += value.empty() ? "[]" : "]";
  } else if (value.is_number_float()) {
    out += repr(value.get<double>());
  } else {
    out += value.dump();
  }
}

}  // namespace

std::string canonical_json(const nlohmann::ordered_json& value) {
  std::string text;
  write(value, text);
  return text;
}

}  // namespace hffnet
