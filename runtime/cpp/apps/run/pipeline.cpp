#include "pipeline.hpp"

#include <sys/stat.h>

#include <exception>
#include <memory>
#include <thread>
#include <utility>

#include "attempt.hpp"
#include "clock_watch.hpp"
#include "hand_over.hpp"

namespace hffnet::apps {
namespace {

using sources::monotonic_s;
using sources::Stop;

constexpr std::size_t kQueue = 2;
constexpr double kReaderS = 1.0;  // what a read that hangs on a dead share gets at the end

// An item that was read, or could not be.
struct Arrival {
  Subject subject;
  std::optional<Frame> frame;
  std::string reason;
  Timings timings_ms;
  double settled_at;
  double at;
};

using Arrived = std::variant<Arrival, sources::Notice>;

// The thread that follows the source and decodes ahead. What it uses is its own: where it hangs in a read, it is left
// behind when the program ends.
struct Reader {
  Reader(Source opened, std::optional<BarSetting> known_bar, const Stop& stopped)
      : source(std::move(opened)), bar(known_bar), stop(stopped) {}

  void run() {
    auto ended = guarded(Error::kSource, "the source", [this] { return follow(); });
    if (!ended.ok()) failure = std::move(ended).failure();
    arrivals.end();
  }

  Status follow() {
    if (auto* folder = std::get_if<sources::WatchFolder>(&source)) {
      while (auto item = folder->next(stop)) {
        if (auto arrival = read(*folder, *item); arrival && !arrivals.put(std::move(*arrival))) break;
      }
      return Done{};
    }
    auto& live = std::get<sources::LiveSource>(source);
    // A live source is asked when its frame can be classified at once: read ahead, it would get old.
    while (arrivals.wait_until_wanted()) {
      ATTEMPT(std::optional<sources::Offer> offer, live.next(stop));
      if (!offer) break;
      if (auto* notice = std::get_if<sources::Notice>(&*offer)) {
        if (!arrivals.put(std::move(*notice))) break;
      } else if (!arrivals.put(read(std::get<sources::LiveFrame>(*offer)))) {
        break;
      }
    }
    return Done{};
  }

  // None where the source will offer it again.
  std::optional<Arrival> read(sources::WatchFolder& folder, const sources::Item& item) const {
    const double began = monotonic_s();
    Arrival arrival{{item.name, InputVersion{item.path, item.stamp.size, item.stamp.mtime_ns}, {}},
                    {},
                    item.problem.value_or(""),
                    {{"waited", (began - item.settled_at) * 1e3}},
                    item.settled_at,
                    0.0};
    if (!item.problem) {
      auto frame = read_frame(item.path, {}, bar, false);
      if (!frame.ok()) {
        arrival.reason = frame.failure().sentence;
      } else if (!item.is_unchanged()) {
        arrival.reason = item.path + " was written to while it was read";
      } else {
        arrival.frame = std::move(frame).value();
      }
    }
    if (!arrival.frame && folder.retry(item)) return std::nullopt;
    arrival.at = monotonic_s();
    arrival.timings_ms.emplace_back("read", (arrival.at - began) * 1e3);
    return arrival;
  }

  Arrival read(sources::LiveFrame& live) const {
    const double began = monotonic_s();
    Arrival arrival{{live.name, {}, std::move(live.facts)},
                    {},
                    "",
                    {{"waited", (began - live.captured_at) * 1e3}},
                    live.captured_at,
                    0.0};
    auto frame = frame_from_pixels(live.pixels.view(), live.name, {}, bar);
    if (frame.ok()) {
      arrival.frame = std::move(frame).value();
    } else {
      arrival.reason = frame.failure().sentence;
    }
    arrival.at = monotonic_s();
    arrival.timings_ms.emplace_back("read", (arrival.at - began) * 1e3);
    return arrival;
  }

  Source source;
  std::optional<BarSetting> bar;
  const Stop& stop;
  HandOver<Arrived> arrivals{kQueue};
  std::optional<Failure> failure;
};

// Turns arrivals into rows; remembers the last live frame, which must not come again.
class Desk {
 public:
  Desk(Classifier& classifier, RecordChain& chain, const Tell& tell)
      : classifier_(classifier), chain_(chain), tell_(tell) {}

