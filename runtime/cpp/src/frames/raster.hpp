// PNG (libpng), JPEG (libjpeg) and BMP (stb_image) -> samples, the header checked before decoding.
#pragma once

#include <string>

#include "frames/byte_order.hpp"
#include "frames/samples.hpp"
#include "hffnet/frame.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

Result<Samples> samples_from_png(Bytes data, const std::string& name, const Limits& limits);
Result<Samples> samples_from_jpeg(Bytes data, const std::string& name, const Limits& limits);
Result<Samples> samples_from_bmp(Bytes data, const std::string& name, const Limits& limits);

// Refuses a JPEG stream that is cut off, too large, or of a kind decoders disagree about; for TIFF's strips as well.
Status check_jpeg(Bytes data, const std::string& name, const Limits& limits);

// Whether `mark` stands in the last 64 bytes: files that were not written to their end lack it.
bool ends_with_mark(Bytes data, Bytes mark);

}  // namespace hffnet
