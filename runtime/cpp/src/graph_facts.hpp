// What must be known of an ONNX file before any engine sees it, read without an ONNX library; as hffnet.runtime.graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hffnet/result.hpp"

namespace hffnet {

// Facts of one ONNX graph, taken from the file's own types.
struct GraphFacts {
  std::uint64_t opset = 0;
  std::size_t num_nodes = 0;
  bool quantized = false;                                         // holds a DequantizeLinear
  std::vector<std::pair<std::string, std::uint64_t>> parameters;  // stored numbers of each type, in order of appearance

  // `int8` where there are quantized weights, else the type that holds most weights.
  std::string precision() const;
};

// Reads the facts and refuses what a bundle may not hold (Error::kGraph): not an ONNX model, external data, an operator
// of a foreign domain, local functions, sparse weights, nesting and node counts beyond reason.
Result<GraphFacts> facts_from_onnx(std::span<const std::uint8_t> model);

}  // namespace hffnet
