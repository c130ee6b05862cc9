#include "engines/tensorrt.hpp"

#include <NvInfer.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

#include "attempt.hpp"
#include "engines/cuda_driver.hpp"
#include "engines/device_memory.hpp"
#include "engines/engine_cache.hpp"
#include "engines/nvinfer_library.hpp"
#include "engines/tensorrt_build.hpp"
#include "engines/tensorrt_log.hpp"
#include "sha256.hpp"

namespace hffnet {
namespace {

constexpr TensorRtVersion kHeaders{NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH};
constexpr double kReplayTolerance = 1e-3;  // the same kernels on the same numbers; room only for sums in another order

// One input or output: its memory, and its shape as the engine has it.
struct Tensor {
  const char* name;
  nvinfer1::TensorIOMode mode;
  nvinfer1::DataType type;
  Buffer buffer;
  std::vector<std::size_t> shape;

  std::span<const float> floats() const {
    const auto bytes = buffer.bytes();
    return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
  }
};

// Largest difference as a share of the largest expected magnitude; NaN stays.
double difference(const std::vector<float>& found, const std::vector<float>& expected) {
  double apart = 0.0, largest = 1e-6;
  for (std::size_t k = 0; k < expected.size(); ++k) {
    const double one = std::abs(static_cast<double>(found[k]) - static_cast<double>(expected[k]));
    if (!std::isnan(apart) && !(one <= apart)) apart = one;
    largest = std::max(largest, std::abs(static_cast<double>(expected[k])));
  }
  return apart / largest;
}

// A deserialised engine with one execution context, its buffers and stream. After a warm-up the whole of its work, copies
// included, is recorded as a CUDA graph, whose first replay must repeat what the eager run answered; otherwise the engine
// stays eager and says so.
class TensorRtEngine final : public Engine {
 public:
  TensorRtEngine(NvInferLibrary library, std::unique_ptr<DeviceMemory> memory, const std::string& precision)
      : library_(std::move(library)), memory_(std::move(memory)), precision_(precision) {}

  ~TensorRtEngine() override {
    // What is freed below belongs to the context, and nothing of it may be in use any more.
    if (memory_->use_in_this_thread().ok()) static_cast<void>(memory_->synchronize().ok());
  }

  std::string version() const override { return library_.version().text(); }
  std::string device() const override { return memory_->gpu().name; }
  std::string arithmetic() const override { return precision_ == "fp32" ? "f32" : "f16"; }

  Status load(const Bytes& serialized, const OnNotice& notice) {
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(library_.new_runtime(&log_)));
    if (runtime_ == nullptr) return refused("start");
    engine_.reset(runtime_->deserializeCudaEngine(serialized.data(), serialized.size()));
    if (engine_ == nullptr) {
      return Failure{Error::kEngine, refused("load the engine").sentence + "; remove " + cache_folder().string() +
                                         ", it is built anew then"};
    }
    for (Tensor& tensor : tensors_) ATTEMPT_DONE(allocate(tensor));
    if (engine_->getNbIOTensors() != static_cast<int>(tensors_.size())) {
      return Failure{Error::kEngine, title() + ": the engine has " + std::to_string(engine_->getNbIOTensors()) +
                                         " inputs and outputs; expected frames, logits and evidence: build it again"};
    }
    context_.reset(engine_->createExecutionContext());
    if (context_ == nullptr) return refused("create a context");
    for (Tensor& tensor : tensors_) ATTEMPT_DONE(bind(tensor));
    return warm_up(notice);
  }

  Status infer(std::span<const std::uint8_t> frame, Outputs& outputs) override {
    const std::span<std::uint8_t> input = tensors_[kFrames].buffer.bytes();
    if (frame.size() != input.size()) {
      return Failure{Error::kEngine, "a frame of " + std::to_string(frame.size()) +
                                         " bytes was given; the engine takes " + std::to_string(input.size())};
    }
    ATTEMPT_DONE(memory_->use_in_this_thread());
    std::copy(frame.begin(), frame.end(), input.begin());
    return run(outputs);
  }

 private:
  enum Index { kFrames, kLogits, kEvidence };

  std::string title() const { return library_.title() + " on " + memory_->gpu().name; }

  Failure refused(const std::string& what) const {
    return {Error::kEngine, title() + " cannot " + what + ": " + log_.last_error()};
  }

  // Shapes and types are checked before anything is allocated by them.
  Status allocate(Tensor& tensor) {
    const nvinfer1::Dims dims = engine_->getTensorShape(tensor.name);
    const bool as_expected = engine_->getTensorIOMode(tensor.name) == tensor.mode &&
                             engine_->getTensorDataType(tensor.name) == tensor.type &&
                             dims.nbDims == kNumDims[static_cast<std::size_t>(&tensor - tensors_.data())] &&
                             dims.d[0] == 1 && std::all_of(dims.d, dims.d + dims.nbDims, [](auto d) { return d >= 1; });
    if (!as_expected) {
      return Failure{Error::kEngine, title() + ": the engine's " + tensor.name +
                                         " is absent, or of another type, shape or direction than expected of one "
                                         "frame: build it again"};
    }
    tensor.shape.assign(dims.d, dims.d + dims.nbDims);
    const std::size_t count =
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::size_t{1}, std::multiplies<>());
    const std::size_t size = tensor.type == nvinfer1::DataType::kUINT8 ? 1 : sizeof(float);
    ATTEMPT(tensor.buffer, memory_->allocate(count * size));
    return Done{};
  }

