#include "hffnet/engine.hpp"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <iterator>
#include <utility>

#include "attempt.hpp"
#ifdef HFFNET_WITH_OPENVINO
#include "engines/openvino.hpp"
#endif
#ifdef HFFNET_WITH_TENSORRT
#include "engines/cuda_driver.hpp"
#include "engines/tensorrt.hpp"
#endif

namespace hffnet {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "none" : text;
}

// One graph on one engine.
struct Candidate {
  std::string engine;
  const Graph* graph;
};

const Graph* find_graph(const Bundle& bundle, const std::string& precision, const std::string& family) {
  for (const Graph& graph : bundle.manifest().graphs) {
    if (graph.precision == precision && graph.family == family) return &graph;
  }
  return nullptr;
}

// What an engine may open, in order of preference; as hffnet.runtime.engines.opening.
std::vector<Candidate> candidates_of(const Bundle& bundle, const std::string& engine, const std::string& precision) {
  const bool on_gpu = engine == "tensorrt";
  const std::vector<std::string> preferred =
      on_gpu ? std::vector<std::string>{"fp16", "int8"} : std::vector<std::string>{"int8", "fp32", "fp16"};
  std::vector<Candidate> found;
  for (const std::string& wanted : precision == "auto" ? preferred : std::vector<std::string>{precision}) {
    if (!on_gpu && !found.empty()) break;  // precisions of CPU engines are not tried one after the other
    const Graph* graph = find_graph(bundle, wanted, on_gpu ? "tensorrt" : "cpu");
    if (graph == nullptr && precision == "fp32") graph = find_graph(bundle, "fp32", "cpu");  // the same for both
    if (graph != nullptr) found.push_back({engine, graph});
  }
  return found;
}

Failure no_graph(const Bundle& bundle, const std::string& precision, const std::vector<std::string>& engines) {
  std::vector<std::string> held;
  for (const Graph& graph : bundle.manifest().graphs) held.push_back(graph.precision + " (" + graph.family + ")");
  return Failure{Error::kBundle, bundle.path() + " holds " + joined(held) + ", and no " +
                                     (precision == "auto" ? "" : precision + " ") + "graph that " + joined(engines) +
                                     " can run: choose another --precision or --engine, or export the bundle with it"};
}

Result<SelfTest> self_test(Engine& engine, const Bundle& bundle, const Graph& graph) {
  ATTEMPT(const Vectors vectors, bundle.vectors());
  const std::size_t num_columns = vectors.logits.size() / vectors.num_frames;
  const std::size_t num_pixels = vectors.frames.size() / vectors.num_frames;
  double difference = 0.0, largest = 1e-6, cosine = 1.0;
  const Manifest& manifest = bundle.manifest();
  std::size_t flips = 0;
  Outputs outputs;
  for (std::size_t n = 0; n < vectors.num_frames; ++n) {
    ATTEMPT_DONE(engine.infer(std::span(vectors.frames).subspan(n * num_pixels, num_pixels), outputs));
    if (outputs.logits.size() != num_columns) {
      return Failure{Error::kEngine, graph.member + " answers " + std::to_string(outputs.logits.size()) + " logits; " +
                                         std::to_string(num_columns) + " were expected"};
    }
    double dot = 0.0, found = 0.0, expected = 0.0;
    for (std::size_t k = 0; k < num_columns; ++k) {
      const double answer = outputs.logits[k], reference = vectors.logits[n * num_columns + k];
      const double apart = std::abs(answer - reference);
      if (!std::isnan(difference) && !(apart <= difference)) difference = apart;  // once NaN, NaN it stays
      largest = std::max(largest, std::abs(reference));
      dot += answer * reference;
      found += answer * answer;
      expected += reference * reference;
    }
    cosine = std::min(cosine, dot / std::max(std::sqrt(found * expected), 1e-12));
    const auto references = std::span(vectors.logits).subspan(n * num_columns, num_columns);
    ATTEMPT(const Decision one, decode(outputs.logits, manifest.taxonomy, manifest.decode));
    ATTEMPT(const Decision other, decode(references, manifest.taxonomy, manifest.decode));
    flips += one.path != other.path ? 1 : 0;
  }
  return SelfTest{difference / largest, graph.tolerance, cosine, flips, vectors.num_frames};
}

