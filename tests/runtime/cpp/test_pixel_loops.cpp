#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include "pixel_loops.hpp"

namespace {

// Lengths around those of vectors, so that no rest is left out.
const std::vector<std::size_t> kLengths{1, 7, 8, 15, 16, 31, 32, 33, 255, 4096};

template <class T>
std::vector<T> levels(std::size_t count) {
  std::vector<T> values;
  for (std::size_t i = 0; i < count; ++i) values.push_back(static_cast<T>((i * 7919 + 13) % 65521 % 251));
  return values;
}

}  // namespace

TEMPLATE_TEST_CASE("sums, extremes and counts are those of one pixel after the other", "", std::uint8_t, std::uint16_t,
                   float) {
  for (const std::size_t count : kLengths) {
    const auto values = levels<TestType>(count);
    double sum = 0.0, squares = 0.0;
    TestType low = values[0], high = values[0];
    std::size_t equal = 0;
    for (const TestType value : values) {
      sum += value;
      squares += static_cast<double>(value) * static_cast<double>(value);
      low = value < low ? value : low;
      high = value > high ? value : high;
      equal += value == values.back() ? 1 : 0;
    }
    CHECK(hffnet::sums_of(values.data(), count).sum == sum);
    CHECK(hffnet::sums_of(values.data(), count).squares == squares);
    CHECK(hffnet::extremes_of(values.data(), count).low == low);
    CHECK(hffnet::extremes_of(values.data(), count).high == high);
    CHECK(hffnet::count_equal(values.data(), count, values.back()) == equal);
  }
}

TEST_CASE("sums of the brightest pixels do not overflow") {
  const std::vector<std::uint8_t> flat(hffnet::kMostAtOnce, 255);
  const std::vector<std::uint16_t> deep(hffnet::kMostAtOnce, 65535);
  CHECK(hffnet::sums_of(flat.data(), flat.size()).squares == 255.0 * 255.0 * 4096.0);
  CHECK(hffnet::sums_of(deep.data(), deep.size()).squares == 65535.0 * 65535.0 * 4096.0);
}

TEST_CASE("levels near another are counted up to the ends of the scale") {
  const auto values = levels<std::uint8_t>(4096);
  for (const int level : {0, 5, 128, 250, 255}) {
    for (const int tolerance : {0, 8}) {
      std::size_t near = 0;
      for (const std::uint8_t value : values) near += std::abs(value - level) <= tolerance ? 1 : 0;
      CHECK(hffnet::count_near(values.data(), values.size(), level, tolerance) == near);
    }
  }
}

TEST_CASE("levels are rounded to the nearest, halves to even, and cut at 255") {
  const std::vector<float> values{-3.0F, 0.0F, 0.5F, 1.5F, 2.5F, 2.4999F, 254.5F, 255.5F, 1e9F};
  std::vector<std::uint8_t> bytes(values.size());
  hffnet::stretch_to_bytes(values.data(), values.size(), 0.0F, 1.0F, bytes.data());
  CHECK(bytes == std::vector<std::uint8_t>{0, 0, 0, 2, 2, 2, 254, 255, 255});
  hffnet::scale_to_bytes(values.data(), values.size(), 1.0F, 0.0F, bytes.data());
  CHECK(bytes == std::vector<std::uint8_t>{3, 0, 0, 2, 2, 2, 254, 255, 255});
}

TEST_CASE("what is not finite is seen wherever it stands") {
  for (const std::size_t count : kLengths) {
    for (const float strange : {NAN, INFINITY, -INFINITY}) {
      auto values = levels<float>(count);
      CHECK(hffnet::all_finite(values.data(), count));
      values[count / 2] = strange;
      CHECK_FALSE(hffnet::all_finite(values.data(), count));
    }
  }
}
