#include "frames/tiff.hpp"

#include <tiffio.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "attempt.hpp"
#include "frames/raster.hpp"
#include "frames/samples.hpp"
#include "frames/tiff_memory.hpp"

namespace hffnet {
namespace {

constexpr const char* kTake = " Save the frame as uncompressed, LZW or deflate TIFF, 8 or 16 bit grey.";

// What page 0 claims.
struct Page {
  std::uint32_t width = 0, height = 0, depth = 1;
  std::uint16_t bits = 1, format = SAMPLEFORMAT_UINT, channels = 1;
  std::uint16_t compression = COMPRESSION_NONE, photometric = 0, planar = PLANARCONFIG_CONTIG;
  bool is_tiled = false;
  std::uint32_t segment_width = 0, segment_height = 0;  // of a strip or tile

  std::size_t bytes_per_sample() const { return bits <= 8 ? 1 : bits <= 16 ? 2 : bits <= 32 ? 4 : 8; }
  bool is_jpeg() const { return compression == COMPRESSION_JPEG; }
  std::size_t num_planes() const { return planar == PLANARCONFIG_SEPARATE ? channels : 1; }
  std::size_t channels_per_plane() const { return planar == PLANARCONFIG_SEPARATE ? 1 : channels; }
};

Page page_of(TIFF* tiff) {
  Page page;
  TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &page.width);
  TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &page.height);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_IMAGEDEPTH, &page.depth);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_BITSPERSAMPLE, &page.bits);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLEFORMAT, &page.format);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLESPERPIXEL, &page.channels);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_COMPRESSION, &page.compression);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_PLANARCONFIG, &page.planar);
  TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &page.photometric);
  if (page.format == SAMPLEFORMAT_VOID) page.format = SAMPLEFORMAT_UINT;
  page.is_tiled = TIFFIsTiled(tiff) != 0;
  if (page.is_tiled) {
    TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &page.segment_width);
    TIFFGetField(tiff, TIFFTAG_TILELENGTH, &page.segment_height);
  } else {
    page.segment_width = page.width;
    TIFFGetFieldDefaulted(tiff, TIFFTAG_ROWSPERSTRIP, &page.segment_height);
    page.segment_height = std::min(page.segment_height, page.height);
  }
  return page;
}

bool is_one_of(unsigned value, std::initializer_list<unsigned> allowed) {
  return std::find(allowed.begin(), allowed.end(), value) != allowed.end();
}

bool bits_fit_format(const Page& page) {
  if (page.format == SAMPLEFORMAT_UINT) return is_one_of(page.bits, {1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64});
  if (page.format == SAMPLEFORMAT_INT) return is_one_of(page.bits, {8, 16, 32, 64});
  return page.format == SAMPLEFORMAT_IEEEFP && is_one_of(page.bits, {32, 64});
}

Status check_kind(TIFF* tiff, const Page& page, const std::string& name, const Limits& limits) {
  std::string wrong;
  const auto require = [&](bool good, const std::string& what) {
    if (!good) wrong += (wrong.empty() ? "" : ", ") + what;
  };
  require(is_one_of(page.compression, {1, 5, 7, 8, 32773, 32946, 50000}),
          "compression " + std::to_string(page.compression));
  require(is_one_of(page.photometric, {0, 1, 2, 3, 6}),
          "photometric interpretation " + std::to_string(page.photometric));
  require(bits_fit_format(page),
          std::to_string(page.bits) + " bits per sample of format " + std::to_string(page.format));
  require(page.channels >= 1 && page.channels <= 4, std::to_string(page.channels) + " samples per pixel");
  require(page.depth == 1, "depth " + std::to_string(page.depth));
  if (page.photometric == PHOTOMETRIC_PALETTE) {
    std::uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
    require(TIFFGetField(tiff, TIFFTAG_COLORMAP, &red, &green, &blue) == 1 && page.channels == 1 && page.bits <= 16 &&
                page.format == SAMPLEFORMAT_UINT,
            "a palette without colour map, or of more than one index per pixel");
  }
  if (page.photometric == PHOTOMETRIC_YCBCR && !page.is_jpeg()) {
    std::uint16_t across = 0, down = 0;
    TIFFGetFieldDefaulted(tiff, TIFFTAG_YCBCRSUBSAMPLING, &across, &down);
    require(across == 1 && down == 1, "subsampled colour");
  }
  if (!wrong.empty()) {
    return Failure{Error::kFrame,
                   name + ": a TIFF with " + wrong + " was found; grey, palette or RGB was expected." + kTake};
  }
  ATTEMPT_DONE(check_picture_size(page.width, page.height, page.channels, page.bytes_per_sample(), limits, name));
  return check_picture_size(page.segment_width, page.segment_height, page.channels, page.bytes_per_sample(), limits,
                            name);
}

