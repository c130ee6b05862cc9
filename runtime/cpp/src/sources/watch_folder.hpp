// A folder that a microscope writes into: every finished file once, none before it is complete; as
// hffnet.runtime.sources.watch_folder, whose first comment tells the rules.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "sources/address.hpp"
#include "sources/folder_events.hpp"
#include "sources/folder_listing.hpp"
#include "sources/stop.hpp"

namespace hffnet::sources {

// One file that is ready to be read; times are monotonic seconds.
struct Item {
  std::string path;  // absolute
  std::string name;  // below the watched folder
  FileStamp stamp;
  double found_at;
  double settled_at;                   // latency counts from here
  bool final;                          // the source has done its waiting: what cannot be read now stays so
  std::optional<std::string> problem;  // why the source gave up on it; such an item is recorded and not read

  // Whether the file still is the regular file that was found settled.
  bool is_unchanged() const;
};

// Why a file cannot be read to its end yet, as far as the system tells; none where nothing speaks against it.
std::optional<std::string> why_not_ready(const std::string& path);

// Clocks in seconds, for tests.
struct Clocks {
  std::function<double()> monotonic = monotonic_s;
  std::function<double()> wall;
};

// Looks at a folder again and again; one thread drives it.
class WatchFolder {
 public:
  using Tell = std::function<void(const std::string& sentence)>;

  WatchFolder(FolderAddress address, std::optional<double> idle_exit_s, IsDone is_done, Tell tell, Clocks clocks = {});

  // The next item, oldest first, waiting for it; none at the end or on a stop.
  std::optional<Item> next(const Stop& stop);
  // One look: what is ready now, oldest first. Nothing counts as handed over before hand_over.
  std::vector<Item> scan();
  // False for a file written to while earlier items were read: it settles anew.
  bool hand_over(const Item& item);
  // Takes back an item that could not be read; whether it will be offered again, so that nothing is recorded now.
  bool retry(const Item& item);

 private:
  // A file that was found and not handed over yet.
  struct Candidate {
    std::string folder;
    std::string name;
    FileStamp stamp;
    double found_at;
    double unchanged_since;
    int looks = 0;
    bool is_unreadable = false;
    std::optional<FileStamp> sidecar;
  };

  bool has_seen_all() const;
  double pause_s() const;
  FolderListing& watch(const std::string& path);
  void look(double now);
  void look_at(FolderListing& listing, double now, int& gone);
  void lost(const std::string& folder, int reason);
  std::optional<Item> item_when_ready(const std::string& path, double now);
  std::optional<Item> item_of(const std::string& path, Candidate& candidate, double now);
  bool waits_for_sidecar(const std::string& path, Candidate& candidate, double now);

  std::string root_;
  FolderOptions options_;
  std::optional<double> idle_exit_s_;
  IsDone is_done_;
  Tell tell_;
  Clocks clocks_;
  std::unique_ptr<FolderEvents> events_;
  std::vector<std::string> patterns_;
  std::map<std::string, FolderListing> folders_;
  std::map<std::string, Candidate> pending_;
  std::unordered_map<std::uint64_t, double> vanished_;
  std::set<std::string> with_sidecars_;  // folders in which a frame had a text beside it
  std::optional<Candidate> given_;
  std::deque<Item> ready_;
  bool is_root_lost_ = false;
  double new_at_;
};

}  // namespace hffnet::sources
