#include "options.hpp"

#include <charconv>
#include <string_view>

namespace hffnet::apps {
namespace {

// Takes `value` for `option`; false where the option is not known or the value cannot be.
bool take(Options& options, std::string_view option, const std::string& value) {
  if (option == "--engine") {
    options.engine.engine = value;
  } else if (option == "--precision") {
    options.engine.precision = value;
  } else if (option == "--threads") {
    const auto read = std::from_chars(value.data(), value.data() + value.size(), options.engine.threads);
    return read.ec == std::errc() && read.ptr == value.data() + value.size() && options.engine.threads >= 1;
  } else if (option == "--seconds") {
    const auto read = std::from_chars(value.data(), value.data() + value.size(), options.seconds);
    return read.ec == std::errc() && read.ptr == value.data() + value.size() && options.seconds > 0.0;
  } else {
    return false;
  }
  return true;
}

}  // namespace

Result<Options> options_from(int argc, char** argv, const std::string& usage) {
  Options options;
  bool only_words = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (only_words || word.rfind("--", 0) != 0) {
      options.words.push_back(word);
    } else if (word == "--") {
      only_words = true;
    } else if (word == "--help") {
      options.help = true;
    } else if (i + 1 >= argc || !take(options, word, argv[i + 1])) {
      return Failure{Error::kConfig, "option " + word + " is not known, or its value is missing or wrong\n" + usage};
    } else {
      ++i;
    }
  }
  return options;
}

}  // namespace hffnet::apps
