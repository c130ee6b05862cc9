#include "hffnet/engine.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "attempt.hpp"
#ifdef HFFNET_WITH_OPENVINO
#include "engines/openvino.hpp"
#endif

namespace hffnet {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "none" : text;
}

// Which family of graphs an engine takes.
std::string family_of(const std::string& engine) {
  return engine == "tensorrt" ? "tensorrt" : "cpu";
}

Result<const Graph*> graph_of(const Bundle& bundle, const std::string& precision, const std::string& family) {
  const std::vector<std::string> order =
      precision == "auto" ? std::vector<std::string>{"int8", "fp32", "fp16"} : std::vector<std::string>{precision};
  std::vector<std::string> held;
  for (const std::string& wanted : order) {
    for (const Graph& graph : bundle.manifest().graphs) {
      if (graph.precision == wanted && graph.family == family) return &graph;
    }
  }
  for (const Graph& graph : bundle.manifest().graphs) held.push_back(graph.precision + " (" + graph.family + ")");
  return Failure{Error::kBundle, bundle.path() + " holds " + joined(held) + "; a " + precision + " graph for " +
                                     family +
                                     " engines was asked for: choose another --precision, or export the "
                                     "bundle with it"};
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
      difference = apart <= difference ? difference : apart;  // so that NaN stays
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

Result<std::unique_ptr<Engine>> open_named(const std::string& name, const std::vector<std::uint8_t>& graph,
                                           bool is_int8, const EngineOptions& options) {
#ifdef HFFNET_WITH_OPENVINO
  if (name == "openvino") return open_openvino(graph, is_int8, options.threads);
#endif
  static_cast<void>(graph);
  static_cast<void>(is_int8);
  static_cast<void>(options);
  return Failure{Error::kMissing, "engine " + name + " is not in this build; it has: " + joined(engines_built())};
}

Result<OpenEngine> open_one(const Bundle& bundle, const std::string& name, const EngineOptions& options) {
  ATTEMPT(const Graph* graph, graph_of(bundle, options.precision, family_of(name)));
  ATTEMPT(const std::vector<std::uint8_t> content, bundle.member(graph->member));
  ATTEMPT(std::unique_ptr<Engine> engine, open_named(name, content, graph->precision == "int8", options));
  ATTEMPT(const SelfTest test, self_test(*engine, bundle, *graph));
  if (!test.passed()) {
    return Failure{Error::kEngine, name + " " + engine->version() + " on " + engine->device() +
                                       " answers the bundle's test vectors with an error of " +
                                       std::to_string(test.error) + "; at most " + std::to_string(test.tolerance) +
                                       " is allowed for " + graph->precision +
                                       ": use another engine or precision, and report the versions"};
  }
  EngineIdentity identity{name,
                          engine->version(),
                          engine->device(),
                          graph->precision,
                          engine->arithmetic(),
                          bundle.manifest().find_member(graph->member)->sha256,
                          test};
  return OpenEngine{std::move(engine), std::move(identity)};
}

}  // namespace

std::vector<std::string> engines_built() {
  return {
#ifdef HFFNET_WITH_OPENVINO
      "openvino",
#endif
  };
}

Result<OpenEngine> open_engine(const Bundle& bundle, const EngineOptions& options) {
  return guarded(Error::kEngine, bundle.path(), [&]() -> Result<OpenEngine> {
    if (options.engine != "auto") return open_one(bundle, options.engine, options);
    std::string failures;
    for (const std::string& name : engines_built()) {
      auto opened = open_one(bundle, name, options);
      if (opened.ok() || opened.failure().error == Error::kBundle) return opened;
      failures += " " + name + ": " + opened.failure().sentence;
    }
    return Failure{Error::kEngine,
                   "no engine can run this bundle here." + (failures.empty() ? " This build has none." : failures)};
  });
}

}  // namespace hffnet
