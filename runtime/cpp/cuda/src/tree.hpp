// Between the library's types and the decode kernel's plain arrays; host only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "decision.hpp"
#include "hffnet/decode.hpp"
#include "hffnet/result.hpp"
#include "hffnet/taxonomy.hpp"

namespace hffnet::cuda {

// Owns what a DecodeTable points to.
struct Tree {
  std::vector<std::uint32_t> offsets, leaf_classes;
  std::vector<double> temperatures;
  double min_confidence;

  DecodeTable table() const {
    const std::size_t depth = temperatures.size();
    return {depth,          leaf_classes.size() / depth, offsets.back(),
            offsets.data(), leaf_classes.data(),         temperatures.data(),
            min_confidence};
  }
};

// Error::kConfig where the number of temperatures is not the tree's depth.
inline Result<Tree> tree_from(const Taxonomy& taxonomy, const DecodeSpec& spec) {
  if (spec.temperatures.size() != taxonomy.depth()) {
    return Failure{Error::kConfig, std::to_string(spec.temperatures.size()) + " temperatures were given; " +
                                       std::to_string(taxonomy.depth()) + " were expected"};
  }
  Tree tree{{}, {}, spec.temperatures, spec.min_confidence.value_or(0.0)};
  for (std::size_t i = 0; i <= taxonomy.depth(); ++i) {
    tree.offsets.push_back(static_cast<std::uint32_t>(taxonomy.offset(i)));
  }
  for (std::size_t leaf = 0; leaf < taxonomy.num_leaves(); ++leaf) {
    const std::size_t* classes = taxonomy.indices_of_leaf(leaf);
    for (std::size_t i = 0; i < taxonomy.depth(); ++i) {
      tree.leaf_classes.push_back(static_cast<std::uint32_t>(classes[i]));
    }
  }
  return tree;
}

// What the kernel answers for N frames.
struct Answers {
  std::size_t depth, num_columns;
  std::vector<std::uint32_t> leaf, sure;
  std::vector<double> confidence, probabilities;

  Answers(std::size_t num_frames, const DecodeTable& table)
      : depth(table.depth),
        num_columns(table.num_columns),
        leaf(num_frames),
        sure(num_frames),
        confidence(num_frames * depth),
        probabilities(num_frames * num_columns) {}
};

inline Decision decision_from(const Answers& answers, std::size_t frame, const Taxonomy& taxonomy) {
  Decision decision;
  decision.path = taxonomy.path_of_leaf(answers.leaf[frame]);
  decision.answer.assign(decision.path.begin(),
                         decision.path.begin() + static_cast<std::ptrdiff_t>(answers.sure[frame]));
  const double* confidence = &answers.confidence[frame * answers.depth];
  decision.confidence.assign(confidence, confidence + answers.depth);
  const double* probabilities = &answers.probabilities[frame * answers.num_columns];
  for (std::size_t i = 0; i < taxonomy.depth(); ++i) {
    decision.probabilities.emplace_back(probabilities + taxonomy.offset(i), probabilities + taxonomy.offset(i + 1));
  }
  return decision;
}

}  // namespace hffnet::cuda
