#include "hffnet/record.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <initializer_list>
#include <utility>

#include "area_resize.hpp"
#include "canonical_json.hpp"
#include "hffnet_version.hpp"
#include "prediction_json.hpp"
#include "sha256.hpp"

namespace hffnet {
namespace {

using Json = OrderedJson;

constexpr int kRowVersion = 2;
constexpr std::size_t kMostCells = 48;  // per side of a map in a row
constexpr const char* kGenesis = "0000000000000000000000000000000000000000000000000000000000000000";

std::string sha256_of_text(const std::string& text) {
  return sha256_of({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

std::string now_utc() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  const auto seconds = static_cast<std::time_t>(us / 1'000'000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 48> text{};
  const std::size_t count = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::array<char, 48> rest{};
  std::snprintf(rest.data(), rest.size(), ".%06lld+00:00", static_cast<long long>(us % 1'000'000));
  return std::string(text.data(), count) + rest.data();
}

// Three decimals, rounded as Python rounds.
double rounded(double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.3f", value);
  return std::strtod(text.data(), nullptr);
}

std::string clock_sentence(double seconds) {
  std::array<char, 96> text{};
  std::snprintf(text.data(), text.size(), "the clock was set %s by %.1f s", seconds > 0.0 ? "forward" : "back",
                std::abs(seconds));
  return text.data();
}

// A map of one class, coarser where it has many cells, so that a row stays small.
Json map_json(const float* cells, std::size_t height, std::size_t width) {
  std::vector<float> small, rows;
  if (height == width && height > kMostCells) {
    area_resize({cells, Depth::kFloat32, height, width, width * sizeof(float)}, kMostCells, small, rows);
    cells = small.data();
    height = width = kMostCells;
  }
  Json map = Json::array();
  for (std::size_t y = 0; y < height; ++y) {
    Json row = Json::array();
    for (std::size_t x = 0; x < width; ++x) row.push_back(rounded(static_cast<double>(cells[y * width + x])));
    map.push_back(std::move(row));
  }
  return map;
}

// Where in the picture the answer comes from: the map whose mean is the logit of the answer's last class.
Json evidence_json(const Prediction& prediction, const Taxonomy& taxonomy) {
  const Decision& decision = *prediction.decision;
  const std::size_t depth = std::max<std::size_t>(decision.answer.size(), 1) - 1;
  const std::vector<std::string>& classes = taxonomy.levels()[depth].classes;
  const auto found = std::find(classes.begin(), classes.end(), decision.path[depth]);
  const std::size_t column = taxonomy.offset(depth) + static_cast<std::size_t>(found - classes.begin());
  const std::size_t cells = prediction.evidence_height * prediction.evidence_width;
  return {{"class", decision.path[depth]},
          {"map", map_json(prediction.evidence.data() + column * cells, prediction.evidence_height,
                           prediction.evidence_width)}};
}

void describe(Json& document, const Subject& subject) {
  document["name"] = text_from_name(subject.name);
  if (subject.input) {
    document["input_path"] = text_from_name(subject.input->path);
    document["input_size"] = subject.input->size;
    document["input_mtime_ns"] = subject.input->mtime_ns;
  }
  if (subject.live) {
    Json dropped = Json::object();
    for (const auto& [reason, count] : subject.live->dropped) dropped[reason] = count;
    document["details"]["live"] = {{"index", subject.live->index},
                                   {"captured_utc", subject.live->captured_utc},
                                   {"dropped", std::move(dropped)},
                                   {"age_ms", rounded(subject.live->age_ms)}};
  }
}

// Nested fields are hashed as the canonical text that Python's table stores.
std::string row_hash(const Json& document) {
  Json row = Json::object();
  for (const auto& [key, value] : document.items()) {
    if (key == "schema_version") continue;
    row[key] = value.is_structured() ? Json(canonical_json(value)) : value;
  }
  return sha256_of_text(canonical_json(row));
}

}  // namespace

struct RecordChain::Held {
  std::string settings_sha256;
  std::uint64_t seq;
  std::string head;

  std::string next(const Json& draft) {
    Json document = Json::object();
    for (const auto& [key, value] : draft.items()) {
      // Nested keys in the order in which Python's table gives them back.
      document[key] = value.is_structured() ? Json(nlohmann::json(value)) : value;
      if (key == "schema_version") {
        document["seq"] = ++seq;
        document["created_utc"] = now_utc();
      }
    }
    document["hffnet_version"] = kVersion;
    document["row_version"] = kRowVersion;
    document["prev_hash"] = head;
    document["hash"] = head = row_hash(document);
    return document.dump(-1, ' ', true, Json::error_handler_t::replace);
  }
};

std::string settings_sha256(const EngineOptions& engine, const std::optional<BarSetting>& bar) {
  const GateSettings gates;
  Json document = {{"engine", engine.engine},
                   {"precision", engine.precision},
                   {"gates",
                    {{"max_uniform_rows", gates.max_uniform_rows},
                     {"min_contrast", gates.min_contrast},
                     {"max_black", gates.max_black},
                     {"max_white", gates.max_white},
                     {"min_sharpness", nullptr},
                     {"pixel_size", "flag"},
                     {"pixel_size_margin", 1.25},
                     {"out_of_distribution", "flag"}}},
                   {"bar", nullptr},
                   {"tiles", nullptr}};
  if (bar) document["bar"] = {{"rows", bar->rows}, {"force", bar->force}};
  return sha256_of_text(canonical_json(document));
}

RecordChain::RecordChain(std::string settings_sha256, std::uint64_t last_seq, std::string head)
    : held_(std::make_unique<Held>(
          Held{std::move(settings_sha256), last_seq, head.empty() ? std::string(kGenesis) : std::move(head)})) {}
RecordChain::RecordChain(RecordChain&&) noexcept = default;
RecordChain& RecordChain::operator=(RecordChain&&) noexcept = default;
RecordChain::~RecordChain() = default;

std::uint64_t RecordChain::last_seq() const {
  return held_->seq;
}

std::string RecordChain::result(const Prediction& prediction, const Subject& subject, const Classifier& classifier) {
  Json document = document_from_prediction(prediction, classifier);
  if (prediction.decision && !prediction.evidence.empty()) {
    document["details"] = {{"evidence", evidence_json(prediction, classifier.bundle().manifest().taxonomy)}};
  }
  describe(document, subject);
  document["settings_sha256"] = held_->settings_sha256;
  return held_->next(document);
}

std::string RecordChain::failure(const Subject& subject, const std::string& reason, const Timings& timings_ms,
                                 const Classifier& classifier) {
  Json document = empty_document();
  document["status"] = "failed";
  document["reason"] = text_from_name(reason);
  document["bundle_sha256"] = classifier.bundle().sha256();
  document["settings_sha256"] = held_->settings_sha256;
  for (const auto& [stage, milliseconds] : timings_ms) document["timings_ms"][stage] = milliseconds;
  describe(document, subject);
  return held_->next(document);
}

std::string RecordChain::event(const std::string& name, const std::string& reason,
                               const std::map<std::string, std::uint64_t>& figures) {
  Json document = empty_document();
  document["kind"] = "event";
  document["name"] = name;
  document["reason"] = text_from_name(reason);
  document["details"] = Json::object();
  for (const auto& [figure, count] : figures) document["details"][figure] = count;
  return held_->next(document);
}

std::string RecordChain::clock_jump(double seconds) {
  Json document = empty_document();
  document["kind"] = "event";
  document["name"] = "clock_jump";
  document["reason"] = clock_sentence(seconds);
  document["details"] = {{"seconds", rounded(seconds)}};
  return held_->next(document);
}

}  // namespace hffnet
