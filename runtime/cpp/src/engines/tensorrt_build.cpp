#include "engines/tensorrt_build.hpp"

#include <NvInfer.h>
#include <sys/utsname.h>
#if __has_include(<NvOnnxParser.h>)
#include <NvOnnxParser.h>
#define HFFNET_WITH_ONNX_PARSER
#endif

#include <algorithm>
#include <cctype>
#include <chrono>
#include <ctime>
#include <fstream>
#include <map>
#include <memory>
#include <set>

#include "attempt.hpp"
#include "engines/build_progress.hpp"
#include "engines/tensorrt_log.hpp"
#include "engines/tensorrt_sentences.hpp"
#include "sha256.hpp"

namespace hffnet {
namespace {

using nvinfer1::DataType;
using nvinfer1::LayerType;
using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kLeastWorkspace = std::size_t{256} << 20U;

// TensorRT's enumerations in the words of the sidecar.
std::string name_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return "fp32";
    case DataType::kHALF:
      return "fp16";
    case DataType::kINT8:
      return "int8";
    case DataType::kINT32:
      return "int32";
    case DataType::kBOOL:
      return "bool";
    case DataType::kUINT8:
      return "uint8";
    case DataType::kFP8:
      return "fp8";
    case DataType::kBF16:
      return "bf16";
    case DataType::kINT64:
      return "int64";
    default:
      return "type " + std::to_string(static_cast<int>(type));
  }
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Says each tenth of a build.
class Monitor final : public nvinfer1::IProgressMonitor {
 public:
  explicit Monitor(const OnNotice& notice) : notice_(notice) {}

  void phaseStart(const char* phase, const char* parent, std::int32_t num_steps) noexcept override {
    shielded([&] { progress_.start(phase, parent == nullptr ? "" : parent, num_steps); });
  }
  bool stepComplete(const char* phase, std::int32_t step) noexcept override {
    shielded([&] {
      progress_.step(phase, step);
      const int tenths = static_cast<int>(10.0 * progress_.share());
      if (tenths > said_ && tenths < 10) notice_("building: " + std::to_string(10 * tenths) + " %");
      said_ = std::max(said_, tenths);
    });
    return true;  // go on
  }
  void phaseFinish(const char* phase) noexcept override {
    shielded([&] { progress_.finish(phase); });
  }

 private:
  // Progress is for people: a build does not end because a line could not be written.
  template <class Work>
  static void shielded(Work work) noexcept {
    try {
      work();
    } catch (const std::exception&) {
      return;
    }
  }

