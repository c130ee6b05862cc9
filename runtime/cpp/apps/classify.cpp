// hffnet-classify-cpp BUNDLE FRAME…: one JSON line per frame on stdout, sentences for people on stderr.
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "hffnet/classifier.hpp"
#include "options.hpp"

namespace {

constexpr const char* kUsage =
    "usage: hffnet-classify-cpp [--engine NAME] [--precision NAME] [--threads N] BUNDLE FRAME...\n"
    "Classifies image files: one JSON line per frame on stdout. Exit code: 0 done, 2 wrong use, 3 a frame or the\n"
    "bundle cannot be read, 4 no engine.\n";

int fail(const hffnet::Failure& failure) {
  std::cerr << "hffnet: " << failure.sentence << '\n';
  return hffnet::exit_code(failure.error);
}

int classify_all(hffnet::Classifier& classifier, const std::vector<std::string>& frames) {
  int code = 0;
  for (const std::string& path : frames) {
    const auto prediction = classifier.classify(path);
    if (prediction.ok()) {
      std::cout << hffnet::json_from_prediction(prediction.value(), classifier) << std::endl;
      continue;
    }
    const nlohmann::ordered_json document = {{"name", path}, {"error", prediction.failure().sentence}};
    std::cout << document.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << std::endl;
    code = fail(prediction.failure());
  }
  return code;
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): without memory for a sentence there is nothing to say
int main(int argc, char** argv) {
  hffnet::apps::keep_memory();
  const auto options = hffnet::apps::options_from(argc, argv, kUsage);
  if (!options.ok()) return fail(options.failure());
  if (options.value().help) {
    std::cout << kUsage;
    return 0;
  }
  std::vector<std::string> words = options.value().words;
  if (words.size() < 2) {
    std::cerr << kUsage;
    return 2;
  }
  auto classifier = hffnet::Classifier::open(words.front(), options.value().engine);
  if (!classifier.ok()) return fail(classifier.failure());
  words.erase(words.begin());
  return classify_all(classifier.value(), words);
}
