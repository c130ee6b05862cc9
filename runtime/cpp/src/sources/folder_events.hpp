// Linux tells that something happened in a folder (inotify): what makes a look come early, and no more than that. Events
// do not cross SMB or NFS, overflow, and are limited in number, so nothing depends on them.
#pragma once

#include <string>

#include "sources/stop.hpp"

namespace hffnet::sources {

class FolderEvents {
 public:
  // Off, or where the system has none to give, it only waits.
  explicit FolderEvents(bool is_on);
  FolderEvents(const FolderEvents&) = delete;
  FolderEvents& operator=(const FolderEvents&) = delete;
  ~FolderEvents();

  // Wakes for files that are closed by their writer or moved in here too; following twice changes nothing.
  void follow(const std::string& folder) const;
  // Waits so many seconds, until something happened, or for a stop.
  void wait(double seconds, const Stop& stop) const;

 private:
  int descriptor_;
};

}  // namespace hffnet::sources
