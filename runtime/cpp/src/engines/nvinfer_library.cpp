#include "engines/nvinfer_library.hpp"

#include <memory>
#include <utility>

#include "attempt.hpp"

namespace hffnet {
namespace {

constexpr const char* kInstall =
    "install it (on Jetson: apt-get install tensorrt-libs, elsewhere from NVIDIA's TensorRT page) and put its folder "
    "on LD_LIBRARY_PATH, or use --engine openvino";
constexpr TensorRtVersion kOldest{10, 3, 0};

std::string name_for(const char* stem, int major) {
  return std::string(stem) + ".so." + std::to_string(major);
}

TensorRtVersion version_from(std::int32_t number) {
  return {number / 10000, number % 10000 / 100, number % 100};
}

Status check_version(const std::string& library, const TensorRtVersion& found, const TensorRtVersion& headers) {
  if (found.number() < kOldest.number() && found.major == headers.major) {
    return Failure{Error::kEngine,
                   library + " is TensorRT " + found.text() + "; 10.3 (JetPack 6.1) or newer is needed: update it"};
  }
  if (found.major != headers.major) {
    return Failure{Error::kEngine, library + " is TensorRT " + found.text() + ", but this hffnet was built for " +
                                       std::to_string(headers.major) +
                                       ".x: build hffnet with the headers of the installed TensorRT "
                                       "(-DTENSORRT_INCLUDE_DIR=...), or use --engine openvino"};
  }
  if (found.number() / 100 < headers.number() / 100) {
    return Failure{Error::kEngine, library + " is TensorRT " + found.text() +
                                       ", older than the headers that this "
                                       "hffnet was built with (" +
                                       headers.text() + "): update TensorRT, or build hffnet with the older headers"};
  }
  return Done{};
}

}  // namespace

Result<NvInferLibrary> NvInferLibrary::open(const TensorRtVersion& headers) {
  const std::string wanted = name_for("libnvinfer", headers.major);
  auto opened = open_at(wanted, headers);
  if (opened.ok() || opened.failure().error != Error::kMissing) return opened;
  for (int major = headers.major + 2; major >= 8; --major) {
    if (major == headers.major) continue;
    if (auto other = LoadedLibrary::open(name_for("libnvinfer", major)); other.ok()) {
      return Failure{Error::kMissing, "TensorRT " + std::to_string(major) +
                                          " is on this machine, but this hffnet was built for TensorRT " +
                                          std::to_string(headers.major) +
                                          ".x: build hffnet with the headers of the installed one "
                                          "(-DTENSORRT_INCLUDE_DIR=...), or use --engine openvino"};
    }
  }
  return opened;
}

Result<NvInferLibrary> NvInferLibrary::open_at(const std::string& name, const TensorRtVersion& headers) {
  auto opened = LoadedLibrary::open(name);
  if (!opened.ok()) {
    return Failure{Error::kMissing, "TensorRT is not on this machine (" + opened.failure().sentence + "): " + kInstall};
  }
  NvInferLibrary library(std::move(opened).value(), headers);
  std::int32_t (*lib_version)() = nullptr;
  ATTEMPT_DONE(library.library_.bind("getInferLibVersion", lib_version));
  library.version_ = version_from(lib_version());
  ATTEMPT_DONE(check_version(name, library.version_, headers));
  ATTEMPT_DONE(library.library_.bind("createInferBuilder_INTERNAL", library.create_builder_));
  ATTEMPT_DONE(library.library_.bind("createInferRuntime_INTERNAL", library.create_runtime_));
  return library;
}

Result<void*> NvInferLibrary::new_parser(void* network, void* logger, int parser_version) {
  if (parser_ == nullptr) {
    auto opened = LoadedLibrary::open(name_for("libnvonnxparser", headers_.major));
    if (!opened.ok()) {
      return Failure{Error::kMissing, title() + " is here, its ONNX parser is not (" + opened.failure().sentence +
                                          "): install it (apt-get install libnvonnxparsers" +
                                          std::to_string(headers_.major) + "), or use --engine openvino"};
    }
    parser_ = std::make_unique<LoadedLibrary>(std::move(opened).value());
  }
  CreateParser* create = nullptr;
  ATTEMPT_DONE(parser_->bind("createNvOnnxParser_INTERNAL", create));
  void* parser = create(network, logger, parser_version);
  if (parser == nullptr) {
    return Failure{Error::kEngine, title() + "'s ONNX parser is of another version: install both from one release"};
  }
  return parser;
}

}  // namespace hffnet
