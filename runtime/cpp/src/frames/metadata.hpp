// What the microscope wrote about the frame -> Acquisition, and where the info bar begins if it says so; as
// hffnet.runtime.metadata. Nothing here can make a read fail: what cannot be understood is left out.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <utility>

#include "frames/byte_order.hpp"
#include "hffnet/frame.hpp"

namespace hffnet {

// Metadata of one frame.
struct Described {
  Acquisition acquisition;
  // (height, width) of the scan where the metadata states it; more stored rows are an info bar.
  std::optional<std::pair<std::size_t, std::size_t>> picture_size;
  std::optional<std::size_t> bar_rows;  // of the info bar at the bottom where the metadata states it
};

// From the raw bytes of a TIFF's tags by code; `stored_width` because a pixel size that belongs to another width is
// not used.
Described described_from_tags(const std::map<unsigned, Bytes>& tags, std::size_t stored_width);

// From a text file beside the frame: TESCAN .hdr, JEOL or Hitachi .txt.
Described described_from_sidecar(Bytes data, std::size_t stored_width);

}  // namespace hffnet
