#include "hffnet/taxonomy.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace hffnet {
namespace {

Failure refusal(std::string sentence) {
  return Failure{Error::kConfig, std::move(sentence)};
}

Status check_level(const Level& level, const Level* above) {
  if (level.classes.empty()) return refusal("level '" + level.name + "' has no class");
  if (std::set<std::string>(level.classes.begin(), level.classes.end()).size() != level.classes.size()) {
    return refusal("level '" + level.name + "' names a class twice");
  }
  if (above == nullptr) {
    if (level.parents.empty()) return Done{};
    return refusal("level '" + level.name + "' is the first and can have no parents");
  }
  if (level.parents.size() != level.classes.size()) {
    return refusal("level '" + level.name + "' has " + std::to_string(level.classes.size()) + " classes but " +
                   std::to_string(level.parents.size()) + " parents");
  }
  const std::set<std::size_t> parents(level.parents.begin(), level.parents.end());
  if (parents.size() != above->classes.size() || *parents.rbegin() >= above->classes.size()) {
    return refusal("level '" + level.name + "' must give every class of '" + above->name + "' at least one child");
  }
  return Done{};
}

}  // namespace

Result<Taxonomy> Taxonomy::from_levels(std::vector<Level> levels) {
  if (levels.empty()) return refusal("the taxonomy has no level; at least one is expected");
  std::set<std::string> names;
  for (std::size_t i = 0; i < levels.size(); ++i) {
    Status status = check_level(levels[i], i == 0 ? nullptr : &levels[i - 1]);
    if (!status.ok()) return std::move(status).failure();
    names.insert(levels[i].name);
  }
  if (names.size() != levels.size()) return refusal("two levels have the same name");
  return Taxonomy(std::move(levels));
}

Taxonomy::Taxonomy(std::vector<Level> levels) : levels_(std::move(levels)), offsets_{0} {
  for (const Level& level : levels_) offsets_.push_back(offsets_.back() + level.classes.size());
  leaf_paths_.resize(num_leaves() * depth());
  for (std::size_t leaf = 0; leaf < num_leaves(); ++leaf) {
    std::size_t index = leaf;
    for (std::size_t i = depth(); i-- > 0;) {
      leaf_paths_[leaf * depth() + i] = index;
      if (i > 0) index = levels_[i].parents[index];
    }
  }
}

ClassPath Taxonomy::path_of_leaf(std::size_t leaf) const {
  ClassPath path;
  for (std::size_t i = 0; i < depth(); ++i) path.push_back(levels_[i].classes[indices_of_leaf(leaf)[i]]);
  return path;
}

}  // namespace hffnet
