// Builds a TensorRT engine for this machine's GPU from ONNX bytes, in this process; as hffnet.runtime.engines.builder.
// Types are the graph's own (strongly typed networks): there is no precision flag that could be ignored.
#pragma once

#include <span>
#include <string>

#include "engines/device_memory.hpp"
#include "engines/engine_cache.hpp"
#include "engines/nvinfer_library.hpp"
#include "hffnet/engine.hpp"

namespace hffnet {

struct BuildRequest {
  std::span<const std::uint8_t> onnx;  // a whole model; must live until the engine is built, which holds its weights
  std::string onnx_sha256;
  std::string precision;                       // what the graph is said to be
  std::span<const std::uint8_t> timing_cache;  // of an earlier build on this machine; may be empty
};

struct BuildAnswer {
  BuiltEngine built;
  Bytes timing_cache;
};

// Static batch 1, workspace half of the GPU's free memory. Error::kEngine: the library refuses the graph, naming the
// node where there is one, or memory ran out; kGraph: the graph's types are not `precision`; kMissing: no ONNX parser.
Result<BuildAnswer> engine_from_onnx(NvInferLibrary& library, DeviceMemory& memory, const BuildRequest& request,
                                     const OnNotice& notice);

}  // namespace hffnet
