// A request to end, which any waiting ends at once for.
#pragma once

namespace hffnet::sources {

// Set once, from any thread or from a signal handler.
class Stop {
 public:
  Stop();
  Stop(const Stop&) = delete;
  Stop& operator=(const Stop&) = delete;
  ~Stop();

  // Safe in signal handlers; false where it was set already.
  bool set() noexcept;
  bool is_set() const noexcept;
  // Waits so many seconds, or until it is set; whether it is.
  bool wait(double seconds) const;
  // Readable from when it is set on.
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

// Seconds of the monotonic clock, one for all processes of the machine.
double monotonic_s();

}  // namespace hffnet::sources
