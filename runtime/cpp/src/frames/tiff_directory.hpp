// Page 0's directory of a TIFF, read before libtiff: every claim inside the file, nothing without bound.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "frames/byte_order.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

// Raw bytes of page 0's tags by code, at most 1 MiB each; views into `data`. Error::kFrame where the
// directory is damaged, would make a reader work without bound, or lacks what libtiff would make up: places
// and lengths of strips and tiles, a palette's colours.
Result<std::map<unsigned, Bytes>> tags_from_tiff(Bytes data, const std::string& name);

// Whether the file begins like a TIFF or BigTIFF of either byte order.
bool is_tiff(Bytes data);

}  // namespace hffnet