// Every strip or tile is inside the file: readers fill missing ones with zeros.
Status check_segments(TIFF* tiff, const Page& page, Bytes data, const std::string& name, const Limits& limits) {
  const std::uint32_t expected = page.is_tiled ? TIFFNumberOfTiles(tiff) : TIFFNumberOfStrips(tiff);
  for (std::uint32_t i = 0; i < expected; ++i) {
    const std::uint64_t offset = TIFFGetStrileOffset(tiff, i), count = TIFFGetStrileByteCount(tiff, i);
    // Some writers round the byte count of an uncompressed strip up; libtiff itself refuses a short one.
    const std::uint64_t needed = page.compression == COMPRESSION_NONE ? 1 : count;
    if (offset == 0 || count == 0 || offset > data.size() || needed > data.size() - offset) {
      return Failure{Error::kFrame, name + ": strips or tiles are missing or lie outside the file (" +
                                        std::to_string(data.size()) + " bytes), " + std::to_string(expected) +
                                        " complete ones were expected. The file is truncated: copy or save it again."};
    }
    if (page.is_jpeg()) {
      ATTEMPT_DONE(
          check_jpeg(data.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(count)), name, limits));
    }
  }
  return Done{};
}

// One row of a strip or tile into every `stride`-th sample of `out`.
void unpack_row(const std::uint8_t* packed, std::size_t count, const Page& page, std::uint8_t* out,
                std::size_t stride) {
  const std::size_t width = page.bytes_per_sample();
  if (page.bits % 8 == 0) {
    const std::size_t stored = page.bits / 8U;  // 3 of 4 bytes for 24 bit, which libtiff has put in our order
    if (stride == 1 && stored == width) {
      std::memcpy(out, packed, count * width);
      return;
    }
    for (std::size_t i = 0; i < count; ++i) std::memcpy(out + i * stride * width, packed + i * stored, stored);
    return;
  }
  std::size_t bit = 0;
  for (std::size_t i = 0; i < count; ++i) {
    unsigned value = 0;
    for (unsigned k = 0; k < page.bits; ++k, ++bit) value = value << 1U | (packed[bit / 8] >> (7U - bit % 8) & 1U);
    const auto narrow = static_cast<std::uint16_t>(value);
    std::memcpy(out + i * stride * width, &narrow, width);
  }
}

class Decoder {
 public:
  Decoder(TIFF* tiff, const Page& page) : tiff_(tiff), page_(page) {}

  // False where libtiff cannot decode a strip or tile whole.
  bool decode(Samples& samples) {
    buffer_.resize(row_bytes() * page_.segment_height);
    std::uint32_t index = 0;
    for (std::size_t plane = 0; plane < page_.num_planes(); ++plane) {
      for (std::size_t top = 0; top < page_.height; top += page_.segment_height) {
        for (std::size_t left = 0; left < page_.width; left += page_.segment_width, ++index) {
          if (!read(index, top)) return false;
          place(samples, plane, top, left);
        }
      }
    }
    return true;
  }

 private:
  std::size_t row_bytes() const {
    return (std::size_t{page_.segment_width} * page_.channels_per_plane() * page_.bits + 7) / 8;
  }

