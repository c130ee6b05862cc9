#include "hffnet/gates.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "pixel_loops.hpp"

namespace hffnet {
namespace {

// What one pass over the picture tells.
struct Levels {
  double mean = 0.0;
  double deviation = 0.0;
  double full_scale = 0.0;
  double num_black = 0.0;
  double num_white = 0.0;
  double num_pixels = 0.0;
  std::size_t uniform_top = 0;
  std::size_t uniform_bottom = 0;
};

template <class T>
const T* row_of(const GreyView& picture, std::size_t y) {
  return reinterpret_cast<const T*>(static_cast<const std::byte*>(picture.data) + y * picture.row_bytes);
}

template <class T>
bool is_uniform(const GreyView& picture, std::size_t y) {
  const T* row = row_of<T>(picture, y);
  return std::all_of(row, row + picture.width, [&](T value) { return value == row[0]; });
}

// The grey level at which the detector saturates, as far as the pixels tell: 12-bit detectors store 0..4095 in 16 bits.
double full_scale_of(const GreyView& picture, double brightest) {
  if (picture.depth == Depth::kUint8) return 255.0;
  if (picture.depth == Depth::kFloat32) return std::max(brightest, 1.0);
  for (const double top : {1023.0, 4095.0, 16383.0}) {
    if (brightest <= top) return top;
  }
  return 65535.0;
}

template <class T>
void add_up(const GreyView& picture, Levels& levels) {
  // Whole levels are summed as whole numbers: the squares of 16 bits fit for 4 billion pixels, and no order matters.
  using Sum = std::conditional_t<std::is_integral_v<T>, std::uint64_t, double>;
  Sum sum = 0, squares = 0;
  T top = row_of<T>(picture, 0)[0];
  std::size_t num_black = 0, num_top = 0;
  for (std::size_t y = 0; y < picture.height; ++y) {
    for (std::size_t left = 0; left < picture.width; left += kMostAtOnce) {
      const T* piece = row_of<T>(picture, y) + left;
      const std::size_t count = std::min(kMostAtOnce, picture.width - left);
      const RowSums sums = sums_of(piece, count);
      const auto [lowest, highest] = extremes_of(piece, count);
      if (highest > top) num_top = 0;
      top = std::max(top, highest);
      if (highest == top) num_top += count_equal(piece, count, top);
      if (!(lowest > T{0})) num_black += count_equal(piece, count, T{0});
      sum += static_cast<Sum>(sums.sum);
      squares += static_cast<Sum>(sums.squares);
    }
  }
  levels.num_pixels = static_cast<double>(picture.height) * static_cast<double>(picture.width);
  levels.mean = static_cast<double>(sum) / levels.num_pixels;
  levels.deviation =
      std::sqrt(std::max(static_cast<double>(squares) / levels.num_pixels - levels.mean * levels.mean, 0.0));
  levels.num_black = static_cast<double>(num_black);
  levels.full_scale = full_scale_of(picture, static_cast<double>(top));
  // No pixel is brighter than the brightest one, so those at full scale are those at the top, or none.
  levels.num_white = static_cast<double>(top) >= levels.full_scale ? static_cast<double>(num_top) : 0.0;
  while (levels.uniform_top < picture.height && is_uniform<T>(picture, levels.uniform_top)) ++levels.uniform_top;
  while (levels.uniform_bottom < picture.height && is_uniform<T>(picture, picture.height - 1 - levels.uniform_bottom)) {
    ++levels.uniform_bottom;
  }
}

Levels levels_of(const GreyView& picture) {
  Levels levels;
  if (picture.depth == Depth::kUint8) add_up<std::uint8_t>(picture, levels);
  if (picture.depth == Depth::kUint16) add_up<std::uint16_t>(picture, levels);
  if (picture.depth == Depth::kFloat32) add_up<float>(picture, levels);
  return levels;
}

std::string fixed(double value, int digits) {
  std::array<char, 64> text{};
  return {text.data(), std::to_chars(text.begin(), text.end(), value, std::chars_format::fixed, digits).ptr};
}

std::string shortest(double value) {
  std::array<char, 64> text{};
  return {text.data(), std::to_chars(text.begin(), text.end(), value).ptr};
}

// As %.4g has it, or with as many digits.
std::string general(double value, int digits = 4) {
  std::array<char, 64> text{};
  return {text.data(), std::to_chars(text.begin(), text.end(), value, std::chars_format::general, digits).ptr};
}

std::string percent(double share) {
  return fixed(100.0 * share, 1) + "%";
}

GateResult incomplete(const Levels& levels, const GreyView& picture, const GateSettings& settings) {
  const std::size_t worst = std::max(levels.uniform_top, levels.uniform_bottom);
  const std::string where = levels.uniform_bottom >= levels.uniform_top ? "bottom" : "top";
  return {"incomplete", worst <= settings.max_uniform_rows, static_cast<double>(worst),
          static_cast<double>(settings.max_uniform_rows),
          std::to_string(worst) + " of " + std::to_string(picture.height) + " rows at the " + where +
              " are one single grey level, at most " + std::to_string(settings.max_uniform_rows) +
              " are allowed: the scan was stopped or the file is not complete."};
}

}  // namespace

std::vector<GateResult> check_gates(const GreyView& picture, const GateSettings& settings, FrameFingerprint* now) {
  const Levels levels = levels_of(picture);
  if (now != nullptr) {
    now->mean = levels.mean;
    now->deviation = levels.deviation;
  }
  const double contrast = levels.deviation / levels.full_scale;
  // As Python counts: what is not black is counted there, so that the two agree to the last bit.
  const double black = 1.0 - (levels.num_pixels - levels.num_black) / levels.num_pixels;
  const double white = levels.num_white / levels.num_pixels;
  return {
      incomplete(levels, picture, settings),
      {"blank", contrast >= settings.min_contrast, contrast, settings.min_contrast,
       "the standard deviation is " + fixed(contrast, 4) + " of full scale, at least " +
           shortest(settings.min_contrast) +
           " was expected: the beam is blanked or off, or the detector is not connected."},
      {"black", black <= settings.max_black, black, settings.max_black,
       percent(black) + " of the pixels are black, at most " + percent(settings.max_black) +
           " are allowed: brightness is too low or the scan was stopped."},
      {"saturated", white <= settings.max_white, white, settings.max_white,
       percent(white) + " of the pixels are at full scale, at most " + percent(settings.max_white) +
           " are allowed: contrast or brightness is too high, or the specimen is charging."},
  };
}

GateResult frozen_gate(const FrameFingerprint& now, const FrameFingerprint& previous) {
  const bool same = now.sha256 == previous.sha256 || (now.mean == previous.mean && now.deviation == previous.deviation);
  return {"frozen", !same, same ? 1.0 : 0.0, 0.0,
          "the picture is the last one again (mean " + general(now.mean, 6) + ", deviation " +
              general(now.deviation, 6) + "): the scan has stopped or the source repeats a frame."};
}

GateResult pixel_size_gate(double found_um, const std::array<double, 2>& trained_um) {
  constexpr double kMargin = 1.25;
  const double smallest = trained_um[0] / kMargin, largest = trained_um[1] * kMargin;
  return {"pixel_size",
          smallest <= found_um && found_um <= largest,
          found_um,
          found_um < smallest ? smallest : largest,
          "one pixel is " + general(found_um) + " um, the model was trained on " + general(trained_um[0]) + " to " +
              general(trained_um[1]) + " um: take the frame at another magnification, or train on such frames.",
          false};
}

GateResult novelty_gate(const std::vector<float>& logits, const Taxonomy& taxonomy, const Novelty& novelty) {
  const std::size_t count = taxonomy.levels().back().classes.size();
  const auto first = logits.end() - static_cast<std::ptrdiff_t>(count);
  const double top = *std::max_element(first, logits.end());
  double sum = 0.0;
  for (auto logit = first; logit != logits.end(); ++logit) sum += std::exp(static_cast<double>(*logit) - top);
  const double energy = -(top + std::log(sum));
  return {"out_of_distribution",
          energy <= novelty.max_energy,
          energy,
          novelty.max_energy,
          "the energy of the logits is " + fixed(energy, 3) + ", " + fixed(100.0 * novelty.quantile, 0) + "% of " +
              std::to_string(novelty.num_frames) + " held-out frames have at most " + fixed(novelty.max_energy, 3) +
              ": the frame is unlike what the model was trained on.",
          false};
}

}  // namespace hffnet
