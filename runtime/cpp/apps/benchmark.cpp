// hffnet-benchmark-cpp BUNDLE FRAME…: times every stage from file to decision, batch 1; one JSON document on stdout.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hffnet/classifier.hpp"
#include "options.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
using Samples = std::map<std::string, std::vector<double>>;

constexpr const char* kUsage =
    "usage: hffnet-benchmark-cpp [--seconds S] [--engine NAME] [--precision NAME] [--threads N] BUNDLE FRAME...\n"
    "Classifies the frames in turn for S seconds (5) and prints milliseconds per stage as one JSON document.\n";

// Fewest samples of which a 99th percentile is given: with them its 95 % interval excludes the maximum.
constexpr std::size_t kEnoughForP99 = 662;

int fail(const hffnet::Failure& failure) {
  std::cerr << "hffnet: " << failure.sentence << '\n';
  return hffnet::exit_code(failure.error);
}

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Nearest rank.
double quantile(std::vector<double>& values, double share) {
  const auto rank = static_cast<std::ptrdiff_t>(std::ceil(share * static_cast<double>(values.size()))) - 1;
  const auto place = values.begin() + std::max<std::ptrdiff_t>(rank, 0);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

Json summary(std::vector<double>& values) {
  Json row = {{"p50_ms", quantile(values, 0.5)}, {"p95_ms", quantile(values, 0.95)}};
  if (values.size() >= kEnoughForP99) row["p99_ms"] = quantile(values, 0.99);
  return row;
}

// Stages of one prediction, their sum, and the sum without the engine.
void note(const hffnet::Prediction& prediction, Samples& samples) {
  double total = 0.0, engine = 0.0;
  for (const auto& [stage, milliseconds] : prediction.timings_ms) {
    samples[stage].push_back(milliseconds);
    total += milliseconds;
    engine += stage == "infer" ? milliseconds : 0.0;
  }
  samples["total"].push_back(total);
  samples["outside_engine"].push_back(total - engine);
}

hffnet::Result<Samples> measure(hffnet::Classifier& classifier, const std::vector<std::string>& frames,
                                double seconds) {
  Samples samples;
  std::size_t rounds = 0;
  for (auto start = Clock::now(); rounds < 2 || milliseconds_since(start) < 1e3 * seconds; ++rounds) {
    if (rounds == 1) {  // the first round warms caches and memory up
      samples.clear();
      start = Clock::now();
    }
    for (const std::string& path : frames) {
      auto prediction = classifier.classify(path);
      if (!prediction.ok()) return std::move(prediction).failure();
      note(prediction.value(), samples);
    }
  }
  return samples;
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): without memory for a sentence there is nothing to say
int main(int argc, char** argv) {
  const auto start = Clock::now();
  hffnet::apps::keep_memory();
  const auto options = hffnet::apps::options_from(argc, argv, kUsage);
  if (!options.ok()) return fail(options.failure());
  std::vector<std::string> words = options.value().words;
  if (options.value().help || words.size() < 2) {
    (options.value().help ? std::cout : std::cerr) << kUsage;
    return options.value().help ? 0 : 2;
  }
  auto classifier = hffnet::Classifier::open(words.front(), options.value().engine);
  if (!classifier.ok()) return fail(classifier.failure());
  const double open_ms = milliseconds_since(start);
  words.erase(words.begin());
  const auto first = classifier.value().classify(words.front());
  if (!first.ok()) return fail(first.failure());
  const double first_ms = milliseconds_since(start);
  auto samples = measure(classifier.value(), words, options.value().seconds);
  if (!samples.ok()) return fail(samples.failure());
  const hffnet::EngineIdentity& engine = classifier.value().engine();
  Json stages = Json::object();
  for (const char* stage : {"read", "gates", "preprocess", "infer", "decode", "outside_engine", "total"}) {
    const auto found = samples.value().find(stage);
    if (found != samples.value().end()) stages[stage] = summary(found->second);
  }
  const Json document = {{"schema_version", 1},
                         {"command", "benchmark"},
                         {"bundle_sha256", classifier.value().bundle().sha256()},
                         {"engine", engine.name + " " + engine.version},
                         {"device", engine.device},
                         {"precision", engine.precision},
                         {"arithmetic", engine.arithmetic},
                         {"open_ms", open_ms},
                         {"first_decision_ms", first_ms},
                         {"num_samples", samples.value()["total"].size()},
                         {"stages", stages}};
  std::cout << document.dump() << '\n';
}
