#include "row_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "attempt.hpp"
#include "hffnet/record.hpp"

namespace hffnet::apps {
namespace {

constexpr double kRetryS = 1.0;

std::string key_of(const std::string& path, std::uint64_t size, std::int64_t mtime_ns) {
  return path + '\n' + std::to_string(size) + '\n' + std::to_string(mtime_ns);
}

std::string text_of(const nlohmann::json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

Status DoneRows::read(const std::string& path, const std::string& bundle_sha256, const std::string& settings_sha256) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Failure{Error::kRecord, path + " cannot be read (" + std::strerror(errno) + ")"};
  whole_bytes_ = 0;
  std::size_t number = 0;
  for (std::string line; std::getline(file, line) && !file.eof();) {  // the last line counts with its end only
    ++number;
    auto taken = take(line, bundle_sha256, settings_sha256);
    if (!taken.ok()) {
      return Failure{Error::kRecord, path + " line " + std::to_string(number) + " is no row of hffnet (" +
                                         taken.failure().sentence + "); name another file"};
    }
    whole_bytes_ += line.size() + 1;
  }
  return Done{};
}

Status DoneRows::take(const std::string& line, const std::string& bundle_sha256, const std::string& settings_sha256) {
  return guarded(Error::kRecord, "a row", [&]() -> Status {
    const nlohmann::json row = nlohmann::json::parse(line, nullptr, false);
    if (!row.is_object() || row.value("schema_version", 0) != 1 || !row.contains("kind")) {
      return Failure{Error::kRecord, "a JSON object with schema_version 1 was expected"};
    }
    last_seq_ = row.value("seq", last_seq_);
    head_ = text_of(row, "hash");
    if (text_of(row, "kind") == "result" && row.at("input_path").is_string() &&
        text_of(row, "bundle_sha256") == bundle_sha256 && text_of(row, "settings_sha256") == settings_sha256) {
      inputs_.insert(key_of(row.at("input_path"), row.at("input_size"), row.at("input_mtime_ns")));
    }
    return hffnet::Done{};
  });
}

bool DoneRows::holds(const std::string& path, const sources::FileStamp& stamp) const {
  return inputs_.count(key_of(text_from_name(path), stamp.size, stamp.mtime_ns)) > 0;
}

Result<RowFile> RowFile::open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    return Failure{Error::kRecord,
                   path + " cannot be opened for writing (" + std::strerror(errno) + "); name another file"};
  }
  RowFile file(descriptor, true);
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    return Failure{Error::kRecord, path + " is written to by another run; end it or name another file"};
  }
  return file;
}

RowFile::RowFile(RowFile&& other) noexcept
    : descriptor_(other.descriptor_), is_ours_(std::exchange(other.is_ours_, false)) {}

RowFile& RowFile::operator=(RowFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(is_ours_, other.is_ours_);
  return *this;
}

RowFile::~RowFile() {
  if (is_ours_) ::close(descriptor_);
}

Status RowFile::cut(std::uint64_t bytes) {
  struct stat status {};
  const bool is_longer = ::fstat(descriptor_, &status) == 0 && static_cast<std::uint64_t>(status.st_size) > bytes;
  if (is_longer && ::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) {
    return Failure{Error::kRecord,
                   std::string("a torn last line cannot be removed (") + std::strerror(errno) + "); name another file"};
  }
  return Done{};
}

bool RowFile::is(const std::string& path) const {
  struct stat ours {
  }, theirs{};
  return ::fstat(descriptor_, &ours) == 0 && ::stat(path.c_str(), &theirs) == 0 && S_ISREG(ours.st_mode) &&
         ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

bool RowFile::append(const std::string& row, const sources::Stop& stop, const Tell& tell) {
  const std::string line = row + '\n';
  bool is_told = false;
  for (std::size_t done = 0; done < line.size();) {
    const ssize_t written = ::write(descriptor_, line.data() + done, line.size() - done);
    if (written >= 0) {
      done += static_cast<std::size_t>(written);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EPIPE) return false;
    if (!is_told) tell(std::string("rows cannot be written (") + std::strerror(errno) + "); trying again");
    is_told = true;
    if (stop.wait(kRetryS)) return false;  // a torn line is cut by the next run
  }
  ::fdatasync(descriptor_);  // a pipe has nothing to wait for
  return true;
}

}  // namespace hffnet::apps
