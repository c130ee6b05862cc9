// Is this frame fit to be classified? Each gate answers with a sentence, never with a guess; as hffnet.runtime.gates.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "hffnet/export.h"
#include "hffnet/manifest.hpp"
#include "hffnet/preprocess.hpp"

namespace hffnet {

// Limits; shares are of full scale or of the picture's pixels.
struct GateSettings {
  std::size_t max_uniform_rows = 0;  // rows of one single grey level at the top and at the bottom
  double min_contrast = 0.004;       // least standard deviation, as a share of full scale
  double max_black = 0.9;            // largest share of pixels at zero
  double max_white = 0.5;            // ... and at full scale
};

// Answer of one gate: `value` was held against `limit`; `reason` is the sentence where it did not pass.
struct GateResult {
  std::string name;
  bool passed;
  double value;
  double limit;
  std::string reason;
  bool refuses = true;  // false leaves a flag on a frame that is classified all the same

  bool stops() const { return refuses && !passed; }
};

// What tells a new frame of a live source from the last one; grey levels as stored.
struct FrameFingerprint {
  std::string sha256;
  double mean = 0.0;
  double deviation = 0.0;
};

// Answers of the gates incomplete, blank, black and saturated for a picture that is not empty; its mean and deviation
// go to `now` where that is not null.
HFFNET_API std::vector<GateResult> check_gates(const GreyView& picture, const GateSettings& settings = {},
                                               FrameFingerprint* now = nullptr);

// Whether a live source gave the same picture again: same pixels, or same mean and deviation to the last digit.
HFFNET_API GateResult frozen_gate(const FrameFingerprint& now, const FrameFingerprint& previous);

// Micrometres per pixel against the trained range, a quarter more or less allowed; a flag only.
HFFNET_API GateResult pixel_size_gate(double found_um, const std::array<double, 2>& trained_um);

// Energy of the last level's logits (arXiv:2010.03759) against the limit that held-out frames keep.
HFFNET_API GateResult novelty_gate(const std::vector<float>& logits, const Taxonomy& taxonomy, const Novelty& novelty);

}  // namespace hffnet
