// OpenVINO on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hffnet/engine.hpp"

namespace hffnet {

// Compiles a graph; `threads` 0 lets the library decide. Where the CPU computes bfloat16 in hardware it is used for what
// an int8 graph leaves float; other graphs are computed in float32. Error::kEngine where the library refuses.
Result<std::unique_ptr<Engine>> open_openvino(const std::vector<std::uint8_t>& graph, bool is_int8, int threads);

}  // namespace hffnet
