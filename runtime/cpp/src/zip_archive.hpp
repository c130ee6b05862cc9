// A zip with stored members only, through libzip; refuses everything a bundle has no use for.
#pragma once

#include <zip.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hffnet/result.hpp"

namespace hffnet {

// An open archive whose members are known to be plain: stored, not encrypted, no link, folder or path trick.
class ZipArchive {
 public:
  // Error::kBundle for anything that is not such an archive.
  static Result<ZipArchive> open(const std::string& path);

  const std::vector<std::string>& names() const { return names_; }
  bool holds(std::string_view name) const;
  // What the archive says; the member must be there.
  std::uint64_t size_of(std::string_view name) const;
  // All bytes of a member that is there, checked against the archive's own checksum.
  Result<std::vector<std::uint8_t>> read(std::string_view name) const;

 private:
  struct Close {
    void operator()(zip_t* archive) const { zip_discard(archive); }
  };

  ZipArchive(std::string path, zip_t* archive) : path_(std::move(path)), archive_(archive) {}
  Status check_member(std::uint64_t index);
  Status check_length() const;
  Failure unsound(const std::string& why) const;
  std::size_t index_of(std::string_view name) const;

  std::string path_;
  std::unique_ptr<zip_t, Close> archive_;
  std::vector<std::string> names_;
  std::vector<std::uint64_t> sizes_;
};

}  // namespace hffnet
