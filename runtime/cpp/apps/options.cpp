#include "options.hpp"

#include <features.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <charconv>
#include <string_view>

namespace hffnet::apps {
namespace {

template <class T>
bool is_number(const std::string& text, T& value) {
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  return read.ec == std::errc() && read.ptr == text.data() + text.size();
}

// Takes `value` for `option`; false where the option is not known or the value cannot be.
bool take(Options& options, std::string_view option, const std::string& value) {
  if (option == "--engine") {
    options.engine.engine = value;
  } else if (option == "--precision") {
    options.engine.precision = value;
  } else if (option == "--jsonl") {
    options.jsonl = value;
  } else if (option == "--done") {
    options.done.push_back(value);
  } else if (option == "--threads") {
    return is_number(value, options.engine.threads) && options.engine.threads >= 1;
  } else if (option == "--seconds") {
    return is_number(value, options.seconds) && options.seconds > 0.0;
  } else if (option == "--idle-exit") {
    return is_number(value, options.idle_exit_s.emplace()) && *options.idle_exit_s >= 0.0;
  } else if (option == "--bar") {
    return is_number(value, options.bar.emplace(BarSetting{0}).rows) && options.bar->rows <= 10'000;
  } else {
    return false;
  }
  return true;
}

}  // namespace

void keep_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

Result<Options> options_from(int argc, char** argv, const std::string& usage) {
  Options options;
  bool only_words = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool is_named = usage.find(word + " ") != std::string::npos;
    if (only_words || word.rfind("--", 0) != 0) {
      options.words.push_back(word);
    } else if (word == "--") {
      only_words = true;
    } else if (word == "--help") {
      options.help = true;
    } else if (word == "--once" && is_named) {
      options.idle_exit_s = 0.0;
    } else if (!is_named || i + 1 >= argc || !take(options, word, argv[i + 1])) {
      return Failure{Error::kConfig, "option " + word + " is not known, or its value is missing or wrong\n" + usage};
    } else {
      ++i;
    }
  }
  return options;
}

}  // namespace hffnet::apps