Result<std::unique_ptr<Engine>> open_named(const std::string& name, const std::vector<std::uint8_t>& content,
                                           const Graph& graph, const std::string& sha256,
                                           const EngineOptions& options) {
#ifdef HFFNET_WITH_OPENVINO
  if (name == "openvino") return open_openvino(content, graph.precision == "int8", options.threads);
#endif
#ifdef HFFNET_WITH_TENSORRT
  if (name == "tensorrt") return open_tensorrt(content, sha256, graph.precision, options.notice);
#endif
  static_cast<void>(content);
  static_cast<void>(graph);
  static_cast<void>(sha256);
  static_cast<void>(options);
  return Failure{Error::kMissing, "engine " + name + " is not in this build; it has: " + joined(engines_built())};
}

// Whether an engine's absence is worth a word under auto: a machine without an NVIDIA driver misses nothing.
bool could_be_here(const std::string& engine) {
#ifdef HFFNET_WITH_TENSORRT
  if (engine == "tensorrt") return LoadedLibrary::open(kDriverLibrary).ok();
#endif
  static_cast<void>(engine);
  return true;
}

Result<OpenEngine> open_one(const Bundle& bundle, const Candidate& candidate, const EngineOptions& options) {
  const auto& [name, graph] = candidate;
  ATTEMPT(const std::vector<std::uint8_t> content, bundle.member(graph->member));
  const std::string& sha256 = bundle.manifest().find_member(graph->member)->sha256;
  ATTEMPT(std::unique_ptr<Engine> engine, open_named(name, content, *graph, sha256, options));
  ATTEMPT(const SelfTest test, self_test(*engine, bundle, *graph));
  if (!test.passed()) {
    return Failure{Error::kEngine, name + " " + engine->version() + " on " + engine->device() +
                                       " answers the bundle's test vectors with an error of " +
                                       std::to_string(test.error) + "; at most " + std::to_string(test.tolerance) +
                                       " is allowed for " + graph->precision +
                                       ": use another engine or precision, and report the versions"};
  }
  EngineIdentity identity{name, engine->version(), engine->device(), graph->precision, engine->arithmetic(), sha256,
                          test};
  return OpenEngine{std::move(engine), std::move(identity)};
}

// The first candidate that opens and proves itself.
Result<OpenEngine> open_first(const Bundle& bundle, const std::vector<Candidate>& candidates,
                              const EngineOptions& options) {
  std::vector<Failure> failures;
  std::string sentence = "no engine can run this bundle here.", absent, passed_over;
  for (const Candidate& candidate : candidates) {
    if (candidate.engine == absent) continue;
    if (!passed_over.empty()) options.notice(passed_over);  // only what something else comes after is passed over
    auto opened = open_one(bundle, candidate, options);
    if (opened.ok() || opened.failure().error == Error::kBundle) return opened;
    failures.push_back(std::move(opened).failure());
    const auto& [error, reason] = failures.back();
    if (error == Error::kMissing) absent = candidate.engine;  // so are its other precisions
    const std::string what = candidate.engine + " " + candidate.graph->precision;
    sentence += " " + what + ": " + reason;
    passed_over = what + " is passed over: " + reason;
  }
  if (failures.size() == 1) return failures.front();
  return Failure{Error::kEngine, std::move(sentence)};
}

}  // namespace

std::vector<std::string> engines_built() {
  return {
#ifdef HFFNET_WITH_TENSORRT
      "tensorrt",
#endif
#ifdef HFFNET_WITH_OPENVINO
      "openvino",
#endif
  };
}

void notice_to_stderr(const std::string& sentence) {
  std::cerr << "hffnet: " << sentence << '\n';
}

Result<OpenEngine> open_engine(const Bundle& bundle, const EngineOptions& options) {
  return guarded(Error::kEngine, bundle.path(), [&]() -> Result<OpenEngine> {
    const std::vector<std::string> built = engines_built();
    std::vector<std::string> names;
    if (options.engine != "auto") {
      if (std::find(built.begin(), built.end(), options.engine) == built.end()) {
        return Failure{Error::kMissing, "engine " + options.engine + " is not in this build; it has: " + joined(built)};
      }
      names = {options.engine};
    } else {
      std::copy_if(built.begin(), built.end(), std::back_inserter(names), could_be_here);
      if (names.empty()) return Failure{Error::kEngine, "no engine can run this bundle here. This build has none."};
    }
    std::vector<Candidate> candidates;
    for (const std::string& name : names) {
      for (Candidate& one : candidates_of(bundle, name, options.precision)) candidates.push_back(std::move(one));
    }
    if (candidates.empty()) return no_graph(bundle, options.precision, names);
    return open_first(bundle, candidates, options);
  });
}

}  // namespace hffnet
