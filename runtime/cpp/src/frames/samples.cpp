#include "frames/samples.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "attempt.hpp"

namespace hffnet {
namespace {

// Sums over all pixels of the largest frame stay finite in float32.
constexpr float kMostReal = 1e29F;

Failure refusal(std::string sentence) {
  return Failure{Error::kFrame, std::move(sentence)};
}

template <class T>
std::span<T> as(std::vector<std::uint8_t>& bytes) {
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}

template <class T>
std::span<const T> as(const std::vector<std::uint8_t>& bytes) {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

// All samples, channels included, in one of the three depths.
struct Deep {
  Depth depth;
  std::vector<std::uint8_t> bytes;
};

template <class To, class From, class Map>
std::vector<std::uint8_t> mapped(std::span<const From> values, Map map) {
  std::vector<std::uint8_t> bytes(values.size() * sizeof(To));
  std::transform(values.begin(), values.end(), as<To>(bytes).begin(), map);
  return bytes;
}

// 17 bits and more: as they are where 16 hold them, else divided by the next 2^n - 1.
template <class T>
Deep from_wide(std::span<const T> values) {
  const T top = values.empty() ? T{0} : *std::max_element(values.begin(), values.end());
  const auto needed = static_cast<unsigned>(std::bit_width(top));
  if (needed <= 16) {
    return {Depth::kUint16, mapped<std::uint16_t>(values, [](T v) { return static_cast<std::uint16_t>(v); })};
  }
  const double scale = 1.0 / (std::ldexp(1.0, static_cast<int>(needed)) - 1.0);
  return {Depth::kFloat32,
          mapped<float>(values, [&](T v) { return static_cast<float>(static_cast<double>(v) * scale); })};
}

// 32 and 64 bits with a sign: the smallest value, at most 0, becomes 0.
template <class T>
Deep from_wide_signed(std::span<const T> values) {
  using Unsigned = std::make_unsigned_t<T>;
  const T low = values.empty() ? T{0} : std::min(T{0}, *std::min_element(values.begin(), values.end()));
  const auto shifted = mapped<Unsigned>(
      values, [&](T v) { return static_cast<Unsigned>(static_cast<Unsigned>(v) - static_cast<Unsigned>(low)); });
  return from_wide<Unsigned>(as<Unsigned>(shifted));
}

template <class T>
Result<Deep> from_real(std::span<const T> values, const std::string& name) {
  Deep deep{Depth::kFloat32, mapped<float>(values, [](T v) { return static_cast<float>(v); })};
  const auto reals = as<float>(deep.bytes);
  const auto bad = std::count_if(reals.begin(), reals.end(), [](float v) { return !(std::abs(v) <= kMostReal); });
  if (bad == 0) return deep;
  return refusal(name + ": " + std::to_string(bad) + " of " + std::to_string(reals.size()) +
                 " pixels are NaN or infinite (or beyond 1e+29), finite grey levels were expected. The frame is not "
                 "complete or was "
                 "computed wrongly: save it again, as 8- or 16-bit grey if possible.");
}

Result<Deep> deep_from(Samples& samples, const std::string& name, std::optional<unsigned> bits) {
  const bool is_signed = samples.kind == Kind::kSigned;
  if (samples.kind == Kind::kReal) {
    if (samples.bytes_per_sample == 8) return from_real(as<double>(std::as_const(samples.bytes)), name);
    if (samples.bytes_per_sample == 4) return from_real(as<float>(std::as_const(samples.bytes)), name);
  } else if (samples.bytes_per_sample == 1) {
    const bool packed = !is_signed && bits && *bits < 8;
    const auto gain = static_cast<std::uint8_t>(packed ? 255U / ((1U << *bits) - 1U) : 1U);
    const auto flip = static_cast<std::uint8_t>(is_signed ? 0x80U : 0U);
    const bool as_it_is = gain == 1 && flip == 0;
    for (std::uint8_t& value : as_it_is ? std::span<std::uint8_t>() : std::span(samples.bytes))
      value = static_cast<std::uint8_t>((value ^ flip) * gain);
    return Deep{Depth::kUint8, std::move(samples.bytes)};
  } else if (samples.bytes_per_sample == 2) {
    if (is_signed) {
      for (std::uint16_t& value : as<std::uint16_t>(samples.bytes)) value ^= 0x8000U;
    }
    return Deep{Depth::kUint16, std::move(samples.bytes)};
  } else if (samples.bytes_per_sample == 4) {
    return is_signed ? from_wide_signed(as<std::int32_t>(std::as_const(samples.bytes)))
                     : from_wide(as<std::uint32_t>(std::as_const(samples.bytes)));
  } else if (samples.bytes_per_sample == 8) {
    return is_signed ? from_wide_signed(as<std::int64_t>(std::as_const(samples.bytes)))
                     : from_wide(as<std::uint64_t>(std::as_const(samples.bytes)));
  }
  return refusal(name + ": samples of " + std::to_string(8 * samples.bytes_per_sample) +
                 " bits were found, which are not read. Save the frame as 8- or 16-bit grey.");
}

// Rec. 601 luma in the arithmetic of OpenCV's RGB2GRAY, to the bit for integers.
template <class T>
T luma(const T* rgb) {
  if constexpr (std::is_same_v<T, float>) {
    return 0.299F * rgb[0] + 0.587F * rgb[1] + 0.114F * rgb[2];
  } else {
    return static_cast<T>((9798ULL * rgb[0] + 19235ULL * rgb[1] + 3735ULL * rgb[2] + (1U << 14U)) >> 15U);
  }
}

template <class T>
void keep_grey(std::vector<std::uint8_t>& bytes, std::size_t channels) {
  const auto values = as<T>(bytes);
  const std::size_t num_pixels = values.size() / channels;
  for (std::size_t i = 0; i < num_pixels; ++i) {
    values[i] = channels >= 3 ? luma<T>(&values[i * channels]) : values[i * channels];
  }
  bytes.resize(num_pixels * sizeof(T));
}

template <class T>
void invert(std::vector<std::uint8_t>& bytes, std::optional<unsigned> bits) {
  const auto values = as<T>(bytes);
  T top{};
  if constexpr (std::is_same_v<T, float>) {
    for (const T value : values) top = std::max(top, value);
  } else {
    const bool fewer = sizeof(T) == 2 && bits && *bits < 16;
    top = static_cast<T>(fewer ? (1U << *bits) - 1U : (1U << (8U * sizeof(T))) - 1U);
  }
  for (T& value : values) value = static_cast<T>(top - value);
}

template <class Visit>
void for_depth(Depth depth, Visit visit) {
  if (depth == Depth::kUint8) return visit(std::uint8_t{});
  if (depth == Depth::kUint16) return visit(std::uint16_t{});
  visit(float{});
}

// Grey level of each palette entry; the depth is 8 bit where 8 bits say the same.
std::vector<std::uint16_t> palette_levels(std::span<const std::uint16_t> colormap, Depth& depth) {
  const std::size_t num_entries = colormap.size() / 3;
  std::vector<std::uint16_t> levels(num_entries);
  for (std::size_t i = 0; i < num_entries; ++i) {
    const double red = colormap[i], green = colormap[num_entries + i], blue = colormap[2 * num_entries + i];
    levels[i] = static_cast<std::uint16_t>(std::nearbyint(0.299 * red + 0.587 * green + 0.114 * blue));
  }
  const bool small = std::all_of(levels.begin(), levels.end(), [](std::uint16_t v) { return v <= 255; });
  const bool doubled = std::all_of(colormap.begin(), colormap.end(), [](std::uint16_t v) { return v % 257 == 0; });
  depth = small || doubled ? Depth::kUint8 : Depth::kUint16;
  if (!small && doubled) {
    for (std::uint16_t& level : levels) level = static_cast<std::uint16_t>(level / 257);
  }
  return levels;
}

}  // namespace

Result<GreyPixels> grey_from_samples(Samples samples, const std::string& name, std::optional<unsigned> bits,
                                     bool white_is_zero) {
  ATTEMPT(Deep deep, deep_from(samples, name, bits));
  if (samples.channels > 1) {
    for_depth(deep.depth, [&](auto zero) { keep_grey<decltype(zero)>(deep.bytes, samples.channels); });
  }
  if (white_is_zero) for_depth(deep.depth, [&](auto zero) { invert<decltype(zero)>(deep.bytes, bits); });
  return GreyPixels{deep.depth, samples.height, samples.width, std::move(deep.bytes)};
}

Result<GreyPixels> grey_from_palette(const Samples& indices, std::span<const std::uint16_t> colormap,
                                     const std::string& name) {
  Depth depth = Depth::kUint8;
  const std::vector<std::uint16_t> levels = palette_levels(colormap, depth);
  const bool wide = indices.bytes_per_sample == 2;
  const std::size_t num_pixels = indices.height * indices.width;
  GreyPixels grey{depth, indices.height, indices.width, {}};
  grey.bytes.resize(num_pixels * bytes_per_pixel(depth));
  const auto indices8 = as<std::uint8_t>(indices.bytes);
  const auto indices16 = as<std::uint16_t>(indices.bytes);
  for (std::size_t i = 0; i < num_pixels; ++i) {
    const std::size_t index = wide ? indices16[i] : indices8[i];
    if (index >= levels.size()) {
      return refusal(name + ": palette index " + std::to_string(index) + " was found, the colour map has " +
                     std::to_string(levels.size()) + " entries. The file is damaged: save the frame again.");
    }
    if (depth == Depth::kUint8) {
      grey.bytes[i] = static_cast<std::uint8_t>(levels[index]);
    } else {
      as<std::uint16_t>(grey.bytes)[i] = levels[index];
    }
  }
  return grey;
}

Status check_file_size(std::size_t num_bytes, const Limits& limits, const std::string& name) {
  if (num_bytes <= limits.max_file_bytes) return Done{};
  return refusal(name + ": " + std::to_string(num_bytes) + " bytes were found, at most " +
                 std::to_string(limits.max_file_bytes) +
                 " are read. If this is a real frame, raise the limit on file bytes.");
}

Status check_picture_size(std::uint64_t width, std::uint64_t height, std::uint64_t samples,
                          std::uint64_t bytes_per_sample, const Limits& limits, const std::string& name) {
  const std::string claim =
      name + ": the header claims " + std::to_string(width) + "x" + std::to_string(height) + " pixels";
  if (width < 1 || height < 1 || samples < 1 || bytes_per_sample < 1) {
    return refusal(claim + " of " + std::to_string(samples) +
                   " samples, at least 1x1 of 1 was expected. The file is damaged: save the frame again.");
  }
  std::uint64_t num_pixels = 0, num_bytes = 0;
  const bool beyond = __builtin_mul_overflow(width, height, &num_pixels) ||
                      __builtin_mul_overflow(num_pixels, samples * bytes_per_sample, &num_bytes);
  if (!beyond && num_pixels <= limits.max_pixels && num_bytes <= limits.max_decoded_bytes) return Done{};
  return refusal(claim + ", at most " + std::to_string(limits.max_pixels) + " pixels and " +
                 std::to_string(limits.max_decoded_bytes) +
                 " bytes are decoded. If this is a real frame, tile it or raise the limits.");
}

}  // namespace hffnet
