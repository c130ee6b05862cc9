// OpenVINO on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hffnet/engine.hpp"

namespace hffnet {

// Compiles a graph; `threads` 0 lets the library decide. Error::kEngine where it refuses.
Result<std::unique_ptr<Engine>> open_openvino(const std::vector<std::uint8_t>& graph, int threads);

}  // namespace hffnet
