#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <vector>

#include "hffnet/preprocess.hpp"

TEST_CASE("a ramp is stretched to the full range, whatever its depth") {
  std::vector<std::uint16_t> deep;
  std::vector<std::uint8_t> flat;
  for (unsigned i = 0; i < 64 * 64; ++i) {
    deep.push_back(static_cast<std::uint16_t>(i % 64 * 1000));
    flat.push_back(static_cast<std::uint8_t>(i % 64 * 4));
  }
  hffnet::PreprocessSpec spec;
  spec.size = 32;
  hffnet::Preprocessor one(spec), other(spec);
  const auto from_deep = one({deep.data(), hffnet::Depth::kUint16, 64, 64, 128}).value();
  const auto from_flat = other({flat.data(), hffnet::Depth::kUint8, 64, 64, 64}).value();
  CHECK(*std::min_element(from_deep.begin(), from_deep.end()) == 0);
  CHECK(*std::max_element(from_deep.begin(), from_deep.end()) == 255);
  CHECK(std::equal(from_deep.begin(), from_deep.end(), from_flat.begin()));
}

TEST_CASE("a blank frame is not blown up to noise") {
  std::vector<std::uint8_t> blank(100 * 100, 7);
  blank[5000] = 8;
  hffnet::Preprocessor preprocess(hffnet::PreprocessSpec{});
  const auto input = preprocess({blank.data(), hffnet::Depth::kUint8, 100, 100, 100}).value();
  CHECK(*std::max_element(input.begin(), input.end()) < 80);
}

TEST_CASE("rows may lie apart") {
  std::vector<std::uint8_t> wide(40 * 50);
  std::vector<std::uint8_t> narrow;
  for (unsigned y = 0; y < 40; ++y) {
    for (unsigned x = 0; x < 50; ++x) {
      wide[y * 50 + x] = static_cast<std::uint8_t>(x * y);
      if (x < 37) narrow.push_back(wide[y * 50 + x]);
    }
  }
  hffnet::Preprocessor one(hffnet::PreprocessSpec{}), other(hffnet::PreprocessSpec{});
  const auto apart = one({wide.data(), hffnet::Depth::kUint8, 40, 37, 50}).value();
  const auto packed = other({narrow.data(), hffnet::Depth::kUint8, 40, 37, 37}).value();
  CHECK(std::equal(apart.begin(), apart.end(), packed.begin()));
}

TEST_CASE("an empty picture is refused") {
  hffnet::Preprocessor preprocess(hffnet::PreprocessSpec{});
  const std::uint8_t pixel = 0;
  CHECK(preprocess({&pixel, hffnet::Depth::kUint8, 0, 1, 1}).failure().error == hffnet::Error::kFrame);
  CHECK(preprocess({&pixel, hffnet::Depth::kUint16, 1, 1, 1}).failure().error == hffnet::Error::kFrame);
}
