// Antialiased resize to a square, float results: OpenCV's INTER_AREA, read straight from 8 or 16 bit without a copy.
#pragma once

#include <cstddef>
#include <vector>

#include "hffnet/preprocess.hpp"

namespace hffnet {

// Fills `small` (size x size). Each output pixel is the mean of the input area under it where the picture shrinks in
// both directions, OpenCV's area-weighted bilinear where it does not. `rows` is scratch memory. `picture` is not empty.
void area_resize(const GreyView& picture, std::size_t size, std::vector<float>& small, std::vector<float>& rows);

}  // namespace hffnet
