// The loops over all pixels, each so plain that the compiler turns it into vector instructions. Compiled with -O3.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hffnet {

// What a row of pixels adds up to; sums of whole levels are exact.
struct RowSums {
  double sum;
  double squares;
};

// At most this many pixels at once: few enough for 32 bits to hold the squares of 8-bit levels.
constexpr std::size_t kMostAtOnce = 4096;

RowSums sums_of(const std::uint8_t* row, std::size_t count);
RowSums sums_of(const std::uint16_t* row, std::size_t count);
RowSums sums_of(const float* row, std::size_t count);

// Smallest and largest of at least one value.
template <class T>
struct Extremes {
  T low, high;
};

Extremes<std::uint8_t> extremes_of(const std::uint8_t* values, std::size_t count);
Extremes<std::uint16_t> extremes_of(const std::uint16_t* values, std::size_t count);
Extremes<float> extremes_of(const float* values, std::size_t count);

std::size_t count_equal(const std::uint8_t* values, std::size_t count, std::uint8_t value);
std::size_t count_equal(const std::uint16_t* values, std::size_t count, std::uint16_t value);
std::size_t count_equal(const float* values, std::size_t count, float value);

// How many values are at most `tolerance` away from `level`.
std::size_t count_near(const std::uint8_t* values, std::size_t count, int level, int tolerance);

// |value x gain + shift|, at most 255, rounded to the nearest whole number, halves to even.
void scale_to_bytes(const std::uint16_t* values, std::size_t count, float gain, float shift, std::uint8_t* out);
void scale_to_bytes(const float* values, std::size_t count, float gain, float shift, std::uint8_t* out);
// max(value - low, 0) x gain, the same way.
void stretch_to_bytes(const float* values, std::size_t count, float low, float gain, std::uint8_t* out);

// (value - low) x scale, cut to a whole number below `num_bins`; values are at least `low`.
void bins_of(const float* values, std::size_t count, float low, float scale, std::uint16_t num_bins,
             std::uint16_t* out);

bool all_finite(const float* values, std::size_t count);

}  // namespace hffnet
