#include <string>
#include <utility>

#include "hffnet/cuda.hpp"
#include "picture.hpp"
#include "ranks.hpp"
#include "runtime.hpp"

namespace hffnet::cuda {
namespace {

constexpr unsigned kTileWidth = 32;
constexpr unsigned kTileHeight = 16;

// Each block resizes one tile of the output; the block that ends last stretches the whole. So one launch does it all, and
// no block waits for another.
template <class T, int channels>
__global__ void __launch_bounds__(kTileWidth* kTileHeight)
    preprocess_kernel(GpuPicture picture, std::size_t size, Stretch how, float* small, unsigned* num_done,
                      std::uint8_t* out) {
  __shared__ Span columns[kTileWidth];
  __shared__ Span rows[kTileHeight];
  __shared__ bool is_last;
  const bool shrinking = shrinks(picture, size);
  const std::size_t x = std::size_t{blockIdx.x} * kTileWidth + threadIdx.x;
  const std::size_t y = std::size_t{blockIdx.y} * kTileHeight + threadIdx.y;
  if (threadIdx.y == 0 && x < size) {
    columns[threadIdx.x] = shrinking ? span_at(x, picture.width, size) : pair_at(x, picture.width, size);
  }
  if (threadIdx.x == 0 && y < size) {
    rows[threadIdx.y] = shrinking ? span_at(y, picture.height, size) : pair_at(y, picture.height, size);
  }
  __syncthreads();
  if (x < size && y < size) {
    small[y * size + x] = resized<T, channels>(picture, size, rows[threadIdx.y], columns[threadIdx.x]);
  }
  __threadfence();  // the tile is there for all before it is counted
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    is_last = atomicAdd(num_done, 1U) + 1U == gridDim.x * gridDim.y;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  __shared__ Selection shared;
  stretch(Block{}, small, size * size, how, shared, out);
  if (threadIdx.x == 0 && threadIdx.y == 0) *num_done = 0;  // for the next launch
}

using Kernel = void (*)(GpuPicture, std::size_t, Stretch, float*, unsigned*, std::uint8_t*);

Kernel kernel_for(const GpuPicture& picture) {
  const bool grey = picture.channels == 1;
  switch (picture.depth) {
    case Depth::kUint8:
      return grey ? preprocess_kernel<std::uint8_t, 1> : preprocess_kernel<std::uint8_t, 3>;
    case Depth::kUint16:
      return grey ? preprocess_kernel<std::uint16_t, 1> : preprocess_kernel<std::uint16_t, 3>;
    case Depth::kFloat32:
      break;
  }
  return grey ? preprocess_kernel<float, 1> : preprocess_kernel<float, 3>;
}

std::size_t bytes_of_row(const GpuPicture& picture) {
  return picture.width * bytes_per_pixel(picture.depth) * static_cast<std::size_t>(picture.channels);
}

Status sound(const GpuPicture& picture) {
  if (picture.data != nullptr && picture.height > 0 && picture.width > 0 &&
      (picture.channels == 1 || picture.channels == 3) && picture.row_bytes >= bytes_of_row(picture) &&
      picture.height <= 0xFFFFFFFFU && picture.width <= 0xFFFFFFFFU) {
    return Done{};
  }
  return Failure{Error::kFrame, "a picture of " + std::to_string(picture.width) + "x" + std::to_string(picture.height) +
                                    " pixels with " + std::to_string(picture.channels) + " channels and rows of " +
                                    std::to_string(picture.row_bytes) +
                                    " bytes was given; at least 1x1 with 1 or 3 channels is expected"};
}

// Code for another kind of GPU would fail at the first frame only.
Status find_kernel() {
  cudaFuncAttributes attributes{};
  const cudaError_t code = cudaFuncGetAttributes(&attributes, preprocess_kernel<std::uint8_t, 1>);
  if (code != cudaErrorNoKernelImageForDevice && code != cudaErrorInvalidDeviceFunction &&
      code != cudaErrorUnsupportedPtxVersion) {
    return check(code, "load a kernel");
  }
  cudaGetLastError();  // it is told here and is not the next call's
  int device = 0, major = 0, minor = 0;
  ATTEMPT_DONE(check(cudaGetDevice(&device), "be asked"));
  ATTEMPT_DONE(check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "be asked"));
  ATTEMPT_DONE(check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "be asked"));
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  return Failure{Error::kMissing, "there is no kernel here for this GPU of compute capability " + capability + " (" +
                                      cudaGetErrorString(code) +
                                      "); build hffnet with CUDAARCHS=" + std::to_string(major) +
                                      std::to_string(minor) + " in the environment, or use the CPU"};
}

}  // namespace

