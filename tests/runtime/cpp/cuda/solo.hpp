// The kernels' own code run by a team of one, on the CPU: what tests compare where there is no GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "decision.hpp"
#include "picture.hpp"
#include "ranks.hpp"
#include "tree.hpp"

namespace hffnet::cuda {

template <class T, int channels>
void resize_by_kernel_code(const GpuPicture& picture, std::size_t size, float* small) {
  const bool shrinking = shrinks(picture, size);
  for (std::size_t y = 0; y < size; ++y) {
    for (std::size_t x = 0; x < size; ++x) {
      const Span rows = shrinking ? span_at(y, picture.height, size) : pair_at(y, picture.height, size);
      const Span columns = shrinking ? span_at(x, picture.width, size) : pair_at(x, picture.width, size);
      *small++ = resized<T, channels>(picture, size, rows, columns);
    }
  }
}

inline std::vector<std::uint8_t> preprocessed_by_kernel_code(const GpuPicture& picture, const PreprocessSpec& spec) {
  std::vector<float> small(spec.size * spec.size);
  const bool grey = picture.channels == 1;
  if (picture.depth == Depth::kUint8) {
    (grey ? resize_by_kernel_code<std::uint8_t, 1> : resize_by_kernel_code<std::uint8_t, 3>)(picture, spec.size,
                                                                                             small.data());
  } else if (picture.depth == Depth::kUint16) {
    (grey ? resize_by_kernel_code<std::uint16_t, 1> : resize_by_kernel_code<std::uint16_t, 3>)(picture, spec.size,
                                                                                               small.data());
  } else {
    (grey ? resize_by_kernel_code<float, 1> : resize_by_kernel_code<float, 3>)(picture, spec.size, small.data());
  }
  std::vector<std::uint8_t> out(small.size());
  const auto shared = std::make_unique<Selection>();
  stretch(Solo{}, small.data(), small.size(), stretch_from(spec, picture.depth), *shared, out.data());
  return out;
}

inline Result<std::vector<Decision>> decided_by_kernel_code(std::span<const float> logits, const Taxonomy& taxonomy,
                                                            const DecodeSpec& spec) {
  auto made = tree_from(taxonomy, spec);
  if (!made.ok()) return made.failure();
  const Tree tree = std::move(made).value();
  const DecodeTable table = tree.table();
  const std::size_t num_frames = logits.size() / table.num_columns;
  Answers answers(num_frames, table);
  std::vector<double> log_p(table.num_columns), share(table.num_leaves);
  std::vector<Decision> decisions;
  for (std::size_t n = 0; n < num_frames; ++n) {
    const DecodePlaces places{&answers.leaf[n],
                              &answers.sure[n],
                              &answers.confidence[n * table.depth],
                              &answers.probabilities[n * table.num_columns],
                              log_p.data(),
                              share.data()};
    DecodeShared shared{};
    decide(Solo{}, table, &logits[n * table.num_columns], shared, places);
    decisions.push_back(decision_from(answers, n, taxonomy));
  }
  return decisions;
}

}  // namespace hffnet::cuda
