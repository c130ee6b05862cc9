// The arithmetic of preprocess, pixel by pixel, in the order of src/area_resize.cpp and src/preprocess.cpp, so that both
// round alike; compiled for CPU and GPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hffnet/cuda.hpp"
#include "team.hpp"

namespace hffnet::cuda {

// The input pixels [first, last] under one output pixel; the ones between the two weigh 1. Where the picture grows, the
// two pixels that the output pixel lies between.
struct Span {
  std::uint32_t first;
  std::uint32_t last;
  float first_weight;
  float last_weight;  // 0 where first == last
};

HFFNET_BOTH inline double smaller(double one, double other) {
  return other < one ? other : one;
}

// Both directions shrink: means over areas. Otherwise OpenCV's area-weighted bilinear.
HFFNET_BOTH inline bool shrinks(const GpuPicture& picture, std::size_t size) {
  return picture.height >= size && picture.width >= size;
}

HFFNET_BOTH inline Span span_at(std::size_t i, std::size_t length, std::size_t size) {
  const double scale = static_cast<double>(length) / static_cast<double>(size);
  const double from = static_cast<double>(i) * scale;
  const double to = smaller(static_cast<double>(i + 1) * scale, static_cast<double>(length));
  const auto first = static_cast<std::size_t>(from);
  const auto end = static_cast<std::size_t>(ceil(to));
  const std::size_t last = (end < length ? end : length) - 1;
  const double first_end = smaller(static_cast<double>(first + 1), to);
  return {static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(last), static_cast<float>(first_end - from),
          first == last ? 0.0F : static_cast<float>(to - static_cast<double>(last))};
}

HFFNET_BOTH inline Span pair_at(std::size_t i, std::size_t length, std::size_t size) {
  const double scale = static_cast<double>(length) / static_cast<double>(size);
  const auto first = static_cast<std::size_t>(static_cast<double>(i) * scale);
  const auto weight = static_cast<float>(static_cast<double>(i + 1) - static_cast<double>(first + 1) / scale);
  const bool inside = first + 1 < length && weight > 0.0F;
  const float second = inside ? weight - floorf(weight) : 0.0F;
  return {static_cast<std::uint32_t>(first < length ? first : length - 1),
          static_cast<std::uint32_t>(first + 1 < length ? first + 1 : length - 1), 1.0F - second, second};
}

// One grey level; colour by Rec. 601 in the arithmetic of src/frames/samples.cpp.
template <class T, int channels>
HFFNET_BOTH float level_at(const GpuPicture& picture, std::size_t y, std::size_t x) {
  const auto* row = reinterpret_cast<const T*>(static_cast<const unsigned char*>(picture.data) + y * picture.row_bytes);
  if constexpr (channels == 1) {
    return static_cast<float>(row[x]);
  } else {
    const T* bgr = row + 3 * x;
    if constexpr (std::is_same_v<T, float>) {
      return 0.299F * bgr[2] + 0.587F * bgr[1] + 0.114F * bgr[0];
    } else {
      // Fits 32 bits: the weights add up to 2^15.
      const std::uint32_t sum = 9798U * bgr[2] + 19235U * bgr[1] + 3735U * bgr[0] + (1U << 14U);
      return static_cast<float>(static_cast<T>(sum >> 15U));
    }
  }
}

template <class T, int channels>
HFFNET_BOTH float column_sum(const GpuPicture& picture, const Span& rows, bool shrinking, std::size_t x) {
  float sum = 0.0F;
  sum += rows.first_weight * level_at<T, channels>(picture, rows.first, x);
  if (shrinking) {
    for (std::size_t y = rows.first + 1; y < rows.last; ++y) sum += level_at<T, channels>(picture, y, x);
    if (rows.last > rows.first) sum += rows.last_weight * level_at<T, channels>(picture, rows.last, x);
  } else if (rows.last_weight > 0.0F) {
    sum += rows.last_weight * level_at<T, channels>(picture, rows.last, x);
  }
  return sum;
}

// One pixel of the resized picture.
template <class T, int channels>
HFFNET_BOTH float resized(const GpuPicture& picture, std::size_t size, const Span& rows, const Span& columns) {
  const bool shrinking = shrinks(picture, size);
  const float first = column_sum<T, channels>(picture, rows, shrinking, columns.first);
  const float last =
      columns.last == columns.first ? first : column_sum<T, channels>(picture, rows, shrinking, columns.last);
  if (!shrinking) return first * columns.first_weight + last * columns.last_weight;
  float total = columns.first_weight * first + columns.last_weight * last;
  for (std::size_t x = columns.first + 1; x < columns.last; ++x) {
    total += column_sum<T, channels>(picture, rows, shrinking, x);
  }
  const auto area = static_cast<float>(static_cast<double>(size) * static_cast<double>(size) /
                                       (static_cast<double>(picture.height) * static_cast<double>(picture.width)));
  return total * area;
}

// Whole numbers in the order of the floats: the sign bit set for positive ones, all bits turned for negative ones.
HFFNET_BOTH inline std::uint32_t key_of(float value) {
  union {
    float real;
    std::uint32_t bits;
  } both{value};
  return (both.bits & 0x80000000U) != 0U ? ~both.bits : both.bits | 0x80000000U;
}

HFFNET_BOTH inline float value_of(std::uint32_t key) {
  union {
    std::uint32_t bits;
    float real;
  } both{(key & 0x80000000U) != 0U ? key & 0x7FFFFFFFU : ~key};
  return both.real;
}

constexpr std::uint32_t kBins = 256;

// What a team shares while it looks for two ranks at once, eight bits of the key at a time.
struct Selection {
  std::uint32_t counts[2][kBins];
  std::uint32_t sums[2][2][kBins];  // running sums, double-buffered
  std::uint32_t rank[2];
  std::uint32_t prefix[2];
};

// How the resized picture becomes bytes: what preprocess derives from its specification and the picture's depth.
struct Stretch {
  std::uint32_t low_rank, high_rank;
  double min_span;  // in grey levels
};

// The values at both ranks in ascending order, exactly, in every member of the team.
template <class Team>
HFFNET_BOTH void select(const Team& team, const float* values, std::size_t count, Selection& shared) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (std::size_t i = team.rank(); i < 2 * kBins; i += team.size()) shared.counts[i / kBins][i % kBins] = 0;
    team.sync();
    for (std::size_t i = team.rank(); i < count; i += team.size()) {
      const std::uint32_t key = key_of(team.load(&values[i]));
      for (int which = 0; which < 2; ++which) {
        const bool candidate = shift == 24 || key >> (shift + 8) == shared.prefix[which];
        if (candidate) team.count(shared.counts[which], key >> shift & (kBins - 1));
      }
    }
    team.sync();
    int from = 0;
    for (std::size_t i = team.rank(); i < 2 * kBins; i += team.size()) {
      shared.sums[from][i / kBins][i % kBins] = shared.counts[i / kBins][i % kBins];
    }
    team.sync();
    for (std::uint32_t step = 1; step < kBins; step *= 2, from = 1 - from) {
      for (std::size_t i = team.rank(); i < 2 * kBins; i += team.size()) {
        const std::size_t which = i / kBins, bin = i % kBins;
        const std::uint32_t before = bin >= step ? shared.sums[from][which][bin - step] : 0U;
        shared.sums[1 - from][which][bin] = shared.sums[from][which][bin] + before;
      }
      team.sync();
    }
    // The bin that holds the rank is one member's; it must not change what others still compare with.
    std::uint32_t wanted[2] = {shared.rank[0], shared.rank[1]};
    team.sync();
    for (std::size_t i = team.rank(); i < 2 * kBins; i += team.size()) {
      const std::size_t which = i / kBins, bin = i % kBins;
      const std::uint32_t below = bin == 0 ? 0U : shared.sums[from][which][bin - 1];
      if (below <= wanted[which] && wanted[which] < shared.sums[from][which][bin]) {
        shared.rank[which] = wanted[which] - below;
        shared.prefix[which] = (shift == 24 ? 0U : shared.prefix[which] << 8U) | static_cast<std::uint32_t>(bin);
      }
    }
    team.sync();
  }
}

// Percentile stretch of the whole resized picture to bytes.
template <class Team>
HFFNET_BOTH void stretch(const Team& team, const float* values, std::size_t count, const Stretch& how,
                         Selection& shared, std::uint8_t* out) {
  if (team.rank() == 0) {
    shared.rank[0] = how.low_rank;
    shared.rank[1] = how.high_rank;
  }
  team.sync();
  select(team, values, count, shared);
  const float low = value_of(shared.prefix[0]), high = value_of(shared.prefix[1]);
  const auto found = static_cast<double>(high - low);
  const auto gain = static_cast<float>(255.0 / (found < how.min_span ? how.min_span : found));
  for (std::size_t i = team.rank(); i < count; i += team.size()) {
    const float above = team.load(&values[i]) - low;
    const float level = (above > 0.0F ? above : 0.0F) * gain;
    out[i] = static_cast<std::uint8_t>(rintf(level < 255.0F ? level : 255.0F));
  }
}

}  // namespace hffnet::cuda
