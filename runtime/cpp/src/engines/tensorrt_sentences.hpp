// What TensorRT says, as sentences for people; as hffnet.runtime.engines.build_process.
#pragma once

#include <string>
#include <vector>

namespace hffnet {

// One error of the ONNX parser.
struct ParserError {
  std::string code;  // as its enumeration names it, in lower-case words: "unsupported node"
  std::string node;  // name; may be empty
  std::string op;    // operator of the node
  int node_number = -1;
  std::string description;
};

// Without the places in the library's own sources.
std::string cleaned(const std::string& text);

// A graph that the parser refused, naming the node.
std::string sentence_from_parser(const std::string& title, const ParserError& error);

// A build that gave no engine, from what the library logged as errors.
std::string sentence_from_build(const std::string& title, const std::vector<std::string>& errors);

}  // namespace hffnet
