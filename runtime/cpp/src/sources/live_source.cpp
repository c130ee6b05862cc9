#include "sources/live_source.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <random>
#include <utility>

#include "attempt.hpp"

namespace hffnet::sources {
namespace {

constexpr double kTickS = 0.1;

std::function<double()> dice() {
  return [engine = std::minstd_rand(std::random_device{}())]() mutable {
    return std::uniform_real_distribution<double>(0.0, 1.0)(engine);
  };
}

std::string seconds_text(double seconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", seconds);
  return text.data();
}

// ISO 8601 with milliseconds, so many seconds ago.
std::string utc_before(double age_s) {
  const auto then = std::chrono::system_clock::now().time_since_epoch() - std::chrono::duration<double>(age_s);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(then).count();
  const auto seconds = static_cast<std::time_t>(ms / 1000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 32> date{};
  std::array<char, 32> rest{};
  std::strftime(date.data(), date.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(rest.data(), rest.size(), ".%03lld+00:00", static_cast<long long>(ms % 1000));
  return std::string(date.data()) + rest.data();
}

}  // namespace

LiveSource::LiveSource(LiveAddress address, StartCapture start, Tell tell, std::function<double()> clock,
                       std::function<double()> chance)
    : address_(std::move(address)),
      start_(std::move(start)),
      tell_(std::move(tell)),
      clock_(std::move(clock)),
      restarts_(chance ? std::move(chance) : dice()),
      retry_at_(clock_()),
      began_at_(retry_at_),
      frame_at_(retry_at_) {}

Result<std::optional<Offer>> LiveSource::next(const Stop& stop) {
  while (!stop.is_set()) {
    ATTEMPT(std::optional<Offer> found, step(kTickS, stop.descriptor()));
    if (found) return found;
    if (!capture_) stop.wait(std::clamp(retry_at_ - clock_(), 0.0, kTickS));
  }
  return std::optional<Offer>();
}

Result<std::optional<Offer>> LiveSource::step(double wait_s, int other) {
  if (!capture_) {
    if (clock_() < retry_at_) return std::optional<Offer>();
    ATTEMPT(std::optional<Offer> notice, begin());
    if (notice || !capture_) return notice;
  }
  std::optional<Message> newest;
  for (Message& message : capture_->receive(wait_s, other)) {
    switch (message.kind) {
      case Kind::kOpened:
        break;
      case Kind::kFrame:
        if (newest) ++dropped_["superseded"];
        newest = std::move(message);
        was_seen_ = true;
        break;
      case Kind::kNothing:
        ++dropped_["unreadable"];
        break;
      case Kind::kFailed:
        return lose(message.text);
      case Kind::kEnded:
        return lose("it has no more frames");
    }
  }
  if (newest) return offer(*newest);
  return silence();
}

Result<std::optional<Offer>> LiveSource::begin() {
  const double now = clock_();
  restarts_.started(now);
  began_at_ = frame_at_ = now;
  has_given_ = false;
  auto started = start_();
  if (!started.ok()) return lose(started.failure().sentence);
  capture_ = std::move(started).value();
  return std::optional<Offer>();
}

std::optional<Offer> LiveSource::offer(const Message& newest) {
  has_given_ = true;
  frame_at_ = clock_();
  state_ = State::kRunning;
  if (is_lost_) {
    is_lost_ = false;
    ++dropped_["superseded"];  // the notice goes first; a newer frame follows
    tell_("source " + address_.name + " is back");
    return Notice{"source_back", "source " + address_.name + " is back", figures()};
  }
  if (clock_() - static_cast<double>(newest.captured_ns) * 1e-9 > address_.options.max_age_s) {
    ++dropped_["stale"];
    return std::nullopt;
  }
  auto pixels = capture_->take(newest);
  if (!pixels) {
    ++dropped_["superseded"];
    return std::nullopt;
  }
  return frame_of(newest, std::move(*pixels));
}

LiveFrame LiveSource::frame_of(const Message& message, std::vector<std::uint8_t> pixels) {
  const double captured_at = static_cast<double>(message.captured_ns) * 1e-9;
  std::map<std::string, std::uint64_t> since;
  for (const auto& [reason, count] : dropped_) {
    if (const std::uint64_t before = told_[reason]; count > before) since[reason] = count - before;
  }
  told_ = dropped_;
  ++index_;
  return {address_.name + "#" + std::to_string(index_),
          {message.depth, message.height, message.width, std::move(pixels)},
          captured_at,
          {index_, utc_before(clock_() - captured_at), std::move(since), 0.0}};
}

Result<std::optional<Offer>> LiveSource::silence() {
  const double silent_s = clock_() - frame_at_;
  if (silent_s >= (has_given_ ? address_.options.read_timeout_s : address_.options.open_timeout_s)) {
    return lose("it gave no frame for " + seconds_text(silent_s));
  }
  if (state_ == State::kRunning && silent_s >= address_.options.stall_s) {
    state_ = State::kStalled;
    tell_("source " + address_.name + " gives no frame any more");
  }
  return std::optional<Offer>();
}

Result<std::optional<Offer>> LiveSource::lose(const std::string& reason) {
  capture_.reset();
  if (!was_seen_) return Failure{Error::kSource, "source " + address_.name + " gave no frame: " + reason};
  const double now = clock_();
  state_ = State::kReconnecting;
  ++num_restarts_;
  const double wait_s = restarts_.wait_s(now, frame_at_ - began_at_);
  retry_at_ = now + wait_s;
  if (is_lost_) return std::optional<Offer>();
  is_lost_ = true;
  tell_("source " + address_.name + " is lost (" + reason + "); opened anew in " + seconds_text(wait_s));
  return std::optional<Offer>(Notice{"source_lost", "source " + address_.name + ": " + reason, figures()});
}

std::map<std::string, std::uint64_t> LiveSource::figures() const {
  std::map<std::string, std::uint64_t> all = dropped_;
  all["restarts"] = num_restarts_;
  return all;
}

}  // namespace hffnet::sources
