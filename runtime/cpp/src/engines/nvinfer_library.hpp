// TensorRT's two shared libraries, found at run time. Their objects have C++ interfaces, whose layout changes with the
// major version, so the version is asked for, through C, before any object is made.
#pragma once

#include <cstdint>
#include <string>

#include "engines/loaded_library.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

// A version of TensorRT, of the headers or of the library.
struct TensorRtVersion {
  int major = 0, minor = 0, patch = 0;

  // 10000 major + 100 minor + patch, as NV_TENSORRT_VERSION and getInferLibVersion() have it.
  std::int32_t number() const { return 10000 * major + 100 * minor + patch; }
  std::string text() const { return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch); }
};

// libnvinfer and, once a graph must be parsed, libnvonnxparser.
class NvInferLibrary {
 public:
  // Opens the library of the headers' major version. Error::kMissing: there is none, or only one of another major;
  // kEngine: it says itself that it is of another major, or older than the headers: its objects would lack functions.
  static Result<NvInferLibrary> open(const TensorRtVersion& headers);
  // The same with the name or path of the library given.
  static Result<NvInferLibrary> open_at(const std::string& library, const TensorRtVersion& headers);

  const TensorRtVersion& version() const { return version_; }
  // "TensorRT 10.3.0", for sentences.
  std::string title() const { return "TensorRT " + version_.text(); }

  // Owned by the caller; null where the library refuses. `logger` is a nvinfer1::ILogger.
  void* new_builder(void* logger) const { return create_builder_(logger, headers_.number()); }
  void* new_runtime(void* logger) const { return create_runtime_(logger, headers_.number()); }
  // A nvonnxparser::IParser, owned by the caller. `parser_version` is NV_ONNX_PARSER_VERSION. Error::kMissing: there is
  // no parser library; kEngine: it refuses.
  Result<void*> new_parser(void* network, void* logger, int parser_version);

 private:
  using Create = void*(void* logger, std::int32_t version);
  using CreateParser = void*(void* network, void* logger, int version);

  NvInferLibrary(LoadedLibrary library, const TensorRtVersion& headers)
      : library_(std::move(library)), headers_(headers) {}

  LoadedLibrary library_;
  std::unique_ptr<LoadedLibrary> parser_;
  TensorRtVersion headers_;
  TensorRtVersion version_;
  Create* create_builder_ = nullptr;
  Create* create_runtime_ = nullptr;
};

}  // namespace hffnet