  const OnNotice& notice_;
  BuildProgress progress_;
  int said_ = 0;
};

#ifdef HFFNET_WITH_ONNX_PARSER

using Parser = nvonnxparser::IParser;

std::string code_of(nvonnxparser::ErrorCode code) {
  switch (code) {
    case nvonnxparser::ErrorCode::kMODEL_DESERIALIZE_FAILED:
      return "model deserialize failed";
    case nvonnxparser::ErrorCode::kMEM_ALLOC_FAILED:
      return "mem alloc failed";
    case nvonnxparser::ErrorCode::kINVALID_VALUE:
      return "invalid value";
    case nvonnxparser::ErrorCode::kINVALID_GRAPH:
      return "invalid graph";
    case nvonnxparser::ErrorCode::kINVALID_NODE:
      return "invalid node";
    case nvonnxparser::ErrorCode::kUNSUPPORTED_GRAPH:
      return "unsupported graph";
    case nvonnxparser::ErrorCode::kUNSUPPORTED_NODE:
      return "unsupported node";
    default:
      return "error " + std::to_string(static_cast<int>(code));
  }
}

std::string text_or_empty(const char* text) {
  return text == nullptr ? "" : text;
}

// The parser, which holds the network's weights: it must live until the engine is built.
Result<std::unique_ptr<Parser>> parsed(NvInferLibrary& library, nvinfer1::INetworkDefinition& network, TensorRtLog& log,
                                       std::span<const std::uint8_t> onnx) {
  ATTEMPT(void* made, library.new_parser(&network, &log, NV_ONNX_PARSER_VERSION));
  std::unique_ptr<Parser> parser(static_cast<Parser*>(made));
  if (parser->parse(onnx.data(), onnx.size()) && network.getNbOutputs() > 0) return parser;
  if (parser->getNbErrors() == 0) {
    return Failure{Error::kEngine,
                   library.title() + " cannot read the graph: " + cleaned(log.last_error()) + "; export it again"};
  }
  const nvonnxparser::IParserError& error = *parser->getError(0);
  const ParserError told{code_of(error.code()), text_or_empty(error.nodeName()), text_or_empty(error.nodeOperator()),
                         error.node(), text_or_empty(error.desc())};
  return Failure{Error::kEngine, sentence_from_parser(library.title(), told)};
}

#else

struct Parser {};

Result<std::unique_ptr<Parser>> parsed(NvInferLibrary& library, nvinfer1::INetworkDefinition&, TensorRtLog&,
                                       std::span<const std::uint8_t>) {
  return Failure{Error::kMissing, "this hffnet was built without TensorRT's NvOnnxParser.h, so " + library.title() +
                                      " cannot build an engine: build hffnet with the headers of TensorRT's own "
                                      "development package (-DTENSORRT_INCLUDE_DIR=...), or use --engine openvino"};
}

#endif

// What the network computes in, counted before the build; see Python's sidecar.Audit.
Json audit_of(const nvinfer1::INetworkDefinition& network) {
  std::map<std::string, int> convolutions, products, outputs;
  std::set<const nvinfer1::ITensor*> dequantized;
  for (int k = 0; k < network.getNbLayers(); ++k) {
    const nvinfer1::ILayer& layer = *network.getLayer(k);
    if (layer.getType() == LayerType::kDEQUANTIZE) dequantized.insert(layer.getOutput(0));
  }
  for (int k = 0; k < network.getNbLayers(); ++k) {
    const nvinfer1::ILayer& layer = *network.getLayer(k);
    ++outputs[name_of(layer.getOutput(0)->getType())];
    const bool is_convolution = layer.getType() == LayerType::kCONVOLUTION;
    if (!is_convolution && layer.getType() != LayerType::kMATRIX_MULTIPLY) continue;
    const nvinfer1::ITensor* source = layer.getInput(0);
    const std::string computed = dequantized.count(source) > 0 ? "int8" : name_of(source->getType());
    ++(is_convolution ? convolutions : products)[computed];
  }
  std::map<std::string, int> weighted = convolutions;
  for (const auto& [type, number] : products) weighted[type] += number;
  const bool is_int8 = weighted.count("int8") > 0;
  const std::map<std::string, int>& counted = weighted.empty() ? outputs : weighted;
  const auto number_of = [&](const char* type) { return counted.count(type) > 0 ? counted.at(type) : 0; };
  const std::string precision = is_int8 ? "int8" : number_of("fp16") > number_of("fp32") ? "fp16" : "fp32";
  return {{"precision", precision}, {"convolutions", convolutions}, {"products", products}, {"layers", outputs}};
}

Json spec_of(const nvinfer1::ITensor& tensor) {
  Json shape = Json::array();
  const nvinfer1::Dims dims = tensor.getDimensions();
  for (int k = 0; k < dims.nbDims; ++k) shape.push_back(dims.d[k]);
  return {{"name", tensor.getName()}, {"dtype", name_of(tensor.getType())}, {"shape", shape}};
}

// One frame, a fixed shape: the fastest.
Status set_batch(nvinfer1::INetworkDefinition& network, const std::string& title) {
  if (network.getNbInputs() != 1) {
    return Failure{Error::kEngine, title + ": the graph has " + std::to_string(network.getNbInputs()) +
                                       " inputs; expected one: export it again"};
  }
  nvinfer1::ITensor& frames = *network.getInput(0);
  nvinfer1::Dims dims = frames.getDimensions();
  if (dims.nbDims != 3 || (dims.d[0] != -1 && dims.d[0] != 1) || dims.d[1] < 1 || dims.d[2] < 1) {
    return Failure{Error::kEngine, title +
                                       ": the graph's input is not N x size x size with only N open, or takes "
                                       "other than one frame: export it again"};
  }
  dims.d[0] = 1;
  frames.setDimensions(dims);
  return Done{};
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S+00:00", &parts);
  return text;
}

std::string platform_name() {
  utsname system{};
  ::uname(&system);
  std::string name = system.sysname;
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name + "-" + system.machine;
}

// Largest resident memory of this process so far, bytes.
long peak_rss() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stol(line.substr(6)) * 1024;
  }
  return 0;
}

