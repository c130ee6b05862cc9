#include "frames/info_bar.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <utility>
#include <vector>

#include "pixel_loops.hpp"

namespace hffnet {
namespace {

constexpr std::size_t kMinHeight = 256;  // frames with fewer rows are tiles or thumbnails: no detection
constexpr double kMaxShare = 0.30;       // of the frame's rows: the largest bar seen is TESCAN's, 0.135
constexpr double kProbeFrom = 0.965;     // rows that lie inside every bar seen
constexpr double kProbeTo = 0.985;
constexpr double kMaxRowsBelow = 0.015;
constexpr std::size_t kMinRows = 12;
constexpr double kBackgroundShare = 0.35;  // of a bar's row; the row with most text and logo seen has 0.54
constexpr double kLineShare = 0.95;
constexpr double kJump = 0.3;
constexpr double kCleanShare = 0.94;

// The bottom of the frame as 8-bit grey levels: detection needs no more.
struct Bottom {
  std::size_t height, width;
  std::vector<std::uint8_t> levels;

  const std::uint8_t* row(std::size_t y) const { return &levels[y * width]; }
};

template <class T>
void scale_levels(const T* pixels, std::size_t count, std::size_t from, std::vector<std::uint8_t>& levels) {
  const auto [low, high] = extremes_of(pixels, count);
  const double scale = high > low ? 255.0 / (static_cast<double>(high) - static_cast<double>(low)) : 0.0;
  const auto gain = static_cast<float>(scale), shift = static_cast<float>(-static_cast<double>(low) * scale);
  scale_to_bytes(pixels + from, count - from, gain, shift, levels.data());
}

Bottom bottom_of(const GreyPixels& pixels, std::size_t start) {
  Bottom bottom{pixels.height - start, pixels.width, {}};
  bottom.levels.resize(bottom.height * bottom.width);
  const std::size_t count = pixels.height * pixels.width, from = start * pixels.width;
  if (pixels.depth == Depth::kUint8) {
    std::copy(pixels.bytes.begin() + static_cast<std::ptrdiff_t>(from), pixels.bytes.end(), bottom.levels.begin());
  } else if (pixels.depth == Depth::kUint16) {
    scale_levels(reinterpret_cast<const std::uint16_t*>(pixels.bytes.data()), count, from, bottom.levels);
  } else {
    scale_levels(reinterpret_cast<const float*>(pixels.bytes.data()), count, from, bottom.levels);
  }
  return bottom;
}

// As NumPy's median: the mean of the two in the middle where there is an even number.
template <class T>
double median(std::vector<T> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return static_cast<double>(*middle);
  return (static_cast<double>(*middle) + static_cast<double>(*std::max_element(values.begin(), middle))) / 2.0;
}

double share_where(const std::vector<double>& values, bool (*holds)(double)) {
  return static_cast<double>(std::count_if(values.begin(), values.end(), holds)) / static_cast<double>(values.size());
}

// Looks at one bottom with one background level and tolerance.
class Look {
 public:
  Look(const Bottom& bottom, int level, int tolerance) : bottom_(bottom), level_(level), tolerance_(tolerance) {
    for (std::size_t y = 0; y < bottom.height; ++y) {
      const std::size_t count = count_near(bottom.row(y), bottom.width, level, tolerance);
      share_.push_back(static_cast<double>(count) / static_cast<double>(bottom.width));
      line_.push_back(share_.back() < 1.0 - kLineShare && is_line(y));
    }
  }

  // First row of the bar, as a row of the bottom; nothing where it is no bar.
  std::optional<std::size_t> top_of_bar() const {
    const double frame_height = static_cast<double>(bottom_.height) / kMaxShare;
    std::size_t last = bottom_.height - 1;  // as NumPy's argmax of all False: the last row
    for (std::size_t y = bottom_.height; y-- > 0;) {
      if (is_inside(y)) {
        last = y;
        break;
      }
    }
    std::size_t top = last;
    while (top > 0 && is_inside(top - 1)) --top;
    if (static_cast<double>(bottom_.height - 1 - last) > std::max(kMaxRowsBelow * frame_height, 2.0)) return {};
    if (!jumps(top)) {
      // A dark picture looks like the bar's background; then only a line over the full width can tell them apart.
      const auto line = first_line(top, last);
      if (!line) return {};
      top = *line;
    }
    if (last < top + kMinRows || !has_text(top, last)) return {};
    return top;
  }

 private:
  bool is_background(std::uint8_t value) const { return std::abs(static_cast<int>(value) - level_) <= tolerance_; }
  bool is_inside(std::size_t y) const { return share_[y] >= kBackgroundShare || line_[y]; }

  // A row of one grey level that is not the background's: the frame drawn around a bar.
  bool is_line(std::size_t y) const {
    const std::uint8_t* row = bottom_.row(y);
    const std::size_t count = count_near(row, bottom_.width, row[bottom_.width / 2], tolerance_);
    return static_cast<double>(count) >= kLineShare * static_cast<double>(bottom_.width);
  }

  std::optional<std::size_t> first_line(std::size_t top, std::size_t last) const {
    for (std::size_t y = top; y + kMinRows <= last; ++y) {
      if (line_[y]) return y;
    }
    return {};
  }

