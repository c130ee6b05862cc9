#include <catch2/catch.hpp>
#include <string>

#include "engines/cuda_driver.hpp"

using namespace hffnet;
using Catch::Matchers::Contains;

namespace {

std::string fake(const std::string& name) {
  return std::string(HFFNET_FAKES) + "/libcuda-" + name + ".so";
}

}  // namespace

TEST_CASE("the probe reads the driver") {
  const auto driver = open_driver(fake("0"));
  REQUIRE(driver.ok());
  const Gpu& gpu = driver.value().gpu;
  CHECK(gpu.name == "Orin");
  CHECK(gpu.architecture() == "sm87");
  CHECK(gpu.integrated);
  CHECK(gpu.memory_bytes == std::size_t{8} << 30U);
  CHECK(gpu.cuda_version == 12080);
}

TEST_CASE("a driver that refuses says why") {
  const auto [code, reason] = GENERATE(std::pair{"35", "older than"}, std::pair{"100", "no GPU was found"},
                                       std::pair{"803", "restart after the update"}, std::pair{"7", "CUDA error 7"});
  const auto driver = open_driver(fake(code));
  REQUIRE(!driver.ok());
  CHECK(driver.failure().error == Error::kEngine);
  CHECK_THAT(driver.failure().sentence, Contains(reason) && Contains("--engine openvino"));
}

TEST_CASE("no driver") {
  const auto driver = open_driver("libcuda-that-is-not-there.so.1");
  REQUIRE(!driver.ok());
  CHECK(driver.failure().error == Error::kMissing);
  CHECK_THAT(driver.failure().sentence, Contains("there is no NVIDIA driver on this machine (libcuda-that-is-not-"));
}

TEST_CASE("a library that is no driver") {
  const auto driver = open_driver(std::string(HFFNET_FAKES) + "/libnvinfer-80601.so");
  REQUIRE(!driver.ok());
  CHECK(driver.failure().error == Error::kEngine);
  CHECK_THAT(driver.failure().sentence, Contains("has no function cuInit"));
}
