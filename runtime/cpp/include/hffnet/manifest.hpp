// The bundle's manifest: everything a runtime must know of a model; as hffnet.runtime.manifest.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hffnet/decode.hpp"
#include "hffnet/export.h"
#include "hffnet/preprocess.hpp"
#include "hffnet/result.hpp"
#include "hffnet/taxonomy.hpp"

namespace hffnet {

constexpr int kFormatVersion = 1;

// One file of the bundle, checked before it is parsed.
struct Member {
  std::string name;
  std::uint64_t size;
  std::string sha256;  // hexadecimal
};

// One ONNX graph: input `frames` uint8 (N, size, size), outputs `logits` and `evidence`.
struct Graph {
  std::string precision;  // fp32, fp16 or int8
  std::string family;     // cpu or tensorrt
  std::string member;
  double tolerance;  // greatest allowed difference to the reference logits, as a share of their largest magnitude
};

// Scores of one precision on held-out frames.
struct Metrics {
  std::int64_t num_frames;
  double hp, hr, hf1, fpa, tice;
  std::vector<double> level_accuracy;
};

// Which network it is, for people and records.
struct Network {
  std::string name;
  std::string recipe;
  std::int64_t num_parameters;
  std::array<std::int64_t, 2> evidence_shape;
};

// Where the model came from.
struct Provenance {
  std::string created_utc;
  std::string checkpoint_sha256;
  std::string data_sha256;
  std::int64_t num_train_frames;
  std::string evaluated_on;
  std::map<std::string, std::string> tools;
};

// `manifest.json`.
// From where on a frame is unlike what the model knows; found on held-out frames.
struct Novelty {
  double max_energy;
  double quantile;
  std::int64_t num_frames;
};

struct Manifest {
  std::string name;
  Taxonomy taxonomy;
  PreprocessSpec preprocess;
  DecodeSpec decode;
  Network network;
  std::vector<Graph> graphs;
  std::map<std::string, Metrics> metrics;
  std::optional<std::array<double, 2>> pixel_size_um;
  std::optional<Novelty> novelty;
  Provenance provenance;
  std::vector<Member> members;

  const Member* find_member(std::string_view member) const;
};

// Reads and checks the whole document: unknown or doubled keys, wrong types and values out of range are refused with
// the place and the reason (Error::kBundle). `file` names the bundle in the sentence.
HFFNET_API Result<Manifest> manifest_from_json(std::string_view text, const std::string& file);

}  // namespace hffnet
