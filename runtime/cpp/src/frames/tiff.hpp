// TIFF bytes -> grey pixels through libtiff: page 0 only, what the header claims checked before decoding.
#pragma once

#include <string>

#include "frames/byte_order.hpp"
#include "hffnet/frame.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

// `data` has passed tags_from_tiff.
Result<GreyPixels> grey_from_tiff(Bytes data, const std::string& name, const Limits& limits);

}  // namespace hffnet
