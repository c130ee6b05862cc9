#include "sources/folder_listing.hpp"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <tuple>
#include <utility>

#include "sources/stop.hpp"

namespace hffnet::sources {
namespace {

constexpr std::size_t kLookedAtAgain = 256;
constexpr double kRacyS = 2.0;  // a folder's time has ticks of up to 2 s (FAT): a change in the same tick is not seen
constexpr double kPause = 20.0, kPauseWhenChanged = 3.0;  // in times of what the last look took
constexpr std::size_t kCheap = 10'000;                    // files whose names are read in some milliseconds

std::uint64_t hash_of(const std::string& name) {
  return std::hash<std::string>{}(name);
}

// File systems name years that 64 bits of nanoseconds do not reach.
std::int64_t nanoseconds(const timespec& time) {
  constexpr std::int64_t kFarthest = 9'223'372'035;
  return std::clamp(static_cast<std::int64_t>(time.tv_sec), -kFarthest, kFarthest) * 1'000'000'000 + time.tv_nsec;
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

std::string path_in(const std::string& folder, const std::string& name) {
  return folder == "/" ? folder + name : folder + "/" + name;
}

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
  for (const Known& file : known_) all.insert(file.stamp);
  for (const auto& [name, stamp] : handled_) all.insert(stamp);
  return all;
}

bool FolderListing::is_due(double now, int& gone) {
  struct stat status {};
  gone = ::stat(path_.c_str(), &status) == 0 ? 0 : errno;
  has_changed_ = has_changed_ || gone != 0;
  if (gone != 0) return false;
  if (const std::int64_t mtime_ns = nanoseconds(status.st_mtim); mtime_ns != mtime_ns_) {
    mtime_ns_ = mtime_ns;
    changed_at_ = now;
    has_changed_ = true;
  }
  if (!is_complete_ || now - looked_at_ >= kPause * cost_s_) return true;
  const bool is_racy = looked_at_ < changed_at_ + kRacyS;
  return is_racy && (known_.size() < kCheap || now - looked_at_ >= kPauseWhenChanged * cost_s_);
}

std::size_t FolderListing::place_of(std::uint64_t name) const {
  const auto found = std::lower_bound(known_.begin(), known_.end(), Known{name, 0});
  const bool is_known = found != known_.end() && found->name == name;
  return static_cast<std::size_t>((is_known ? found : known_.end()) - known_.begin());
}

std::optional<std::uint64_t> FolderListing::asked(const std::string& name, std::optional<std::uint64_t> handled,
                                                  int folder, Look& look) const {
  struct stat status {};
  if (::fstatat(folder, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode)) {
    return std::nullopt;
  }
  const FileStamp stamp = FileStamp::from_stat(status);
  const bool is_handled = handled ? stamp.hash() == *handled : !is_complete_ && is_done_(path_in(path_, name), stamp);
  if (is_handled) return stamp.hash();
  look.found.push_back({name, stamp, static_cast<double>(nanoseconds(status.st_ctim)) * 1e-9});
  return std::nullopt;
}

void FolderListing::sift(const std::string& name, std::size_t place, int folder, Look& look, Pass& pass) {
  const std::size_t number = pass.num_files++;
  const bool is_known = place < known_.size();
  const bool is_asked_again = number >= next_again_ && number < next_again_ + kLookedAtAgain;
  if (is_known) {
    pass.is_there[place] = !is_asked_again || asked(name, known_[place].stamp, folder, look).has_value();
    return;
  }
  const auto mark = handled_.find(name);
  const auto handled = mark == handled_.end() ? std::nullopt : std::optional(mark->second);
  if (const auto stamp = asked(name, handled, folder, look)) pass.added.push_back({hash_of(name), *stamp});
}

Look FolderListing::look(double now, int& gone) {
  const double began = monotonic_s();
  Look look;
  const Folder folder(path_);
  gone = folder.get() == nullptr ? errno : 0;
  if (gone != 0) return look;
  Pass pass{std::vector<bool>(known_.size()), {}, 0};
  bool is_cut = false;
  errno = 0;
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    const unsigned char kind = kind_of(*entry, ::dirfd(folder.get()));
    if (kind == DT_DIR && name != "." && name != "..") look.folders.push_back(name);
    if (kind == DT_REG) {
      const std::size_t place = place_of(hash_of(name));
      if (place < known_.size() || is_wanted_(name)) sift(name, place, ::dirfd(folder.get()), look, pass);
    }
    if (look.found.size() >= 4 * most_new_) is_cut |= cut(look.found, 2 * most_new_);
    errno = 0;
  }
  gone = errno;
  if (gone != 0) return {};
  is_cut |= cut(look.found, most_new_);
  next_again_ = next_again_ < pass.num_files ? next_again_ + kLookedAtAgain : 0;
  replace(std::move(pass), look);
  is_complete_ = is_complete_ || !is_cut;
  looked_at_ = now;
  cost_s_ = monotonic_s() - began;
  return look;
}

// What is there now becomes what is known, so that deleted files are forgotten.
void FolderListing::replace(Pass pass, Look& look) {
  std::size_t num_kept = 0;
  for (std::size_t i = 0; i < known_.size(); ++i) {
    if (pass.is_there[i]) {
      known_[num_kept++] = known_[i];
    } else {
      look.vanished.insert(known_[i].stamp);
    }
  }
  known_.resize(num_kept);
  std::sort(pass.added.begin(), pass.added.end());
  // A folder that changes while it is read may name a file twice.
  pass.added.erase(std::unique(pass.added.begin(), pass.added.end()), pass.added.end());
  known_.insert(known_.end(), pass.added.begin(), pass.added.end());
  std::inplace_merge(known_.begin(), known_.begin() + static_cast<std::ptrdiff_t>(num_kept), known_.end());
  for (const auto& [name, stamp] : handled_) {
    const std::size_t place = place_of(hash_of(name));
    if (place == known_.size() || known_[place].stamp != stamp) look.vanished.insert(stamp);
  }
  handled_.clear();
}

}  // namespace hffnet::sources
