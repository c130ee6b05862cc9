// A camera or stream: always the newest frame, never an old one, and back again after any loss; as
// hffnet.runtime.sources.live_source.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "hffnet/record.hpp"
#include "hffnet/result.hpp"
#include "sources/address.hpp"
#include "sources/capture_process.hpp"
#include "sources/restarts.hpp"
#include "sources/stop.hpp"

namespace hffnet::sources {

// The newest frame; `captured_at` in monotonic seconds.
struct LiveFrame {
  std::string name;
  GreyPixels pixels;
  double captured_at;
  LiveFacts facts;
};

// Something that happened to the source, for the rows.
struct Notice {
  std::string event;  // source_lost or source_back
  std::string reason;
  std::map<std::string, std::uint64_t> figures;
};

using Offer = std::variant<LiveFrame, Notice>;
using StartCapture = std::function<Result<std::unique_ptr<Capture>>()>;

// Follows one device; one thread drives it.
class LiveSource {
 public:
  using Tell = std::function<void(const std::string& sentence)>;

  LiveSource(LiveAddress address, StartCapture start, Tell tell, std::function<double()> clock = monotonic_s,
             std::function<double()> chance = {});

  // The newest frame, or a notice, waiting for it; none on a stop. Error::kSource where the source never gave one.
  Result<std::optional<Offer>> next(const Stop& stop);
  // Hears the capture once, starts it where it is due; what there is to offer now.
  Result<std::optional<Offer>> step(double wait_s, int other);

  // Frames that were not classified, by reason, since the start.
  const std::map<std::string, std::uint64_t>& dropped() const { return dropped_; }

 private:
  enum class State { kStarting, kRunning, kStalled, kReconnecting };

  Result<std::optional<Offer>> begin();
  std::optional<Offer> offer(const Message& newest);
  Result<std::optional<Offer>> silence();
  Result<std::optional<Offer>> lose(const std::string& reason);
  LiveFrame frame_of(const Message& message, std::vector<std::uint8_t> pixels);
  std::map<std::string, std::uint64_t> figures() const;

  LiveAddress address_;
  StartCapture start_;
  Tell tell_;
  std::function<double()> clock_;
  Restarts restarts_;
  State state_ = State::kStarting;
  std::unique_ptr<Capture> capture_;
  double retry_at_, began_at_, frame_at_;
  bool was_seen_ = false, has_given_ = false, is_lost_ = false;  // ever; by this capture; now
  std::uint64_t index_ = 0, num_restarts_ = 0;
  std::map<std::string, std::uint64_t> dropped_, told_;
};

}  // namespace hffnet::sources
