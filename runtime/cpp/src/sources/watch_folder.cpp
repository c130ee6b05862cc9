#include "sources/watch_folder.hpp"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string_view>
#include <tuple>
#include <utility>

#include "hffnet/frame.hpp"

namespace hffnet::sources {
namespace {

constexpr double kLeastPauseS = 0.01;
constexpr double kRenameS = 5.0;  // so long a vanished version is remembered: a move may show a look later
constexpr double kSidecarS = 2.0;  // instruments write both within a second; a network may hold the second one back
constexpr const char* kStillOpen = "another program still has it open for writing";

double wall_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string lower(std::string text) {
  for (char& letter : text) letter = letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
  return text;
}

// Names that programs give to files they are still writing.
bool is_unfinished(const std::string& name) {
  constexpr std::array<std::string_view, 8> kSuffixes{".part",       ".partial",  ".tmp", ".temp",
                                                      ".crdownload", ".filepart", ".swp", "~"};
  const std::string small = lower(name);
  const auto ends = [&](std::string_view suffix) { return small.ends_with(suffix); };
  return name.empty() || name[0] == '.' || name[0] == '~' || std::any_of(kSuffixes.begin(), kSuffixes.end(), ends);
}

// A read lease is granted only where nobody has the file open for writing; it is given back at once. Network file
// systems and foreign owners refuse leases, which says nothing.
bool is_open_for_writing(int descriptor) {
  // A writer that opens the file within the lease's microseconds makes the kernel signal us: SIGURG is ignored by
  // default, the default SIGIO would end the process.
  const bool leased = ::fcntl(descriptor, F_SETSIG, SIGURG) == 0 && ::fcntl(descriptor, F_SETLEASE, F_RDLCK) == 0;
  if (!leased) return errno == EAGAIN;
  ::fcntl(descriptor, F_SETLEASE, F_UNLCK);
  return false;
}

bool is_regular(const std::string& path, FileStamp& stamp, int& gone) {
  struct stat status {};
  gone = ::lstat(path.c_str(), &status) == 0 ? 0 : errno;
  if (gone != 0 || !S_ISREG(status.st_mode)) return false;
  stamp = FileStamp::from_stat(status);
  return true;
}

std::optional<FileStamp> stamp_of_sidecar(const std::string& path) {
  for (const std::string& place : sidecars_of(path)) {
    struct stat status {};
    if (::lstat(place.c_str(), &status) == 0) return FileStamp::from_stat(status);
  }
  return std::nullopt;
}

}  // namespace

bool Item::is_unchanged() const {
  FileStamp now;
  int gone = 0;
  return is_regular(path, now, gone) && now == stamp;
}

std::optional<std::string> why_not_ready(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) {
    const bool is_locked = errno == EACCES || errno == EPERM;
    return std::string(is_locked ? "locked or not permitted: " : "cannot be opened: ") + std::strerror(errno);
  }
  const bool is_open = is_open_for_writing(descriptor);
  ::close(descriptor);
  if (is_open) return kStillOpen;
  return std::nullopt;
}

WatchFolder::WatchFolder(FolderAddress address, std::optional<double> idle_exit_s, IsDone is_done, Tell tell,
                         Clocks clocks)
    : root_(std::move(address.folder)),
      options_(std::move(address.options)),
      idle_exit_s_(idle_exit_s),
      is_done_(std::move(is_done)),
      tell_(std::move(tell)),
      clocks_(std::move(clocks)),
      events_(std::make_unique<FolderEvents>(options_.events)),
      patterns_(patterns_in(options_.pattern)) {
  if (!clocks_.wall) clocks_.wall = wall_s;
  new_at_ = clocks_.monotonic();
  watch(root_);
}

