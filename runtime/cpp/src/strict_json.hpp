// A strict view of a JSON document: every key asked for once, none left over. Throws Refusal, which stays inside
// the library: manifest_from_json turns it into a Failure.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace hffnet {

// Where the document was refused, like "graphs.0.tolerance", and why.
struct Refusal {
  std::string place;
  std::string reason;
};

// Parses UTF-8 JSON. Throws Refusal for a syntax error and for an object that has one key twice: two readers might
// each believe another of the two values.
nlohmann::json json_from_text(std::string_view text);

// One value and its place in the document.
class JsonValue {
 public:
  JsonValue(const nlohmann::json& node, std::string place) : node_(node), place_(std::move(place)) {}

  std::string text(std::size_t min_length = 0, std::size_t max_length = kUnbounded) const;
  std::string one_of(std::initializer_list<std::string_view> allowed) const;
  std::string sha256() const;
  std::int64_t whole(std::int64_t min, std::int64_t max = std::numeric_limits<std::int64_t>::max()) const;
  double number() const;
  double number_where(const std::function<bool(double)>& holds, std::string_view condition) const;
  bool is_null() const { return node_.is_null(); }

  // Every element of an array, or every value of an object, with its place.
  std::vector<JsonValue> elements() const;
  std::map<std::string, JsonValue> entries() const;

  [[noreturn]] void refuse(std::string reason) const { throw Refusal{place_, std::move(reason)}; }

 private:
  static constexpr std::size_t kUnbounded = std::numeric_limits<std::size_t>::max();

  const nlohmann::json& node_;
  std::string place_;
};

// The keys of one object: all of `known` may be there, nothing else.
class JsonFields {
 public:
  JsonFields(const JsonValue& value, std::initializer_list<std::string_view> known);

  // The value of a key that must be there.
  const JsonValue& operator[](const std::string& key) const;
  // The value of a key that need not be there.
  const JsonValue* find(const std::string& key) const;

 private:
  JsonValue value_;
  std::map<std::string, JsonValue> entries_;
};

// Code points of valid UTF-8 text.
std::size_t num_code_points(std::string_view text);

}  // namespace hffnet
