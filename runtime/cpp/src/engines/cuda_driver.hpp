// Is there an NVIDIA driver, and what does it drive? Asked of libcuda before any other GPU library is touched: TensorRT
// crashes instead of answering where the driver is absent. As hffnet.runtime.engines.driver.
#pragma once

#include <cstddef>
#include <string>

#include "engines/loaded_library.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

constexpr const char* kDriverLibrary = "libcuda.so.1";

// One GPU as its driver tells it.
struct Gpu {
  std::string name;
  int major = 0, minor = 0;      // compute capability
  std::size_t memory_bytes = 0;  // of the machine where the GPU is integrated
  bool integrated = false;       // shares its memory with the CPU (Jetson)
  int cuda_version = 0;          // newest CUDA the driver can serve, 1000 major + 10 minor

  // As compilers and caches name it, e.g. "sm89".
  std::string architecture() const { return "sm" + std::to_string(major) + std::to_string(minor); }
};

// The driver, started, and its first GPU (CUDA_VISIBLE_DEVICES chooses).
struct Driver {
  LoadedLibrary library;
  Gpu gpu;
};

// Error::kMissing where there is no driver library, kEngine where it refuses to start or shows no GPU.
Result<Driver> open_driver(const std::string& library = kDriverLibrary);

// What a CUresult means, for sentences.
std::string reason_of_cuda_error(int code);

}  // namespace hffnet