Bytes bytes_of(const nvinfer1::IHostMemory& memory) {
  const auto* data = static_cast<const std::uint8_t*>(memory.data());
  return {data, data + memory.size()};
}

unsigned network_flags() {
#if NV_TENSORRT_MAJOR >= 11
  return 0;  // every network is strongly typed
#else
  return 1U << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#endif
}

// A timing cache of another GPU or version is not taken; then a new one is filled.
std::unique_ptr<nvinfer1::ITimingCache> set_timing_cache(nvinfer1::IBuilderConfig& config,
                                                         std::span<const std::uint8_t> stored) {
  std::unique_ptr<nvinfer1::ITimingCache> cache(config.createTimingCache(stored.data(), stored.size()));
  if (cache == nullptr || !config.setTimingCache(*cache, false)) {
    cache.reset(config.createTimingCache(nullptr, 0));
    if (cache != nullptr) config.setTimingCache(*cache, false);
  }
  return cache;
}

}  // namespace

Result<BuildAnswer> engine_from_onnx(NvInferLibrary& library, DeviceMemory& memory, const BuildRequest& request,
                                     const OnNotice& notice) {
  const auto start = Clock::now();
  const std::string title = library.title();
  TensorRtLog log;
  const auto refused = [&](const std::string& what) {
    return Failure{Error::kEngine, title + " cannot " + what + ": " + cleaned(log.last_error())};
  };
  const std::unique_ptr<nvinfer1::IBuilder> builder(static_cast<nvinfer1::IBuilder*>(library.new_builder(&log)));
  if (builder == nullptr) return refused("start a builder");
  const std::unique_ptr<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(network_flags()));
  if (network == nullptr) return refused("create a network");
  ATTEMPT(const std::unique_ptr<Parser> parser, parsed(library, *network, log, request.onnx));
  const Json audit = audit_of(*network);
  if (audit["precision"] != request.precision) {
    return Failure{Error::kGraph, "the graph is said to be " + request.precision + ", but its types compute " +
                                      audit["precision"].get<std::string>() + " (convolutions " +
                                      audit["convolutions"].dump() + ", matrix products " + audit["products"].dump() +
                                      "); export the bundle again"};
  }
  ATTEMPT_DONE(set_batch(*network, title));
  ATTEMPT(const std::size_t free, memory.free_bytes());
  const std::size_t workspace = std::max(free / 2, kLeastWorkspace);
  const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
  if (config == nullptr) return refused("create a configuration");
  config->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, workspace);
  const auto timing_cache = set_timing_cache(*config, request.timing_cache);
  Monitor monitor(notice);
  config->setProgressMonitor(&monitor);

  const auto build_start = Clock::now();
  const std::unique_ptr<nvinfer1::IHostMemory> built(builder->buildSerializedNetwork(*network, *config));
  if (built == nullptr) return Failure{Error::kEngine, sentence_from_build(title, log.errors())};
  const double build_seconds = seconds_since(build_start);

  Bytes engine = bytes_of(*built);
  Json inputs = Json::array(), outputs = Json::array();
  for (int k = 0; k < network->getNbInputs(); ++k) inputs.push_back(spec_of(*network->getInput(k)));
  for (int k = 0; k < network->getNbOutputs(); ++k) outputs.push_back(spec_of(*network->getOutput(k)));
  const Json sidecar = {{"schema_version", 1},
                        {"onnx_sha256", request.onnx_sha256},
                        {"engine_sha256", sha256_of(engine)},
                        {"engine_bytes", engine.size()},
                        {"library", "tensorrt"},
                        {"library_version", library.version().text()},
                        {"platform", platform_name()},
                        {"architectures", {memory.gpu().architecture()}},
                        {"gpu", memory.gpu().name},
                        {"batch", {1, 1, 1}},
                        {"workspace_bytes", workspace},
                        {"audit", audit},
                        {"inputs", inputs},
                        {"outputs", outputs},
                        {"build_seconds", build_seconds},
                        {"total_seconds", seconds_since(start)},
                        {"peak_rss_bytes", peak_rss()},
                        {"created_utc", now_utc()}};
  Bytes timings;
  if (timing_cache != nullptr) {
    const std::unique_ptr<nvinfer1::IHostMemory> serialized(timing_cache->serialize());
    if (serialized != nullptr) timings = bytes_of(*serialized);
  }
  return BuildAnswer{{std::move(engine), sidecar}, std::move(timings)};
}

}  // namespace hffnet
