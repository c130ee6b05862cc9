// What runs a graph on this machine; as hffnet.runtime.engines. An engine is opened from a bundle's verified bytes and
// may classify only after its self-test on the bundle's vectors.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hffnet/bundle.hpp"
#include "hffnet/export.h"
#include "hffnet/result.hpp"

namespace hffnet {

// What a graph answers for one frame.
struct Outputs {
  std::vector<float> logits;    // ΣC
  std::vector<float> evidence;  // ΣC x evidence_height x evidence_width; its mean over positions is `logits`
  std::size_t evidence_height = 0;
  std::size_t evidence_width = 0;
};

// One graph, ready on one device. Not thread-safe: one engine per worker.
class HFFNET_API Engine {
 public:
  virtual ~Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Version of the library, the hardware as the library names it, and what non-quantized operations compute in.
  virtual std::string version() const = 0;
  virtual std::string device() const = 0;
  virtual std::string arithmetic() const = 0;

  // Runs the graph on one frame of size x size bytes, batch 1. `outputs` keeps its memory from call to call.
  virtual Status infer(std::span<const std::uint8_t> frame, Outputs& outputs) = 0;

 protected:
  Engine() = default;
};

// How far the engine on this device is from the reference logits in the bundle.
struct SelfTest {
  double error;       // largest difference divided by the largest reference logit in magnitude
  double tolerance;   // the graph's; a larger error refuses the engine
  double cosine;      // smallest cosine similarity of any frame's logits
  std::size_t flips;  // frames whose decision differs from the reference's
  std::size_t num_frames;

  bool passed() const { return error <= tolerance; }  // NaN does not pass
};

// Which engine gave an answer; part of every record.
struct EngineIdentity {
  std::string name;
  std::string version;
  std::string device;
  std::string precision;
  std::string arithmetic;
  std::string graph_sha256;
  SelfTest self_test;
};

// Takes one sentence that a person should see though the work goes on: an engine that was passed over, one that is being
// built, a cache that cannot be used.
using OnNotice = std::function<void(const std::string&)>;

// Writes to standard error, "hffnet: " before the sentence.
HFFNET_API void notice_to_stderr(const std::string& sentence);

struct EngineOptions {
  std::string engine = "auto";  // openvino, tensorrt; auto takes the first that is here and passes its self-test
  std::string precision =
      "auto";       // fp32, fp16, int8; auto takes int8 on a CPU and fp16 on a GPU where the bundle has it
  int threads = 0;  // of a CPU engine; 0: the library decides
  OnNotice notice = notice_to_stderr;
};

// An engine that passed its self-test, with its identity.
struct OpenEngine {
  std::unique_ptr<Engine> engine;
  EngineIdentity identity;
};

// Opens a graph of the bundle and proves it on this machine. With auto, an engine that is here but cannot run the bundle
// is passed over with a notice. Error::kBundle: no such graph; kMissing: the engine asked for is not in this build or not
// on this machine; kEngine: no engine passed its self-test.
HFFNET_API Result<OpenEngine> open_engine(const Bundle& bundle, const EngineOptions& options = {});

// Names of the engines this library was built with, in order of preference.
HFFNET_API std::vector<std::string> engines_built();

}  // namespace hffnet