std::optional<Item> WatchFolder::next(const Stop& stop) {
  while (!stop.is_set()) {
    while (!ready_.empty()) {
      Item item = std::move(ready_.front());
      ready_.pop_front();
      if (stop.is_set()) return std::nullopt;
      if (!hand_over(item)) continue;
      new_at_ = clocks_.monotonic();
      return item;
    }
    for (Item& item : scan()) ready_.push_back(std::move(item));
    if (!ready_.empty()) continue;
    if (!pending_.empty()) {
      new_at_ = clocks_.monotonic();
    } else if (idle_exit_s_ && clocks_.monotonic() - new_at_ >= *idle_exit_s_ && has_seen_all()) {
      return std::nullopt;
    }
    events_->wait(pause_s(), stop);
  }
  return std::nullopt;
}

std::vector<Item> WatchFolder::scan() {
  const double now = clocks_.monotonic();
  look(now);
  std::vector<std::string> paths;
  for (const auto& [path, candidate] : pending_) paths.push_back(path);
  std::vector<Item> ready;
  for (const std::string& path : paths) {
    if (auto item = item_when_ready(path, now)) ready.push_back(std::move(*item));
  }
  std::sort(ready.begin(), ready.end(), [](const Item& one, const Item& other) {
    return std::tie(one.stamp.mtime_ns, one.name) < std::tie(other.stamp.mtime_ns, other.name);
  });
  return ready;
}

bool WatchFolder::hand_over(const Item& item) {
  const auto pending = pending_.find(item.path);
  if (pending == pending_.end() || (!item.problem && !item.is_unchanged())) return false;
  given_ = std::move(pending->second);
  pending_.erase(pending);
  watch(given_->folder).mark(given_->name, item.stamp);
  return true;
}

bool WatchFolder::retry(const Item& item) {
  auto candidate = std::exchange(given_, std::nullopt);
  if (!candidate || (item.final && item.is_unchanged())) return false;
  candidate->is_unreadable = !item.final;
  watch(candidate->folder).unmark(candidate->name);
  pending_.insert_or_assign(item.path, std::move(*candidate));
  return true;
}

// Until the next look: the next time one can tell that a file has settled, at most `poll_s`.
double WatchFolder::pause_s() const {
  const double now = clocks_.monotonic();
  double pause_s = options_.poll_s;
  for (const auto& [path, candidate] : pending_) {
    const double left_s = candidate.unchanged_since + options_.settle_s - now;
    if (left_s > 0.0 || candidate.looks < 2) pause_s = std::min(pause_s, std::max(left_s, kLeastPauseS));
  }
  return pause_s;
}

bool WatchFolder::has_seen_all() const {
  return std::all_of(folders_.begin(), folders_.end(), [](const auto& entry) { return entry.second.is_complete(); });
}

FolderListing& WatchFolder::watch(const std::string& path) {
  // By value: this object may be moved.
  const auto is_wanted = [patterns = patterns_](const std::string& name) {
    const auto fits = [&](const std::string& pattern) {
      return ::fnmatch(pattern.c_str(), name.c_str(), FNM_CASEFOLD | FNM_NOESCAPE) == 0;
    };
    return std::any_of(patterns.begin(), patterns.end(), fits) && !is_unfinished(name);
  };
  return folders_.try_emplace(path, path, is_wanted, is_done_).first->second;
}

void WatchFolder::look(double now) {
  std::erase_if(vanished_, [&](const auto& entry) { return now - entry.second >= kRenameS; });
  std::vector<std::string> paths;
  for (const auto& [path, listing] : folders_) paths.push_back(path);
  for (const std::string& path : paths) {
    const auto listing = folders_.find(path);
    if (listing == folders_.end()) continue;
    int gone = 0;
    if (listing->second.is_due(now, gone)) look_at(listing->second, now, gone);
    if (gone != 0) {
      lost(path, gone);
    } else if (path == root_ && is_root_lost_) {
      is_root_lost_ = false;
      tell_("watched folder " + root_ + " is back");
    }
  }
}

