// hffnet.runtime._native_cuda: preprocess as a kernel for Python's TensorRT engines, where a CUDA toolkit was there to
// build it. Loads without a driver; what is missing is said when it is asked for.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "hffnet/cuda.hpp"

namespace nb = nanobind;

namespace {

// Several of Python's threads may prepare frames: they take turns.
class GpuPreprocessor {
 public:
  GpuPreprocessor(std::size_t size, double low, double high, double min_span)
      : size_(size), stage_(opened({size, low, high, min_span})) {}

  nb::object preprocess(const hffnet::bindings::Picture& picture) {
    const hffnet::GreyView view = hffnet::bindings::view_of(picture);
    std::vector<std::uint8_t> input;
    {
      const nb::gil_scoped_release others_may_run;
      const std::scoped_lock turn(mutex_);
      const auto result = stage_({view.data, view.depth, 1, view.height, view.width, view.row_bytes});
      if (!result.ok()) throw std::runtime_error(result.failure().sentence);
      input.assign(result.value().begin(), result.value().end());
    }
    return hffnet::bindings::array_from(std::move(input), {size_, size_});
  }

 private:
  static hffnet::cuda::GpuPreprocessor opened(const hffnet::PreprocessSpec& spec) {
    auto stage = hffnet::cuda::GpuPreprocessor::open(spec);
    if (!stage.ok()) throw std::runtime_error(stage.failure().sentence);
    return std::move(stage).value();
  }

  std::size_t size_;
  std::mutex mutex_;
  hffnet::cuda::GpuPreprocessor stage_;
};

// Why no kernel can run here; None where one can.
std::optional<std::string> why_no_gpu() {
  const auto found = hffnet::cuda::find_gpu();
  if (found.ok()) return std::nullopt;
  return found.failure().sentence;
}

}  // namespace

NB_MODULE(_native_cuda, module) {
  module.doc() = "Preprocess as a CUDA kernel; hffnet.runtime.native says when it is used.";
  module.attr("INTERFACE") = hffnet::bindings::kInterface;
  module.def("why_no_gpu", &why_no_gpu);
  nb::class_<GpuPreprocessor>(module, "GpuPreprocessor")
      .def(nb::init<std::size_t, double, double, double>(), nb::arg("size"), nb::arg("low"), nb::arg("high"),
           nb::arg("min_span"))
      .def("preprocess", &GpuPreprocessor::preprocess, nb::arg("picture").noconvert());
}
