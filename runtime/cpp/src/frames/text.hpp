// Hostile metadata text as code points: decoded, split and read as numbers without locale or exceptions.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frames/byte_order.hpp"

namespace hffnet {

using Text = std::u32string;
using TextView = std::u32string_view;

// Text of any maker: UTF-8 where valid, else Windows-1252, where Zeiss's micro sign is one byte. At most 256 KiB.
Text text_from_bytes(Bytes data);
std::string utf8_from(TextView text);

// Lines as Python's str.splitlines, and without white space at both ends.
std::vector<TextView> lines_of(TextView text);
TextView stripped(TextView text);

// One line without control characters, at most 120 long; nothing where nothing is left.
std::optional<std::string> printable(TextView text);

// A number at the start of the text, and the word behind it.
struct Quantity {
  double value;
  TextView unit;
};
std::optional<Quantity> quantity_of(TextView text);
std::optional<double> number_of(TextView text);
// A number without fraction, 0 to 2^31 - 1.
std::optional<std::size_t> whole_of(TextView text);
// `value` in decimal with that many significant digits.
double rounded(double value, int digits);

// INI text as it comes; keys outside a section are left out. Views into `text`.
std::map<TextView, std::map<TextView, TextView>> sections_of(TextView text);

}  // namespace hffnet
