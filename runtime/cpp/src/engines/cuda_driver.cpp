#include "engines/cuda_driver.hpp"

#include <array>
#include <utility>

#include "attempt.hpp"

namespace hffnet {
namespace {

constexpr const char* kInstead = ", or use --engine openvino";

// CUdevice_attribute.
constexpr int kComputeMajor = 75;
constexpr int kComputeMinor = 76;
constexpr int kIntegrated = 18;

Status check(int code, const char* action) {
  if (code == 0) return Done{};
  return Failure{Error::kEngine, std::string("the NVIDIA driver cannot ") + action + " (CUDA error " +
                                     std::to_string(code) + ": " + reason_of_cuda_error(code) +
                                     "); run nvidia-smi to see its state" + kInstead};
}

// The functions' types are those of cuda.h, spelled out: the probe is there in builds without CUDA's headers too.
Result<Gpu> first_gpu(const LoadedLibrary& cuda) {
  int (*init)(unsigned) = nullptr;
  int (*driver_version)(int*) = nullptr;
  int (*attribute)(int*, int, int) = nullptr;
  int (*total_memory)(std::size_t*, int) = nullptr;
  int (*name)(char*, int, int) = nullptr;
  ATTEMPT_DONE(cuda.bind("cuInit", init));
  ATTEMPT_DONE(cuda.bind("cuDriverGetVersion", driver_version));
  ATTEMPT_DONE(cuda.bind("cuDeviceGetAttribute", attribute));
  ATTEMPT_DONE(cuda.bind("cuDeviceTotalMem_v2", total_memory));
  ATTEMPT_DONE(cuda.bind("cuDeviceGetName", name));

  Gpu gpu;
  std::array<char, 256> text{};
  int integrated = 0;
  ATTEMPT_DONE(check(init(0), "start"));
  ATTEMPT_DONE(check(name(text.data(), static_cast<int>(text.size()), 0), "name the first GPU"));
  ATTEMPT_DONE(check(attribute(&gpu.major, kComputeMajor, 0), "describe the first GPU"));
  ATTEMPT_DONE(check(attribute(&gpu.minor, kComputeMinor, 0), "describe the first GPU"));
  ATTEMPT_DONE(check(attribute(&integrated, kIntegrated, 0), "describe the first GPU"));
  ATTEMPT_DONE(check(total_memory(&gpu.memory_bytes, 0), "tell the memory of the first GPU"));
  ATTEMPT_DONE(check(driver_version(&gpu.cuda_version), "tell its version"));
  text.back() = '\0';
  gpu.name = text.data();
  gpu.integrated = integrated != 0;
  return gpu;
}

}  // namespace

std::string reason_of_cuda_error(int code) {
  switch (code) {
    case 2:
      return "the GPU's memory is full";
    case 3:
      return "the driver is being unloaded or is not initialised";
    case 34:
      return "only a stub of the driver is installed";
    case 35:
      return "the driver is older than this library of it";
    case 46:
      return "the GPUs are busy or not available";
    case 100:
      return "no GPU was found";
    case 101:
      return "the GPU number is not valid";
    case 803:
      return "driver and library are of different versions: restart after the update";
    case 804:
      return "this GPU does not support the installed compatibility package";
    case 999:
      return "unknown reason: see dmesg for messages of the kernel module";
    default:
      return "see the list of CUresult in the CUDA driver documentation";
  }
}

Result<Driver> open_driver(const std::string& library) {
  auto opened = LoadedLibrary::open(library);
  if (!opened.ok()) {
    return Failure{Error::kMissing, "there is no NVIDIA driver on this machine (" + opened.failure().sentence +
                                        "); install the driver" + kInstead};
  }
  ATTEMPT(Gpu gpu, first_gpu(opened.value()));
  return Driver{std::move(opened).value(), std::move(gpu)};
}

}  // namespace hffnet
