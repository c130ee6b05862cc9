#include "prediction_json.hpp"

#include <array>
#include <cmath>
#include <cstdint>

namespace hffnet {
namespace {

using Json = OrderedJson;

constexpr int kSchemaVersion = 1;

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// What is not finite becomes null.
Json finite(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json crop_json(const Crop& crop) {
  return {
      {"top", crop.top}, {"left", crop.left}, {"height", crop.height}, {"width", crop.width}, {"reason", crop.reason}};
}

Json acquisition_json(const Acquisition& about) {
  return {{"vendor", or_null(about.vendor)},
          {"instrument", or_null(about.instrument)},
          {"pixel_size_um", or_null(about.pixel_size_um)},
          {"pixel_size_source", or_null(about.pixel_size_source)},
          {"high_voltage_kv", or_null(about.high_voltage_kv)},
          {"working_distance_mm", or_null(about.working_distance_mm)},
          {"detector", or_null(about.detector)},
          {"operator", or_null(about.operator_name)},
          {"acquired_at", or_null(about.acquired_at)}};
}

Json engine_json(const EngineIdentity& engine) {
  return {{"name", engine.name},
          {"version", engine.version},
          {"device", engine.device},
          {"precision", engine.precision},
          {"arithmetic", engine.arithmetic},
          {"graph_sha256", engine.graph_sha256},
          {"self_test",
           {{"error", finite(engine.self_test.error)},
            {"tolerance", engine.self_test.tolerance},
            {"cosine", finite(engine.self_test.cosine)},
            {"flips", engine.self_test.flips},
            {"num_frames", engine.self_test.num_frames}}}};
}

Json probabilities_json(const Decision& decision, const Taxonomy& taxonomy) {
  Json levels = Json::object();
  for (std::size_t i = 0; i < taxonomy.depth(); ++i) {
    Json classes = Json::object();
    for (std::size_t k = 0; k < decision.probabilities[i].size(); ++k) {
      classes[taxonomy.levels()[i].classes[k]] = finite(decision.probabilities[i][k]);
    }
    levels[taxonomy.levels()[i].name] = std::move(classes);
  }
  return levels;
}

Json numbers_json(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(finite(value));
  return list;
}

Json gates_json(const std::vector<GateResult>& results) {
  Json gates = Json::array();
  for (const GateResult& gate : results) {
    gates.push_back({{"name", gate.name},
                     {"passed", gate.passed},
                     {"value", finite(gate.value)},
                     {"limit", gate.limit},
                     {"reason", gate.reason},
                     {"refuses", gate.refuses}});
  }
  return gates;
}

// Bytes of the UTF-8 character that begins at `place`; 0 where none does.
std::size_t bytes_of_character(const std::string& text, std::size_t place) {
  const auto at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned first = at(place);
  if (first < 0x80) return 1;
  const std::size_t count = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  std::uint32_t code = count == 4 ? first & 0x07U : count == 3 ? first & 0x0FU : first & 0x1FU;
  for (std::size_t i = 1; i < count; ++i) {
    if ((at(place + i) & 0xC0U) != 0x80U) return 0;
    code = code << 6U | (at(place + i) & 0x3FU);
  }
  constexpr std::array<std::uint32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = code >= 0xD800 && code <= 0xDFFF;
  return first >= 0xC2 && first <= 0xF4 && code >= kLeast[count] && code <= 0x10FFFF && !is_surrogate ? count : 0;
}

}  // namespace

std::string text_from_name(const std::string& name) {
  std::string text;
  for (std::size_t i = 0; i < name.size();) {
    const std::size_t count = bytes_of_character(name, i);
    if (count == 0) {
      const auto byte = static_cast<unsigned char>(name[i++]);
      text += {'\\', 'x', "0123456789abcdef"[byte >> 4U], "0123456789abcdef"[byte & 15U]};
    } else {
      text.append(name, i, count);
      i += count;
    }
  }
  return text;
}

Json empty_document() {
  return {
      {"schema_version", kSchemaVersion},
      {"kind", "result"},
      {"name", ""},
      {"status", nullptr},
      {"reason", nullptr},
      {"class_path", Json::array()},
      {"answer", Json::array()},
      {"confidence", Json::array()},
      {"probabilities", Json::object()},
      {"input_path", nullptr},
      {"input_size", nullptr},
      {"input_mtime_ns", nullptr},
      {"input_sha256", nullptr},
      {"crop", nullptr},
      {"acquisition", nullptr},
      {"gates", Json::array()},
      {"engine", nullptr},
      {"bundle_sha256", nullptr},
      {"settings_sha256", nullptr},
      {"timings_ms", Json::object()},
      {"refers_to", nullptr},
      {"person", nullptr},
      {"details", nullptr},
  };
}

Json document_from_prediction(const Prediction& prediction, const Classifier& classifier) {
  Json document = empty_document();
  document["name"] = text_from_name(prediction.name);
  document["status"] = prediction.decision ? "classified" : "not_classified";
  document["reason"] = or_null(prediction.not_classified());
  if (prediction.decision) {
    document["class_path"] = prediction.decision->path;
    document["answer"] = prediction.decision->answer;
    document["confidence"] = numbers_json(prediction.decision->confidence);
    document["probabilities"] = probabilities_json(*prediction.decision, classifier.bundle().manifest().taxonomy);
  }
  document["input_sha256"] = prediction.sha256;
  document["crop"] = crop_json(prediction.crop);
  document["acquisition"] = acquisition_json(prediction.acquisition);
  document["gates"] = gates_json(prediction.gates);
  document["engine"] = engine_json(classifier.engine());
  document["bundle_sha256"] = classifier.bundle().sha256();
  for (const auto& [stage, milliseconds] : prediction.timings_ms) document["timings_ms"][stage] = milliseconds;
  return document;
}

std::string json_from_prediction(const Prediction& prediction, const Classifier& classifier) {
  return document_from_prediction(prediction, classifier).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace hffnet
