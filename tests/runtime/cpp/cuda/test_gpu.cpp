// The kernels on a GPU against the library on the CPU. Exit code 77, which CTest shows as skipped, where there is none.
#include <cmath>
#include <iostream>
#include <optional>

#include "samples.hpp"

namespace {

using namespace hffnet;
using namespace hffnet::cuda;

int num_failed = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++num_failed;
  std::cerr << "failed: " << what << '\n';
}

void compare_inputs() {
  for (const std::size_t size : {32, 224, 448}) {
    PreprocessSpec spec;
    spec.size = size;
    auto preprocess = GpuPreprocessor::open(spec);
    if (!preprocess.ok()) return expect(false, preprocess.failure().sentence);
    for (const Sample& sample : all_samples()) {
      const GpuPicture& picture = sample.picture;
      const std::string name = std::to_string(picture.width) + "x" + std::to_string(picture.height) + " depth " +
                               std::to_string(static_cast<int>(picture.depth)) + " channels " +
                               std::to_string(picture.channels) + " to " + std::to_string(size);
      for (int turn = 0; turn < 2; ++turn) {  // the second finds what the first left behind
        const auto found = preprocess.value()(picture);
        if (!found.ok()) return expect(false, name + ": " + found.failure().sentence);
        const int apart = most_apart(found.value(), reference_of(picture, spec));
        expect(apart <= 1, name + ": " + std::to_string(apart) + " grey levels apart");
      }
    }
  }
}

void refuse_empty_pictures() {
  auto preprocess = GpuPreprocessor::open({});
  if (!preprocess.ok()) return expect(false, preprocess.failure().sentence);
  const std::uint8_t pixel = 0;
  for (const GpuPicture& wrong :
       {GpuPicture{&pixel, Depth::kUint8, 1, 0, 1, 1}, GpuPicture{&pixel, Depth::kUint8, 2, 1, 1, 2},
        GpuPicture{&pixel, Depth::kUint16, 1, 1, 1, 1}}) {
    const auto refused = preprocess.value()(wrong);
    expect(!refused.ok() && refused.failure().error == Error::kFrame, "a picture that is none was taken");
  }
}

void compare_decisions() {
  const Taxonomy taxonomy = three_levels();
  const std::vector<float> logits = many_logits(taxonomy, 300);
  for (const std::optional<double> threshold : {std::optional<double>(), std::optional<double>(0.7)}) {
    const DecodeSpec spec{{1.0, 0.6, 2.5}, threshold};
    auto decoder = GpuDecoder::open(taxonomy, spec);
    if (!decoder.ok()) return expect(false, decoder.failure().sentence);
    const auto found = decoder.value()(logits);
    if (!found.ok()) return expect(false, found.failure().sentence);
    for (std::size_t n = 0; n < found.value().size(); ++n) {
      const auto row = std::span(logits).subspan(n * taxonomy.num_columns(), taxonomy.num_columns());
      const Decision expected = decode(row, taxonomy, spec).value();
      const Decision& one = found.value()[n];
      expect(one.path == expected.path && one.answer == expected.answer, "path of row " + std::to_string(n));
      for (std::size_t i = 0; i < expected.probabilities.size(); ++i) {
        for (std::size_t k = 0; k < expected.probabilities[i].size(); ++k) {
          const double apart = std::abs(one.probabilities[i][k] - expected.probabilities[i][k]);
          expect(apart <= 1e-9, "probability of row " + std::to_string(n) + " is " + std::to_string(apart) + " apart");
        }
      }
    }
  }
}

}  // namespace

int main() {
  if (const auto gpu = find_gpu(); !gpu.ok()) {
    std::cout << "skipped: " << gpu.failure().sentence << '\n';
    return 77;
  }
  compare_inputs();
  refuse_empty_pictures();
  compare_decisions();
  std::cout << (num_failed == 0 ? "all as on the CPU\n" : "differences, see above\n");
  return num_failed == 0 ? 0 : 1;
}
