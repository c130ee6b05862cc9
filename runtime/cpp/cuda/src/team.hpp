// Threads that work together: a block on the GPU, a single worker on the CPU. What is written for a team runs on both, so
// that tests run the kernels' own code where there is no GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define HFFNET_BOTH __host__ __device__
#else
#define HFFNET_BOTH
#endif

namespace hffnet::cuda {

// One worker. `sync` has nobody to wait for.
struct Solo {
  HFFNET_BOTH std::size_t rank() const { return 0; }
  HFFNET_BOTH std::size_t size() const { return 1; }
  HFFNET_BOTH void sync() const {}
  HFFNET_BOTH void count(std::uint32_t* counters, std::uint32_t which) const { ++counters[which]; }
  HFFNET_BOTH float load(const float* value) const { return *value; }
};

#ifdef __CUDACC__
// The threads of one block.
struct Block {
  __device__ std::size_t rank() const { return threadIdx.y * blockDim.x + threadIdx.x; }
  __device__ std::size_t size() const { return std::size_t{blockDim.x} * blockDim.y; }
  __device__ void sync() const { __syncthreads(); }
  // Grey levels lie together, so most threads of a warp count the same bin: one of them adds for all.
  __device__ void count(std::uint32_t* counters, std::uint32_t which) const {
    const unsigned peers = __match_any_sync(__activemask(), which);
    const unsigned lane = rank() % 32U;
    if (lane == static_cast<unsigned>(__ffs(static_cast<int>(peers)) - 1)) {
      atomicAdd(&counters[which], static_cast<std::uint32_t>(__popc(peers)));
    }
  }
  // Past the first-level cache, which does not see what other blocks wrote.
  __device__ float load(const float* value) const { return __ldcg(value); }
};
#endif

}  // namespace hffnet::cuda
