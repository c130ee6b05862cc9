#include "hffnet/decode.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

namespace hffnet {
namespace {

// log softmax(logits / temperature) of one level.
std::vector<double> log_probabilities(std::span<const float> logits, double temperature) {
  std::vector<double> scaled;
  for (const float logit : logits) scaled.push_back(static_cast<double>(logit) / temperature);
  const double top = *std::max_element(scaled.begin(), scaled.end());
  double sum = 0.0;
  for (double& value : scaled) {
    value -= top;
    sum += std::exp(value);
  }
  const double log_sum = std::log(sum);
  for (double& value : scaled) value -= log_sum;
  return scaled;
}

// Log joint of every leaf: what is left of the product once impossible combinations are ruled out.
std::vector<double> joint_of_leaves(std::span<const float> logits, const Taxonomy& taxonomy, const DecodeSpec& spec) {
  std::vector<double> joint(taxonomy.num_leaves(), 0.0);
  for (std::size_t i = 0; i < taxonomy.depth(); ++i) {
    const std::size_t columns = taxonomy.levels()[i].classes.size();
    const auto log_p = log_probabilities(logits.subspan(taxonomy.offset(i), columns), spec.temperatures[i]);
    for (std::size_t leaf = 0; leaf < joint.size(); ++leaf) joint[leaf] += log_p[taxonomy.indices_of_leaf(leaf)[i]];
  }
  return joint;
}

}  // namespace

Result<Decision> decode(std::span<const float> logits, const Taxonomy& taxonomy, const DecodeSpec& spec) {
  if (logits.size() != taxonomy.num_columns() || spec.temperatures.size() != taxonomy.depth()) {
    return Failure{Error::kConfig, std::to_string(logits.size()) + " logits and " +
                                       std::to_string(spec.temperatures.size()) + " temperatures were given; " +
                                       std::to_string(taxonomy.num_columns()) + " and " +
                                       std::to_string(taxonomy.depth()) + " were expected"};
  }
  const std::vector<double> joint = joint_of_leaves(logits, taxonomy, spec);
  const auto best = std::max_element(joint.begin(), joint.end());
  const auto leaf = static_cast<std::size_t>(best - joint.begin());
  std::vector<double> share(joint.size());
  double sum = 0.0;
  for (std::size_t k = 0; k < joint.size(); ++k) sum += share[k] = std::exp(joint[k] - *best);

  Decision decision;
  decision.path = taxonomy.path_of_leaf(leaf);
  std::size_t sure = 0;
  for (std::size_t i = 0; i < taxonomy.depth(); ++i) {
    std::vector<double> level(taxonomy.levels()[i].classes.size(), 0.0);
    for (std::size_t k = 0; k < share.size(); ++k) level[taxonomy.indices_of_leaf(k)[i]] += share[k] / sum;
    decision.confidence.push_back(level[taxonomy.indices_of_leaf(leaf)[i]]);
    sure += decision.confidence.back() >= spec.min_confidence.value_or(0.0) ? 1 : 0;
    decision.probabilities.push_back(std::move(level));
  }
  decision.answer.assign(decision.path.begin(), decision.path.begin() + static_cast<std::ptrdiff_t>(sure));
  return decision;
}

}  // namespace hffnet
