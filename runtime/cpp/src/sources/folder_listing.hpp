// What is known of one watched folder, and what a new look at it says; as hffnet.runtime.sources.folder_listing.
// A folder can hold a million old frames: a look reads names, and asks size and time of new ones and a rotating few.
// Looks at a large folder cost at most 5 % of one core, and 25 % while the folder's own time changes.
#pragma once

#include <sys/stat.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace hffnet::sources {

// What tells one version of a file from another without reading it.
struct FileStamp {
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  std::uint64_t inode = 0;

  static FileStamp from_stat(const struct stat& status);
  std::uint64_t hash() const;
  auto operator<=>(const FileStamp&) const = default;
};

// A version of a file that was not handled yet; `changed_at`: wall-clock seconds when its state last changed.
struct NewFile {
  std::string name;
  FileStamp stamp;
  double changed_at;
};

std::string path_in(const std::string& folder, const std::string& name);

struct Look {
  std::vector<NewFile> found;                  // not handled, oldest first
  std::unordered_set<std::uint64_t> vanished;  // stamps of handled files whose name is gone
  std::vector<std::string> folders;            // names of sub-folders
};

using IsWanted = std::function<bool(const std::string& name)>;
using IsDone = std::function<bool(const std::string& path, const FileStamp& stamp)>;

// Remembers which versions of which files in one folder were handled, 16 bytes each.
class FolderListing {
 public:
  FolderListing(std::string path, IsWanted is_wanted, IsDone is_done, std::size_t most_new = 10'000);

  const std::string& path() const { return path_; }
  // Whether everything that was there at the first look has been offered.
  bool is_complete() const { return is_complete_; }
  void mark(const std::string& name, const FileStamp& stamp) { handled_[name] = stamp.hash(); }
  // Takes back a mark made since the last look.
  void unmark(const std::string& name) { handled_.erase(name); }
  // Every handled version.
  std::unordered_set<std::uint64_t> stamps() const;

  // Whether a look is worth its cost; false with `gone` set where the folder cannot be read.
  bool is_due(double now, int& gone);
  // Whether it is new, was away or its time changed since this was asked last: it may be another folder of that name.
  bool has_changed() { return std::exchange(has_changed_, false); }
  // Reads the folder; `gone` gets the error number where it cannot be read, and what was known is kept.
  Look look(double now, int& gone);

 private:
  // What is known of a file: hashes of its name and of the version that was handled.
  struct Known {
    std::uint64_t name, stamp;
    bool operator==(const Known&) const = default;
    bool operator<(const Known& other) const {
      return name < other.name || (name == other.name && stamp < other.stamp);
    }
  };
  // One pass over the names: which of `known_` are still there, and what was handled since the last.
  struct Pass {
    std::vector<bool> is_there;
    std::vector<Known> added;
    std::size_t num_files = 0;
  };

  // Its place in `known_`, or its size.
  std::size_t place_of(std::uint64_t name) const;
  void sift(const std::string& name, std::size_t place, int folder, Look& look, Pass& pass);
  // The hashed stamp where this version of the file is handled; else none, and it is in `look` unless gone.
  std::optional<std::uint64_t> asked(const std::string& name, std::optional<std::uint64_t> handled, int folder,
                                     Look& look) const;
  void replace(Pass pass, Look& look);

  std::string path_;
  IsWanted is_wanted_;
  IsDone is_done_;
  std::size_t most_new_;
  std::vector<Known> known_;                                // sorted
  std::unordered_map<std::string, std::uint64_t> handled_;  // since the last look
  bool is_complete_ = false;
  bool has_changed_ = true;
  std::int64_t mtime_ns_ = -1;
  double changed_at_ = -std::numeric_limits<double>::infinity();
  double looked_at_ = -std::numeric_limits<double>::infinity();
  double cost_s_ = 0.0;
  std::size_t next_again_ = 0;
};

}  // namespace hffnet::sources
