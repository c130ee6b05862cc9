#include "hffnet/preprocess.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "area_resize.hpp"
#include "attempt.hpp"
#include "pixel_loops.hpp"

namespace hffnet {
namespace {

constexpr std::uint16_t kBins = 2048;

double full_scale(Depth depth) {
  return depth == Depth::kUint8 ? 255.0 : depth == Depth::kUint16 ? 65535.0 : 1.0;
}

// Places values in bins that rise with the value, so that a rank is looked for in one bin only.
class Bins {
 public:
  // `places` is scratch memory.
  Bins(const std::vector<float>& values, std::vector<std::uint16_t>& places) : values_(values), places_(places) {
    const auto [low, high] = extremes_of(values.data(), values.size());
    places_.resize(values.size());
    bins_of(values.data(), values.size(), low, high > low ? static_cast<float>(kBins - 1) / (high - low) : 0.0F, kBins,
            places_.data());
    for (const std::uint16_t place : places_) ++counts_[place];
  }

  // The value at `rank` in ascending order, exactly. `ranked` is scratch memory.
  float at(std::size_t rank, std::vector<float>& ranked) const {
    std::uint16_t bin = 0;
    while (rank >= counts_[bin]) rank -= counts_[bin++];
    ranked.clear();
    for (std::size_t i = 0; ranked.size() < counts_[bin]; ++i) {
      if (places_[i] == bin) ranked.push_back(values_[i]);
    }
    const auto place = ranked.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(ranked.begin(), place, ranked.end());
    return *place;
  }

 private:
  const std::vector<float>& values_;
  std::vector<std::uint16_t>& places_;
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
    if (!all_finite(small_.data(), small_.size())) {
      return Failure{Error::kFrame, "pixels that are not finite numbers were given; grey levels are expected"};
    }
    const Bins bins(small_, places_);
    const float low = bins.at(rank_of(spec_.low, small_.size()), ranked_);
    const float high = bins.at(rank_of(spec_.high, small_.size()), ranked_);
    const double span = std::max(static_cast<double>(high - low), spec_.min_span * full_scale(picture.depth));
    const auto gain = static_cast<float>(255.0 / span);
    stretched_.resize(small_.size());
    stretch_to_bytes(small_.data(), small_.size(), low, gain, stretched_.data());
    return std::span<const std::uint8_t>(stretched_);
  });
}

}  // namespace hffnet
