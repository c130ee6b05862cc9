// Preprocess and decode on an NVIDIA GPU, for programs whose frames lie in its memory already, or which want the host
// left alone. The same numbers as hffnet/preprocess.hpp (within one grey level) and hffnet/decode.hpp. In a library of
// its own, hffnet_cuda, since it needs the CUDA toolkit to be built.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hffnet/decode.hpp"
#include "hffnet/export.h"
#include "hffnet/frame.hpp"
#include "hffnet/preprocess.hpp"
#include "hffnet/result.hpp"
#include "hffnet/taxonomy.hpp"

namespace hffnet::cuda {

// A cudaStream_t; null is the default stream.
using Stream = void*;

// Finite pixels that somebody else owns: grey, or three channels in the order blue, green, red. Rows are `row_bytes` apart.
struct GpuPicture {
  const void* data;
  Depth depth;
  int channels;  // 1 or 3
  std::size_t height;
  std::size_t width;
  std::size_t row_bytes;
};

// The part of it that is picture; nothing is copied. `crop` lies inside.
inline GpuPicture cropped(GpuPicture picture, const Crop& crop) {
  const std::size_t pixel = bytes_per_pixel(picture.depth) * static_cast<std::size_t>(picture.channels);
  picture.data = static_cast<const unsigned char*>(picture.data) + crop.top * picture.row_bytes + crop.left * pixel;
  picture.height = crop.height;
  picture.width = crop.width;
  return picture;
}

// Error::kMissing, with the driver's reason, where this machine has no GPU, or the kernels were built for others.
HFFNET_API Status find_gpu();

// One kernel: resize of the cropped picture, percentile stretch, bytes. Keeps its buffers: one per stream and worker, not
// thread-safe. Needs the same GPU to be current in every call.
class HFFNET_API GpuPreprocessor {
 public:
  // Error::kMissing as find_gpu has it.
  static Result<GpuPreprocessor> open(const PreprocessSpec& spec);

  GpuPreprocessor(GpuPreprocessor&&) noexcept;
  GpuPreprocessor& operator=(GpuPreprocessor&&) noexcept;
  ~GpuPreprocessor();

  // Enqueues the work and returns: `picture` lies in memory that the GPU can read, `input` has size x size bytes there.
  // Can be recorded into a CUDA graph. Error::kFrame for a picture that is empty, kEngine where the GPU refuses.
  Status enqueue(const GpuPicture& picture, std::uint8_t* input, Stream stream);

  // The same from the host's memory and back, waiting for the end; valid until the next call.
  Result<std::span<const std::uint8_t>> operator()(const GpuPicture& picture);

 private:
  struct Held;
  explicit GpuPreprocessor(std::unique_ptr<Held> held);

  std::unique_ptr<Held> held_;
};

// Where decisions go, in the GPU's memory: N frames of a tree with `depth` levels and ΣC columns.
struct GpuDecisions {
  std::uint32_t* leaf;    // N: the most probable path's leaf
  std::uint32_t* sure;    // N: how many levels of the path are the answer
  double* confidence;     // N x depth
  double* probabilities;  // N x ΣC
};

// Softmax with temperatures, most probable path, abstention; a block per frame. One per stream and worker.
class HFFNET_API GpuDecoder {
 public:
  static Result<GpuDecoder> open(const Taxonomy& taxonomy, const DecodeSpec& spec);

  GpuDecoder(GpuDecoder&&) noexcept;
  GpuDecoder& operator=(GpuDecoder&&) noexcept;
  ~GpuDecoder();

  // Enqueues the decisions for num_frames x ΣC logits in the GPU's memory. The first call with more frames than any
  // before allocates, and so cannot be recorded.
  Status enqueue(const float* logits, std::size_t num_frames, const GpuDecisions& out, Stream stream);

  // The same from the host's memory and back.
  Result<std::vector<Decision>> operator()(std::span<const float> logits);

 private:
  struct Held;
  explicit GpuDecoder(std::unique_ptr<Held> held);

  std::unique_ptr<Held> held_;
};

}  // namespace hffnet::cuda
