#include <catch2/catch.hpp>

#include "hffnet/taxonomy.hpp"

TEST_CASE("a leaf's path leads from the first level down") {
  const auto tree = hffnet::Taxonomy::from_levels({{"kind", {"a", "b"}, {}}, {"class", {"x", "z"}, {1, 0}}}).value();
  CHECK(tree.path_of_leaf(0) == hffnet::ClassPath{"b", "x"});
  CHECK(tree.num_columns() == 4);
  CHECK(tree.offset(1) == 2);
}

TEST_CASE("what is not a tree is refused") {
  using Levels = std::vector<hffnet::Level>;
  const auto levels = GENERATE(Levels{}, Levels{{"kind", {}, {}}}, Levels{{"kind", {"a", "a"}, {}}},
                               Levels{{"kind", {"a"}, {0}}}, Levels{{"kind", {"a", "b"}, {}}, {"class", {"x"}, {0}}},
                               Levels{{"kind", {"a"}, {}}, {"class", {"x", "y"}, {0, 1}}},
                               Levels{{"kind", {"a"}, {}}, {"kind", {"x"}, {0}}});
  CHECK_FALSE(hffnet::Taxonomy::from_levels(levels).ok());
}
