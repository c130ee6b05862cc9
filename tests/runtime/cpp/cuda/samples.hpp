// Pictures and logits for comparing; the same on every machine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "hffnet/cuda.hpp"

namespace hffnet::cuda {

// Pixels and what they are; rows lie `gap` bytes apart.
struct Sample {
  std::vector<std::uint8_t> bytes;
  GpuPicture picture;
};

// A slope with noise, so that ranks are many and bins uneven.
template <class T>
Sample sample_of(std::size_t height, std::size_t width, int channels, std::size_t gap = 0) {
  const Depth depth = sizeof(T) == 1 ? Depth::kUint8 : sizeof(T) == 2 ? Depth::kUint16 : Depth::kFloat32;
  const std::size_t row_bytes = width * static_cast<std::size_t>(channels) * sizeof(T) + gap;
  Sample sample{std::vector<std::uint8_t>(height * row_bytes), {}};
  std::mt19937 random(static_cast<unsigned>(height * 31 + width));
  const double scale = sizeof(T) == 1 ? 1.0 : sizeof(T) == 2 ? 257.0 : 1.0 / 255.0;
  for (std::size_t y = 0; y < height; ++y) {
    T* row = reinterpret_cast<T*>(sample.bytes.data() + y * row_bytes);
    for (std::size_t x = 0; x < width * static_cast<std::size_t>(channels); ++x) {
      const double level = 20.0 + 150.0 * static_cast<double>(x + y) / static_cast<double>(3 * width + height);
      row[x] = static_cast<T>(scale * (level + static_cast<double>(random() % 60U)));
    }
  }
  sample.picture = {sample.bytes.data(), depth, channels, height, width, row_bytes};
  return sample;
}

// Odd sizes, smaller and larger than the input in either direction, single rows, gaps behind rows.
inline std::vector<Sample> all_samples() {
  std::vector<Sample> samples;
  const std::vector<std::pair<std::size_t, std::size_t>> sizes = {
      {1, 1}, {1, 500}, {33, 65}, {224, 224}, {223, 300}, {300, 223}, {449, 671}, {884, 1024}, {50, 7}};
  for (const auto& [height, width] : sizes) {
    for (const int channels : {1, 3}) {
      samples.push_back(sample_of<std::uint8_t>(height, width, channels, 5));
      samples.push_back(sample_of<std::uint16_t>(height, width, channels, 6));
      samples.push_back(sample_of<float>(height, width, channels, 8));
    }
  }
  return samples;
}

// The same picture in grey, as frames/samples.cpp makes it of colour.
template <class T>
std::vector<T> grey_of(const GpuPicture& picture) {
  std::vector<T> grey;
  for (std::size_t y = 0; y < picture.height; ++y) {
    const T* row = reinterpret_cast<const T*>(static_cast<const std::uint8_t*>(picture.data) + y * picture.row_bytes);
    for (std::size_t x = 0; x < picture.width; ++x) {
      const T* bgr = row + 3 * x;
      if (picture.channels == 1) {
        grey.push_back(row[x]);
      } else if constexpr (sizeof(T) == 4) {
        grey.push_back(0.299F * bgr[2] + 0.587F * bgr[1] + 0.114F * bgr[0]);
      } else {
        const std::uint64_t sum = 9798ULL * bgr[2] + 19235ULL * bgr[1] + 3735ULL * bgr[0] + (1U << 14U);
        grey.push_back(static_cast<T>(sum >> 15U));
      }
    }
  }
  return grey;
}

// The library's own preprocess of it.
inline std::vector<std::uint8_t> reference_of(const GpuPicture& picture, const PreprocessSpec& spec) {
  Preprocessor preprocess(spec);
  const std::size_t row_bytes = picture.width * bytes_per_pixel(picture.depth);
  const auto run = [&](const auto& grey) {
    const auto input = preprocess({grey.data(), picture.depth, picture.height, picture.width, row_bytes}).value();
    return std::vector<std::uint8_t>(input.begin(), input.end());
  };
  if (picture.depth == Depth::kUint8) return run(grey_of<std::uint8_t>(picture));
  if (picture.depth == Depth::kUint16) return run(grey_of<std::uint16_t>(picture));
  return run(grey_of<float>(picture));
}

inline int most_apart(std::span<const std::uint8_t> one, std::span<const std::uint8_t> other) {
  if (one.size() != other.size()) return 256;
  int most = 0;
  for (std::size_t i = 0; i < one.size(); ++i) most = std::max(most, std::abs(one[i] - other[i]));
  return most;
}

// Three levels; 2, 4 and 7 classes.
inline Taxonomy three_levels() {
  return Taxonomy::from_levels({{"kind", {"a", "b"}, {}},
                                {"sort", {"aa", "ab", "ba", "bb"}, {0, 0, 1, 1}},
                                {"type", {"1", "2", "3", "4", "5", "6", "7"}, {0, 0, 1, 2, 2, 3, 3}}})
      .value();
}

inline std::vector<float> many_logits(const Taxonomy& taxonomy, std::size_t num_frames) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0.0F, 4.0F);
  std::vector<float> logits(num_frames * taxonomy.num_columns());
  for (float& logit : logits) logit = normal(random);
  // Ties: the first of equal leaves is taken.
  std::fill_n(logits.begin(), taxonomy.num_columns(), 1.0F);
  return logits;
}

}  // namespace hffnet::cuda
