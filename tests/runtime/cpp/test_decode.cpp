#include <catch2/catch.hpp>
#include <limits>

#include "hffnet/decode.hpp"

namespace {

hffnet::Taxonomy tree() {
  return hffnet::Taxonomy::from_levels({{"kind", {"a", "b"}, {}}, {"class", {"x", "y", "z"}, {0, 0, 1}}}).value();
}

}  // namespace

TEST_CASE("the most probable valid path is taken, and children add up to their parent") {
  const std::vector<float> logits{2.0F, 0.0F, 3.0F, 1.0F, 0.0F};
  const auto decision = hffnet::decode(logits, tree(), {{1.0, 1.0}, {}}).value();
  CHECK(decision.path == hffnet::ClassPath{"a", "x"});
  CHECK(decision.answer == decision.path);
  CHECK(decision.confidence[0] == Approx(0.994).margin(5e-4));
  CHECK(decision.confidence[1] == Approx(0.876).margin(5e-4));
  CHECK(decision.probabilities[1][0] + decision.probabilities[1][1] == Approx(decision.probabilities[0][0]));
}

TEST_CASE("an impossible combination is never answered") {
  const std::vector<float> logits{0.0F, 1.0F, 3.0F, 0.0F, 2.5F};  // level by level: b, then x, which is not under b
  CHECK(hffnet::decode(logits, tree(), {{1.0, 1.0}, {}}).value().path == hffnet::ClassPath{"b", "z"});
}

TEST_CASE("the answer is cut where confidence falls short") {
  const std::vector<float> logits{2.0F, 0.0F, 3.0F, 1.0F, 0.0F};
  CHECK(hffnet::decode(logits, tree(), {{1.0, 1.0}, 0.9}).value().answer == hffnet::ClassPath{"a"});
  CHECK(hffnet::decode(logits, tree(), {{1.0, 1.0}, 0.999}).value().answer.empty());
}

TEST_CASE("wrong numbers of logits and temperatures are refused") {
  const std::vector<float> logits{1.0F, 2.0F};
  CHECK(hffnet::decode(logits, tree(), {{1.0, 1.0}, {}}).failure().error == hffnet::Error::kConfig);
}
