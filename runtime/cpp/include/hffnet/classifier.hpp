// One frame's journey: read, gates, preprocess, infer, decode, each stage timed; as hffnet.runtime.classifier.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hffnet/bundle.hpp"
#include "hffnet/decode.hpp"
#include "hffnet/engine.hpp"
#include "hffnet/export.h"
#include "hffnet/frame.hpp"
#include "hffnet/gates.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

// Milliseconds by stage, monotonic clock, in the order the stages ran.
using Timings = std::vector<std::pair<std::string, double>>;

// What is known of one frame after its journey.
struct Prediction {
  std::string name;
  std::string sha256;  // of the input; empty for pixels that came without
  Crop crop;
  Acquisition acquisition;
  std::vector<GateResult> gates;     // where one failed, nothing was classified
  std::optional<Decision> decision;  // none where nothing was classified
  std::vector<float> evidence;       // ΣC x evidence_height x evidence_width, its mean over positions is the logits
  std::size_t evidence_height = 0;
  std::size_t evidence_width = 0;
  Timings timings_ms;

  // Why nothing was classified, as a sentence; none where something was.
  HFFNET_API std::optional<std::string> not_classified() const;
};

// A bundle on an engine that proved itself on this machine. Owns both. Not thread-safe: one per worker.
class HFFNET_API Classifier {
 public:
  static Result<Classifier> open(const std::string& path, const EngineOptions& options = {});

  Classifier(Classifier&&) noexcept;
  Classifier& operator=(Classifier&&) noexcept;
  ~Classifier();

  const Bundle& bundle() const;
  const EngineIdentity& engine() const;

  // Classifies one image file. Error::kFrame where it cannot be read, kEngine where the engine failed.
  Result<Prediction> classify(const std::string& path);
  // Classifies a frame that was read already; `timings` are those of the stages before. `live`, of a live source:
  // fingerprint of the last frame, which this one must not repeat (none where its hash is empty); becomes this one's.
  Result<Prediction> classify_frame(const Frame& frame, Timings timings = {}, FrameFingerprint* live = nullptr);

 private:
  struct Held;
  explicit Classifier(std::unique_ptr<Held> held);

  std::unique_ptr<Held> held_;
};

// One line of JSON with the fields of hffnet.runtime.result.prediction_json.
HFFNET_API std::string json_from_prediction(const Prediction& prediction, const Classifier& classifier);

}  // namespace hffnet
