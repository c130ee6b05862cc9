// TensorRT on an NVIDIA GPU; as hffnet.runtime.engines.tensorrt and slot.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hffnet/engine.hpp"

namespace hffnet {

// Opens driver and library, takes the engine from this machine's cache or builds it, and warms it up. The driver is
// probed, then the library's version checked, before any object of the library is made. Error::kMissing: no driver, no
// TensorRT of the major version this was built for, or no ONNX parser; kEngine: anything of it refuses.
Result<std::unique_ptr<Engine>> open_tensorrt(const std::vector<std::uint8_t>& graph, const std::string& graph_sha256,
                                              const std::string& precision, const OnNotice& notice);

}  // namespace hffnet
