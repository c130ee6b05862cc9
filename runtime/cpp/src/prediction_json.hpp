// The document of one prediction, for those who add to it.
#pragma once

#include <nlohmann/json.hpp>

#include "hffnet/classifier.hpp"
#include "hffnet/record.hpp"

namespace hffnet {

// Keys in the order they are written, as in Python.
using OrderedJson = nlohmann::ordered_json;

// What hffnet.runtime.result.record_json has for a draft that says nothing yet.
OrderedJson empty_document();

// hffnet.runtime.result.prediction_json.
OrderedJson document_from_prediction(const Prediction& prediction, const Classifier& classifier);

}  // namespace hffnet