Status find_gpu() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return find_kernel();
  int driver = 0;  // CUDA calls an absent driver one that is too old
  const bool absent = cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0;
  return Failure{Error::kMissing, std::string("there is no GPU on this machine that CUDA can use (") +
                                      (absent ? "no NVIDIA driver" : cudaGetErrorString(code)) + "); use the CPU"};
}

struct GpuPreprocessor::Held {
  PreprocessSpec spec;
  DeviceArray<float> small;
  DeviceArray<unsigned> num_done;
  DeviceArray<unsigned char> staged;
  DeviceArray<std::uint8_t> input;
  std::vector<std::uint8_t> answer;
};

GpuPreprocessor::GpuPreprocessor(std::unique_ptr<Held> held) : held_(std::move(held)) {}
GpuPreprocessor::GpuPreprocessor(GpuPreprocessor&&) noexcept = default;
GpuPreprocessor& GpuPreprocessor::operator=(GpuPreprocessor&&) noexcept = default;
GpuPreprocessor::~GpuPreprocessor() = default;

Result<GpuPreprocessor> GpuPreprocessor::open(const PreprocessSpec& spec) {
  ATTEMPT_DONE(find_gpu());
  auto held = std::make_unique<Held>();
  held->spec = spec;
  const unsigned none = 0;
  ATTEMPT_DONE(held->small.reserve(spec.size * spec.size));
  ATTEMPT_DONE(held->num_done.fill_from(&none, 1));
  return GpuPreprocessor(std::move(held));
}

Status GpuPreprocessor::enqueue(const GpuPicture& picture, std::uint8_t* input, Stream stream) {
  ATTEMPT_DONE(sound(picture));
  const std::size_t size = held_->spec.size;
  const dim3 block(kTileWidth, kTileHeight);
  const dim3 grid(static_cast<unsigned>((size + kTileWidth - 1) / kTileWidth),
                  static_cast<unsigned>((size + kTileHeight - 1) / kTileHeight));
  kernel_for(picture)<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(
      picture, size, stretch_from(held_->spec, picture.depth), held_->small.data(), held_->num_done.data(), input);
  return check(cudaGetLastError(), "enqueue preprocess");
}

Result<std::span<const std::uint8_t>> GpuPreprocessor::operator()(const GpuPicture& picture) {
  ATTEMPT_DONE(sound(picture));
  const std::size_t row_bytes = bytes_of_row(picture), count = held_->spec.size * held_->spec.size;
  ATTEMPT_DONE(held_->staged.reserve(picture.height * row_bytes));
  ATTEMPT_DONE(held_->input.reserve(count));
  GpuPicture there = picture;
  there.data = held_->staged.data();
  there.row_bytes = row_bytes;
  ATTEMPT_DONE(check(cudaMemcpy2D(held_->staged.data(), row_bytes, picture.data, picture.row_bytes, row_bytes,
                                  picture.height, cudaMemcpyHostToDevice),
                     "take a copy of a frame"));
  ATTEMPT_DONE(enqueue(there, held_->input.data(), nullptr));
  held_->answer.resize(count);
  ATTEMPT_DONE(held_->input.copy_to(held_->answer.data(), count));
  return std::span<const std::uint8_t>(held_->answer);
}

}  // namespace hffnet::cuda
