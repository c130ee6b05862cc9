#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <future>
#include <thread>

#include "attempt.hpp"
#include "frames/info_bar.hpp"
#include "frames/metadata.hpp"
#include "frames/raster.hpp"
#include "frames/samples.hpp"
#include "frames/tiff.hpp"
#include "frames/tiff_directory.hpp"
#include "hffnet/frame.hpp"
#include "sha256.hpp"

namespace hffnet {
namespace {

constexpr std::size_t kWorthAThread = std::size_t{1} << 18U;  // bytes: hashing them takes several times its start
constexpr std::size_t kMaxSidecarBytes = std::size_t{1} << 18U;

// An open file that closes itself.
class File {
 public:
  // Never waits on a pipe or a device.
  File(const std::string& path, bool follow_links)
      : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (follow_links ? 0 : O_NOFOLLOW))) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

Failure unreadable(const std::string& path, int number) {
  return Failure{Error::kFrame, path + ": cannot be read (" + std::strerror(number) +
                                    "). An existing, readable frame was expected: check path and permissions."};
}

// All bytes of a regular file, read once; what is written later belongs to another read.
Result<std::vector<std::uint8_t>> file_bytes(const std::string& path, std::size_t max_bytes, bool follow_links) {
  const File file(path, follow_links);
  struct stat about {};
  if (file.descriptor() < 0 || ::fstat(file.descriptor(), &about) != 0) return unreadable(path, errno);
  if (!S_ISREG(about.st_mode)) {
    return Failure{Error::kFrame, path + ": a file was expected, a folder, pipe or device found. Give a frame's path."};
  }
  Limits limits;
  limits.max_file_bytes = max_bytes;
  const auto size = static_cast<std::size_t>(about.st_size);
  ATTEMPT_DONE(check_file_size(size, limits, path));
  std::vector<std::uint8_t> data(size);
  std::size_t filled = 0;
  while (filled < size) {
    const ssize_t got = ::read(file.descriptor(), data.data() + filled, size - filled);
    if (got < 0 && errno != EINTR) return unreadable(path, errno);
    if (got == 0) break;
    filled += got > 0 ? static_cast<std::size_t>(got) : 0;
  }
  data.resize(filled);
  return data;
}

// The first sidecar that can be read.
std::optional<std::vector<std::uint8_t>> sidecar_of(const std::string& path, bool follow_links) {
  for (const std::string& place : sidecars_of(path)) {
    auto data = file_bytes(place, kMaxSidecarBytes, follow_links);
    if (data.ok()) return std::move(data).value();
  }
  return std::nullopt;
}

bool begins_with(Bytes data, std::string_view magic) {
  return data.size() >= magic.size() && std::memcmp(data.data(), magic.data(), magic.size()) == 0;
}

Result<GreyPixels> grey_from(Result<Samples> samples, const std::string& name) {
  if (!samples.ok()) return std::move(samples).failure();
  return grey_from_samples(std::move(samples).value(), name);
}

Result<GreyPixels> decoded(Bytes data, const std::string& name, const Limits& limits) {
  if (is_tiff(data)) return grey_from_tiff(data, name, limits);
  if (begins_with(data, "\x89PNG\r\n\x1a\n")) return grey_from(samples_from_png(data, name, limits), name);
  if (begins_with(data, "\xff\xd8\xff")) return grey_from(samples_from_jpeg(data, name, limits), name);
  if (begins_with(data, "BM")) return grey_from(samples_from_bmp(data, name, limits), name);
  return Failure{Error::kFrame, name + ": " + std::to_string(data.size()) +
                                    " bytes of another kind were found; a TIFF, PNG, JPEG or BMP was expected. Export "
                                    "the frame from the microscope in one of these formats."};
}

}  // namespace

GreyView Frame::picture() const {
  GreyView view = pixels.view();
  view.data = pixels.bytes.data() + crop.top * view.row_bytes + crop.left * bytes_per_pixel(view.depth);
  view.height = crop.height;
  view.width = crop.width;
  return view;
}

