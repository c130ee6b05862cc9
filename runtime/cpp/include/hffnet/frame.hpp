// A file -> a frame: bytes read once, hashed, decoded within limits, metadata read, info bar found; as
// hffnet.runtime.read, frame and infobar.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hffnet/export.h"
#include "hffnet/preprocess.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

// How the microscope took the frame, as far as the file (or its sidecar) tells. UTF-8, one line each.
struct Acquisition {
  std::optional<std::string> vendor, instrument;
  std::optional<double> pixel_size_um;  // micrometres per pixel, never derived from "magnification"
  std::optional<std::string> pixel_size_source;
  std::optional<double> high_voltage_kv, working_distance_mm;
  std::optional<std::string> detector, operator_name, acquired_at;
};

// The picture without the info bar, in pixels of the stored frame; `reason` is whole, metadata, detected or setting.
struct Crop {
  std::size_t top, left, height, width;
  std::string reason;
};

// One grey channel in the depth the microscope wrote, rows without gaps; owns its memory.
struct GreyPixels {
  Depth depth = Depth::kUint8;
  std::size_t height = 0;
  std::size_t width = 0;
  std::vector<std::uint8_t> bytes;  // aligned for every depth, as operator new gives it

  GreyView view() const { return {bytes.data(), depth, height, width, width * bytes_per_pixel(depth)}; }
};

// One decoded frame: everything that was stored, info bar included, and which part of it is picture.
struct Frame {
  GreyPixels pixels;
  Crop crop;
  std::string name;    // path or source name, for people and records
  std::string sha256;  // of the file's bytes, or of depth, size and pixels where there is no file
  Acquisition acquisition;

  // The picture inside `crop`, a view into this frame.
  HFFNET_API GreyView picture() const;
};

// Upper bounds on one frame, held against the header before anything is decoded.
struct Limits {
  std::size_t max_file_bytes = std::size_t{512} << 20U;
  std::size_t max_pixels = 200'000'000;
  std::size_t max_decoded_bytes = std::size_t{1024} << 20U;  // width x height x samples x bytes per sample
};

// What the person at the instrument knows about its info bar.
struct BarSetting {
  std::size_t rows;    // rows at the bottom that are bar
  bool force = false;  // use `rows` always, not only where metadata and detection find nothing
};

// Reads one TIFF, PNG, JPEG or BMP, with the text file the microscope may have put beside it. Error::kFrame for a file
// that is missing, not a regular file, truncated, damaged, over a limit, or not a frame. `follow_links`: false for
// watched folders, whose file names are not trusted.
HFFNET_API Result<Frame> read_frame(const std::string& path, const Limits& limits = {},
                                    const std::optional<BarSetting>& bar = {}, bool follow_links = true);

// The same from the bytes of a file; `sidecar` is used where the file itself carries no vendor metadata.
HFFNET_API Result<Frame> frame_from_bytes(std::span<const std::uint8_t> data, const std::string& name,
                                          const Limits& limits = {}, const std::optional<BarSetting>& bar = {},
                                          std::optional<std::span<const std::uint8_t>> sidecar = {});

// A frame of pixels that came without a file, copied: from a camera or a program. Error::kFrame: over a limit.
HFFNET_API Result<Frame> frame_from_pixels(const GreyView& pixels, const std::string& name, const Limits& limits = {},
                                           const std::optional<BarSetting>& bar = {});

// Where makers put the text that belongs to a frame, best first: a.txt, a.hdr, a-tif.hdr.
HFFNET_API std::vector<std::string> sidecars_of(const std::string& path);

}  // namespace hffnet
