#include "engines/tensorrt_sentences.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <regex>
#include <sstream>

namespace hffnet {
namespace {

constexpr std::array kOutOfMemory = {"outofmemory", "out of memory", "bad_alloc", "insufficient memory",
                                     "cudaerrormemoryallocation"};

std::string stripped(const std::string& text, const char* what) {
  const auto first = text.find_first_not_of(what);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(what) - first + 1);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

std::string cleaned(const std::string& text) {
  static const std::regex place(R"(\s*\(?In \w+ at /\S+:\d+\)?|^\[\S+::\S+::\d+\]\s*)");
  std::istringstream lines(text);
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    line = stripped(std::regex_replace(line, place, ""), " \t\r");
    if (line.empty() || line.rfind("Invalid Node - ", 0) == 0) continue;
    kept += (kept.empty() ? "" : "; ") + line;
  }
  while (!kept.empty() && (kept.back() == '.' || kept.back() == ';')) kept.pop_back();
  return kept;
}

std::string sentence_from_parser(const std::string& title, const ParserError& error) {
  if (error.code == "model deserialize failed") {
    return title + " cannot read the graph: it is not a whole ONNX model; export it again";
  }
  const std::string where = error.node.empty() ? "node number " + std::to_string(error.node_number)
                                               : "node '" + error.node + "' (" + error.op + ")";
  std::string reason = cleaned(error.description);
  if (error.code.rfind("unsupported", 0) == 0 && (reason.empty() || reason == "false")) {
    reason = "operator " + error.op + " is not supported here";
  }
  return title + " refuses " + where + " of the graph: " + reason + " (" + error.code +
         "); export the bundle again with this hffnet, or use --engine openvino";
}

std::string sentence_from_build(const std::string& title, const std::vector<std::string>& errors) {
  std::string text;
  for (const std::string& error : errors) text += error + " ";
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  const std::string first = errors.empty() ? "it gave no reason" : cleaned(errors.front());
  if (std::any_of(kOutOfMemory.begin(), kOutOfMemory.end(), [&](const char* sign) { return contains(text, sign); })) {
    return title + " ran out of memory while building: " + first + "; close other programs, add swap, or choose int8";
  }
  return title + " cannot build this graph: " + first + "; use another precision or engine";
}

}  // namespace hffnet
