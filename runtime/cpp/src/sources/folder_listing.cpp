#include "sources/folder_listing.hpp"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <tuple>
#include <utility>

#include "sources/stop.hpp"

namespace hffnet::sources {
namespace {

constexpr std::size_t kLookedAtAgain = 256;
constexpr double kRacyS = 2.0;  // a folder's time has ticks of up to 2 s (FAT): a change in the same tick is not seen
constexpr double kMostShare = 0.05;  // of one core, for looks at a folder whose time did not change

std::uint64_t hash_of(const std::string& name) {
  return std::hash<std::string>{}(name);
}

std::int64_t nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

// Sorts by age and keeps the oldest `most`; whether any had to go.
bool cut(std::vector<NewFile>& files, std::size_t most) {
  std::sort(files.begin(), files.end(), [](const NewFile& one, const NewFile& other) {
    return std::tie(one.stamp.mtime_ns, one.name) < std::tie(other.stamp.mtime_ns, other.name);
  });
  const bool is_cut = files.size() > most;
  if (is_cut) files.resize(most);
  return is_cut;
}

// An open folder that closes itself.
class Folder {
 public:
  explicit Folder(const std::string& path) : folder_(::opendir(path.c_str())) {}
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    if (folder_ != nullptr) ::closedir(folder_);
  }
  DIR* get() const { return folder_; }

 private:
  DIR* folder_;
};

// DT_REG, DT_DIR or something else; symbolic links are not followed.
unsigned char kind_of(const dirent& entry, int folder) {
  if (entry.d_type != DT_UNKNOWN) return entry.d_type;
  struct stat status {};
  if (::fstatat(folder, entry.d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) return DT_UNKNOWN;
  return S_ISREG(status.st_mode) ? DT_REG : S_ISDIR(status.st_mode) ? DT_DIR : DT_UNKNOWN;
}

}  // namespace

FileStamp FileStamp::from_stat(const struct stat& status) {
  return {static_cast<std::uint64_t>(status.st_size), nanoseconds(status.st_mtim), status.st_ino};
}

std::uint64_t FileStamp::hash() const {
  std::uint64_t mixed = 0x9e3779b97f4a7c15U;
  for (const std::uint64_t part : {size, static_cast<std::uint64_t>(mtime_ns), inode}) {
    mixed = (mixed ^ part) * 0xff51afd7ed558ccdU;
    mixed ^= mixed >> 33U;
  }
  return mixed;
}

FolderListing::FolderListing(std::string path, IsWanted is_wanted, IsDone is_done, std::size_t most_new)
    : path_(std::move(path)), is_wanted_(std::move(is_wanted)), is_done_(std::move(is_done)), most_new_(most_new) {}

std::unordered_set<std::uint64_t> FolderListing::stamps() const {
  std::unordered_set<std::uint64_t> all;
  for (const auto& [name, stamp] : known_) all.insert(stamp);
  for (const auto& [name, stamp] : handled_) all.insert(stamp);
  return all;
}

bool FolderListing::is_due(double now, int& gone) {
  struct stat status {};
  gone = ::stat(path_.c_str(), &status) == 0 ? 0 : errno;
  if (gone != 0) return false;
  if (const std::int64_t mtime_ns = nanoseconds(status.st_mtim); mtime_ns != mtime_ns_) {
    mtime_ns_ = mtime_ns;
    changed_at_ = now;
  }
  return now - changed_at_ < kRacyS || !is_complete_ || now - looked_at_ >= cost_s_ / kMostShare;
}

// Puts the file into `look` where its version is new, else its hashes into `kept`.
void FolderListing::sift(const std::string& name, std::size_t number, int folder, Look& look,
                         std::unordered_map<std::uint64_t, std::uint64_t>& kept) {
  const auto known = known_.find(hash_of(name));
  const bool is_asked_again = number >= next_again_ && number < next_again_ + kLookedAtAgain;
  if (known != known_.end() && !is_asked_again) {
    kept.insert(*known);
    return;
  }
  struct stat status {};
  if (::fstatat(folder, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode)) return;
  const FileStamp stamp = FileStamp::from_stat(status);
  const auto handled = handled_.find(name);
  const bool has_mark = known != known_.end() || handled != handled_.end();
  const std::uint64_t mark = known != known_.end() ? known->second : has_mark ? handled->second : 0;
  const bool is_handled = has_mark ? stamp.hash() == mark : !is_complete_ && is_done_(path_ + "/" + name, stamp);
  if (is_handled) {
    kept[hash_of(name)] = stamp.hash();
  } else {
    look.found.push_back({name, stamp, static_cast<double>(nanoseconds(status.st_ctim)) * 1e-9});
  }
}

Look FolderListing::look(double now, int& gone) {
  const double began = monotonic_s();
  Look look;
  const Folder folder(path_);
  gone = folder.get() == nullptr ? errno : 0;
  if (gone != 0) return look;
  std::unordered_map<std::uint64_t, std::uint64_t> kept;
  std::size_t num_files = 0;
  bool is_cut = false;
  errno = 0;
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    const unsigned char kind = kind_of(*entry, ::dirfd(folder.get()));
    if (kind == DT_DIR && name != "." && name != "..") look.folders.push_back(name);
    if (kind == DT_REG && (known_.count(hash_of(name)) > 0 || is_wanted_(name)))
      sift(name, num_files++, ::dirfd(folder.get()), look, kept);
    if (look.found.size() >= 4 * most_new_) is_cut |= cut(look.found, 2 * most_new_);
    errno = 0;
  }
  gone = errno;
  if (gone != 0) return {};
  is_cut |= cut(look.found, most_new_);
  for (const auto& [name, stamp] : known_) {
    if (kept.count(name) == 0) look.vanished.insert(stamp);
  }
  for (const auto& [name, stamp] : handled_) {
    if (const auto found = kept.find(hash_of(name)); found == kept.end() || found->second != stamp) {
      look.vanished.insert(stamp);
    }
  }
  known_ = std::move(kept);
  handled_.clear();
  next_again_ = next_again_ < num_files ? next_again_ + kLookedAtAgain : 0;
  is_complete_ = is_complete_ || !is_cut;
  looked_at_ = now;
  cost_s_ = monotonic_s() - began;
  return look;
}

}  // namespace hffnet::sources
