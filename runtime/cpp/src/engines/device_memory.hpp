// GPU memory, streams and graphs through the driver's own interface: no libcudart is needed beside the driver. As
// hffnet.runtime.engines.device_memory; needs CUDA's headers.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "engines/cuda_driver.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

// The driver's functions in use. cuda.h gives the names their versions (cuMemAlloc is cuMemAlloc_v2): they are looked up
// under the names that the types below belong to.
struct CudaFunctions {
  decltype(&cuDevicePrimaryCtxRetain) retain_context;
  decltype(&cuDevicePrimaryCtxRelease) release_context;
  decltype(&cuCtxSetCurrent) set_current;
  decltype(&cuMemGetInfo) memory_info;
  decltype(&cuMemAlloc) allocate;
  decltype(&cuMemFree) free;
  decltype(&cuMemHostAlloc) allocate_host;
  decltype(&cuMemHostGetDevicePointer) device_pointer;
  decltype(&cuMemFreeHost) free_host;
  decltype(&cuStreamCreate) create_stream;
  decltype(&cuStreamDestroy) destroy_stream;
  decltype(&cuStreamSynchronize) synchronize;
  decltype(&cuMemcpyHtoDAsync) copy_to_device;
  decltype(&cuMemcpyDtoHAsync) copy_to_host;
  decltype(&cuStreamBeginCapture) begin_capture;
  decltype(&cuStreamEndCapture) end_capture;
  decltype(&cuGraphInstantiateWithFlags) instantiate;
  decltype(&cuGraphLaunch) launch;
  decltype(&cuGraphDestroy) destroy_graph;
  decltype(&cuGraphExecDestroy) destroy_executable;
};

// Page-locked memory of the host and the GPU's view of it: the same bytes on an integrated GPU, its own memory elsewhere.
// Given back with its owner, which must not outlive the DeviceMemory it came from.
class Buffer;
// A recorded graph, ready to launch; the same rule.
class RecordedGraph;

// The first GPU's primary context, which TensorRT uses too. One per engine; not thread-safe. Every Failure is
// Error::kEngine and names action and code.
class DeviceMemory {
 public:
  // Retains the context and makes it current in this thread. Keeps the driver's library open.
  static Result<std::unique_ptr<DeviceMemory>> open(Driver driver);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  const Gpu& gpu() const { return driver_.gpu; }
  CUstream stream() const { return stream_; }

  // Makes the context current in the calling thread; to be called before anything else there.
  Status use_in_this_thread();
  Result<std::size_t> free_bytes();
  Result<Buffer> allocate(std::size_t num_bytes);

  // Enqueue a copy of the whole buffer; nothing where host and GPU share it.
  Status copy_to_device(Buffer& buffer);
  Status copy_to_host(Buffer& buffer);
  // Waits until everything enqueued is done.
  Status synchronize();

  // Records what `work` enqueues; nothing runs.
  Result<RecordedGraph> record(const std::function<Status()>& work);
  Status launch(const RecordedGraph& graph);

 private:
  explicit DeviceMemory(Driver driver) : driver_(std::move(driver)) {}
  Status bind();
  Status check(CUresult code, const std::string& action) const;

  Driver driver_;
  CudaFunctions cuda_{};
  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
};

class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::span<std::uint8_t> bytes() const { return {static_cast<std::uint8_t*>(host_), num_bytes_}; }
  void* device_address() const { return reinterpret_cast<void*>(device_); }

 private:
  friend class DeviceMemory;

  const CudaFunctions* cuda_ = nullptr;
  void* host_ = nullptr;
  CUdeviceptr device_ = 0;
  std::size_t num_bytes_ = 0;
  bool shared_ = false;
};

class RecordedGraph {
 public:
  RecordedGraph() = default;
  RecordedGraph(RecordedGraph&& other) noexcept { *this = std::move(other); }
  RecordedGraph& operator=(RecordedGraph&& other) noexcept;
  ~RecordedGraph();

  bool is_recorded() const { return executable_ != nullptr; }

 private:
  friend class DeviceMemory;

  const CudaFunctions* cuda_ = nullptr;
  CUgraphExec executable_ = nullptr;
};

}  // namespace hffnet
