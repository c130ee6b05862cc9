#include "hffnet/preprocess.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "area_resize.hpp"
#include "attempt.hpp"

namespace hffnet {
namespace {

constexpr std::size_t kBins = 2048;

double full_scale(Depth depth) {
  return depth == Depth::kUint8 ? 255.0 : depth == Depth::kUint16 ? 65535.0 : 1.0;
}

// Places values in bins that rise with the value, so that a rank is looked for in one bin only.
class Bins {
 public:
  explicit Bins(const std::vector<float>& values) : values_(values) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    low_ = *low;
    scale_ = *high > *low ? static_cast<float>(kBins - 1) / (*high - *low) : 0.0F;
    for (const float value : values) ++counts_[bin_of(value)];
  }

  // The value at `rank` in ascending order, exactly. `ranked` is scratch memory.
  float at(std::size_t rank, std::vector<float>& ranked) const {
    std::size_t bin = 0;
    while (rank >= counts_[bin]) rank -= counts_[bin++];
    ranked.clear();
    for (const float value : values_) {
      if (bin_of(value) == bin) ranked.push_back(value);
    }
    const auto place = ranked.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(ranked.begin(), place, ranked.end());
    return *place;
  }

 private:
  std::size_t bin_of(float value) const {
    return std::min(static_cast<std::size_t>((value - low_) * scale_), kBins - 1);
  }

  const std::vector<float>& values_;
  float low_;
  float scale_;
  std::array<std::size_t, kBins> counts_{};
};

// Nearest rank, halves to even like Python's round.
std::size_t rank_of(double quantile, std::size_t count) {
  return static_cast<std::size_t>(std::nearbyint(quantile * static_cast<double>(count - 1)));
}

}  // namespace

Result<std::span<const std::uint8_t>> Preprocessor::operator()(const GreyView& picture) {
  if (picture.data == nullptr || picture.height == 0 || picture.width == 0 ||
      picture.row_bytes < picture.width * bytes_per_pixel(picture.depth)) {
    return Failure{Error::kFrame, "a picture of " + std::to_string(picture.width) + "x" +
                                      std::to_string(picture.height) + " pixels with rows of " +
                                      std::to_string(picture.row_bytes) + " bytes was given; at least 1x1 is expected"};
  }
  using Input = Result<std::span<const std::uint8_t>>;
  return guarded(Error::kFrame, "preprocess", [&]() -> Input {
    area_resize(picture, spec_.size, small_, rows_);
    const Bins bins(small_);
    const float low = bins.at(rank_of(spec_.low, small_.size()), ranked_);
    const float high = bins.at(rank_of(spec_.high, small_.size()), ranked_);
    const double span = std::max(static_cast<double>(high - low), spec_.min_span * full_scale(picture.depth));
    const auto gain = static_cast<float>(255.0 / span);
    stretched_.resize(small_.size());
    for (std::size_t i = 0; i < small_.size(); ++i) {
      const float level = std::max(small_[i] - low, 0.0F) * gain;
      stretched_[i] = static_cast<std::uint8_t>(std::nearbyint(std::min(level, 255.0F)));
    }
    return std::span<const std::uint8_t>(stretched_);
  });
}

}  // namespace hffnet
