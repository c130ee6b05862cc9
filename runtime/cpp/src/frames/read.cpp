#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <thread>

#include "attempt.hpp"
#include "frames/incoming_file.hpp"
#include "frames/info_bar.hpp"
#include "frames/metadata.hpp"
#include "frames/raster.hpp"
#include "frames/samples.hpp"
#include "frames/tiff.hpp"
#include "frames/tiff_directory.hpp"
#include "frames/unhashed.hpp"
#include "hffnet/frame.hpp"
#include "sha256.hpp"

namespace hffnet {
namespace {

constexpr std::size_t kWorthAThread = std::size_t{1} << 18U;  // bytes: hashing them takes several times its start
constexpr std::size_t kMaxSidecarBytes = std::size_t{1} << 18U;

// The first sidecar that can be read.
std::shared_ptr<const IncomingFile> sidecar_of(const std::string& path, bool follow_links) {
  for (const std::string& place : sidecars_of(path)) {
    auto opened = IncomingFile::open(place, kMaxSidecarBytes, follow_links);
    if (!opened.ok()) continue;
    auto file = std::move(opened).value();
    if (file->read().ok()) return file;
  }
  return nullptr;
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

// A hash of so many bytes, computed beside what follows where it is worth it and there is a processor for it.
template <class Hash>
std::future<std::string> beside(std::size_t num_bytes, Hash hash) {
  const bool is_beside = num_bytes >= kWorthAThread && std::thread::hardware_concurrency() > 1;
  return std::async(is_beside ? std::launch::async | std::launch::deferred : std::launch::deferred, std::move(hash));
}

// All of a frame but its hash.
Result<Frame> described_frame(Bytes data, const std::string& name, const Limits& limits,
                              const std::optional<BarSetting>& bar, const std::optional<Bytes>& sidecar) {
  std::map<unsigned, Bytes> tags;
  if (is_tiff(data)) {
    ATTEMPT(tags, tags_from_tiff(data, name));
  }
  ATTEMPT(GreyPixels pixels, decoded(data, name, limits));
  Described described = described_from_tags(tags, pixels.width);
  if (sidecar && !described.acquisition.vendor) described = described_from_sidecar(*sidecar, pixels.width);
  ATTEMPT(Crop crop, crop_of(pixels, described, bar, name));
  return Frame{std::move(pixels), std::move(crop), name, "", std::move(described.acquisition)};
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

Result<Unhashed> read_unhashed(const std::string& path, const Limits& limits, const std::optional<BarSetting>& bar,
                               bool follow_links) {
  return guarded(Error::kFrame, path, [&]() -> Result<Unhashed> {
    ATTEMPT(const std::shared_ptr<IncomingFile> file, IncomingFile::open(path, limits.max_file_bytes, follow_links));
    // It hashes what was read so far. Whatever `read` returns, it says that no more will come.
    std::future<std::string> sha256 = beside(file->size(), [file] { return file->sha256(); });
    ATTEMPT_DONE(file->read());
    const auto sidecar = sidecar_of(path, follow_links);
    ATTEMPT(Frame frame, described_frame(file->bytes(), path, limits, bar,
                                         sidecar ? std::optional<Bytes>(sidecar->bytes()) : std::nullopt));
    return Unhashed{std::move(frame), std::move(sha256)};
  });
}

Result<Frame> read_frame(const std::string& path, const Limits& limits, const std::optional<BarSetting>& bar,
                         bool follow_links) {
  return guarded(Error::kFrame, path, [&]() -> Result<Frame> {
    ATTEMPT(Unhashed read, read_unhashed(path, limits, bar, follow_links));
    read.frame.sha256 = read.sha256.get();
    return std::move(read.frame);
  });
}

Result<Frame> frame_from_bytes(std::span<const std::uint8_t> data, const std::string& name, const Limits& limits,
                               const std::optional<BarSetting>& bar,
                               std::optional<std::span<const std::uint8_t>> sidecar) {
  return guarded(Error::kFrame, name, [&]() -> Result<Frame> {
    ATTEMPT_DONE(check_file_size(data.size(), limits, name));
    std::future<std::string> sha256 = beside(data.size(), [data] { return sha256_of(data); });
    ATTEMPT(Frame frame, described_frame(data, name, limits, bar, sidecar));
    frame.sha256 = sha256.get();
    return frame;
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
