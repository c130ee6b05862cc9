// Where the info bar begins: by metadata, else by looking at the bottom rows, else by a setting; as
// hffnet.runtime.infobar, which says why it looks for what it looks for.
#pragma once

#include <optional>
#include <string>

#include "frames/metadata.hpp"
#include "hffnet/frame.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

// The picture's rectangle in the stored frame, and who decided it.
Result<Crop> crop_of(const GreyPixels& pixels, const Described& described, const std::optional<BarSetting>& bar,
                     const std::string& name);

// First row of an info bar drawn into the bottom of the frame; nothing where there is none.
std::optional<std::size_t> first_bar_row(const GreyPixels& pixels);

}  // namespace hffnet
