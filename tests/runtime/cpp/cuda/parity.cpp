// Answers for tests/parity/test_cpp_cuda.py: one JSON line per input line, a picture in a file in, the network's input in
// a file out. By the kernels' code on the CPU, or with --gpu by the kernels (exit code 77 where there is no GPU).
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "solo.hpp"
#ifdef HFFNET_WITH_CUDA
#include "hffnet/cuda.hpp"
#endif

namespace {

using nlohmann::json;
using namespace hffnet;
using namespace hffnet::cuda;

std::vector<std::uint8_t> input_of(const GpuPicture& picture, const PreprocessSpec& spec, bool on_gpu) {
#ifdef HFFNET_WITH_CUDA
  if (on_gpu) {
    auto preprocess = GpuPreprocessor::open(spec).value();
    const auto input = preprocess(picture).value();
    return {input.begin(), input.end()};
  }
#endif
  static_cast<void>(on_gpu);
  return preprocessed_by_kernel_code(picture, spec);
}

}  // namespace

int main(int argc, char** argv) {
  const bool on_gpu = argc > 1 && std::string(argv[1]) == "--gpu";
#ifdef HFFNET_WITH_CUDA
  if (on_gpu && !find_gpu().ok()) return 77;
#else
  if (on_gpu) return 77;
#endif
  for (std::string line; std::getline(std::cin, line);) {
    const json question = json::parse(line);
    std::ifstream file(question["pixels"].get<std::string>(), std::ios::binary);
    const std::vector<char> pixels{std::istreambuf_iterator<char>(file), {}};
    const std::string type = question["dtype"];
    const Depth depth = type == "uint8" ? Depth::kUint8 : type == "uint16" ? Depth::kUint16 : Depth::kFloat32;
    const int channels = question["channels"];
    const std::size_t width = question["width"];
    const GpuPicture whole{pixels.data(), depth,
                           channels,      question["height"],
                           width,         width * bytes_per_pixel(depth) * static_cast<std::size_t>(channels)};
    const json& crop = question["crop"];
    const GpuPicture picture = cropped(whole, {crop[0], crop[1], crop[2], crop[3], "setting"});
    PreprocessSpec spec;
    spec.size = question["size"];
    const auto input = input_of(picture, spec, on_gpu);
    std::ofstream out(question["out"].get<std::string>(), std::ios::binary);
    out.write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
    std::cout << json{{"ok", true}}.dump() << '\n';
  }
}
