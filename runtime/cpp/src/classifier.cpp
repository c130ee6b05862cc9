#include "hffnet/classifier.hpp"

#include <algorithm>
#include <chrono>

#include "attempt.hpp"
#include "frames/unhashed.hpp"

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

Prediction prediction_of(const Frame& frame, Timings timings) {
  return {frame.name, frame.sha256, frame.crop, frame.acquisition, {}, {}, {}, 0, 0, std::move(timings)};
}

}  // namespace

struct Classifier::Held {
  Bundle bundle;
  OpenEngine engine;
  Preprocessor preprocess;
  Outputs outputs;

  // Gates and the network's input, valid until the next call; none where a gate refuses.
  Result<std::optional<std::span<const std::uint8_t>>> prepare(const Frame& frame, Prediction& prediction,
                                                               FrameFingerprint* live) {
    Timings& times = prediction.timings_ms;
    prediction.gates = timed(times, "gates", [&] { return gates_of(frame, live); });
    const auto& trained_um = bundle.manifest().pixel_size_um;
    if (trained_um && frame.acquisition.pixel_size_um) {
      prediction.gates.push_back(pixel_size_gate(*frame.acquisition.pixel_size_um, *trained_um));
    }
    if (prediction.not_classified()) return std::optional<std::span<const std::uint8_t>>();
    ATTEMPT(const auto input, timed(times, "preprocess", [&] { return preprocess(frame.picture()); }));
    return std::optional(input);
  }

  Status decide(std::span<const std::uint8_t> input, Prediction& prediction) {
    const Manifest& manifest = bundle.manifest();
    Timings& times = prediction.timings_ms;
    ATTEMPT_DONE(timed(times, "infer", [&] { return engine.engine->infer(input, outputs); }));
    if (manifest.novelty) {
      prediction.gates.push_back(novelty_gate(outputs.logits, manifest.taxonomy, *manifest.novelty));
    }
    ATTEMPT(Decision decision,
            timed(times, "decode", [&] { return decode(outputs.logits, manifest.taxonomy, manifest.decode); }));
    prediction.decision = std::move(decision);
    prediction.evidence = outputs.evidence;
    prediction.evidence_height = outputs.evidence_height;
    prediction.evidence_width = outputs.evidence_width;
    return Done{};
  }
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
  return guarded(Error::kFrame, path, [&]() -> Result<Prediction> {
    Timings timings;
    ATTEMPT(Unhashed read, timed(timings, "read", [&] { return read_unhashed(path); }));
    Prediction prediction = prediction_of(read.frame, std::move(timings));
    ATTEMPT(const auto input, held_->prepare(read.frame, prediction, nullptr));
    if (input) ATTEMPT_DONE(held_->decide(*input, prediction));
    // The engine leaves it a processor for long enough; what is left of the waiting is reading.
    Timings waited;
    prediction.sha256 = timed(waited, "read", [&] { return read.sha256.get(); });
    prediction.timings_ms.front().second += waited.front().second;
    return prediction;
  });
}

Result<Prediction> Classifier::classify_frame(const Frame& frame, Timings timings, FrameFingerprint* live) {
  return guarded(Error::kFrame, frame.name, [&]() -> Result<Prediction> {
    Prediction prediction = prediction_of(frame, std::move(timings));
    ATTEMPT(const auto input, held_->prepare(frame, prediction, live));
    if (input) ATTEMPT_DONE(held_->decide(*input, prediction));
    return prediction;
  });
}

}  // namespace hffnet
