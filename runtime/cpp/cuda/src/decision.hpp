// The arithmetic of decode for one frame, in the order of src/decode.cpp; compiled for CPU and GPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "team.hpp"

namespace hffnet::cuda {

// The class tree and how its logits become decisions, as plain arrays that somebody else owns.
struct DecodeTable {
  std::size_t depth, num_leaves, num_columns;
  const std::uint32_t* offsets;       // depth + 1: first column of each level
  const std::uint32_t* leaf_classes;  // num_leaves x depth: class index on each level
  const double* temperatures;         // depth
  double min_confidence;              // 0 never holds back
};

// One frame's answer, and room to work in.
struct DecodePlaces {
  std::uint32_t* leaf;    // the most probable
  std::uint32_t* sure;    // how many levels of its path are sure enough to be answered
  double* confidence;     // depth: of each node of the path
  double* probabilities;  // num_columns
  double* log_p;          // num_columns, scratch
  double* share;          // num_leaves, scratch
};

// What a team shares.
struct DecodeShared {
  std::uint32_t leaf;
  double best, sum;
};

// log softmax(logits / temperature) of one level.
HFFNET_BOTH inline void log_probabilities(const DecodeTable& table, std::size_t level, const float* logits,
                                          double* log_p) {
  const std::size_t begin = table.offsets[level], end = table.offsets[level + 1];
  for (std::size_t c = begin; c < end; ++c) log_p[c] = static_cast<double>(logits[c]) / table.temperatures[level];
  double top = log_p[begin];
  for (std::size_t c = begin + 1; c < end; ++c) top = top < log_p[c] ? log_p[c] : top;
  double sum = 0.0;
  for (std::size_t c = begin; c < end; ++c) {
    log_p[c] -= top;
    sum += exp(log_p[c]);
  }
  const double log_sum = log(sum);
  for (std::size_t c = begin; c < end; ++c) log_p[c] -= log_sum;
}

template <class Team>
HFFNET_BOTH void decide(const Team& team, const DecodeTable& table, const float* logits, DecodeShared& shared,
                        const DecodePlaces& out) {
  for (std::size_t level = team.rank(); level < table.depth; level += team.size()) {
    log_probabilities(table, level, logits, out.log_p);
  }
  team.sync();
  for (std::size_t leaf = team.rank(); leaf < table.num_leaves; leaf += team.size()) {
    double joint = 0.0;
    for (std::size_t i = 0; i < table.depth; ++i) {
      joint += out.log_p[table.offsets[i] + table.leaf_classes[leaf * table.depth + i]];
    }
    out.share[leaf] = joint;
  }
  team.sync();
  if (team.rank() == 0) {
    std::size_t best = 0;
    for (std::size_t leaf = 1; leaf < table.num_leaves; ++leaf) {
      if (out.share[best] < out.share[leaf]) best = leaf;
    }
    shared.leaf = static_cast<std::uint32_t>(best);
    shared.best = out.share[best];
  }
  team.sync();
  for (std::size_t leaf = team.rank(); leaf < table.num_leaves; leaf += team.size()) {
    out.share[leaf] = exp(out.share[leaf] - shared.best);
  }
  team.sync();
  if (team.rank() == 0) {
    shared.sum = 0.0;
    for (std::size_t leaf = 0; leaf < table.num_leaves; ++leaf) shared.sum += out.share[leaf];
  }
  team.sync();
  for (std::size_t c = team.rank(); c < table.num_columns; c += team.size()) {
    std::size_t level = 0;
    while (c >= table.offsets[level + 1]) ++level;
    double probability = 0.0;
    for (std::size_t leaf = 0; leaf < table.num_leaves; ++leaf) {
      const bool inside = table.offsets[level] + table.leaf_classes[leaf * table.depth + level] == c;
      if (inside) probability += out.share[leaf] / shared.sum;
    }
    out.probabilities[c] = probability;
  }
  team.sync();
  if (team.rank() != 0) return;
  std::uint32_t sure = 0;
  for (std::size_t i = 0; i < table.depth; ++i) {
    const std::size_t column = table.offsets[i] + table.leaf_classes[shared.leaf * table.depth + i];
    out.confidence[i] = out.probabilities[column];
    sure += out.confidence[i] >= table.min_confidence ? 1U : 0U;
  }
  *out.leaf = shared.leaf;
  *out.sure = sure;
}

}  // namespace hffnet::cuda
