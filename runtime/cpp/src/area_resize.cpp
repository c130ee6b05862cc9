#include "area_resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "every_processor.hpp"

namespace hffnet {
namespace {

HFFNET_EVERY_PROCESSOR
void add_row(const std::uint8_t* __restrict row, float weight, std::size_t width, float* __restrict sum) {
  for (std::size_t x = 0; x < width; ++x) sum[x] += weight * static_cast<float>(row[x]);
}

HFFNET_EVERY_PROCESSOR
void add_row(const std::uint16_t* __restrict row, float weight, std::size_t width, float* __restrict sum) {
  for (std::size_t x = 0; x < width; ++x) sum[x] += weight * static_cast<float>(row[x]);
}

HFFNET_EVERY_PROCESSOR
void add_row(const float* __restrict row, float weight, std::size_t width, float* __restrict sum) {
  for (std::size_t x = 0; x < width; ++x) sum[x] += weight * row[x];
}

// Input pixels per output pixel, by way of the inverse: where an edge falls exactly on a pixel, OpenCV's rounding
// decides which side it is on.
double scale_of(std::size_t length, std::size_t size) {
  return 1.0 / (static_cast<double>(size) / static_cast<double>(length));
}

// The input pixels [first, last] under one output pixel; the ones between the two weigh 1.
struct Span {
  std::size_t first;
  std::size_t last;
  float first_weight;
  float last_weight;  // 0 where first == last
};

std::vector<Span> spans_of(std::size_t length, std::size_t size) {
  const double scale = scale_of(length, size);
  std::vector<Span> spans;
  for (std::size_t i = 0; i < size; ++i) {
    const double from = static_cast<double>(i) * scale;
    const double to = std::min(static_cast<double>(i + 1) * scale, static_cast<double>(length));
    const auto first = static_cast<std::size_t>(from);
    const auto last = std::min(static_cast<std::size_t>(std::ceil(to)), length) - 1;
    const double first_end = std::min(static_cast<double>(first + 1), to);
    spans.push_back({first, last, static_cast<float>(first_end - from),
                     first == last ? 0.0F : static_cast<float>(to - static_cast<double>(last))});
  }
  return spans;
}

// The two input pixels that one output pixel lies between where the picture grows.
struct Pair {
  std::size_t first;
  std::size_t second;
  float second_weight;
};

// OpenCV's weights for INTER_AREA where a direction grows: not half-pixel centres, but the share of the output
// pixel that lies on the second input pixel.
std::vector<Pair> pairs_of(std::size_t length, std::size_t size) {
  const double scale = scale_of(length, size), inverse = static_cast<double>(size) / static_cast<double>(length);
  std::vector<Pair> pairs;
  for (std::size_t i = 0; i < size; ++i) {
    const auto first = static_cast<std::size_t>(static_cast<double>(i) * scale);
    const auto weight = static_cast<float>(static_cast<double>(i + 1) - static_cast<double>(first + 1) * inverse);
    const bool inside = first + 1 < length && weight > 0.0F;
    pairs.push_back(
        {std::min(first, length - 1), std::min(first + 1, length - 1), inside ? weight - std::floor(weight) : 0.0F});
  }
  return pairs;
}

template <class T>
const T* row_of(const GreyView& picture, std::size_t y) {
  return reinterpret_cast<const T*>(static_cast<const std::byte*>(picture.data) + y * picture.row_bytes);
}

template <class T>
void shrink(const GreyView& picture, std::size_t size, float* small, float* sum) {
  const std::vector<Span> down = spans_of(picture.height, size);
  const std::vector<Span> across = spans_of(picture.width, size);
  const auto area = static_cast<float>(static_cast<double>(size) * static_cast<double>(size) /
                                       (static_cast<double>(picture.height) * static_cast<double>(picture.width)));
  for (const Span& rows : down) {
    std::fill_n(sum, picture.width, 0.0F);
    add_row(row_of<T>(picture, rows.first), rows.first_weight, picture.width, sum);
    for (std::size_t y = rows.first + 1; y < rows.last; ++y) add_row(row_of<T>(picture, y), 1.0F, picture.width, sum);
    if (rows.last > rows.first) add_row(row_of<T>(picture, rows.last), rows.last_weight, picture.width, sum);
    for (const Span& columns : across) {
      float total = columns.first_weight * sum[columns.first] + columns.last_weight * sum[columns.last];
      for (std::size_t x = columns.first + 1; x < columns.last; ++x) total += sum[x];
      *small++ = total * area;
    }
  }
}

template <class T>
void grow(const GreyView& picture, std::size_t size, float* small, float* sum) {
  const std::vector<Pair> down = pairs_of(picture.height, size);
  const std::vector<Pair> across = pairs_of(picture.width, size);
  for (const Pair& rows : down) {
    std::fill_n(sum, picture.width, 0.0F);
    add_row(row_of<T>(picture, rows.first), 1.0F - rows.second_weight, picture.width, sum);
    if (rows.second_weight > 0.0F) add_row(row_of<T>(picture, rows.second), rows.second_weight, picture.width, sum);
    for (const Pair& columns : across) {
      *small++ = sum[columns.first] * (1.0F - columns.second_weight) + sum[columns.second] * columns.second_weight;
    }
  }
}

template <class T>
void resize_as(const GreyView& picture, std::size_t size, float* small, float* sum) {
  if (picture.height >= size && picture.width >= size) {
    shrink<T>(picture, size, small, sum);
  } else {
    grow<T>(picture, size, small, sum);
  }
}

}  // namespace

void area_resize(const GreyView& picture, std::size_t size, std::vector<float>& small, std::vector<float>& rows) {
  small.resize(size * size);
  rows.resize(picture.width);
  switch (picture.depth) {
    case Depth::kUint8:
      return resize_as<std::uint8_t>(picture, size, small.data(), rows.data());
    case Depth::kUint16:
      return resize_as<std::uint16_t>(picture, size, small.data(), rows.data());
    case Depth::kFloat32:
      return resize_as<float>(picture, size, small.data(), rows.data());
  }
}

}  // namespace hffnet
