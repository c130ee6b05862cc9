#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "hffnet/classifier.hpp"
#include "hffnet/hffnet.h"

struct hffnet_classifier {
  hffnet::Classifier classifier;
};

struct hffnet_prediction {
  hffnet::Prediction prediction;
  std::size_t num_columns;
  std::string reason;
  std::string json;
};

namespace {

thread_local std::string last_error;

hffnet_status failed(const hffnet::Failure& failure) {
  last_error = failure.sentence;
  return static_cast<hffnet_status>(hffnet::exit_code(failure.error));
}

hffnet_status wrong_use(const char* sentence) {
  return failed({hffnet::Error::kConfig, sentence});
}

// Nothing is thrown across the interface, not even for want of memory.
template <class Work>
hffnet_status shielded(Work work) {
  try {
    return work();
  } catch (const std::exception& error) {
    try {
      last_error = error.what();
    } catch (const std::bad_alloc&) {
      last_error.clear();
    }
    return HFFNET_BAD_INPUT;
  }
}

hffnet_status give(hffnet::Result<hffnet::Prediction> result, const hffnet::Classifier& classifier,
                   hffnet_prediction** out) {
  if (!result.ok()) return failed(result.failure());
  hffnet::Prediction prediction = std::move(result).value();
  std::string reason = prediction.not_classified().value_or("");
  std::string json = json_from_prediction(prediction, classifier);
  *out = new hffnet_prediction{std::move(prediction), classifier.bundle().manifest().taxonomy.num_columns(),
                               std::move(reason), std::move(json)};
  return HFFNET_DONE;
}

// A frame that is all picture, copied so that the stages have it in one piece.
hffnet::Frame frame_from(const hffnet::GreyView& view, const char* name) {
  hffnet::Frame frame{{view.depth, view.height, view.width, {}},
                      {0, 0, view.height, view.width, "whole"},
                      name == nullptr ? "pixels" : name,
                      "",
                      {}};
  const std::size_t packed = view.width * bytes_per_pixel(view.depth);
  frame.pixels.bytes.resize(view.height * packed);
  for (std::size_t y = 0; y < view.height; ++y) {
    std::memcpy(frame.pixels.bytes.data() + y * packed,
                static_cast<const unsigned char*>(view.data) + y * view.row_bytes, packed);
  }
  return frame;
}

}  // namespace

hffnet_status hffnet_open(const char* bundle, const hffnet_options* options, hffnet_classifier** out) {
  if (bundle == nullptr || out == nullptr) return wrong_use("hffnet_open was given no bundle or no place to put it");
  return shielded([&] {
    *out = nullptr;
    hffnet::EngineOptions chosen;
    if (options != nullptr && options->engine != nullptr) chosen.engine = options->engine;
    if (options != nullptr && options->precision != nullptr) chosen.precision = options->precision;
    if (options != nullptr) chosen.threads = options->threads;
    auto opened = hffnet::Classifier::open(bundle, chosen);
    if (!opened.ok()) return failed(opened.failure());
    *out = new hffnet_classifier{std::move(opened).value()};
    return HFFNET_DONE;
  });
}

void hffnet_close(hffnet_classifier* classifier) {
  delete classifier;
}

hffnet_status hffnet_classify_file(hffnet_classifier* classifier, const char* path, hffnet_prediction** out) {
  if (classifier == nullptr || path == nullptr || out == nullptr) {
    return wrong_use("hffnet_classify_file was given NULL");
  }
  return shielded([&] {
    *out = nullptr;
    return give(classifier->classifier.classify(path), classifier->classifier, out);
  });
}

hffnet_status hffnet_classify_pixels(hffnet_classifier* classifier, const void* pixels, hffnet_pixel_depth depth,
                                     size_t height, size_t width, size_t row_bytes, const char* name,
                                     hffnet_prediction** out) {
  const bool known = depth == HFFNET_UINT8 || depth == HFFNET_UINT16 || depth == HFFNET_FLOAT32;
  const auto kind = known ? static_cast<hffnet::Depth>(depth) : hffnet::Depth::kUint8;
  const std::size_t pixel_bytes = bytes_per_pixel(kind);
  if (classifier == nullptr || pixels == nullptr || out == nullptr || !known || height == 0 || width == 0 ||
      width > row_bytes / pixel_bytes || height > hffnet::Limits{}.max_pixels / width) {
    return wrong_use("hffnet_classify_pixels was given NULL, a depth that is not known, or a size that cannot be");
  }
  return shielded([&] {
    *out = nullptr;
    const hffnet::Frame frame = frame_from({pixels, kind, height, width, row_bytes}, name);
    return give(classifier->classifier.classify_frame(frame), classifier->classifier, out);
  });
}

void hffnet_release(hffnet_prediction* prediction) {
  delete prediction;
}

size_t hffnet_depth(const hffnet_prediction* prediction) {
  return prediction->prediction.decision ? prediction->prediction.decision->path.size() : 0;
}

size_t hffnet_answer_depth(const hffnet_prediction* prediction) {
  return prediction->prediction.decision ? prediction->prediction.decision->answer.size() : 0;
}

const char* hffnet_class_name(const hffnet_prediction* prediction, size_t level) {
  return level < hffnet_depth(prediction) ? prediction->prediction.decision->path[level].c_str() : nullptr;
}

double hffnet_confidence(const hffnet_prediction* prediction, size_t level) {
  return level < hffnet_depth(prediction) ? prediction->prediction.decision->confidence[level] : 0.0;
}

const char* hffnet_reason(const hffnet_prediction* prediction) {
  return prediction->reason.empty() ? nullptr : prediction->reason.c_str();
}

const float* hffnet_evidence(const hffnet_prediction* prediction, size_t* columns, size_t* height, size_t* width) {
  const hffnet::Prediction& held = prediction->prediction;
  if (columns != nullptr) *columns = held.evidence.empty() ? 0 : prediction->num_columns;
  if (height != nullptr) *height = held.evidence_height;
  if (width != nullptr) *width = held.evidence_width;
  return held.evidence.empty() ? nullptr : held.evidence.data();
}

const char* hffnet_json(const hffnet_prediction* prediction) {
  return prediction->json.c_str();
}

const char* hffnet_last_error(void) {
  return last_error.c_str();
}
