#include "engines/device_memory.hpp"

#include <string>

#include "attempt.hpp"

// The name as cuda.h's macros have it, e.g. "cuMemAlloc_v2".
#define HFFNET_TEXT_(name) #name
#define HFFNET_TEXT(name) HFFNET_TEXT_(name)
#define BIND(member, name) ATTEMPT_DONE(driver_.library.bind(HFFNET_TEXT(name), cuda_.member))

namespace hffnet {

Status DeviceMemory::check(CUresult code, const std::string& action) const {
  if (code == CUDA_SUCCESS) return Done{};
  return Failure{Error::kEngine, "the GPU could not " + action + " (CUDA error " + std::to_string(code) + ": " +
                                     reason_of_cuda_error(code) +
                                     "); close other programs that use it, see nvidia-smi or tegrastats, or use "
                                     "--engine openvino"};
}

Status DeviceMemory::bind() {
  BIND(retain_context, cuDevicePrimaryCtxRetain);
  BIND(release_context, cuDevicePrimaryCtxRelease);
  BIND(set_current, cuCtxSetCurrent);
  BIND(memory_info, cuMemGetInfo);
  BIND(allocate, cuMemAlloc);
  BIND(free, cuMemFree);
  BIND(allocate_host, cuMemHostAlloc);
  BIND(device_pointer, cuMemHostGetDevicePointer);
  BIND(free_host, cuMemFreeHost);
  BIND(create_stream, cuStreamCreate);
  BIND(destroy_stream, cuStreamDestroy);
  BIND(synchronize, cuStreamSynchronize);
  BIND(copy_to_device, cuMemcpyHtoDAsync);
  BIND(copy_to_host, cuMemcpyDtoHAsync);
  BIND(begin_capture, cuStreamBeginCapture);
  BIND(end_capture, cuStreamEndCapture);
  BIND(instantiate, cuGraphInstantiateWithFlags);
  BIND(launch, cuGraphLaunch);
  BIND(destroy_graph, cuGraphDestroy);
  BIND(destroy_executable, cuGraphExecDestroy);
  return Done{};
}

Result<std::unique_ptr<DeviceMemory>> DeviceMemory::open(Driver driver) {
  std::unique_ptr<DeviceMemory> memory(new DeviceMemory(std::move(driver)));
  ATTEMPT_DONE(memory->bind());
  ATTEMPT_DONE(memory->check(memory->cuda_.retain_context(&memory->context_, 0), "give a context"));
  ATTEMPT_DONE(memory->use_in_this_thread());
  // A stream that does not wait for the default one.
  const CUresult opened = memory->cuda_.create_stream(&memory->stream_, CU_STREAM_NON_BLOCKING);
  ATTEMPT_DONE(memory->check(opened, "open a stream"));
  return memory;
}

DeviceMemory::~DeviceMemory() {
  // Codes are not looked at: nothing could be done about them, and a lost GPU answers with one to each call.
  if (context_ == nullptr) return;
  cuda_.set_current(context_);
  if (stream_ != nullptr) cuda_.destroy_stream(stream_);
  cuda_.release_context(0);
}

Status DeviceMemory::use_in_this_thread() {
  return check(cuda_.set_current(context_), "be used in this thread");
}

Result<std::size_t> DeviceMemory::free_bytes() {
  std::size_t free = 0, total = 0;
  ATTEMPT_DONE(check(cuda_.memory_info(&free, &total), "tell its free memory"));
  return free;
}

Result<Buffer> DeviceMemory::allocate(std::size_t num_bytes) {
  Buffer buffer;
  buffer.cuda_ = &cuda_;
  buffer.num_bytes_ = num_bytes;
  const std::string size = std::to_string(num_bytes) + " bytes";
  const unsigned flags = gpu().integrated ? CU_MEMHOSTALLOC_DEVICEMAP : 0U;
  ATTEMPT_DONE(check(cuda_.allocate_host(&buffer.host_, num_bytes, flags), "lock " + size));
  if (gpu().integrated) {
    buffer.shared_ = true;
    ATTEMPT_DONE(check(cuda_.device_pointer(&buffer.device_, buffer.host_, 0), "map host memory"));
  } else {
    ATTEMPT_DONE(check(cuda_.allocate(&buffer.device_, num_bytes), "allocate " + size));
  }
  return buffer;
}

Status DeviceMemory::copy_to_device(Buffer& buffer) {
  if (buffer.shared_) return Done{};
  return check(cuda_.copy_to_device(buffer.device_, buffer.host_, buffer.num_bytes_, stream_),
               "take a copy of a frame");
}

Status DeviceMemory::copy_to_host(Buffer& buffer) {
  if (buffer.shared_) return Done{};
  return check(cuda_.copy_to_host(buffer.host_, buffer.device_, buffer.num_bytes_, stream_), "give a copy of a result");
}

Status DeviceMemory::synchronize() {
  return check(cuda_.synchronize(stream_), "finish its work");
}

Result<RecordedGraph> DeviceMemory::record(const std::function<Status()>& work) {
  // Thread-local: other threads may go on allocating while this one records.
  ATTEMPT_DONE(check(cuda_.begin_capture(stream_, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "begin to record a graph"));
  const Status worked = work();
  CUgraph graph = nullptr;
  const Status ended = check(cuda_.end_capture(stream_, &graph), "end recording a graph");
  const std::unique_ptr<CUgraph_st, decltype(cuda_.destroy_graph)> owned(graph, cuda_.destroy_graph);
  ATTEMPT_DONE(worked);  // tells more than the end of the capture, which fails then too
  ATTEMPT_DONE(ended);
  RecordedGraph recorded;
  recorded.cuda_ = &cuda_;
  ATTEMPT_DONE(check(cuda_.instantiate(&recorded.executable_, graph, 0), "instantiate a graph"));
  return recorded;
}

Status DeviceMemory::launch(const RecordedGraph& graph) {
  return check(cuda_.launch(graph.executable_, stream_), "launch a graph");
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(cuda_, other.cuda_);
  std::swap(host_, other.host_);
  std::swap(device_, other.device_);
  std::swap(num_bytes_, other.num_bytes_);
  std::swap(shared_, other.shared_);
  return *this;
}

Buffer::~Buffer() {
  if (device_ != 0 && !shared_) cuda_->free(device_);
  if (host_ != nullptr) cuda_->free_host(host_);
}

RecordedGraph& RecordedGraph::operator=(RecordedGraph&& other) noexcept {
  std::swap(cuda_, other.cuda_);
  std::swap(executable_, other.executable_);
  return *this;
}

RecordedGraph::~RecordedGraph() {
  if (executable_ != nullptr) cuda_->destroy_executable(executable_);
}

}  // namespace hffnet
