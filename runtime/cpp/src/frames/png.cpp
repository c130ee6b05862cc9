#include <png.h>

#include <array>
#include <csetjmp>
#include <cstring>

#include "attempt.hpp"
#include "frames/raster.hpp"

namespace hffnet {
namespace {

constexpr std::array<std::uint8_t, 8> kEnd{'I', 'E', 'N', 'D', 0xAE, 'B', 0x60, 0x82};

struct Source {
  const std::uint8_t* at;
  std::size_t left;
};

struct Shape {
  std::size_t height, width, channels, bytes_per_sample;
};

extern "C" {
static void take(png_structp png, png_bytep out, png_size_t count) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (count > source->left) png_error(png, "the file ends too early");
  std::memcpy(out, source->at, count);
  source->at += count;
  source->left -= count;
}
static void leave(png_structp png, png_const_charp text) {
  auto* kept = static_cast<std::array<char, 200>*>(png_get_error_ptr(png));
  std::strncpy(kept->data(), text, kept->size() - 1);
  png_longjmp(png, 1);
}
static void say_nothing(png_structp, png_const_charp) {}
}

// An open libpng reader; libpng leaves by longjmp, so its users hold plain data only.
class Reader {
 public:
  Reader(Bytes data, std::array<char, 200>& text) : source_{data.data(), data.size()} {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &text, leave, say_nothing);
    info_ = png_ != nullptr ? png_create_info_struct(png_) : nullptr;
    if (info_ != nullptr) png_set_read_fn(png_, &source_, take);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  // Expands palettes and packed bits, 16 bit to this machine's order.
  bool begin(Shape& shape) {
    if (info_ == nullptr || setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // our own limits were held against the header
    png_read_info(png_, info_);
    png_set_expand(png_);
    if (png_get_bit_depth(png_, info_) == 16) png_set_swap(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    shape = {png_get_image_height(png_, info_), png_get_image_width(png_, info_), png_get_channels(png_, info_),
             png_get_bit_depth(png_, info_) == 16 ? 2U : 1U};
    return true;
  }

  bool read(std::uint8_t** rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

 private:
  Source source_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

Status check_png(Bytes data, const std::string& name, const Limits& limits) {
  const auto width = number_at(data, 16, 4, false), height = number_at(data, 20, 4, false);
  const auto bits = number_at(data, 24, 1, false), colour = number_at(data, 25, 1, false);
  if (!colour) return Failure{Error::kFrame, name + ": the PNG has no header. The file is truncated: save it again."};
  const std::uint64_t channels = *colour == 0 ? 1 : *colour == 2 || *colour == 3 ? 3 : *colour == 4 ? 2 : 4;
  ATTEMPT_DONE(check_picture_size(*width, *height, channels, *bits == 16 ? 2 : 1, limits, name));
  if (ends_with_mark(data, kEnd)) return Done{};
  return Failure{Error::kFrame, name + ": the PNG of " + std::to_string(data.size()) +
                                    " bytes has no end chunk. The file is truncated: copy or save it again."};
}

}  // namespace

Result<Samples> samples_from_png(Bytes data, const std::string& name, const Limits& limits) {
  ATTEMPT_DONE(check_png(data, name, limits));
  std::array<char, 200> text{};
  Reader reader(data, text);
  Shape shape{};
  bool read = reader.begin(shape);
  Samples samples;
  if (read) {
    ATTEMPT_DONE(check_picture_size(shape.width, shape.height, shape.channels, shape.bytes_per_sample, limits, name));
    samples = {Kind::kUnsigned, shape.bytes_per_sample, shape.height, shape.width, shape.channels, {}};
    const std::size_t row_bytes = shape.width * shape.channels * shape.bytes_per_sample;
    samples.bytes.resize(shape.height * row_bytes);
    std::vector<std::uint8_t*> rows(shape.height);
    for (std::size_t y = 0; y < shape.height; ++y) rows[y] = samples.bytes.data() + y * row_bytes;
    read = reader.read(rows.data());
  }
  if (!read) {
    return Failure{Error::kFrame, name + ": the PNG cannot be decoded (" + text.data() +
                                      "). A complete, undamaged frame was expected: copy or save it again, as TIFF if "
                                      "possible."};
  }
  return samples;
}

}  // namespace hffnet
