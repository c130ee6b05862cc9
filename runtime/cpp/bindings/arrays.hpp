// NumPy's arrays as the library's views, and the way back.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "hffnet/preprocess.hpp"

namespace hffnet::bindings {

// Grows when Python's side has to change with this one; hffnet.runtime.native holds the number it was written for.
constexpr int kInterface = 1;

using Picture = nanobind::ndarray<nanobind::ro, nanobind::ndim<2>, nanobind::device::cpu>;

template <class T>
nanobind::object array_from(std::vector<T> values, std::initializer_list<std::size_t> shape) {
  auto held = std::make_unique<std::vector<T>>(std::move(values));
  T* data = held->data();
  nanobind::capsule owner(held.get(), [](void* kept) noexcept { delete static_cast<std::vector<T>*>(kept); });
  static_cast<void>(held.release());
  return nanobind::cast(nanobind::ndarray<nanobind::numpy, T>(data, shape, owner));
}

inline std::optional<Depth> depth_of(const nanobind::dlpack::dtype& type) {
  if (type == nanobind::dtype<std::uint8_t>()) return Depth::kUint8;
  if (type == nanobind::dtype<std::uint16_t>()) return Depth::kUint16;
  if (type == nanobind::dtype<float>()) return Depth::kFloat32;
  return std::nullopt;
}

// Rows of `picture` may lie apart, its columns may not.
inline GreyView view_of(const Picture& picture) {
  const auto depth = depth_of(picture.dtype());
  if (!depth || picture.stride(1) != 1 || picture.stride(0) < static_cast<std::int64_t>(picture.shape(1))) {
    throw std::invalid_argument("a picture of uint8, uint16 or float32 with columns side by side was expected");
  }
  return {picture.data(), *depth, picture.shape(0), picture.shape(1),
          static_cast<std::size_t>(picture.stride(0)) * bytes_per_pixel(*depth)};
}

}  // namespace hffnet::bindings
