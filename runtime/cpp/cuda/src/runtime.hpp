// CUDA's error codes as Failures, its memory with an owner.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>

#include "attempt.hpp"
#include "hffnet/result.hpp"

namespace hffnet::cuda {

inline Status check(cudaError_t code, const std::string& action) {
  if (code == cudaSuccess) return Done{};
  return Failure{Error::kEngine, "the GPU could not " + action + " (CUDA error " + std::to_string(code) + ": " +
                                     cudaGetErrorString(code) +
                                     "); close other programs that use it, see nvidia-smi or tegrastats"};
}

struct Freed {
  void operator()(void* memory) const { cudaFree(memory); }
};

// Memory of the GPU; grows, never shrinks.
template <class T>
class DeviceArray {
 public:
  T* data() const { return static_cast<T*>(memory_.get()); }

  // What it held is lost where it grows.
  Status reserve(std::size_t count) {
    if (count <= count_) return Done{};
    void* memory = nullptr;
    ATTEMPT_DONE(
        check(cudaMalloc(&memory, count * sizeof(T)), "allocate " + std::to_string(count * sizeof(T)) + " bytes"));
    memory_.reset(memory);
    count_ = count;
    return Done{};
  }
  Status fill_from(const T* host, std::size_t count) {
    ATTEMPT_DONE(reserve(count));
    return check(cudaMemcpy(data(), host, count * sizeof(T), cudaMemcpyHostToDevice), "take a copy");
  }
  Status copy_to(T* host, std::size_t count) const {
    return check(cudaMemcpy(host, data(), count * sizeof(T), cudaMemcpyDeviceToHost), "give a copy");
  }

 private:
  std::unique_ptr<void, Freed> memory_;
  std::size_t count_ = 0;
};

}  // namespace hffnet::cuda