void WatchFolder::look_at(FolderListing& listing, double now, int& gone) {
  const bool is_first = !listing.is_complete();
  if (listing.has_changed()) events_->follow(listing.path());  // before the look, so that nothing comes between
  const Look seen = listing.look(now, gone);
  if (gone != 0) return;
  for (const std::uint64_t stamp : seen.vanished) vanished_[stamp] = now;
  for (const NewFile& file : seen.found) {
    // A file that was there at the start and is old by its change time has already waited.
    const bool waited = is_first && clocks_.wall() - file.changed_at > options_.patience_s;
    const double since = waited ? now - options_.patience_s : now;
    pending_.try_emplace(path_in(listing.path(), file.name),
                         Candidate{listing.path(), file.name, file.stamp, now, since, 0, false, std::nullopt});
  }
  if (!options_.recursive) return;
  for (const std::string& name : seen.folders) {
    const std::string path = path_in(listing.path(), name);
    if (name[0] == '.' || folders_.count(path) > 0) continue;
    int below_gone = 0;
    look_at(watch(path), now, below_gone);
    if (below_gone != 0) folders_.erase(path);  // it may come back: the next look above sees it
  }
}

void WatchFolder::lost(const std::string& folder, int reason) {
  if (folder != root_) {
    const auto listing = folders_.find(folder);
    for (const std::uint64_t stamp : listing->second.stamps()) vanished_[stamp] = clocks_.monotonic();
    folders_.erase(listing);
  } else if (!is_root_lost_) {
    is_root_lost_ = true;
    tell_("watched folder " + folder + " cannot be read (" + std::strerror(reason) + "); waiting for it to come back");
  }
}

std::optional<Item> WatchFolder::item_when_ready(const std::string& path, double now) {
  Candidate& candidate = pending_.at(path);
  FileStamp stamp;
  int gone = 0;
  const bool is_file = is_regular(path, stamp, gone);
  if (gone != 0 && gone != ENOENT && gone != ENOTDIR) return std::nullopt;  // a share that is away for a while
  if (is_file && vanished_.count(stamp.hash()) > 0) {                       // a new name of a file that was handled
    watch(candidate.folder).mark(candidate.name, stamp);
    pending_.erase(path);
    return std::nullopt;
  }
  if (!is_file) {
    pending_.erase(path);
    return std::nullopt;
  }
  if (stamp != candidate.stamp) {
    candidate.stamp = stamp;
    candidate.unchanged_since = now;
    candidate.looks = 1;
    candidate.is_unreadable = false;
    return std::nullopt;
  }
  ++candidate.looks;
  if (candidate.looks < 2 || now - candidate.unchanged_since < options_.settle_s) return std::nullopt;
  return item_of(path, candidate, now);
}

std::optional<Item> WatchFolder::item_of(const std::string& path, Candidate& candidate, double now) {
  const bool is_final = now - candidate.unchanged_since >= options_.patience_s;
  bool waits = candidate.is_unreadable || candidate.stamp.size == 0;
  std::optional<std::string> problem;
  if (!waits) {
    problem = why_not_ready(path);
    waits = problem.has_value();
  }
  if ((waits && !is_final) || waits_for_sidecar(path, candidate, now)) return std::nullopt;
  if (problem == kStillOpen) problem.reset();  // waited for long enough: read as it is
  return Item{path,
              path.substr(root_.size() + (root_ == "/" ? 0 : 1)),
              candidate.stamp,
              candidate.found_at,
              now,
              is_final,
              std::move(problem)};
}

// Whether a text beside the frame may still come; one that is there must be the same in two looks.
bool WatchFolder::waits_for_sidecar(const std::string& path, Candidate& candidate, double now) {
  if (options_.sidecar_s == 0.0) return false;
  const auto before = std::exchange(candidate.sidecar, stamp_of_sidecar(path));
  if (candidate.sidecar) with_sidecars_.insert(candidate.folder);
  const double unasked_s = with_sidecars_.contains(candidate.folder) ? kSidecarS : 0.0;
  if (now - candidate.unchanged_since >= options_.sidecar_s.value_or(unasked_s)) return false;
  return !candidate.sidecar || candidate.sidecar != before;
}

}  // namespace hffnet::sources
