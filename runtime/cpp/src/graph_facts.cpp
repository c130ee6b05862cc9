#include "graph_facts.hpp"

#include <algorithm>
#include <limits>

#include "wire.hpp"

namespace hffnet {
namespace {

using wire::Bytes;
using wire::Field;
using wire::Reader;
using wire::Unsound;

constexpr std::size_t kMaxNodes = 100'000;
constexpr int kMaxDepth = 8;
constexpr const char* kSparse = "the ONNX graph has sparse weights; only dense ones are allowed";
constexpr const char* kExternal = "a weight of the ONNX graph lies in another file (external data); none may";

std::string type_name(std::uint64_t kind) {
  switch (kind) {
    case 1:
      return "float32";
    case 2:
      return "uint8";
    case 3:
      return "int8";
    case 6:
      return "int32";
    case 7:
      return "int64";
    case 9:
      return "bool";
    case 10:
      return "float16";
    case 16:
      return "bfloat16";
    default:
      return "type " + std::to_string(kind);
  }
}

std::uint64_t saturating_product(const std::vector<std::uint64_t>& factors) {
  if (std::find(factors.begin(), factors.end(), 0U) != factors.end()) return 0;
  std::uint64_t product = 1;
  for (const std::uint64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product)) return std::numeric_limits<std::uint64_t>::max();
  }
  return product;
}

void require_standard(const std::string& domain, const std::string& subject) {
  if (domain.empty() || domain == "ai.onnx") return;
  throw Unsound{subject + " from the foreign domain '" + domain + "'; only standard ONNX operators are allowed"};
}

// Walks the messages of onnx.proto that matter; field numbers are onnx.proto's.
class Walk {
 public:
  void model(Bytes message) {
    for (Reader reader(message); !reader.at_end();) {
      const Field field = reader.next();
      switch (field.number()) {
        case 7:
          graph(field.message(), 0);
          break;
        case 8:
          opset(field.message());
          break;
        case 20:
        case 25:
          throw Unsound{"the ONNX model carries training information or local functions; none are allowed"};
        default:
          break;
      }
    }
  }

  GraphFacts facts;

 private:
  void opset(Bytes message) {
    std::string domain;
    std::uint64_t version = 0;
    for (Reader reader(message); !reader.at_end();) {
      const Field field = reader.next();
      if (field.number() == 1) domain = field.text();
      if (field.number() == 2) version = field.value();
    }
    require_standard(domain, "the model imports");
    facts.opset = std::max(facts.opset, version);
  }

  void graph(Bytes message, int depth) {
    if (depth > kMaxDepth) {
      throw Unsound{"the ONNX graph nests more than " + std::to_string(kMaxDepth) + " deep"};
    }
    for (Reader reader(message); !reader.at_end();) {
      const Field field = reader.next();
      if (field.number() == 1) node(field.message(), depth);
      if (field.number() == 5) tensor(field.message());
      if (field.number() == 15) throw Unsound{kSparse};
    }
  }

  void node(Bytes message, int depth) {
    std::string name, domain;
    for (Reader reader(message); !reader.at_end();) {
      const Field field = reader.next();
      if (field.number() == 4) name = field.text();
      if (field.number() == 5) attribute(field.message(), depth);
      if (field.number() == 7) domain = field.text();
    }
    require_standard(domain, "operator '" + name + "' comes");
    facts.quantized = facts.quantized || name == "DequantizeLinear";
    if (++facts.num_nodes > kMaxNodes) {
      throw Unsound{"the ONNX graph has more than " + std::to_string(kMaxNodes) + " nodes"};
    }
  }

  void attribute(Bytes message, int depth) {
    for (Reader reader(message); !reader.at_end();) {
      const Field field = reader.next();
      if (field.number() == 5 || field.number() == 10) tensor(field.message());
      if (field.number() == 6 || field.number() == 11) graph(field.message(), depth + 1);
      if (field.number() == 22 || field.number() == 23) throw Unsound{kSparse};
    }
  }

  void tensor(Bytes message) {
    std::vector<std::uint64_t> dims;
    std::uint64_t kind = 0;
    for (Reader reader(message); !reader.at_end();) {
      const Field field = reader.next();
      if (field.number() == 1 && field.is_message()) {
        for (Reader packed(field.message()); !packed.at_end();) dims.push_back(packed.varint());
      } else if (field.number() == 1) {
        dims.push_back(field.value());
      }
      if (field.number() == 2) kind = field.value();
      if (field.number() == 13 || (field.number() == 14 && field.value() != 0)) throw Unsound{kExternal};
    }
    count(type_name(kind), saturating_product(dims));
  }

  void count(const std::string& type, std::uint64_t number) {
    const auto known = std::find_if(facts.parameters.begin(), facts.parameters.end(),
                                    [&](const auto& entry) { return entry.first == type; });
    if (known == facts.parameters.end()) {
      facts.parameters.emplace_back(type, number);
    } else if (__builtin_add_overflow(known->second, number, &known->second)) {
      known->second = std::numeric_limits<std::uint64_t>::max();
    }
  }
};

}  // namespace

std::string GraphFacts::precision() const {
  if (quantized) return "int8";
  const std::pair<std::string, std::uint64_t>* most = nullptr;
  for (const auto& entry : parameters) {
    if (entry.first == "int64" || entry.first == "int32") continue;
    if (most == nullptr || entry.second > most->second) most = &entry;
  }
  if (most == nullptr) return "none";
  if (most->first == "float32") return "fp32";
  return most->first == "float16" ? "fp16" : most->first;
}

Result<GraphFacts> facts_from_onnx(std::span<const std::uint8_t> model) {
  Walk walk;
  try {
    walk.model(model);
  } catch (const Unsound& unsound) {
    return Failure{Error::kGraph, unsound.sentence};
  }
  if (walk.facts.num_nodes == 0 || walk.facts.opset == 0) {
    return Failure{Error::kGraph, "the file is not an ONNX model: it has no nodes or no operator set"};
  }
  return std::move(walk.facts);
}

}  // namespace hffnet
