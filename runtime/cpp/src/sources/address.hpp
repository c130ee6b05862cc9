// Where frames come from, as one text; the grammar of hffnet.runtime.sources as far as this runtime has the sources:
//
//   /data/out                                  watch a folder
//   dir:/data/out?pattern=*.tif&recursive=1    the same with options
//   v4l2:/dev/v4l/by-id/…?width=1280&fps=30    a camera or frame grabber
//   rtsp://…                                   a network camera; options after #
//   gst:ELEMENT ! ELEMENT                      any GStreamer pipeline that gives video/x-raw; options after #
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "hffnet/result.hpp"

namespace hffnet::sources {

// Options of a watched folder, in seconds; see hffnet.runtime.sources.FolderOptions.
struct FolderOptions {
  std::string pattern = "*.tif,*.tiff,*.png,*.jpg,*.jpeg,*.bmp";  // compared without case
  bool recursive = false;
  double poll_s = 0.1;       // pause between two looks
  bool events = true;        // also look where the system tells of a new file
  double settle_s = 0.08;    // same size, time and inode in two looks so far apart: complete
  double patience_s = 10.0;  // so long a file that cannot be read must stay unchanged before it is recorded as such
  // So long a complete frame waits for the text beside it; unset: 2 s where such a text has been seen in its folder.
  std::optional<double> sidecar_s;
};

// Options of a live source, in seconds; see hffnet.runtime.sources.live_options.
struct LiveOptions {
  double open_timeout_s = 10.0;  // opening and the first frame
  double stall_s = 2.0;          // without a frame for so long the source is called stalled
  double read_timeout_s = 5.0;   // ... its process is killed and it is opened anew
  double max_age_s = 0.5;        // an older frame is not classified
  std::optional<int> width, height;
  std::optional<double> fps;
};

struct FolderAddress {
  std::string folder;
  FolderOptions options;
};

struct LiveAddress {
  std::string scheme;  // v4l2, rtsp, rtsps or gst
  std::string target;  // what is opened: a device, a whole URL, a pipeline
  std::string name;    // for people and rows, without user name and password
  LiveOptions options;
};

using Address = std::variant<FolderAddress, LiveAddress>;

// The patterns in a text with commas; none where nothing stands between them.
std::vector<std::string> patterns_in(const std::string& text);

// Error::kConfig: unknown scheme or option. kSource: a folder that is not there.
Result<Address> address_from_uri(const std::string& uri);

}  // namespace hffnet::sources
