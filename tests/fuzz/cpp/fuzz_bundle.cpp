// libFuzzer harness of the bundle reader: zip, manifest, graphs, test vectors. The bytes lie in an anonymous file.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "hffnet/bundle.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const int file = ::memfd_create("bundle", MFD_CLOEXEC);
  if (file < 0 || ::write(file, data, size) != static_cast<ssize_t>(size)) std::abort();
  const auto bundle = hffnet::Bundle::open("/proc/self/fd/" + std::to_string(file));
  if (bundle.ok()) {
    static_cast<void>(bundle.value().vectors().ok());
  } else if (bundle.failure().error != hffnet::Error::kBundle || bundle.failure().sentence.empty()) {
    std::abort();
  }
  ::close(file);
  return 0;
}
