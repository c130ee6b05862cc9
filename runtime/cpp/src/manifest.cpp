#include "hffnet/manifest.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "attempt.hpp"
#include "strict_json.hpp"

namespace hffnet {
namespace {

double share(const JsonValue& value) {
  return value.number_where([](double x) { return x >= 0.0 && x <= 1.0; }, "between 0 and 1");
}

// A name of a class or level: 1 to 200 characters, no control character, no slash of either kind.
std::string name_of(const JsonValue& value) {
  std::string name = value.text(1, 200);
  const auto forbidden = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '/' || c == '\\'; };
  if (std::any_of(name.begin(), name.end(), forbidden)) {
    value.refuse("String should have no control characters and no slashes");
  }
  return name;
}

// A lower-case letter or digit, then also low lines, dots and hyphens.
bool is_plain_name(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const auto inner = [&](char c) { return plain(c) || c == '_' || c == '.' || c == '-'; };
  return !name.empty() && plain(name.front()) && std::all_of(name.begin(), name.end(), inner);
}

// One plain name, or two with a slash between them.
std::string member_name_of(const JsonValue& value) {
  std::string name = value.text(0, 120);
  const std::string_view whole = name;
  const std::size_t slash = whole.find('/');
  const bool good = slash == std::string_view::npos
                        ? is_plain_name(whole)
                        : is_plain_name(whole.substr(0, slash)) && is_plain_name(whole.substr(slash + 1));
  if (!good) value.refuse("String should be a member's name like graphs/fp32-cpu.onnx");
  return name;
}

Level level_from(const JsonValue& value) {
  const JsonFields fields(value, {"name", "classes", "parents"});
  Level level{name_of(fields["name"]), {}, {}};
  for (const JsonValue& entry : fields["classes"].elements()) level.classes.push_back(name_of(entry));
  if (const JsonValue* parents = fields.find("parents")) {
    for (const JsonValue& entry : parents->elements()) {
      level.parents.push_back(static_cast<std::size_t>(entry.whole(0)));
    }
  }
  return level;
}

Taxonomy taxonomy_from(const JsonValue& value) {
  const JsonFields fields(value, {"levels"});
  std::vector<Level> levels;
  for (const JsonValue& entry : fields["levels"].elements()) levels.push_back(level_from(entry));
  auto taxonomy = Taxonomy::from_levels(std::move(levels));
  if (!taxonomy.ok()) value.refuse(taxonomy.failure().sentence);
  return std::move(taxonomy).value();
}

PreprocessSpec preprocess_from(const JsonValue& value) {
  const JsonFields fields(value, {"size", "resize", "low", "high", "min_span"});
  PreprocessSpec spec;
  if (const JsonValue* size = fields.find("size")) spec.size = static_cast<std::size_t>(size->whole(32, 4096));
  if (const JsonValue* resize = fields.find("resize")) resize->one_of({"area"});
  if (const JsonValue* low = fields.find("low")) {
    spec.low = low->number_where([](double x) { return x >= 0.0 && x < 1.0; }, "at least 0 and below 1");
  }
  const auto positive_share = [](double x) { return x > 0.0 && x <= 1.0; };
  if (const JsonValue* high = fields.find("high")) spec.high = high->number_where(positive_share, "above 0, at most 1");
  if (const JsonValue* span = fields.find("min_span")) {
    spec.min_span = span->number_where(positive_share, "above 0, at most 1");
  }
  if (spec.low >= spec.high) value.refuse("low must be below high");
  return spec;
}

DecodeSpec decode_from(const JsonValue& value) {
  const JsonFields fields(value, {"temperatures", "min_confidence"});
  DecodeSpec spec;
  for (const JsonValue& entry : fields["temperatures"].elements()) {
    spec.temperatures.push_back(
        entry.number_where([](double x) { return x > 0.0 && x <= 100.0; }, "above 0, at most 100"));
  }
  const JsonValue* confidence = fields.find("min_confidence");
  if (confidence != nullptr && !confidence->is_null()) {
    spec.min_confidence = confidence->number_where([](double x) { return x > 0.0 && x < 1.0; }, "above 0, below 1");
  }
  return spec;
}

Network network_from(const JsonValue& value) {
  const JsonFields fields(value, {"name", "recipe", "num_parameters", "evidence_shape"});
  const auto shape = fields["evidence_shape"].elements();
  if (shape.size() != 2) fields["evidence_shape"].refuse("Tuple should have 2 items");
  return {fields["name"].text(),
          fields["recipe"].text(),
          fields["num_parameters"].whole(1),
          {shape[0].whole(1), shape[1].whole(1)}};
}

Graph graph_from(const JsonValue& value) {
  const JsonFields fields(value, {"precision", "family", "member", "tolerance"});
  return {fields["precision"].one_of({"fp32", "fp16", "int8"}), fields["family"].one_of({"cpu", "tensorrt"}),
          member_name_of(fields["member"]),
          fields["tolerance"].number_where([](double x) { return x > 0.0 && x <= 10.0; }, "above 0, at most 10")};
}

Metrics metrics_from(const JsonValue& value) {
  const JsonFields fields(value, {"num_frames", "hp", "hr", "hf1", "fpa", "tice", "level_accuracy"});
  Metrics metrics{fields["num_frames"].whole(1),
                  share(fields["hp"]),
                  share(fields["hr"]),
                  share(fields["hf1"]),
                  share(fields["fpa"]),
                  share(fields["tice"]),
                  {}};
  for (const JsonValue& entry : fields["level_accuracy"].elements()) metrics.level_accuracy.push_back(share(entry));
  return metrics;
}

std::map<std::string, Metrics> all_metrics_from(const JsonValue& value) {
  std::map<std::string, Metrics> metrics;
  const JsonFields known(value, {"fp32", "fp16", "int8"});
  for (const auto& [precision, entry] : value.entries()) metrics.emplace(precision, metrics_from(entry));
  return metrics;
}

std::optional<std::array<double, 2>> pixel_size_from(const JsonValue& value) {
  if (value.is_null()) return std::nullopt;
  const auto range = value.elements();
  if (range.size() != 2) value.refuse("Tuple should have 2 items");
  return std::array<double, 2>{range[0].number(), range[1].number()};
}

std::optional<Novelty> novelty_from(const JsonValue* value) {
  if (value == nullptr || value->is_null()) return std::nullopt;
  const JsonFields fields(*value, {"max_energy", "quantile", "num_frames"});
  return Novelty{fields["max_energy"].number(), share(fields["quantile"]), fields["num_frames"].whole(1)};
}

Provenance provenance_from(const JsonValue& value) {
  const JsonFields fields(
      value, {"created_utc", "checkpoint_sha256", "data_sha256", "num_train_frames", "evaluated_on", "tools"});
  Provenance provenance{fields["created_utc"].text(),   fields["checkpoint_sha256"].sha256(),
                        fields["data_sha256"].sha256(), fields["num_train_frames"].whole(0),
                        fields["evaluated_on"].text(),  {}};
  for (const auto& [tool, version] : fields["tools"].entries()) provenance.tools.emplace(tool, version.text());
  return provenance;
}

Member member_from(const JsonValue& value) {
  const JsonFields fields(value, {"name", "size", "sha256"});
  return {member_name_of(fields["name"]), static_cast<std::uint64_t>(fields["size"].whole(0, 2147483647)),
          fields["sha256"].sha256()};
}

template <class Read>
auto list_of(const JsonValue& value, Read read) {
  std::vector<decltype(read(value))> values;
  for (const JsonValue& entry : value.elements()) values.push_back(read(entry));
  return values;
}

void check_consistent(const Manifest& manifest, const JsonValue& document) {
  std::set<std::string> names, kinds;
  for (const Member& member : manifest.members) names.insert(member.name);
  if (names.size() != manifest.members.size()) document.refuse("a member is listed twice");
  for (const Graph& graph : manifest.graphs) kinds.insert(graph.precision + "-" + graph.family);
  if (kinds.size() != manifest.graphs.size()) document.refuse("two graphs have the same precision and family");
  const std::size_t depth = manifest.taxonomy.depth();
  if (manifest.decode.temperatures.size() != depth) {
    document.refuse(std::to_string(manifest.decode.temperatures.size()) + " temperatures for a taxonomy of " +
                    std::to_string(depth) + " levels");
  }
  for (const auto& [precision, metrics] : manifest.metrics) {
    if (metrics.level_accuracy.size() != depth) {
      document.refuse("metrics of " + precision + " do not have one accuracy per level");
    }
  }
}

Manifest manifest_from(const JsonValue& document) {
  const JsonFields fields(document, {"format_version", "name", "taxonomy", "preprocess", "decode", "network", "graphs",
                                     "metrics", "pixel_size_um", "novelty", "provenance", "members"});
  Manifest manifest{fields["name"].text(1, 200),
                    taxonomy_from(fields["taxonomy"]),
                    preprocess_from(fields["preprocess"]),
                    decode_from(fields["decode"]),
                    network_from(fields["network"]),
                    list_of(fields["graphs"], graph_from),
                    all_metrics_from(fields["metrics"]),
                    pixel_size_from(fields["pixel_size_um"]),
                    novelty_from(fields.find("novelty")),
                    provenance_from(fields["provenance"]),
                    list_of(fields["members"], member_from)};
  if (manifest.graphs.empty()) fields["graphs"].refuse("Tuple should have at least 1 item");
  check_consistent(manifest, document);
  return manifest;
}

// Looked at first, so that a newer format is called that and not refused for a key this version does not know.
void check_version(const nlohmann::json& document, const std::string& file) {
  if (!document.is_object() || !document.contains("format_version")) return;
  const nlohmann::json& version = document["format_version"];
  if (version.is_number_integer() && version == kFormatVersion) return;
  const std::string found = version.is_primitive() ? version.dump() : version.type_name();
  throw Failure{Error::kBundle, file + " has format_version " + found + "; this hffnet reads " +
                                    std::to_string(kFormatVersion) + ": update hffnet"};
}

}  // namespace

const Member* Manifest::find_member(std::string_view member) const {
  const auto found =
      std::find_if(members.begin(), members.end(), [&](const Member& entry) { return entry.name == member; });
  return found == members.end() ? nullptr : &*found;
}

Result<Manifest> manifest_from_json(std::string_view text, const std::string& file) {
  return guarded(Error::kBundle, file, [&]() -> Result<Manifest> {
    try {
      const nlohmann::json document = json_from_text(text);
      check_version(document, file);
      return manifest_from(JsonValue(document, ""));
    } catch (const Refusal& refusal) {
      const std::string place = refusal.place.empty() ? "the document" : refusal.place;
      return Failure{Error::kBundle, file + ": manifest.json is refused at " + place + ": " + refusal.reason};
    } catch (const Failure& failure) {
      return failure;
    }
  });
}

}  // namespace hffnet
