#include "row_file.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "attempt.hpp"
#include "hffnet/record.hpp"

namespace hffnet::apps {
namespace {

constexpr double kRetryS = 1.0;
constexpr std::size_t kMostRow = std::size_t{16} << 20U;  // a thousand times what a row takes

std::string key_of(const std::string& path, std::uint64_t size, std::int64_t mtime_ns) {
  return path + '\n' + std::to_string(size) + '\n' + std::to_string(mtime_ns);
}

std::string text_of(const nlohmann::json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

Status DoneRows::read(const std::string& path, const std::string& bundle_sha256, const std::string& settings_sha256) {
  whole_bytes_ = 0;
  std::error_code error;
  const auto kind = std::filesystem::status(path, error).type();
  if (kind == std::filesystem::file_type::fifo || kind == std::filesystem::file_type::character) return Done{};
  std::ifstream file(path, std::ios::binary);
  if (!file) return Failure{Error::kRecord, path + " cannot be read (" + std::strerror(errno) + ")"};
  const auto line = std::make_unique_for_overwrite<char[]>(kMostRow);  // memory is taken where it is written to
  std::size_t number = 0;
  errno = 0;
  // The last line counts with its end only.
  while (file.getline(line.get(), static_cast<std::streamsize>(kMostRow)) && !file.eof()) {
    const auto num_bytes = static_cast<std::size_t>(file.gcount());
    ++number;
    auto taken = take({line.get(), num_bytes - 1}, bundle_sha256, settings_sha256);
    if (!taken.ok()) {
      return Failure{Error::kRecord, path + " line " + std::to_string(number) + " is no row of hffnet (" +
                                         taken.failure().sentence + "); name another file"};
    }
    whole_bytes_ += num_bytes;
  }
  if (file.eof()) return Done{};
  const bool is_unreadable = file.bad();
  return Failure{Error::kRecord,
                 path + (is_unreadable ? std::string(" cannot be read to its end (") + std::strerror(errno) + ")"
                                       : " line " + std::to_string(number + 1) +
                                             " is too long for a row of hffnet; name another file")};
}

Status DoneRows::take(std::string_view line, const std::string& bundle_sha256, const std::string& settings_sha256) {
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
    : descriptor_(other.descriptor_), is_ours_(std::exchange(other.is_ours_, false)), is_waiting_(other.is_waiting_) {}

RowFile& RowFile::operator=(RowFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(is_ours_, other.is_ours_);
  std::swap(is_waiting_, other.is_waiting_);
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
  is_waiting_ = false;
  for (;;) {
    struct stat before {};
    const bool can_cut = is_ours_ && ::fstat(descriptor_, &before) == 0 && S_ISREG(before.st_mode);
    if (!write_line(line, stop, tell)) return false;
    // A pipe has nothing to wait for. What the disk did not take may be lost although it was written: written again.
    if (::fdatasync(descriptor_) == 0 || errno == EINVAL || errno == EROFS) return true;
    const int reason = errno;
    if (!wait_for_room(reason, stop, tell)) return false;
    if (!can_cut || ::ftruncate(descriptor_, before.st_size) != 0) return true;
  }
}

// Whether all of it went out.
bool RowFile::write_line(const std::string& line, const sources::Stop& stop, const Tell& tell) {
  for (std::size_t done = 0; done < line.size();) {
    const ssize_t written = ::write(descriptor_, line.data() + done, line.size() - done);
    if (written >= 0) {
      done += static_cast<std::size_t>(written);
    } else if (errno == EPIPE || (errno != EINTR && !wait_for_room(errno, stop, tell))) {
      return false;  // a torn line is cut by the next run
    }
  }
  return true;
}

// Waits before another try; false on a stop. A pipe that its maker set not to wait is full, which is no fault.
bool RowFile::wait_for_room(int reason, const sources::Stop& stop, const Tell& tell) {
  if (reason == EAGAIN) {
    std::array<pollfd, 2> waited{{{descriptor_, POLLOUT, 0}, {stop.descriptor(), POLLIN, 0}}};
    ::poll(waited.data(), waited.size(), -1);
    return waited[0].revents != 0 || ::poll(waited.data(), 1, static_cast<int>(kRetryS * 1e3)) == 1;
  }
  if (!is_waiting_) tell(std::string("rows cannot be written (") + std::strerror(reason) + "); trying again");
  is_waiting_ = true;
  return !stop.wait(kRetryS);
}

}  // namespace hffnet::apps
