// hffnet-cuda-benchmark: preprocess and decode on this GPU beside the memory's own speed and the way over the host; one
// JSON document on stdout. Exit code 4 where there is no GPU.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <initializer_list>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "hffnet/cuda.hpp"

namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;
using hffnet::Depth;
using hffnet::cuda::GpuPicture;

constexpr int kTurns = 200;
constexpr std::size_t kCopied = std::size_t{256} << 20U;

// Ends the program: a measurement with a failed call in it is none.
void must(cudaError_t code, const char* action) {
  if (code == cudaSuccess) return;
  std::cerr << "hffnet: the GPU could not " << action << ": " << cudaGetErrorString(code) << '\n';
  std::exit(4);
}

template <class T>
T must(hffnet::Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::cerr << "hffnet: " << result.failure().sentence << '\n';
  std::exit(4);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Microseconds of what `work` enqueues, by the GPU's own clock; the first turns warm up.
template <class Work>
double microseconds_on_gpu(cudaStream_t stream, Work work) {
  cudaEvent_t start, end;
  must(cudaEventCreate(&start), "make an event");
  must(cudaEventCreate(&end), "make an event");
  std::vector<double> times;
  for (int turn = 0; turn < kTurns + 20; ++turn) {
    must(cudaEventRecord(start, stream), "record an event");
    work();
    must(cudaEventRecord(end, stream), "record an event");
    must(cudaEventSynchronize(end), "finish");
    float milliseconds = 0.0F;
    must(cudaEventElapsedTime(&milliseconds, start, end), "tell the time");
    if (turn >= 20) times.push_back(1e3 * static_cast<double>(milliseconds));
  }
  must(cudaEventDestroy(start), "free an event");
  must(cudaEventDestroy(end), "free an event");
  return median(times);
}

template <class Work>
double microseconds_by_clock(Work work) {
  std::vector<double> times;
  for (int turn = 0; turn < kTurns + 20; ++turn) {
    const auto start = Clock::now();
    work();
    const std::chrono::duration<double, std::micro> passed = Clock::now() - start;
    if (turn >= 20) times.push_back(passed.count());
  }
  return median(times);
}

// Bytes per microsecond that a copy within the GPU's memory reads and writes.
double measured_bandwidth(cudaStream_t stream) {
  void *from = nullptr, *to = nullptr;
  must(cudaMalloc(&from, kCopied), "allocate");
  must(cudaMalloc(&to, kCopied), "allocate");
  const double us = microseconds_on_gpu(
      stream, [&] { must(cudaMemcpyAsync(to, from, kCopied, cudaMemcpyDeviceToDevice, stream), "copy"); });
  must(cudaFree(from), "free");
  must(cudaFree(to), "free");
  return 2.0 * static_cast<double>(kCopied) / us;
}

Json measure_preprocess(std::size_t height, std::size_t width, Depth depth, int channels, double bandwidth,
                        cudaStream_t stream) {
  const hffnet::PreprocessSpec spec;
  const std::size_t row_bytes = width * bytes_per_pixel(depth) * static_cast<std::size_t>(channels);
  const std::size_t num_bytes = height * row_bytes, num_inputs = spec.size * spec.size;
  void *host = nullptr, *there = nullptr;
  std::uint8_t* input = nullptr;
  must(cudaHostAlloc(&host, num_bytes, cudaHostAllocDefault), "lock memory");
  must(cudaMalloc(&there, num_bytes), "allocate");
  must(cudaMalloc(reinterpret_cast<void**>(&input), num_inputs), "allocate");
  auto* bytes = static_cast<std::uint8_t*>(host);
  for (std::size_t i = 0; i < num_bytes; ++i) bytes[i] = static_cast<std::uint8_t>(i * 2654435761U >> 13U);
  must(cudaMemcpy(there, host, num_bytes, cudaMemcpyHostToDevice), "copy");

  auto gpu = must(hffnet::cuda::GpuPreprocessor::open(spec));
  const GpuPicture picture{there, depth, channels, height, width, row_bytes};
  const double kernel = microseconds_on_gpu(stream, [&] { must(gpu.enqueue(picture, input, stream)); });
  const double with_copy = microseconds_on_gpu(stream, [&] {
    must(cudaMemcpyAsync(there, host, num_bytes, cudaMemcpyHostToDevice, stream), "copy");
    must(gpu.enqueue(picture, input, stream));
  });
  const double floor = static_cast<double>(num_bytes + num_inputs) / bandwidth;
  Json row = {{"picture", std::to_string(width) + "x" + std::to_string(height)},
              {"bits", 8 * bytes_per_pixel(depth)},
              {"channels", channels},
              {"kernel_us", kernel},
              {"copy_and_kernel_us", with_copy},
              {"bandwidth_floor_us", floor}};
  if (channels == 1) {  // the library's own preprocess, then the small input's copy
    hffnet::Preprocessor cpu(spec);
    row["host_path_us"] = microseconds_by_clock([&] {
      const auto small = must(cpu({host, depth, height, width, row_bytes}));
      must(cudaMemcpyAsync(input, small.data(), small.size(), cudaMemcpyHostToDevice, stream), "copy");
      must(cudaStreamSynchronize(stream), "finish");
    });
  }
  must(cudaFreeHost(host), "free");
  must(cudaFree(there), "free");
  must(cudaFree(input), "free");
  return row;
}

Json measure_decode(cudaStream_t stream) {
  std::vector<std::string> names;
  std::vector<std::size_t> parents;
  for (int k = 0; k < 14; ++k) {
    names.push_back("class " + std::to_string(k));
    parents.push_back(static_cast<std::size_t>(k) / 5);
  }
  const auto taxonomy = must(hffnet::Taxonomy::from_levels({{"kind", {"a", "b", "c"}, {}}, {"type", names, parents}}));
  const hffnet::DecodeSpec spec{{1.0, 1.0}, 0.5};
  auto decoder = must(hffnet::cuda::GpuDecoder::open(taxonomy, spec));
  float* logits = nullptr;
  double *confidence = nullptr, *probabilities = nullptr;
  std::uint32_t* words = nullptr;
  must(cudaMalloc(reinterpret_cast<void**>(&logits), 17 * sizeof(float)), "allocate");
  must(cudaMemset(logits, 0, 17 * sizeof(float)), "clear memory");
  must(cudaMalloc(reinterpret_cast<void**>(&confidence), 2 * sizeof(double)), "allocate");
  must(cudaMalloc(reinterpret_cast<void**>(&probabilities), 17 * sizeof(double)), "allocate");
  must(cudaMalloc(reinterpret_cast<void**>(&words), 2 * sizeof(std::uint32_t)), "allocate");
  const hffnet::cuda::GpuDecisions out{words, words + 1, confidence, probabilities};
  const double kernel = microseconds_on_gpu(stream, [&] { must(decoder.enqueue(logits, 1, out, stream)); });
  const std::vector<float> zeros(17, 0.0F);
  const double host = microseconds_by_clock([&] { must(hffnet::decode(zeros, taxonomy, spec)); });
  for (void* memory : std::initializer_list<void*>{logits, confidence, probabilities, words}) {
    must(cudaFree(memory), "free");
  }
  return {{"columns", 17}, {"kernel_us", kernel}, {"host_us", host}};
}

}  // namespace

int main() {
  must(hffnet::cuda::find_gpu());
  cudaDeviceProp about{};
  must(cudaGetDeviceProperties(&about, 0), "describe itself");
  cudaStream_t stream = nullptr;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "open a stream");
  const double bandwidth = measured_bandwidth(stream);
  Json rows = Json::array();
  for (const auto& [height, width] : {std::pair<std::size_t, std::size_t>{884, 1024}, {2048, 3072}}) {
    for (const int channels : {1, 3}) {
      rows.push_back(measure_preprocess(height, width, Depth::kUint8, channels, bandwidth, stream));
      rows.push_back(measure_preprocess(height, width, Depth::kUint16, channels, bandwidth, stream));
    }
  }
  const Json document = {{"schema_version", 1},
                         {"command", "cuda-benchmark"},
                         {"gpu", about.name},
                         {"architecture", "sm" + std::to_string(about.major) + std::to_string(about.minor)},
                         {"copy_bandwidth_gb_per_s", bandwidth / 1e3},
                         {"turns", kTurns},
                         {"preprocess", rows},
                         {"decode", measure_decode(stream)}};
  std::cout << document.dump() << '\n';
  must(cudaStreamDestroy(stream), "close a stream");
}
