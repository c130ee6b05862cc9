// OpenVINO alone running one graph with the settings of hffnet: what its memory is held against. GRAPH.onnx SIDE
#include <cstdlib>
#include <openvino/openvino.hpp>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto side = static_cast<std::size_t>(std::atoi(argv[2]));
  ov::Core core;
  auto compiled = core.compile_model(argv[1], "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                     ov::num_streams(1));
  auto request = compiled.create_infer_request();
  request.set_tensor("frames", ov::Tensor(ov::element::u8, {1, side, side}));
  for (int i = 0; i < 3; ++i) request.infer();
}
