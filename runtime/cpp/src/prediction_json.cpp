#include <cmath>
#include <nlohmann/json.hpp>

#include "hffnet/classifier.hpp"

namespace hffnet {
namespace {

// Keys in the order they are written, as in Python.
using Json = nlohmann::ordered_json;

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

}  // namespace

std::string json_from_prediction(const Prediction& prediction, const Classifier& classifier) {
  const Decision nothing;
  const Decision& decision = prediction.decision ? *prediction.decision : nothing;
  Json gates = Json::array(), timings = Json::object();
  for (const GateResult& gate : prediction.gates) {
    gates.push_back({{"name", gate.name},
                     {"passed", gate.passed},
                     {"value", finite(gate.value)},
                     {"limit", gate.limit},
                     {"reason", gate.reason},
                     {"refuses", gate.refuses}});
  }
  for (const auto& [stage, milliseconds] : prediction.timings_ms) timings[stage] = milliseconds;
  const Json document = {
      {"schema_version", kSchemaVersion},
      {"kind", "result"},
      {"name", prediction.name},
      {"status", prediction.decision ? "classified" : "not_classified"},
      {"reason", or_null(prediction.not_classified())},
      {"class_path", decision.path},
      {"answer", decision.answer},
      {"confidence", numbers_json(decision.confidence)},
      {"probabilities",
       prediction.decision ? probabilities_json(decision, classifier.bundle().manifest().taxonomy) : Json::object()},
      {"input_path", nullptr},
      {"input_size", nullptr},
      {"input_mtime_ns", nullptr},
      {"input_sha256", prediction.sha256},
      {"crop", crop_json(prediction.crop)},
      {"acquisition", acquisition_json(prediction.acquisition)},
      {"gates", std::move(gates)},
      {"engine", engine_json(classifier.engine())},
      {"bundle_sha256", classifier.bundle().sha256()},
      {"settings_sha256", nullptr},
      {"timings_ms", std::move(timings)},
      {"refers_to", nullptr},
      {"person", nullptr},
      {"details", nullptr},
  };
  // A file name need not be UTF-8.
  return document.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace hffnet
