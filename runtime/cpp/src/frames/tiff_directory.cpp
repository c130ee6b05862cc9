#include "frames/tiff_directory.hpp"

#include <algorithm>

#include "attempt.hpp"

namespace hffnet {
namespace {

constexpr std::uint64_t kMaxTags = 4096;
constexpr std::uint64_t kMaxValues = std::uint64_t{1} << 21U;
constexpr std::uint64_t kMaxTagBytes = std::uint64_t{1} << 20U;

// Bytes per value of a TIFF field type; 1 where the type is not known.
std::uint64_t type_bytes(std::uint64_t type) {
  switch (type) {
    case 3:
    case 8:
      return 2;
    case 4:
    case 9:
    case 11:
    case 13:
      return 4;
    case 5:
    case 10:
    case 12:
    case 16:
    case 17:
    case 18:
      return 8;
    default:
      return 1;
  }
}

bool is_text(std::uint64_t type) {
  return type == 1 || type == 2 || type == 6 || type == 7;
}

// Where strips (273) and tiles (324) lie, and how long they are (279, 325).
bool is_place_or_length(std::uint64_t code) {
  return code == 273 || code == 279 || code == 324 || code == 325;
}

bool has_zero(Bytes values, std::uint64_t width) {
  for (std::size_t place = 0; place + width <= values.size(); place += static_cast<std::size_t>(width)) {
    if (number_at(values, place, static_cast<std::size_t>(width), true) == 0) return true;
  }
  return false;
}

Failure damaged(const std::string& name, const std::string& why, std::size_t size) {
  return Failure{Error::kFrame, name + ": the TIFF's directory is damaged (" + why + "), a list of tags inside " +
                                    std::to_string(size) +
                                    " bytes was expected. The file is truncated or not a TIFF: save the frame again."};
}

}  // namespace

bool is_tiff(Bytes data) {
  if (data.size() < 4) return false;
  const bool little = data[0] == 'I' && data[1] == 'I' && (data[2] == '*' || data[2] == '+') && data[3] == 0;
  const bool big = data[0] == 'M' && data[1] == 'M' && data[2] == 0 && (data[3] == '*' || data[3] == '+');
  return little || big;
}

Result<std::map<unsigned, Bytes>> tags_from_tiff(Bytes data, const std::string& name) {
  const bool little = data[0] == 'I';
  const bool wide = data[2] == '+' || data[3] == '+';
  const std::size_t inline_bytes = wide ? 8 : 4;
  const auto start = number_at(data, wide ? 8 : 4, inline_bytes, little);
  if (!start || *start < 8 || *start >= data.size()) return damaged(name, "page 0 lies outside", data.size());
  const auto num_tags = number_at(data, *start, wide ? 8 : 2, little);
  if (!num_tags || *num_tags == 0 || *num_tags > kMaxTags) return damaged(name, "number of tags", data.size());
  std::map<unsigned, Bytes> tags;
  std::uint64_t num_values = 0;
  for (std::uint64_t i = 0; i < *num_tags; ++i) {
    const std::uint64_t place = *start + (wide ? 8 : 2) + i * (4 + 2 * inline_bytes);
    const auto code = number_at(data, place, 2, little), type = number_at(data, place + 2, 2, little);
    const auto count = number_at(data, place + 4, inline_bytes, little);
    const std::uint64_t where = place + 4 + inline_bytes;
    const auto value = number_at(data, where, inline_bytes, little);
    if (!value) return damaged(name, "cut off", data.size());
    std::uint64_t num_bytes = 0;
    const bool beyond = __builtin_mul_overflow(*count, type_bytes(*type), &num_bytes);
    const std::uint64_t offset = num_bytes > inline_bytes || beyond ? *value : where;
    if (beyond || offset > data.size() || num_bytes > data.size() - offset) {
      return damaged(name, "tag " + std::to_string(*code) + " lies outside", data.size());
    }
    num_values += is_text(*type) ? 0 : *count;
    if (num_values > kMaxValues) {
      return Failure{Error::kFrame, name + ": the TIFF's tags hold more than " + std::to_string(kMaxValues) +
                                        " values. Save the frame as uncompressed, LZW or deflate TIFF."};
    }
    const Bytes raw =
        data.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(std::min(num_bytes, kMaxTagBytes)));
    tags[static_cast<unsigned>(*code)] = raw;
    if (is_place_or_length(*code) && has_zero(raw, type_bytes(*type))) {
      return Failure{Error::kFrame, name +
                                        ": strips or tiles are missing, complete ones were expected. The file is "
                                        "truncated: copy or save it again."};
    }
  }
  const auto photometric = tags.find(262);
  if (photometric != tags.end() && !tags.contains(320) && number_at(photometric->second, 0, 2, little) == 3) {
    return Failure{Error::kFrame, name +
                                      ": a TIFF with a palette without colour map was found; grey, palette or RGB "
                                      "was expected. Save the frame as 8- or 16-bit grey."};
  }
  return tags;
}

}  // namespace hffnet
