#include <cstdlib>
#include <limits>
#include <memory>

#include "attempt.hpp"
#include "frames/raster.hpp"

#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_MAX_DIMENSIONS (1 << 24)
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace hffnet {
namespace {

Failure refusal(std::string sentence) {
  return Failure{Error::kFrame, std::move(sentence)};
}

Status check_bmp(Bytes data, const std::string& name, const Limits& limits) {
  const auto start = number_at(data, 10, 4, true), header = number_at(data, 14, 4, true);
  const auto width = number_at(data, 18, 4, true), height = number_at(data, 22, 4, true);
  const auto bits = number_at(data, 28, 2, true), coding = number_at(data, 30, 4, true);
  if (!coding) return refusal(name + ": the BMP has no header. The file is truncated: copy or save it again.");
  if (*header < 40 || (*coding != 0 && *coding != 3)) {
    return refusal(name + ": a BMP with a header of " + std::to_string(*header) + " bytes and coding " +
                   std::to_string(*coding) +
                   " was found, an uncompressed Windows bitmap was expected. Save the frame as TIFF.");
  }
  // Both are signed; a negative height counts rows from the top, a negative width is refused as 0.
  const auto rows = static_cast<std::int32_t>(*height);
  const std::uint64_t num_rows = static_cast<std::uint64_t>(std::abs(static_cast<std::int64_t>(rows)));
  const std::uint64_t num_columns = *width > 0x7FFFFFFF ? 0 : *width;
  ATTEMPT_DONE(check_picture_size(num_columns, num_rows, 4, 1, limits, name));
  const std::uint64_t needed = *start + (num_columns * *bits + 31) / 32 * 4 * num_rows;
  if (needed <= data.size()) return Done{};
  return refusal(name + ": the BMP needs " + std::to_string(needed) + " bytes and has " + std::to_string(data.size()) +
                 ". The file is truncated: copy or save it again.");
}

}  // namespace

Result<Samples> samples_from_bmp(Bytes data, const std::string& name, const Limits& limits) {
  ATTEMPT_DONE(check_bmp(data, name, limits));
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> rgb(
      stbi_load_from_memory(data.data(), static_cast<int>(data.size()), &width, &height, &channels, 3),
      stbi_image_free);
  if (rgb == nullptr) {
    return refusal(name + ": the BMP cannot be decoded (" + stbi_failure_reason() +
                   "). A complete, undamaged frame was expected: copy or save it again, as TIFF if possible.");
  }
  Samples samples{Kind::kUnsigned, 1, static_cast<std::size_t>(height), static_cast<std::size_t>(width), 3, {}};
  samples.bytes.assign(rgb.get(), rgb.get() + samples.height * samples.width * 3);
  return samples;
}

}  // namespace hffnet
