// source -> read -> classify -> row, as threads that overlap and hold each other back; as hffnet.runtime.pipeline.
// The reader follows the source and decodes ahead, the caller's thread classifies, the writer waits for the disk.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>

#include "hffnet/classifier.hpp"
#include "hffnet/record.hpp"
#include "row_file.hpp"
#include "service.hpp"
#include "sources/live_source.hpp"
#include "sources/watch_folder.hpp"

namespace hffnet::apps {

using Tell = std::function<void(const std::string& sentence)>;
using Source = std::variant<sources::WatchFolder, sources::LiveSource>;

struct RunSummary {
  std::map<std::string, std::uint64_t> counts;   // results by status
  std::map<std::string, std::uint64_t> dropped;  // frames of a live source that were not classified, by reason
  bool is_cut_off = false;                       // nobody reads the rows any more
};

// Classifies everything the source offers until it ends or `stop` is set; then the frame in hand is finished. A frame
// that cannot be read or processed becomes a row with its reason. Error::kSource: the source failed for good; kEngine:
// the engine did, and what was in hand is redone by the next run. `stop` is set when it returns.
Result<RunSummary> run_pipeline(Source source, const std::optional<BarSetting>& bar, Classifier& classifier,
                                RecordChain& chain, RowFile& rows, sources::Stop& stop, Service& service,
                                const Tell& tell);

}  // namespace hffnet::apps
