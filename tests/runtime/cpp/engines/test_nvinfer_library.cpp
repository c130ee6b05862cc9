#include <catch2/catch.hpp>
#include <string>

#include "engines/nvinfer_library.hpp"

using namespace hffnet;
using Catch::Matchers::Contains;

namespace {

std::string fake(const std::string& version) {
  return std::string(HFFNET_FAKES) + "/libnvinfer-" + version + ".so";
}

Failure refused(const std::string& version, const TensorRtVersion& headers) {
  const auto library = NvInferLibrary::open_at(fake(version), headers);
  REQUIRE(!library.ok());
  return library.failure();
}

}  // namespace

TEST_CASE("a library of another major version is refused before any object is made") {
  const auto [library, headers] =
      GENERATE(std::pair{"80601", TensorRtVersion{10, 14, 1}}, std::pair{"100300", TensorRtVersion{11, 1, 0}},
               std::pair{"110400", TensorRtVersion{10, 3, 0}},
               std::pair{"10701", TensorRtVersion{10, 14, 1}});  // TensorRT-RTX 1.7.1
  const Failure failure = refused(library, headers);
  CHECK(failure.error == Error::kEngine);
  CHECK_THAT(failure.sentence, Contains("but this hffnet was built for " + std::to_string(headers.major) + ".x") &&
                                   Contains("-DTENSORRT_INCLUDE_DIR"));
}

TEST_CASE("a library older than the headers is refused") {
  CHECK_THAT(refused("100300", {10, 14, 1}).sentence,
             Contains("is TensorRT 10.3.0, older than the headers that this hffnet was built with (10.14.1)"));
}

TEST_CASE("TensorRT 10 before 10.3 is refused") {
  CHECK_THAT(refused("100001", {10, 0, 1}).sentence, Contains("10.3 (JetPack 6.1) or newer is needed"));
}

TEST_CASE("a fitting version without the functions is refused") {
  CHECK_THAT(refused("100300", {10, 3, 0}).sentence, Contains("has no function createInferBuilder_INTERNAL"));
}

TEST_CASE("no TensorRT") {
  const auto library = NvInferLibrary::open({99, 0, 0});
  REQUIRE(!library.ok());
  CHECK(library.failure().error == Error::kMissing);
  CHECK_THAT(library.failure().sentence,
             Contains("TensorRT is not on this machine (libnvinfer.so.99") && Contains("LD_LIBRARY_PATH"));
}
