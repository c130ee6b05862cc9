// Rows of the audit trail, one JSON document per line; as `hffnet run --jsonl` writes them (hffnet.runtime.record).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "hffnet/classifier.hpp"
#include "hffnet/engine.hpp"
#include "hffnet/export.h"
#include "hffnet/frame.hpp"

namespace hffnet {

// The version of a file that was looked at; `path` is absolute.
struct InputVersion {
  std::string path;
  std::uint64_t size;
  std::int64_t mtime_ns;
};

// What a live source says of one frame: its number from 1, when it was captured, what was dropped since the last one
// and for which reason, and how old it was when it was decided on.
struct LiveFacts {
  std::uint64_t index;
  std::string captured_utc;
  std::map<std::string, std::uint64_t> dropped;
  double age_ms;
};

// What a row is about. A name need not be UTF-8.
struct Subject {
  std::string name;
  std::optional<InputVersion> input;  // none for a live frame
  std::optional<LiveFacts> live;      // none for a file
};

// A name as text that UTF-8 can hold, as rows have it: bytes that are not UTF-8 become \xNN.
HFFNET_API std::string text_from_name(const std::string& name);

// Hash of the settings that can change a result; equal to what `hffnet run` has for the same settings.
HFFNET_API std::string settings_sha256(const EngineOptions& engine, const std::optional<BarSetting>& bar = {});

// Numbers rows and ties each to the one before by its hash. Not thread-safe.
class HFFNET_API RecordChain {
 public:
  // Begins with row 1, or goes on after the row with the number `last_seq` and the hash `head`.
  explicit RecordChain(std::string settings_sha256, std::uint64_t last_seq = 0, std::string head = {});

  RecordChain(RecordChain&&) noexcept;
  RecordChain& operator=(RecordChain&&) noexcept;
  ~RecordChain();

  // The next row, without its line end: a frame that was read, whether a gate refused it or it was classified.
  std::string result(const Prediction& prediction, const Subject& subject, const Classifier& classifier);
  // ... an input that could not be read or processed.
  std::string failure(const Subject& subject, const std::string& reason, const Timings& timings_ms,
                      const Classifier& classifier);
  // ... what happened to the source: source_lost, source_back.
  std::string event(const std::string& name, const std::string& reason,
                    const std::map<std::string, std::uint64_t>& figures);

  // ... the wall clock was set by so many seconds.
  std::string clock_jump(double seconds);

  std::uint64_t last_seq() const;

 private:
  struct Held;
  std::unique_ptr<Held> held_;
};

}  // namespace hffnet
