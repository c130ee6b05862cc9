#include "frames/text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "wire.hpp"

namespace hffnet {
namespace {

constexpr std::size_t kMaxText = std::size_t{1} << 18U;
constexpr std::size_t kMaxValue = 120;

// Windows-1252 from 0x80 to 0x9F; U+FFFD where nothing is defined.
constexpr std::array<char32_t, 32> kWindows{0x20AC, 0xFFFD, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                            0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0xFFFD, 0x017D, 0xFFFD,
                                            0xFFFD, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                            0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0xFFFD, 0x017E, 0x0178};

bool is_space(char32_t c) {
  return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

// What a person can see: no control, format or private characters, no space but the plain one.
bool is_printable(char32_t c) {
  const bool control = c < 0x20 || (c >= 0x7F && c <= 0x9F) || c == 0xAD;
  const bool format = (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) ||
                      c == 0xFEFF || (c >= 0xFFF0 && c <= 0xFFFB);
  const bool hidden = (c >= 0xD800 && c <= 0xF8FF) || c >= 0xE0000;
  return !control && !format && !hidden && (c == ' ' || !is_space(c));
}

bool is_digit(char32_t c) {
  return c >= '0' && c <= '9';
}

// Code points of text that is valid UTF-8.
Text text_from_utf8(std::string_view bytes) {
  Text text;
  for (std::size_t i = 0; i < bytes.size();) {
    const auto first = static_cast<unsigned char>(bytes[i]);
    const std::size_t length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    char32_t point = length == 1 ? first : first & (0x7FU >> length);
    for (std::size_t k = 1; k < length; ++k) point = point << 6U | (static_cast<unsigned char>(bytes[i + k]) & 0x3FU);
    text += point;
    i += length;
  }
  return text;
}

std::size_t skip_digits(TextView text, std::size_t at) {
  while (at < text.size() && is_digit(text[at])) ++at;
  return at;
}

// End of a decimal number that begins at `at`, or `at`.
std::size_t number_end(TextView text, std::size_t at) {
  const std::size_t begin = at;
  if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
  const std::size_t whole = skip_digits(text, at);
  std::size_t end = whole;
  if (whole < text.size() && text[whole] == '.') end = skip_digits(text, whole + 1);
  if (whole == at && end <= whole + 1) return begin;
  if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    std::size_t digits = end + 1;
    if (digits < text.size() && (text[digits] == '-' || text[digits] == '+')) ++digits;
    if (const std::size_t last = skip_digits(text, digits); last > digits) end = last;
  }
  return end;
}

}  // namespace

Text text_from_bytes(Bytes data) {
  const Bytes head = data.first(std::min(data.size(), kMaxText));
  try {
    return text_from_utf8(wire::Field(0, head).text());
  } catch (const wire::Unsound&) {
    Text text;
    for (const std::uint8_t byte : head) text += byte >= 0x80 && byte < 0xA0 ? kWindows[byte - 0x80U] : char32_t{byte};
    return text;
  }
}

std::string utf8_from(TextView text) {
  std::string bytes;
  for (const char32_t c : text) {
    if (c < 0x80) {
      bytes += static_cast<char>(c);
    } else if (c < 0x800) {
      bytes += {static_cast<char>(0xC0U | c >> 6U), static_cast<char>(0x80U | (c & 0x3FU))};
    } else if (c < 0x10000) {
      bytes += {static_cast<char>(0xE0U | c >> 12U), static_cast<char>(0x80U | (c >> 6U & 0x3FU)),
                static_cast<char>(0x80U | (c & 0x3FU))};
    } else {
      bytes += {static_cast<char>(0xF0U | c >> 18U), static_cast<char>(0x80U | (c >> 12U & 0x3FU)),
                static_cast<char>(0x80U | (c >> 6U & 0x3FU)), static_cast<char>(0x80U | (c & 0x3FU))};
    }
  }
  return bytes;
}

std::vector<TextView> lines_of(TextView text) {
  std::vector<TextView> lines;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    while (end < text.size() && !is_line_end(text[end])) ++end;
    lines.push_back(text.substr(at, end - at));
    const bool pair = end + 1 < text.size() && text[end] == '\r' && text[end + 1] == '\n';
    at = end + (pair ? 2 : 1);
  }
  return lines;
}

TextView stripped(TextView text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::optional<std::string> printable(TextView text) {
  Text kept;
  for (const char32_t c : text.substr(0, 4 * kMaxValue)) {
    if (is_printable(c)) kept += c;
  }
  const TextView bare = stripped(kept).substr(0, kMaxValue);
  if (bare.empty()) return std::nullopt;
  return utf8_from(bare);
}

std::optional<Quantity> quantity_of(TextView text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  const std::size_t end = number_end(text, 0);
  if (end == 0) return std::nullopt;
  std::string digits;
  for (const char32_t c : text.substr(text[0] == '+' ? 1 : 0, text[0] == '+' ? end - 1 : end)) {
    digits += static_cast<char>(c);
  }
  double value = 0.0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (read.ec == std::errc::result_out_of_range) {
    // Too small is zero, too large is no number.
    const bool tiny = digits.find("e-") != std::string::npos || digits.find("E-") != std::string::npos;
    if (!tiny) return std::nullopt;
    value = 0.0;
  }
  text.remove_prefix(end);
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  std::size_t length = 0;
  while (length < text.size() && !is_space(text[length])) ++length;
  return Quantity{value, text.substr(0, length)};
}

std::optional<double> number_of(TextView text) {
  const auto quantity = quantity_of(text);
  if (!quantity || !std::isfinite(quantity->value)) return std::nullopt;
  return quantity->value;
}

std::optional<std::size_t> whole_of(TextView text) {
  const auto value = number_of(text);
  if (!value || *value != std::floor(*value) || *value < 0.0 || *value >= 2147483648.0) return std::nullopt;
  return static_cast<std::size_t>(*value);
}

double rounded(double value, int digits) {
  std::array<char, 64> text{};
  const auto written = std::to_chars(text.begin(), text.end(), value, std::chars_format::general, digits);
  double result = value;
  std::from_chars(text.data(), written.ptr, result);
  return result;
}

std::map<TextView, std::map<TextView, TextView>> sections_of(TextView text) {
  std::map<TextView, std::map<TextView, TextView>> sections;
  std::map<TextView, TextView> nowhere;
  std::map<TextView, TextView>* current = &nowhere;
  for (const TextView line : lines_of(text)) {
    const TextView bare = stripped(line);
    if (bare.size() >= 2 && bare.front() == '[' && bare.back() == ']') {
      current = &sections[bare.substr(1, bare.size() - 2)];
    } else if (const std::size_t mark = bare.find(U'='); mark != TextView::npos) {
      (*current)[stripped(bare.substr(0, mark))] = stripped(bare.substr(mark + 1));
    }
  }
  return sections;
}

}  // namespace hffnet
