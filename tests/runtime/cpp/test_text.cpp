#include <catch2/catch.hpp>
#include <string>

#include "frames/text.hpp"

using hffnet::quantity_of;

TEST_CASE("numbers are read without locale and never make a read fail") {
  CHECK(hffnet::number_of(U" 1.5e-3 m") == 1.5e-3);
  CHECK(hffnet::number_of(U"+.5") == 0.5);
  CHECK(hffnet::number_of(U"3.") == 3.0);
  CHECK_FALSE(hffnet::number_of(U"1e999").has_value());
  CHECK(hffnet::number_of(U"1e-999") == 0.0);
  CHECK_FALSE(hffnet::number_of(U"ff").has_value());
  CHECK_FALSE(hffnet::number_of(U".").has_value());
  CHECK(quantity_of(U"446.6 nm")->unit == U"nm");
  CHECK_FALSE(hffnet::whole_of(U"1.5").has_value());
}

TEST_CASE("text for people holds no control characters") {
  CHECK(hffnet::printable(U"SE2\x1b[31m\r\n") == "SE2[31m");
  CHECK_FALSE(hffnet::printable(U" \r\n").has_value());
  const std::string windows = "1.5 \xb5m";
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(windows.data());
  CHECK(hffnet::text_from_bytes({bytes, windows.size()}) == U"1.5 \u00b5m");
}