  bool read(std::uint32_t index, std::size_t top) {
    const std::size_t rows =
        page_.is_tiled ? page_.segment_height : std::min<std::size_t>(page_.segment_height, page_.height - top);
    const auto expected = static_cast<tmsize_t>(rows * row_bytes());
    return (page_.is_tiled ? TIFFReadEncodedTile(tiff_, index, buffer_.data(), expected)
                           : TIFFReadEncodedStrip(tiff_, index, buffer_.data(), expected)) == expected;
  }

  void place(Samples& samples, std::size_t plane, std::size_t top, std::size_t left) const {
    const std::size_t rows = std::min<std::size_t>(page_.segment_height, page_.height - top);
    const std::size_t columns = std::min<std::size_t>(page_.segment_width, page_.width - left);
    const std::size_t stride = page_.num_planes() > 1 ? samples.channels : 1;
    for (std::size_t y = 0; y < rows; ++y) {
      const std::size_t first = ((top + y) * samples.width + left) * samples.channels + plane;
      unpack_row(buffer_.data() + y * row_bytes(), columns * page_.channels_per_plane(), page_,
                 samples.bytes.data() + first * samples.bytes_per_sample, stride);
    }
  }

  TIFF* tiff_;
  const Page& page_;
  std::vector<std::uint8_t> buffer_;
};

void keep_first_channel(Samples& samples) {
  const std::size_t step = samples.channels * samples.bytes_per_sample;
  for (std::size_t i = 0; i < samples.height * samples.width; ++i) {
    std::memmove(&samples.bytes[i * samples.bytes_per_sample], &samples.bytes[i * step], samples.bytes_per_sample);
  }
  samples.channels = 1;
  samples.bytes.resize(samples.height * samples.width * samples.bytes_per_sample);
}

Result<GreyPixels> grey_of(TIFF* tiff, const Page& page, Samples samples, const std::string& name) {
  if (page.photometric == PHOTOMETRIC_PALETTE) {
    std::uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
    TIFFGetField(tiff, TIFFTAG_COLORMAP, &red, &green, &blue);
    const std::size_t num_entries = std::size_t{1} << page.bits;
    std::vector<std::uint16_t> colormap;
    for (const std::uint16_t* colour : {red, green, blue})
      colormap.insert(colormap.end(), colour, colour + num_entries);
    return grey_from_palette(samples, colormap, name);
  }
  if (page.photometric == PHOTOMETRIC_YCBCR && !page.is_jpeg() && samples.channels == 3) keep_first_channel(samples);
  return grey_from_samples(std::move(samples), name, page.bits, page.photometric == PHOTOMETRIC_MINISWHITE);
}

}  // namespace

Result<GreyPixels> grey_from_tiff(Bytes data, const std::string& name, const Limits& limits) {
  TiffMemory memory(data);
  TIFF* tiff = memory.open();
  if (tiff == nullptr) {
    return Failure{Error::kFrame, name + ": the TIFF cannot be opened (" + memory.complaint() + ")." + kTake};
  }
  Page page = page_of(tiff);
  ATTEMPT_DONE(check_kind(tiff, page, name, limits));
  ATTEMPT_DONE(check_segments(tiff, page, data, name, limits));
  if (page.is_jpeg() && page.photometric == PHOTOMETRIC_YCBCR) {
    TIFFSetField(tiff, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
  }
  Samples samples{page.format == SAMPLEFORMAT_INT      ? Kind::kSigned
                  : page.format == SAMPLEFORMAT_IEEEFP ? Kind::kReal
                                                       : Kind::kUnsigned,
                  page.bytes_per_sample(),
                  page.height,
                  page.width,
                  page.channels,
                  {}};
  samples.bytes.resize(samples.height * samples.width * samples.channels * samples.bytes_per_sample);
  if (!Decoder(tiff, page).decode(samples)) {
    return Failure{Error::kFrame, name + ": the TIFF cannot be decoded (" + memory.complaint() +
                                      "). A complete, undamaged page 0 was expected." + kTake};
  }
  return grey_of(tiff, page, std::move(samples), name);
}

}  // namespace hffnet
