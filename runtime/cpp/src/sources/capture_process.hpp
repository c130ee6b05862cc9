// The handle on a capture process: start it, hear it, take frames from it, kill it; as
// hffnet.runtime.sources.capture_process. A camera's driver can hang for ever (opencv#22677); there it hurts nobody.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hffnet/result.hpp"
#include "sources/capture_link.hpp"

namespace hffnet::sources {

// A running capture.
class Capture {
 public:
  virtual ~Capture() = default;
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  // Messages that came, waiting at most so long or until `other` is readable; a dead process says kFailed.
  virtual std::vector<Message> receive(double timeout_s, int other) = 0;
  // Pixels of the frame that a message told of, packed; none where a newer one took its place.
  virtual std::optional<std::vector<std::uint8_t>> take(const Message& message) = 0;

 protected:
  Capture() = default;
};

// The capture program of this build, beside the running program; Error::kMissing where there is none.
Result<std::string> capture_program();

// Starts `program` on an address; it is killed when the result goes. Error::kSource where it cannot be started.
Result<std::unique_ptr<Capture>> start_capture(const std::string& program, const std::string& uri);

}  // namespace hffnet::sources