  // Error::kEngine is nobody's result.
  Result<std::string> row(Arrived arrived) {
    if (const auto* notice = std::get_if<sources::Notice>(&arrived)) {
      return chain_.event(notice->event, notice->reason, notice->figures);
    }
    auto& arrival = std::get<Arrival>(arrived);
    arrival.timings_ms.emplace_back("queued", (monotonic_s() - arrival.at) * 1e3);
    if (!arrival.frame) return failed(arrival, arrival.reason);
    FrameFingerprint* previous = arrival.subject.live ? &previous_ : nullptr;
    const auto prediction = classifier_.classify_frame(*arrival.frame, arrival.timings_ms, previous);
    note_drops(arrival);
    if (prediction.ok()) {
      ++counts[prediction.value().decision ? "classified" : "not_classified"];
      return chain_.result(prediction.value(), arrival.subject, classifier_);
    }
    if (prediction.failure().error == Error::kEngine) return prediction.failure();
    return failed(arrival, prediction.failure().sentence);
  }

  std::map<std::string, std::uint64_t> counts, dropped;

 private:
  Result<std::string> failed(Arrival& arrival, const std::string& reason) {
    note_drops(arrival);
    tell_((arrival.subject.input ? arrival.subject.input->path : arrival.subject.name) +
          " is not classified: " + reason);
    ++counts["failed"];
    return chain_.failure(arrival.subject, reason, arrival.timings_ms, classifier_);
  }

  // What was dropped before this frame, and its age now that it is decided on.
  void note_drops(Arrival& arrival) {
    if (!arrival.subject.live) return;
    arrival.subject.live->age_ms = (monotonic_s() - arrival.settled_at) * 1e3;
    for (const auto& [reason, count] : arrival.subject.live->dropped) dropped[reason] += count;
  }

  Classifier& classifier_;
  RecordChain& chain_;
  const Tell& tell_;
  FrameFingerprint previous_;
};

// The thread that waits for the disk.
class Writer {
 public:
  Writer(RowFile& rows, Stop& stop, const Tell& tell) : rows_(rows), stop_(stop), tell_(tell) {}

  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  // Also where an exception passes: a thread that is not waited for ends the program without a word.
  // Without the stop it would wait for a full disk, which nobody tells of any more.
  ~Writer() {
    if (!thread_.joinable()) return;
    stop_.set();
    finish();
  }

  // Tells `service` of life while the disk is full: the run holds still and does not hang.
  void put(std::string row, Service& service) {
    while (!queue_.wait_for_room(kBeatS)) service.beat();
    queue_.put(std::move(row));
  }

  // Writes what is there; whether everything was.
  bool finish() {
    queue_.end();
    thread_.join();
    return !is_cut_off_;
  }

 private:
  void run() {
    while (!queue_.is_over()) {
      auto row = queue_.get(kBeatS);
      if (!row || is_cut_off_) continue;
      if (!rows_.append(*row, stop_, tell_)) {
        is_cut_off_ = true;
        stop_.set();
      }
    }
  }

  RowFile& rows_;
  Stop& stop_;
  const Tell& tell_;
  HandOver<std::string> queue_{kQueue};
  bool is_cut_off_ = false;
  std::thread thread_{[this] { run(); }};
};

}  // namespace

Result<RunSummary> run_pipeline(Source source, const std::optional<BarSetting>& bar, Classifier& classifier,
                                RecordChain& chain, RowFile& rows, Stop& stop, Service& service, const Tell& tell) {
  const auto reader = std::make_shared<Reader>(std::move(source), bar, stop);
  std::thread([reader] { reader->run(); }).detach();
  Desk desk(classifier, chain, tell);
  Writer writer(rows, stop, tell);
  ClockWatch clock_watch;
  std::optional<Failure> failure;
  while (!stop.is_set() && !failure) {
    service.beat();
    auto arrived = reader->arrivals.get(kBeatS);
    if (!arrived && reader->arrivals.is_over()) break;
    if (!arrived || stop.is_set()) continue;
    if (const auto seconds = clock_watch.jump_s()) writer.put(chain.clock_jump(*seconds), service);
    auto row = desk.row(std::move(*arrived));
    if (row.ok()) {
      writer.put(std::move(row).value(), service);
    } else {
      failure = std::move(row).failure();
    }
  }
  const bool is_written = writer.finish();
  stop.set();
  reader->arrivals.refuse();
  // The capture process is killed with the source, which the reader's thread holds.
  if (reader->arrivals.wait_for_end(kReaderS) && !failure) failure = reader->failure;
  if (failure) return *failure;
  return RunSummary{desk.counts, desk.dropped, !is_written};
}

}  // namespace hffnet::apps