  // The bar begins from one row to the next: no edge of a specimen is that straight.
  bool jumps(std::size_t top) const {
    if (top < 3) return false;  // higher than any bar
    const auto at = share_.begin() + static_cast<std::ptrdiff_t>(top);
    const auto end = share_.size() - top < 3 ? share_.end() : at + 3;
    const double above = median(std::vector<double>(at - 3, at));
    const double below = line_[top] ? 1.0 : median(std::vector<double>(at, end));
    return below - above >= kJump;
  }

  // Strokes of high contrast in some rows, none in others: not a blank, black or pre-allocated bottom.
  bool has_text(std::size_t top, std::size_t last) const {
    const std::vector<double> share(share_.begin() + static_cast<std::ptrdiff_t>(top),
                                    share_.begin() + static_cast<std::ptrdiff_t>(last) + 1);
    std::vector<std::uint8_t> strokes;
    for (std::size_t y = top; y <= last; ++y) {
      if (share_[y] >= 1.0 - 0.005 || share_[y] <= 1.0 - kLineShare) continue;
      const auto foreign = [&](std::uint8_t value) { return !is_background(value); };
      std::copy_if(bottom_.row(y), bottom_.row(y) + bottom_.width, std::back_inserter(strokes), foreign);
    }
    const std::size_t size = (last - top + 1) * bottom_.width;
    if (static_cast<double>(strokes.size()) < 0.003 * static_cast<double>(size) || strokes.empty()) return false;
    const double level = median(std::vector<std::uint8_t>(bottom_.row(top), bottom_.row(top) + size));
    const auto strong = std::count_if(strokes.begin(), strokes.end(),
                                      [&](std::uint8_t value) { return std::abs(value - level) >= 40.0; });
    return static_cast<double>(strong) / static_cast<double>(strokes.size()) >= 0.3 &&
           share_where(share, [](double s) { return s >= kCleanShare; }) >= 0.1 &&
           share_where(share, [](double s) { return s > 1.0 - kLineShare; }) >= 0.8 && median(share) >= 0.6;
  }

  const Bottom& bottom_;
  int level_;
  int tolerance_;
  std::vector<double> share_;
  std::vector<bool> line_;
};

// First bar row by metadata; nothing where it states no bar or one that cannot be.
std::optional<std::size_t> first_row_stated(const Described& described, std::size_t height, std::size_t width) {
  double first = 0.0;
  if (described.bar_rows.value_or(0) > 0) {
    first = static_cast<double>(height) - static_cast<double>(*described.bar_rows);
  } else if (described.picture_size && described.picture_size->second == width) {
    first = static_cast<double>(described.picture_size->first);
  } else {
    return {};
  }
  const auto rows = static_cast<double>(height);
  if (first < (1 - 2 * kMaxShare) * rows || first >= rows) return {};
  return static_cast<std::size_t>(first);
}

Crop crop_to(const GreyPixels& pixels, std::size_t rows, const char* reason) {
  return {0, 0, rows, pixels.width, rows == pixels.height ? "whole" : reason};
}

}  // namespace

std::optional<std::size_t> first_bar_row(const GreyPixels& pixels) {
  const auto height = static_cast<double>(pixels.height);
  const auto start = static_cast<std::size_t>(height * (1 - kMaxShare));
  const Bottom bottom = bottom_of(pixels, start);
  const std::size_t from = static_cast<std::size_t>(height * kProbeFrom) - start;
  const std::size_t to = std::max<std::size_t>(static_cast<std::size_t>(height * kProbeTo), 1) - start;
  if (to <= from || bottom.width == 0) return {};
  std::array<std::size_t, 256> counts{};
  std::for_each(bottom.row(from), bottom.row(from) + (to - from) * bottom.width, [&](std::uint8_t v) { ++counts[v]; });
  const auto most = std::max_element(counts.begin(), counts.end());
  if (static_cast<double>(*most) < kBackgroundShare * static_cast<double>((to - from) * bottom.width)) return {};
  for (const int tolerance : {0, 8}) {  // 8: bars that went through JPEG
    const auto top = Look(bottom, static_cast<int>(most - counts.begin()), tolerance).top_of_bar();
    if (top) return start + *top;
  }
  return {};
}

Result<Crop> crop_of(const GreyPixels& pixels, const Described& described, const std::optional<BarSetting>& bar,
                     const std::string& name) {
  const bool forced = bar && bar->force;
  if (!forced) {
    if (const auto first = first_row_stated(described, pixels.height, pixels.width)) {
      return crop_to(pixels, *first, "metadata");
    }
    if (const auto first = pixels.height >= kMinHeight ? first_bar_row(pixels) : std::nullopt) {
      return crop_to(pixels, *first, "detected");
    }
  }
  const std::size_t rows = bar ? bar->rows : 0;
  if (rows >= pixels.height) {
    return Failure{Error::kFrame, name + ": the frame has " + std::to_string(pixels.height) +
                                      " rows and the setting calls the last " + std::to_string(rows) +
                                      " info bar, which leaves no picture. Correct the setting of this instrument."};
  }
  return crop_to(pixels, pixels.height - rows, "setting");
}

}  // namespace hffnet