  // Addresses are set once.
  Status bind(Tensor& tensor) {
    if (tensor.mode == nvinfer1::TensorIOMode::kINPUT &&
        !context_->setInputShape(tensor.name, engine_->getTensorShape(tensor.name))) {
      return refused("take the shape of " + std::string(tensor.name));
    }
    if (!context_->setTensorAddress(tensor.name, tensor.buffer.device_address())) {
      return refused("take the address of " + std::string(tensor.name));
    }
    return Done{};
  }

  Status warm_up(const OnNotice& notice) {
    std::size_t number = 0;
    for (std::uint8_t& level : tensors_[kFrames].buffer.bytes()) {  // any picture with structure
      level = static_cast<std::uint8_t>(number++ % 251);
    }
    Outputs eager;
    ATTEMPT_DONE(run(eager));  // the first run may still choose and load kernels
    ATTEMPT_DONE(run(eager));
    if (const Status recorded = record(eager); !recorded.ok()) {
      graph_ = RecordedGraph();
      notice("no CUDA graph: " + recorded.failure().sentence + "; each frame costs more CPU time");
      ATTEMPT_DONE(memory_->synchronize());
    }
    return Done{};
  }

  Status record(const Outputs& eager) {
    ATTEMPT(graph_, memory_->record([&] { return enqueue(); }));
    for (const Index output : {kLogits, kEvidence}) {  // an empty graph must not pass with the eager run's numbers
      std::ranges::fill(tensors_[output].buffer.bytes(), std::uint8_t{0});
    }
    Outputs replayed;
    ATTEMPT_DONE(run(replayed));
    for (const double apart :
         {difference(replayed.logits, eager.logits), difference(replayed.evidence, eager.evidence)}) {
      if (!(apart <= kReplayTolerance)) {
        return Failure{Error::kEngine, "its first replay differs from the eager run by " + std::to_string(apart)};
      }
    }
    return Done{};
  }

  Status enqueue() {
    ATTEMPT_DONE(memory_->copy_to_device(tensors_[kFrames].buffer));
    if (!context_->enqueueV3(memory_->stream())) return refused("enqueue its work");
    ATTEMPT_DONE(memory_->copy_to_host(tensors_[kLogits].buffer));
    return memory_->copy_to_host(tensors_[kEvidence].buffer);
  }

  Status run(Outputs& outputs) {
    ATTEMPT_DONE(graph_.is_recorded() ? memory_->launch(graph_) : enqueue());
    ATTEMPT_DONE(memory_->synchronize());
    const Tensor& evidence = tensors_[kEvidence];
    const auto logits = tensors_[kLogits].floats(), maps = evidence.floats();
    outputs.logits.assign(logits.begin(), logits.end());
    outputs.evidence.assign(maps.begin(), maps.end());
    outputs.evidence_height = evidence.shape[2];
    outputs.evidence_width = evidence.shape[3];
    return Done{};
  }

  static constexpr std::array kNumDims = {3, 2, 4};

  // In the order in which they are needed; destroyed in the reverse: graph, context, buffers, engine, runtime.
  NvInferLibrary library_;
  std::unique_ptr<DeviceMemory> memory_;
  std::string precision_;
  TensorRtLog log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::array<Tensor, 3> tensors_ = {
      Tensor{"frames", nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kUINT8, {}, {}},
      Tensor{"logits", nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT, {}, {}},
      Tensor{"evidence", nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT, {}, {}}};
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  RecordedGraph graph_;
};

// From the cache, or built and stored there.
Result<Bytes> engine_bytes(NvInferLibrary& library, DeviceMemory& memory, const BuildRequest& graph,
                           const OnNotice& notice) {
  const Gpu& gpu = memory.gpu();
  const EngineKey key{graph.onnx_sha256, "tensorrt", library.version().text(), gpu.name + " " + gpu.architecture()};
  EngineCache cache(cache_folder(), notice);
  return cache.engine(key, [&]() -> Result<BuiltEngine> {
    notice("building the TensorRT " + graph.precision + " engine for " + gpu.name + ": once, then it is kept");
    const std::string known = key.library_version + " " + key.gpu;
    const std::vector<std::uint8_t> text(known.begin(), known.end());
    const std::string timings = "cpp-timing-" + sha256_of(text).substr(0, 32);
    const Bytes stored = cache.read(timings).value_or(Bytes());
    BuildRequest request = graph;
    request.timing_cache = stored;
    ATTEMPT(BuildAnswer answer, engine_from_onnx(library, memory, request, notice));
    if (!answer.timing_cache.empty()) cache.write(timings, answer.timing_cache);
    return std::move(answer.built);
  });
}

}  // namespace

Result<std::unique_ptr<Engine>> open_tensorrt(const std::vector<std::uint8_t>& graph, const std::string& graph_sha256,
                                              const std::string& precision, const OnNotice& notice) {
  ATTEMPT(Driver driver, open_driver());
  ATTEMPT(NvInferLibrary library, NvInferLibrary::open(kHeaders));
  ATTEMPT(std::unique_ptr<DeviceMemory> memory, DeviceMemory::open(std::move(driver)));
  ATTEMPT(const Bytes serialized, engine_bytes(library, *memory, {graph, graph_sha256, precision, {}}, notice));
  auto engine = std::make_unique<TensorRtEngine>(std::move(library), std::move(memory), precision);
  ATTEMPT_DONE(engine->load(serialized, notice));
  return std::unique_ptr<Engine>(std::move(engine));
}

}  // namespace hffnet
