#include "zip_archive.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>

#include "attempt.hpp"

namespace hffnet {
namespace {

constexpr std::int64_t kMaxMembers = 32;
constexpr std::uint64_t kMaxBytes = (std::uint64_t{4} << 30U) - 1;
constexpr std::uint32_t kFileKind = 0170000;  // of the Unix mode in the upper half of the external attributes
constexpr std::uint32_t kLink = 0120000;

Failure refusal(std::string sentence) {
  return Failure{Error::kBundle, std::move(sentence)};
}

// What can be said of the file before a zip reader sees it.
Status check_file(const std::string& path) {
  std::error_code error;
  const std::uint64_t size = std::filesystem::file_size(path, error);
  if (error) return refusal(path + " cannot be read: " + error.message());
  if (size > kMaxBytes) {
    return refusal(path + " has " + std::to_string(size) + " bytes; at most " + std::to_string(kMaxBytes) +
                   " are read");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return refusal(path + " cannot be read: " + std::strerror(errno));
  std::string magic(4, '\0');
  file.read(magic.data(), 4);
  if (file.gcount() != 4 || magic != "PK\x03\x04") {
    return refusal(path + " is not a bundle: expected a *.hffnet file written by hffnet export");
  }
  return Done{};
}

}  // namespace

Result<ZipArchive> ZipArchive::open(const std::string& path) {
  ATTEMPT_DONE(check_file(path));
  int code = 0;
  zip_t* opened = zip_open(path.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &code);
  if (opened == nullptr) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    std::string why = zip_error_strerror(&error);
    zip_error_fini(&error);
    return refusal(path + " is not a sound bundle (*.hffnet): " + why + "; copy or export it again");
  }
  ZipArchive archive(path, opened);
  const std::int64_t count = zip_get_num_entries(opened, 0);
  if (count > kMaxMembers) {
    return refusal(path + " has " + std::to_string(count) + " members; a bundle has at most " +
                   std::to_string(kMaxMembers));
  }
  for (std::int64_t i = 0; i < count; ++i) ATTEMPT_DONE(archive.check_member(static_cast<std::uint64_t>(i)));
  if (std::set<std::string>(archive.names_.begin(), archive.names_.end()).size() != archive.names_.size()) {
    return refusal(path + " holds two members of one name");
  }
  ATTEMPT_DONE(archive.check_length());
  return archive;
}

Status ZipArchive::check_member(std::uint64_t index) {
  zip_stat_t about;
  zip_stat_init(&about);
  const char* raw = zip_get_name(archive_.get(), index, ZIP_FL_ENC_RAW);
  if (raw == nullptr || zip_stat_index(archive_.get(), index, ZIP_FL_ENC_RAW, &about) != 0) return unsound("its list");
  const std::string name = raw;
  zip_uint8_t system = 0;
  zip_uint32_t attributes = 0;
  zip_file_get_external_attributes(archive_.get(), index, 0, &system, &attributes);
  const bool plain = about.comp_method == ZIP_CM_STORE && about.comp_size == about.size &&
                     about.encryption_method == ZIP_EM_NONE && (attributes >> 16U & kFileKind) != kLink &&
                     !name.empty() && name.back() != '/';
  if (!plain) return refusal(path_ + ": member '" + name + "' is compressed, encrypted, a link or a folder");
  if (name.find("..") != std::string::npos || name.front() == '/') {
    return refusal(path_ + ": member name '" + name + "' is not allowed");
  }
  names_.push_back(name);
  sizes_.push_back(about.size);
  return Done{};
}

// Local header, directory entry and end record have these lengths (APPNOTE.TXT, 4.3): no gap, comment, extra field,
// name with a NUL or second archive has room.
Status ZipArchive::check_length() const {
  std::uint64_t needed = 22;
  for (std::size_t i = 0; i < names_.size(); ++i) needed += 30 + 46 + 2 * names_[i].size() + sizes_[i];
  std::error_code error;
  const std::uint64_t found = std::filesystem::file_size(path_, error);
  if (!error && found == needed) return Done{};
  return refusal(path_ + " has " + std::to_string(found) + " bytes where its " + std::to_string(names_.size()) +
                 " members need " + std::to_string(needed) + "; copy or export it again");
}

bool ZipArchive::holds(std::string_view name) const {
  return std::find(names_.begin(), names_.end(), name) != names_.end();
}

std::size_t ZipArchive::index_of(std::string_view name) const {
  return static_cast<std::size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
}

std::uint64_t ZipArchive::size_of(std::string_view name) const {
  return sizes_[index_of(name)];
}

Result<std::vector<std::uint8_t>> ZipArchive::read(std::string_view name) const {
  const std::size_t index = index_of(name);
  const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> file(zip_fopen_index(archive_.get(), index, 0), zip_fclose);
  if (file == nullptr) return unsound(zip_strerror(archive_.get()));
  std::vector<std::uint8_t> content(sizes_[index]);
  std::uint64_t filled = 0;
  while (filled < content.size()) {
    const std::int64_t got = zip_fread(file.get(), content.data() + filled, content.size() - filled);
    if (got <= 0) return unsound("member '" + names_[index] + "' is cut off or damaged");
    filled += static_cast<std::uint64_t>(got);
  }
  // The checksum is compared when the end is reached, which takes one more read.
  std::uint8_t beyond = 0;
  if (zip_fread(file.get(), &beyond, 1) != 0) return unsound("member '" + names_[index] + "' is damaged");
  return content;
}

Failure ZipArchive::unsound(const std::string& why) const {
  return refusal(path_ + " is not a sound bundle (*.hffnet): " + why + "; copy or export it again");
}

}  // namespace hffnet
