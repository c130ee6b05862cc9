#include "pixel_loops.hpp"

#include <algorithm>
#include <cmath>

#include "every_processor.hpp"

namespace hffnet {
namespace {

// Adding this leaves no bits for a fraction: the sum is rounded to a whole number, halves to even. For 0..255.
constexpr float kNoFraction = 8388608.0F;

inline std::uint8_t rounded(float level) {
  const float whole = (std::min(level, 255.0F) + kNoFraction) - kNoFraction;
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(whole));
}

// Several at a time by hand, as many as fill a vector: the compiler does not find this one by itself.
template <std::size_t kLanes, class T>
inline __attribute__((always_inline)) Extremes<T> extremes_in_lanes(const T* values, std::size_t count) {
  T low[kLanes], high[kLanes];
  for (std::size_t k = 0; k < kLanes; ++k) low[k] = high[k] = values[0];
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t k = 0; k < kLanes; ++k) {
      low[k] = values[i + k] < low[k] ? values[i + k] : low[k];
      high[k] = values[i + k] > high[k] ? values[i + k] : high[k];
    }
  }
  for (; i < count; ++i) {
    low[0] = std::min(low[0], values[i]);
    high[0] = std::max(high[0], values[i]);
  }
  return {*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
}

}  // namespace

HFFNET_EVERY_PROCESSOR
RowSums sums_of(const std::uint8_t* row, std::size_t count) {
  std::uint32_t sum = 0;
  std::int32_t squares = 0;
  for (std::size_t x = 0; x < count; ++x) sum += row[x];
  for (std::size_t x = 0; x < count; ++x) squares += static_cast<std::int32_t>(row[x]) * row[x];
  return {static_cast<double>(sum), static_cast<double>(squares)};
}

HFFNET_EVERY_PROCESSOR
RowSums sums_of(const std::uint16_t* row, std::size_t count) {
  std::uint32_t sum = 0;
  std::uint64_t squares = 0;
  for (std::size_t x = 0; x < count; ++x) sum += row[x];
  for (std::size_t x = 0; x < count; ++x) squares += static_cast<std::uint64_t>(std::uint32_t{row[x]} * row[x]);
  return {static_cast<double>(sum), static_cast<double>(squares)};
}

// In order: sums of real numbers depend on it.
RowSums sums_of(const float* row, std::size_t count) {
  RowSums sums{0.0, 0.0};
  for (std::size_t x = 0; x < count; ++x) {
    const double value = row[x];
    sums.sum += value;
    sums.squares += value * value;
  }
  return sums;
}

HFFNET_EVERY_PROCESSOR
Extremes<std::uint8_t> extremes_of(const std::uint8_t* values, std::size_t count) {
  return extremes_in_lanes<32>(values, count);
}

HFFNET_EVERY_PROCESSOR
Extremes<std::uint16_t> extremes_of(const std::uint16_t* values, std::size_t count) {
  return extremes_in_lanes<16>(values, count);
}

HFFNET_EVERY_PROCESSOR
Extremes<float> extremes_of(const float* values, std::size_t count) {
  return extremes_in_lanes<8>(values, count);
}

HFFNET_EVERY_PROCESSOR
std::size_t count_equal(const std::uint8_t* values, std::size_t count, std::uint8_t value) {
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) found += values[i] == value ? 1U : 0U;
  return found;
}

HFFNET_EVERY_PROCESSOR
std::size_t count_equal(const std::uint16_t* values, std::size_t count, std::uint16_t value) {
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) found += values[i] == value ? 1U : 0U;
  return found;
}

HFFNET_EVERY_PROCESSOR
std::size_t count_equal(const float* values, std::size_t count, float value) {
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) found += values[i] == value ? 1U : 0U;
  return found;
}

HFFNET_EVERY_PROCESSOR
std::size_t count_near(const std::uint8_t* values, std::size_t count, int level, int tolerance) {
  const auto low = static_cast<std::uint8_t>(std::max(level - tolerance, 0));
  const auto span = static_cast<std::uint8_t>(std::min(level + tolerance, 255) - low);
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) found += static_cast<std::uint8_t>(values[i] - low) <= span ? 1U : 0U;
  return found;
}

HFFNET_EVERY_PROCESSOR
void scale_to_bytes(const std::uint16_t* __restrict values, std::size_t count, float gain, float shift,
                    std::uint8_t* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = rounded(std::abs(static_cast<float>(values[i]) * gain + shift));
}

HFFNET_EVERY_PROCESSOR
void scale_to_bytes(const float* __restrict values, std::size_t count, float gain, float shift,
                    std::uint8_t* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = rounded(std::abs(values[i] * gain + shift));
}

HFFNET_EVERY_PROCESSOR
void stretch_to_bytes(const float* __restrict values, std::size_t count, float low, float gain,
                      std::uint8_t* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = rounded(std::max(values[i] - low, 0.0F) * gain);
}

HFFNET_EVERY_PROCESSOR
void bins_of(const float* __restrict values, std::size_t count, float low, float scale, std::uint16_t num_bins,
             std::uint16_t* __restrict out) {
  const auto last = static_cast<float>(num_bins - 1);
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::uint16_t>(static_cast<std::int32_t>(std::min((values[i] - low) * scale, last)));
  }
}

HFFNET_EVERY_PROCESSOR
bool all_finite(const float* values, std::size_t count) {
  std::uint32_t strange = 0;
  for (std::size_t i = 0; i < count; ++i) strange += values[i] - values[i] == 0.0F ? 0U : 1U;
  return strange == 0;
}

}  // namespace hffnet
