#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>

#include <jpeglib.h>

#include "attempt.hpp"
#include "frames/raster.hpp"

namespace hffnet {
namespace {

struct Header {
  std::uint64_t marker, bits, height, width, components;
};

// The first start-of-frame (ITU-T T.81, B.2.2); nothing where there is none.
std::optional<Header> header_of(Bytes data) {
  for (std::uint64_t place = 2;;) {
    const auto prefix = number_at(data, place, 1, false);
    const auto marker = number_at(data, place + 1, 1, false);
    if (!prefix || !marker || *prefix != 0xFF) return std::nullopt;
    place += *marker == 0xFF ? 1 : 2;
    const bool start = *marker >= 0xC0 && *marker <= 0xCF && *marker != 0xC4 && *marker != 0xC8 && *marker != 0xCC;
    if (start) {
      const auto bits = number_at(data, place + 2, 1, false), height = number_at(data, place + 3, 2, false);
      const auto width = number_at(data, place + 5, 2, false), components = number_at(data, place + 7, 1, false);
      if (!components) return std::nullopt;
      return Header{*marker, *bits, *height, *width, *components};
    }
    const bool no_length = *marker == 0x01 || (*marker >= 0xD0 && *marker <= 0xD8) || *marker == 0xFF;
    if (!no_length) {
      const auto length = number_at(data, place, 2, false);
      if (!length) return std::nullopt;
      place += std::max<std::uint64_t>(*length, 2);
    }
  }
}

// libjpeg reports errors by a call that must not return.
struct Errors {
  jpeg_error_mgr manager;
  std::jmp_buf back;
  std::array<char, JMSG_LENGTH_MAX> text;
};

extern "C" {
static void leave(j_common_ptr info) {
  auto* errors = reinterpret_cast<Errors*>(info->err);
  info->err->format_message(info, errors->text.data());
  std::longjmp(errors->back, 1);
}
static void say_nothing(j_common_ptr) {}
}

// Decodes into `samples`, whose memory is there already; false with errors.text where it cannot be done. Only plain
// data lives here: longjmp runs no destructor.
bool decode_into(Bytes data, std::uint8_t* out, bool colour, std::size_t row_bytes, Errors& errors) {
  jpeg_decompress_struct info;
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = leave;
  errors.manager.output_message = say_nothing;
  if (setjmp(errors.back) != 0) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data.data(), data.size());
  jpeg_read_header(&info, TRUE);
  info.out_color_space = colour ? JCS_RGB : JCS_GRAYSCALE;
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = out + info.output_scanline * row_bytes;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return true;
}

}  // namespace

bool ends_with_mark(Bytes data, Bytes mark) {
  const Bytes tail = data.last(std::min<std::size_t>(data.size(), 64));
  return std::search(tail.begin(), tail.end(), mark.begin(), mark.end()) != tail.end();
}

Status check_jpeg(Bytes data, const std::string& name, const Limits& limits) {
  const auto header = header_of(data);
  if (!header) {
    return Failure{Error::kFrame, name +
                                      ": the JPEG stream has no readable header. The file is damaged: save the "
                                      "frame again."};
  }
  const bool read = header->marker <= 0xC2 && header->bits == 8 && (header->components == 1 || header->components == 3);
  if (!read) {
    return Failure{Error::kFrame, name + ": a JPEG with " + std::to_string(header->bits) + " bits, " +
                                      std::to_string(header->components) + " components and coding " +
                                      std::to_string(header->marker) +
                                      " was found; 8 bits, 1 or 3 components, baseline or progressive were expected. "
                                      "Save the frame as TIFF."};
  }
  ATTEMPT_DONE(check_picture_size(header->width, header->height, header->components, 1, limits, name));
  constexpr std::array<std::uint8_t, 2> end{0xFF, 0xD9};
  if (!ends_with_mark(data, end)) {  // libjpeg fills a truncated stream with grey and only warns
    return Failure{Error::kFrame, name + ": the JPEG stream of " + std::to_string(data.size()) +
                                      " bytes has no end-of-image marker. The file is truncated: copy or save it "
                                      "again."};
  }
  return Done{};
}

Result<Samples> samples_from_jpeg(Bytes data, const std::string& name, const Limits& limits) {
  ATTEMPT_DONE(check_jpeg(data, name, limits));
  const Header header = *header_of(data);
  Samples samples{Kind::kUnsigned, 1, header.height, header.width, header.components, {}};
  samples.bytes.resize(samples.height * samples.width * samples.channels);
  Errors errors{};
  if (!decode_into(data, samples.bytes.data(), samples.channels == 3, samples.width * samples.channels, errors)) {
    return Failure{Error::kFrame, name + ": the JPEG cannot be decoded (" + errors.text.data() +
                                      "). A complete, undamaged frame was expected: copy or save it again, as TIFF if "
                                      "possible."};
  }
  return samples;
}

}  // namespace hffnet
