#include "strict_json.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace hffnet {

using nlohmann::json;

json json_from_text(std::string_view text) {
  std::vector<std::set<std::string>> open;
  std::string doubled;
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second) {
      doubled = parsed.get<std::string>();
    }
    return true;
  };
  // nlohmann skips a byte order mark, RFC 8259 and Python's reader do not.
  const bool marked = text.substr(0, 3) == "\xEF\xBB\xBF";
  json document = marked ? json(json::value_t::discarded) : json::parse(text.begin(), text.end(), watch, false);
  if (document.is_discarded()) throw Refusal{"", "Invalid JSON"};
  if (!doubled.empty()) throw Refusal{"", "key '" + doubled + "' stands twice in one object"};
  return document;
}

std::string JsonValue::text(std::size_t min_length, std::size_t max_length) const {
  if (!node_.is_string()) refuse("Input should be a valid string");
  auto value = node_.get<std::string>();
  const std::size_t length = num_code_points(value);
  if (length < min_length) refuse("String should have at least " + std::to_string(min_length) + " characters");
  if (length > max_length) refuse("String should have at most " + std::to_string(max_length) + " characters");
  return value;
}

std::string JsonValue::one_of(std::initializer_list<std::string_view> allowed) const {
  if (node_.is_string()) {
    const auto value = node_.get<std::string>();
    if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return value;
  }
  std::string list;
  for (const std::string_view word : allowed) list += (list.empty() ? "'" : ", '") + std::string(word) + "'";
  refuse("Input should be " + list);
}

std::string JsonValue::sha256() const {
  std::string value = text();
  const auto hexadecimal = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (value.size() != 64 || !std::all_of(value.begin(), value.end(), hexadecimal)) {
    refuse("String should be a sha256: 64 lower-case hexadecimal digits");
  }
  return value;
}

std::int64_t JsonValue::whole(std::int64_t min, std::int64_t max) const {
  if (!node_.is_number_integer()) refuse("Input should be a valid integer");
  const bool beyond = node_.is_number_unsigned() &&
                      node_.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (beyond || node_.get<std::int64_t>() > max) refuse("Input should be less than or equal to " + std::to_string(max));
  const auto value = node_.get<std::int64_t>();
  if (value < min) refuse("Input should be greater than or equal to " + std::to_string(min));
  return value;
}

double JsonValue::number() const {
  if (!node_.is_number()) refuse("Input should be a valid number");
  const auto value = node_.get<double>();
  if (!std::isfinite(value)) refuse("Input should be a finite number");
  return value;
}

double JsonValue::number_where(const std::function<bool(double)>& holds, std::string_view condition) const {
  const double value = number();
  if (!holds(value)) refuse("Input should be " + std::string(condition));
  return value;
}

std::vector<JsonValue> JsonValue::elements() const {
  if (!node_.is_array()) refuse("Input should be a valid array");
  std::vector<JsonValue> values;
  for (std::size_t i = 0; i < node_.size(); ++i) {
    values.emplace_back(node_[i], (place_.empty() ? "" : place_ + ".") + std::to_string(i));
  }
  return values;
}

std::map<std::string, JsonValue> JsonValue::entries() const {
  if (!node_.is_object()) refuse("Input should be an object");
  std::map<std::string, JsonValue> values;
  for (const auto& [key, value] : node_.items()) {
    values.emplace(key, JsonValue(value, (place_.empty() ? "" : place_ + ".") + key));
  }
  return values;
}

JsonFields::JsonFields(const JsonValue& value, std::initializer_list<std::string_view> known)
    : value_(value), entries_(value.entries()) {
  for (const auto& [key, entry] : entries_) {
    if (std::find(known.begin(), known.end(), key) == known.end()) entry.refuse("Extra inputs are not permitted");
  }
}

const JsonValue& JsonFields::operator[](const std::string& key) const {
  const JsonValue* found = find(key);
  if (found == nullptr) value_.refuse("Field required: " + key);
  return *found;
}

const JsonValue* JsonFields::find(const std::string& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

std::size_t num_code_points(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

}  // namespace hffnet