std::vector<std::string> sidecars_of(const std::string& path) {
  const std::filesystem::path source(path);
  const std::string suffix = source.has_extension() ? source.extension().string().substr(1) : "";
  return {std::filesystem::path(source).replace_extension(".txt").string(),
          std::filesystem::path(source).replace_extension(".hdr").string(),
          (source.parent_path() / (source.stem().string() + "-" + suffix + ".hdr")).string()};
}

Result<Frame> read_frame(const std::string& path, const Limits& limits, const std::optional<BarSetting>& bar,
                         bool follow_links) {
  return guarded(Error::kFrame, path, [&]() -> Result<Frame> {
    ATTEMPT(const std::vector<std::uint8_t> data, file_bytes(path, limits.max_file_bytes, follow_links));
    const auto sidecar = sidecar_of(path, follow_links);
    return frame_from_bytes(data, path, limits, bar,
                            sidecar ? std::optional<std::span<const std::uint8_t>>(*sidecar) : std::nullopt);
  });
}

Result<Frame> frame_from_bytes(std::span<const std::uint8_t> data, const std::string& name, const Limits& limits,
                               const std::optional<BarSetting>& bar,
                               std::optional<std::span<const std::uint8_t>> sidecar) {
  return guarded(Error::kFrame, name, [&]() -> Result<Frame> {
    ATTEMPT_DONE(check_file_size(data.size(), limits, name));
    // The hash takes longer than decoding: beside it where there is a processor for it.
    const bool is_beside = data.size() >= kWorthAThread && std::thread::hardware_concurrency() > 1;
    const auto when = is_beside ? std::launch::async | std::launch::deferred : std::launch::deferred;
    std::future<std::string> sha256 = std::async(when, [data] { return sha256_of(data); });
    std::map<unsigned, Bytes> tags;
    if (is_tiff(data)) {
      ATTEMPT(tags, tags_from_tiff(data, name));
    }
    ATTEMPT(GreyPixels pixels, decoded(data, name, limits));
    Described described = described_from_tags(tags, pixels.width);
    if (sidecar && !described.acquisition.vendor) described = described_from_sidecar(*sidecar, pixels.width);
    ATTEMPT(Crop crop, crop_of(pixels, described, bar, name));
    return Frame{std::move(pixels), std::move(crop), name, sha256.get(), std::move(described.acquisition)};
  });
}

Result<Frame> frame_from_pixels(const GreyView& pixels, const std::string& name, const Limits& limits,
                                const std::optional<BarSetting>& bar) {
  return guarded(Error::kFrame, name, [&]() -> Result<Frame> {
    ATTEMPT_DONE(check_picture_size(pixels.width, pixels.height, 1, bytes_per_pixel(pixels.depth), limits, name));
    GreyPixels packed{pixels.depth, pixels.height, pixels.width, {}};
    const std::size_t row_bytes = pixels.width * bytes_per_pixel(pixels.depth);
    packed.bytes.resize(pixels.height * row_bytes);
    for (std::size_t y = 0; y < pixels.height; ++y) {
      std::memcpy(packed.bytes.data() + y * row_bytes,
                  static_cast<const std::uint8_t*>(pixels.data) + y * pixels.row_bytes, row_bytes);
    }
    // NumPy's name of the depth, and the size: the same bytes in another shape are another picture.
    const char* depth = pixels.depth == Depth::kUint8 ? "|u1" : pixels.depth == Depth::kUint16 ? "<u2" : "<f4";
    const std::string head =
        std::string(depth) + " " + std::to_string(pixels.height) + " " + std::to_string(pixels.width) + " ";
    const std::array<Bytes, 2> parts{Bytes(reinterpret_cast<const std::uint8_t*>(head.data()), head.size()),
                                     Bytes(packed.bytes)};
    std::string sha256 = sha256_of_parts(parts);
    ATTEMPT(Crop crop, crop_of(packed, {}, bar, name));
    return Frame{std::move(packed), std::move(crop), name, std::move(sha256), {}};
  });
}

}  // namespace hffnet
