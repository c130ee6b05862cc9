// From logits to a decision: the most probable path, its confidence, and when to hold back; as hffnet.runtime.decode.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "hffnet/export.h"
#include "hffnet/result.hpp"
#include "hffnet/taxonomy.hpp"

namespace hffnet {

// How logits become decisions; travels in the bundle's manifest.
struct DecodeSpec {
  std::vector<double> temperatures;      // one per level, dividing its logits
  std::optional<double> min_confidence;  // the answer is cut where confidence falls below; none never holds back
};

// What the model says of one frame.
struct Decision {
  ClassPath path;                                  // the most probable complete path
  std::vector<double> confidence;                  // of each node of `path`; never rises with depth
  ClassPath answer;                                // `path`, cut by the specification; empty is "unsure"
  std::vector<std::vector<double>> probabilities;  // per level, every class; children add up to their parent
};

// Decides for one frame from its ΣC logits.
HFFNET_API Result<Decision> decode(std::span<const float> logits, const Taxonomy& taxonomy, const DecodeSpec& spec);

}  // namespace hffnet
