// The kernels' arithmetic against the library's own, on the CPU.
#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <string>

#include "samples.hpp"
#include "solo.hpp"

using namespace hffnet;
using namespace hffnet::cuda;

TEST_CASE("kernel code gives the library's input, bit for bit") {
  PreprocessSpec spec;
  for (const std::size_t size : {32, 224}) {
    spec.size = size;
    for (const Sample& sample : all_samples()) {
      const GpuPicture& picture = sample.picture;
      INFO(picture.width << "x" << picture.height << ", depth " << static_cast<int>(picture.depth) << ", channels "
                         << picture.channels << ", size " << size);
      CHECK(most_apart(preprocessed_by_kernel_code(picture, spec), reference_of(picture, spec)) == 0);
    }
  }
}

TEST_CASE("a crop is the same as the part cut out") {
  const Sample whole = sample_of<std::uint16_t>(300, 400, 3);
  const GpuPicture part = cropped(whole.picture, {11, 7, 260, 381, "setting"});
  CHECK(part.height == 260);
  CHECK(most_apart(preprocessed_by_kernel_code(part, {}), reference_of(part, {})) == 0);
  CHECK(most_apart(preprocessed_by_kernel_code(part, {}), preprocessed_by_kernel_code(whole.picture, {})) > 0);
}

TEST_CASE("quantiles at the ends and a blank picture") {
  const Sample sample = sample_of<std::uint8_t>(90, 120, 1);
  for (const auto& [low, high] : {std::pair{0.0, 1.0}, std::pair{0.25, 0.5}, std::pair{0.0, 0.001}}) {
    const PreprocessSpec spec{64, low, high, 1.0 / 64.0};
    CHECK(most_apart(preprocessed_by_kernel_code(sample.picture, spec), reference_of(sample.picture, spec)) == 0);
  }
  std::vector<float> blank(100 * 100, -0.25F);
  blank[77] = 0.5F;
  const GpuPicture picture{blank.data(), Depth::kFloat32, 1, 100, 100, 400};
  CHECK(most_apart(preprocessed_by_kernel_code(picture, {}), reference_of(picture, {})) == 0);
}

TEST_CASE("keys of floats are in the order of the floats") {
  const std::vector<float> rising = {
      -std::numeric_limits<float>::infinity(), -3e38F, -1.0F, -1e-40F, 0.0F, 1e-40F, 0.5F, 65535.0F,
      std::numeric_limits<float>::infinity()};
  for (std::size_t i = 0; i < rising.size(); ++i) {
    CHECK(value_of(key_of(rising[i])) == rising[i]);
    if (i > 0) CHECK(key_of(rising[i - 1]) < key_of(rising[i]));
  }
}

TEST_CASE("kernel code decides as the library does, number for number") {
  const Taxonomy taxonomy = three_levels();
  const std::vector<float> logits = many_logits(taxonomy, 200);
  for (const std::optional<double> threshold : {std::optional<double>(), std::optional<double>(0.7)}) {
    const DecodeSpec spec{{1.0, 0.6, 2.5}, threshold};
    const auto found = decided_by_kernel_code(logits, taxonomy, spec).value();
    REQUIRE(found.size() == 200);
    for (std::size_t n = 0; n < found.size(); ++n) {
      const auto row = std::span(logits).subspan(n * taxonomy.num_columns(), taxonomy.num_columns());
      const Decision expected = decode(row, taxonomy, spec).value();
      CHECK(found[n].path == expected.path);
      CHECK(found[n].answer == expected.answer);
      CHECK(found[n].confidence == expected.confidence);
      CHECK(found[n].probabilities == expected.probabilities);
    }
  }
}

TEST_CASE("a tree of one level, and a wrong number of temperatures") {
  const Taxonomy flat = Taxonomy::from_levels({{"kind", {"a", "b", "c"}, {}}}).value();
  const std::vector<float> logits = {0.5F, 3.0F, -1.0F};
  const auto found = decided_by_kernel_code(logits, flat, {{1.0}, {}}).value();
  CHECK(found.front().path == ClassPath{"b"});
  CHECK(found.front().probabilities == decode(logits, flat, {{1.0}, {}}).value().probabilities);
  const auto refused = decided_by_kernel_code(logits, flat, {{1.0, 1.0}, {}});
  REQUIRE(!refused.ok());
  CHECK(refused.failure().sentence == "2 temperatures were given; 1 were expected");
}
