#include "hffnet/classifier.hpp"

#include <algorithm>
#include <chrono>

#include "attempt.hpp"

namespace hffnet {
namespace {

// Runs one stage and notes how long it took.
template <class Work>
auto timed(Timings& timings, const char* stage, Work work) {
  const auto start = std::chrono::steady_clock::now();
  auto result = work();
  const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - start;
  timings.emplace_back(stage, passed.count());
  return result;
}

// `live` holds the last frame's fingerprint and gets this one's.
std::vector<GateResult> gates_of(const Frame& frame, FrameFingerprint* live) {
  FrameFingerprint now{frame.sha256};
  std::vector<GateResult> gates = check_gates(frame.picture(), {}, &now);
  if (live != nullptr) {
    if (!live->sha256.empty()) gates.push_back(frozen_gate(now, *live));
    *live = std::move(now);
  }
  return gates;
}

}  // namespace

struct Classifier::Held {
  Bundle bundle;
  OpenEngine engine;
  Preprocessor preprocess;
  Outputs outputs;
};

std::optional<std::string> Prediction::not_classified() const {
  std::string reasons;
  for (const GateResult& gate : gates) {
    if (gate.stops()) reasons += (reasons.empty() ? "" : "; ") + gate.reason;
  }
  if (reasons.empty()) return std::nullopt;
  return reasons;
}

Classifier::Classifier(std::unique_ptr<Held> held) : held_(std::move(held)) {}
Classifier::Classifier(Classifier&&) noexcept = default;
Classifier& Classifier::operator=(Classifier&&) noexcept = default;
Classifier::~Classifier() = default;

const Bundle& Classifier::bundle() const {
  return held_->bundle;
}
const EngineIdentity& Classifier::engine() const {
  return held_->engine.identity;
}

Result<Classifier> Classifier::open(const std::string& path, const EngineOptions& options) {
  return guarded(Error::kEngine, path, [&]() -> Result<Classifier> {
    ATTEMPT(Bundle bundle, Bundle::open(path));
    ATTEMPT(OpenEngine engine, open_engine(bundle, options));
    const PreprocessSpec spec = bundle.manifest().preprocess;
    return Classifier(
        std::make_unique<Held>(Held{std::move(bundle), std::move(engine), Preprocessor(spec), Outputs{}}));
  });
}

Result<Prediction> Classifier::classify(const std::string& path) {
  Timings timings;
  ATTEMPT(const Frame frame, timed(timings, "read", [&] { return read_frame(path); }));
  return classify_frame(frame, std::move(timings));
}

Result<Prediction> Classifier::classify_frame(const Frame& frame, Timings timings, FrameFingerprint* live) {
  return guarded(Error::kFrame, frame.name, [&]() -> Result<Prediction> {
    Prediction prediction{frame.name, frame.sha256,      frame.crop, frame.acquisition, {}, {}, {}, 0,
                          0,          std::move(timings)};
    Timings& times = prediction.timings_ms;
    prediction.gates = timed(times, "gates", [&] { return gates_of(frame, live); });
    const Manifest& manifest = held_->bundle.manifest();
    if (manifest.pixel_size_um && frame.acquisition.pixel_size_um) {
      prediction.gates.push_back(pixel_size_gate(*frame.acquisition.pixel_size_um, *manifest.pixel_size_um));
    }
    if (prediction.not_classified()) return prediction;
    ATTEMPT(const auto input, timed(times, "preprocess", [&] { return held_->preprocess(frame.picture()); }));
    ATTEMPT_DONE(timed(times, "infer", [&] { return held_->engine.engine->infer(input, held_->outputs); }));
    if (manifest.novelty) {
      prediction.gates.push_back(novelty_gate(held_->outputs.logits, manifest.taxonomy, *manifest.novelty));
    }
    ATTEMPT(Decision decision,
            timed(times, "decode", [&] { return decode(held_->outputs.logits, manifest.taxonomy, manifest.decode); }));
    prediction.decision = std::move(decision);
    prediction.evidence = held_->outputs.evidence;
    prediction.evidence_height = held_->outputs.evidence_height;
    prediction.evidence_width = held_->outputs.evidence_width;
    return prediction;
  });
}

}  // namespace hffnet
