// hffnet.runtime._native: preprocess and decode of this library for Python, which uses them where they are built.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "hffnet/decode.hpp"
#include "hffnet/preprocess.hpp"
#include "hffnet/taxonomy.hpp"

namespace nb = nanobind;

namespace {

using hffnet::bindings::array_from;
using hffnet::bindings::Picture;
using Logits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// (size, size) uint8. Rows of `picture` may lie apart, its columns may not.
nb::object preprocess(const Picture& picture, std::size_t size, double low, double high, double min_span) {
  const hffnet::GreyView view = hffnet::bindings::view_of(picture);
  std::vector<std::uint8_t> input;
  {
    const nb::gil_scoped_release others_may_run;
    hffnet::Preprocessor stage({size, low, high, min_span});
    const auto result = stage(view);
    if (!result.ok()) throw std::invalid_argument(result.failure().sentence);
    input.assign(result.value().begin(), result.value().end());
  }
  return array_from(std::move(input), {size, size});
}

nb::tuple names(const hffnet::ClassPath& path) {
  nb::list list;
  for (const std::string& name : path) list.append(nb::str(name.c_str(), name.size()));
  return nb::tuple(list);
}

// A class tree with temperatures and abstention, ready to decide.
class Decoder {
 public:
  Decoder(const nb::list& levels, std::vector<double> temperatures, std::optional<double> min_confidence)
      : taxonomy_(tree_of(levels)), spec_{std::move(temperatures), min_confidence} {}

  // For each row of (N, ΣC) logits: path, confidence, answer, and per level every class's probability.
  nb::list decide(const Logits& logits) const {
    nb::list decisions;
    for (std::size_t row = 0; row < logits.shape(0); ++row) {
      const auto result = hffnet::decode({logits.data() + row * logits.shape(1), logits.shape(1)}, taxonomy_, spec_);
      if (!result.ok()) throw std::invalid_argument(result.failure().sentence);
      const hffnet::Decision& decision = result.value();
      nb::list confidence, probabilities;
      for (const double value : decision.confidence) confidence.append(value);
      for (const std::vector<double>& level : decision.probabilities) {
        probabilities.append(array_from(level, {level.size()}));
      }
      decisions.append(nb::make_tuple(names(decision.path), nb::tuple(confidence), names(decision.answer),
                                      nb::tuple(probabilities)));
    }
    return decisions;
  }

 private:
  static hffnet::Taxonomy tree_of(const nb::list& levels) {
    std::vector<hffnet::Level> tree;
    for (const nb::handle level : levels) {
      tree.push_back({nb::cast<std::string>(level[0]), nb::cast<std::vector<std::string>>(level[1]),
                      nb::cast<std::vector<std::size_t>>(level[2])});
    }
    auto built = hffnet::Taxonomy::from_levels(std::move(tree));
    if (!built.ok()) throw std::invalid_argument(built.failure().sentence);
    return std::move(built).value();
  }

  hffnet::Taxonomy taxonomy_;
  hffnet::DecodeSpec spec_;
};

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "Compiled forms of preprocess and decode; hffnet.runtime.native says when they are used.";
  module.attr("INTERFACE") = hffnet::bindings::kInterface;
  module.def("preprocess", &preprocess, nb::arg("picture").noconvert(), nb::arg("size"), nb::arg("low"),
             nb::arg("high"), nb::arg("min_span"));
  nb::class_<Decoder>(module, "Decoder")
      .def(nb::init<const nb::list&, std::vector<double>, std::optional<double>>(), nb::arg("levels"),
           nb::arg("temperatures"), nb::arg("min_confidence").none())
      .def("decide", &Decoder::decide, nb::arg("logits_NC").noconvert());
}
