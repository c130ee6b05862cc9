// Where rows go, one JSON document per line: a file that a restarted run goes on in, or standard output.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_set>

#include "hffnet/result.hpp"
#include "sources/folder_listing.hpp"
#include "sources/stop.hpp"

namespace hffnet::apps {

// What earlier runs wrote.
class DoneRows {
 public:
  // Reads the rows of a file; those of other bundles and settings do not count as done. A last line that a crash tore
  // is left out; a pipe or device holds none. Error::kRecord: not readable to its end, or another line is no row.
  Status read(const std::string& path, const std::string& bundle_sha256, const std::string& settings_sha256);

  bool holds(const std::string& path, const sources::FileStamp& stamp) const;
  std::uint64_t last_seq() const { return last_seq_; }
  const std::string& head() const { return head_; }
  // Bytes of the whole lines in the file read last.
  std::uint64_t whole_bytes() const { return whole_bytes_; }

 private:
  Status take(std::string_view line, const std::string& bundle_sha256, const std::string& settings_sha256);

  std::unordered_set<std::string> inputs_;
  std::uint64_t last_seq_ = 0, whole_bytes_ = 0;
  std::string head_;
};

// Appends rows; one writer per file.
class RowFile {
 public:
  using Tell = std::function<void(const std::string& sentence)>;

  // A file, created where absent and locked; Error::kRecord where it cannot be, or another program has it.
  static Result<RowFile> open(const std::string& path);
  static RowFile standard_output() { return {1, false}; }

  RowFile(RowFile&& other) noexcept;
  RowFile& operator=(RowFile&& other) noexcept;
  ~RowFile();

  // Removes what stands behind so many bytes: a line that a crash tore.
  Status cut(std::uint64_t bytes);
  // Whether this is the file at `path`.
  bool is(const std::string& path) const;
  // Writes a row and waits for the disk. While the disk is full it holds still and tries again, until `stop`; false
  // where the row is not written: stopped, or nobody reads any more.
  bool append(const std::string& row, const sources::Stop& stop, const Tell& tell);

 private:
  RowFile(int descriptor, bool is_ours) : descriptor_(descriptor), is_ours_(is_ours) {}

  bool write_line(const std::string& line, const sources::Stop& stop, const Tell& tell);
  bool wait_for_room(int reason, const sources::Stop& stop, const Tell& tell);

  int descriptor_;
  bool is_ours_;
  bool is_waiting_ = false;  // and it was told why
};

}  // namespace hffnet::apps
