// Answers for tests/parity: one JSON line per input line. An input line is a JSON object whose "ask" says
// what of.
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hffnet/bundle.hpp"
#include "hffnet/decode.hpp"
#include "hffnet/frame.hpp"
#include "hffnet/gates.hpp"
#include "hffnet/preprocess.hpp"

namespace {

using nlohmann::json;

json refused(const hffnet::Failure& failure) {
  return {{"ok", false}, {"error", static_cast<int>(failure.error)}, {"sentence", failure.sentence}};
}

// Opened, and its test vectors read, as an engine would.
json answer_bundle(const json& question) {
  const auto bundle = hffnet::Bundle::open(question["path"]);
  if (!bundle.ok()) return refused(bundle.failure());
  const auto vectors = bundle.value().vectors();
  if (!vectors.ok()) return refused(vectors.failure());
  return {{"ok", true}, {"sha256", bundle.value().sha256()}, {"num_frames", vectors.value().num_frames}};
}

json answer_preprocess(const json& question) {
  std::ifstream file(question["pixels"].get<std::string>(), std::ios::binary);
  const std::vector<char> pixels{std::istreambuf_iterator<char>(file), {}};
  const std::string type = question["dtype"];
  const hffnet::Depth depth = type == "uint8"    ? hffnet::Depth::kUint8
                              : type == "uint16" ? hffnet::Depth::kUint16
                                                 : hffnet::Depth::kFloat32;
  const std::size_t width = question["width"];
  hffnet::PreprocessSpec spec{question["size"], question["low"], question["high"], question["min_span"]};
  hffnet::Preprocessor preprocess(spec);
  const auto input = preprocess({pixels.data(), depth, question["height"], width, width * bytes_per_pixel(depth)});
  if (!input.ok()) return refused(input.failure());
  std::ofstream out(question["out"].get<std::string>(), std::ios::binary);
  out.write(reinterpret_cast<const char*>(input.value().data()), static_cast<std::streamsize>(input.value().size()));
  return {{"ok", true}};
}

json answer_decode(const json& question) {
  std::vector<hffnet::Level> levels;
  for (const json& level : question["levels"]) levels.push_back({level["name"], level["classes"], level["parents"]});
  const auto taxonomy = hffnet::Taxonomy::from_levels(std::move(levels));
  if (!taxonomy.ok()) return refused(taxonomy.failure());
  hffnet::DecodeSpec spec{question["temperatures"], {}};
  if (!question["min_confidence"].is_null()) spec.min_confidence = question["min_confidence"].get<double>();
  json decisions = json::array();
  for (const json& row : question["logits"]) {
    const std::vector<float> logits = row;
    const auto decision = hffnet::decode(logits, taxonomy.value(), spec);
    if (!decision.ok()) return refused(decision.failure());
    decisions.push_back({{"path", decision.value().path},
                         {"confidence", decision.value().confidence},
                         {"answer", decision.value().answer},
                         {"probabilities", decision.value().probabilities}});
  }
  return {{"ok", true}, {"decisions", decisions}};
}

template <class T>
json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

// The picture's pixels go to a file; crop, metadata and gates into the answer.
json answer_frame(const json& question) {
  hffnet::Limits limits;
  if (question.contains("limits")) {
    limits = {question["limits"]["max_file_bytes"], question["limits"]["max_pixels"],
              question["limits"]["max_decoded_bytes"]};
  }
  const auto frame = hffnet::read_frame(question["path"], limits);
  if (!frame.ok()) return refused(frame.failure());
  const hffnet::Frame& read = frame.value();
  std::ofstream out(question["out"].get<std::string>(), std::ios::binary);
  out.write(reinterpret_cast<const char*>(read.pixels.bytes.data()),
            static_cast<std::streamsize>(read.pixels.bytes.size()));
  const std::vector<std::string> depths{"uint8", "uint16", "float32"};
  const hffnet::Acquisition& about = read.acquisition;
  json gates = json::array();
  for (const hffnet::GateResult& gate : hffnet::check_gates(read.picture())) {
    gates.push_back({{"name", gate.name}, {"passed", gate.passed}, {"value", gate.value}, {"reason", gate.reason}});
  }
  return {{"ok", true},
          {"shape", {read.pixels.height, read.pixels.width}},
          {"dtype", depths[static_cast<std::size_t>(read.pixels.depth)]},
          {"sha256", read.sha256},
          {"crop",
           {{"top", read.crop.top},
            {"left", read.crop.left},
            {"height", read.crop.height},
            {"width", read.crop.width},
            {"reason", read.crop.reason}}},
          {"acquisition",
           {{"vendor", or_null(about.vendor)},
            {"instrument", or_null(about.instrument)},
            {"pixel_size_um", or_null(about.pixel_size_um)},
            {"pixel_size_source", or_null(about.pixel_size_source)},
            {"high_voltage_kv", or_null(about.high_voltage_kv)},
            {"working_distance_mm", or_null(about.working_distance_mm)},
            {"detector", or_null(about.detector)},
            {"operator", or_null(about.operator_name)},
            {"acquired_at", or_null(about.acquired_at)}}},
          {"gates", gates}};
}

json answer_to(const json& question) {
  const std::string ask = question["ask"];
  if (ask == "bundle") return answer_bundle(question);
  if (ask == "preprocess") return answer_preprocess(question);
  if (ask == "frame") return answer_frame(question);
  return answer_decode(question);
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer_to(json::parse(line)).dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
  }
}
