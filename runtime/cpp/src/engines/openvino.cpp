#include "openvino.hpp"

#include <algorithm>
#include <exception>
#include <openvino/openvino.hpp>
#include <string>

namespace hffnet {
namespace {

// As Python's openvino.__version__ has it.
std::string library_version() {
  return ov::get_openvino_version().buildNumber;
}

class OpenVinoEngine final : public Engine {
 public:
  OpenVinoEngine(ov::Core core, ov::CompiledModel compiled)
      : core_(std::move(core)), compiled_(std::move(compiled)), request_(compiled_.create_infer_request()) {}

  std::string version() const override { return library_version(); }
  std::string device() const override { return core_.get_property("CPU", ov::device::full_name); }
  std::string arithmetic() const override {
    return compiled_.get_property(ov::hint::inference_precision).get_type_name();
  }

  Status infer(std::span<const std::uint8_t> frame, Outputs& outputs) override {
    try {
      run(frame, outputs);
      return Done{};
    } catch (const std::exception& error) {
      return Failure{Error::kEngine, "OpenVINO " + version() + " failed while running: " + error.what()};
    }
  }

 private:
  void run(std::span<const std::uint8_t> frame, Outputs& outputs) {
    const ov::PartialShape input = compiled_.input("frames").get_partial_shape();
    const auto height = static_cast<std::size_t>(input[1].get_length());
    const auto width = static_cast<std::size_t>(input[2].get_length());
    // The library reads from the frame's own memory; its interface has no const.
    const ov::Tensor tensor(ov::element::u8, {1, height, width}, const_cast<std::uint8_t*>(frame.data()));
    request_.set_tensor("frames", tensor);
    request_.infer();
    const ov::Tensor logits = request_.get_tensor("logits");
    const ov::Tensor evidence = request_.get_tensor("evidence");
    outputs.logits.assign(logits.data<float>(), logits.data<float>() + logits.get_size());
    outputs.evidence.assign(evidence.data<float>(), evidence.data<float>() + evidence.get_size());
    outputs.evidence_height = evidence.get_shape().at(2);
    outputs.evidence_width = evidence.get_shape().at(3);
  }

  ov::Core core_;
  ov::CompiledModel compiled_;
  ov::InferRequest request_;
};

// The settings of hffnet.runtime.engines.openvino; the self-test decides whether bfloat16 is near enough.
ov::AnyMap settings(ov::Core& core, bool is_int8, int threads) {
  ov::AnyMap map{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1)};
  if (threads > 0) map.insert(ov::inference_num_threads(threads));
  const auto able = core.get_property("CPU", ov::device::capabilities);
  const bool has_bf16 = std::find(able.begin(), able.end(), ov::device::capability::BF16) != able.end();
  map.insert(ov::hint::inference_precision(has_bf16 && is_int8 ? ov::element::bf16 : ov::element::f32));
  return map;
}

}  // namespace

Result<std::unique_ptr<Engine>> open_openvino(const std::vector<std::uint8_t>& graph, bool is_int8, int threads) {
  try {
    ov::Core core;
    const auto model = core.read_model(std::string(graph.begin(), graph.end()), ov::Tensor());
    ov::CompiledModel compiled = core.compile_model(model, "CPU", settings(core, is_int8, threads));
    return std::unique_ptr<Engine>(std::make_unique<OpenVinoEngine>(std::move(core), std::move(compiled)));
  } catch (const std::exception& error) {
    return Failure{Error::kEngine, "OpenVINO " + library_version() + " cannot load the graph: " + error.what()};
  }
}

}  // namespace hffnet
