// The class tree: named levels, each class with one parent in the level above; as hffnet.runtime.taxonomy.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "hffnet/export.h"
#include "hffnet/result.hpp"

namespace hffnet {

// Class names from the first level down.
using ClassPath = std::vector<std::string>;

// One level: class names, and for each the index of its parent in the level above (empty on the first).
struct Level {
  std::string name;
  std::vector<std::string> classes;
  std::vector<std::size_t> parents;
};

// A tree with one or more levels; every leaf stands on the last.
class HFFNET_API Taxonomy {
 public:
  // Refuses what is not a tree with a sentence (Error::kConfig).
  static Result<Taxonomy> from_levels(std::vector<Level> levels);

  const std::vector<Level>& levels() const { return levels_; }
  std::size_t depth() const { return levels_.size(); }
  std::size_t num_leaves() const { return levels_.back().classes.size(); }
  // ΣC, the columns of logits and evidence: classes level by level.
  std::size_t num_columns() const { return offsets_.back(); }
  // First column of a level.
  std::size_t offset(std::size_t level) const { return offsets_[level]; }
  // Class index on every level of a leaf, `depth()` of them.
  const std::size_t* indices_of_leaf(std::size_t leaf) const { return &leaf_paths_[leaf * depth()]; }
  ClassPath path_of_leaf(std::size_t leaf) const;

 private:
  explicit Taxonomy(std::vector<Level> levels);

  std::vector<Level> levels_;
  std::vector<std::size_t> offsets_;     // depth() + 1
  std::vector<std::size_t> leaf_paths_;  // num_leaves() x depth()
};

}  // namespace hffnet
