#include "hffnet/bundle.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "attempt.hpp"
#include "graph_facts.hpp"
#include "npy.hpp"
#include "sha256.hpp"
#include "zip_archive.hpp"

namespace hffnet {
namespace {

constexpr const char* kManifest = "manifest.json";
constexpr const char* kVectorFrames = "vectors/frames.npy";
constexpr const char* kVectorLogits = "vectors/logits.npy";
constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{4} << 20U;

Failure refusal(std::string sentence) {
  return Failure{Error::kBundle, std::move(sentence)};
}

std::string listed(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return "[" + text + "]";
}

std::set<std::string> without(const std::set<std::string>& all, const std::set<std::string>& some) {
  std::set<std::string> rest;
  std::set_difference(all.begin(), all.end(), some.begin(), some.end(), std::inserter(rest, rest.end()));
  return rest;
}

Result<std::vector<std::uint8_t>> manifest_bytes(const std::string& path, const ZipArchive& archive) {
  if (!archive.holds(kManifest)) {
    return refusal(path + " has no " + kManifest + ": it is not a bundle written by hffnet export");
  }
  if (const std::uint64_t size = archive.size_of(kManifest); size > kMaxManifestBytes) {
    return refusal(path + ": " + kManifest + " has " + std::to_string(size) + " bytes; at most " +
                   std::to_string(kMaxManifestBytes) + " are allowed");
  }
  return archive.read(kManifest);
}

Status check_listing(const std::string& path, const ZipArchive& archive, const Manifest& manifest) {
  std::set<std::string> held(archive.names().begin(), archive.names().end()), stated;
  for (const Member& member : manifest.members) stated.insert(member.name);
  std::set<std::string> others = held;
  others.erase(kManifest);
  if (others != stated) {
    return refusal(path + " does not hold what its manifest lists: extra " + listed(without(others, stated)) +
                   ", missing " + listed(without(stated, held)));
  }
  std::set<std::string> needed{kVectorFrames, kVectorLogits};
  for (const Graph& graph : manifest.graphs) needed.insert(graph.member);
  if (const auto lacking = without(needed, stated); !lacking.empty()) {
    return refusal(path + " lacks " + listed(lacking) + ": no engine could be run and trusted");
  }
  return Done{};
}

Result<std::vector<std::uint8_t>> checked_bytes(const std::string& path, const ZipArchive& archive,
                                                const Manifest& manifest, std::string_view name) {
  const Member* entry = manifest.find_member(name);
  if (entry == nullptr) return refusal(path + " has no member '" + std::string(name) + "'");
  if (const std::uint64_t size = archive.size_of(name); size != entry->size) {
    return refusal(path + ": " + entry->name + " has " + std::to_string(size) + " bytes where the manifest says " +
                   std::to_string(entry->size));
  }
  ATTEMPT(std::vector<std::uint8_t> content, archive.read(name));
  if (const std::string found = sha256_of(content); found != entry->sha256) {
    return refusal(path + ": " + entry->name + " was changed or damaged: its sha256 is " + found.substr(0, 12) +
                   "…, the manifest says " + entry->sha256.substr(0, 12) + "…; copy or export the bundle again");
  }
  return content;
}

Status check_graph(const std::string& path, const Graph& graph, const std::vector<std::uint8_t>& content) {
  const auto facts = facts_from_onnx(content);
  if (!facts.ok()) return refusal(path + ": " + graph.member + " is refused: " + facts.failure().sentence);
  if (const std::string found = facts.value().precision(); found != graph.precision) {
    return refusal(path + ": " + graph.member + " is called " + graph.precision + " but its own types say " + found);
  }
  return Done{};
}

Result<NpyView> array_of(const std::string& path, const std::string& name, std::span<const std::uint8_t> content,
                         NpyType type, std::size_t num_axes) {
  auto view = npy_from_bytes(content, type, num_axes);
  if (!view.ok()) return refusal(path + ": " + name + " " + view.failure().sentence);
  return view;
}

}  // namespace

struct Bundle::Held {
  std::string path;
  ZipArchive archive;
  Manifest manifest;
  std::string sha256;
};

Bundle::Bundle(std::unique_ptr<Held> held) : held_(std::move(held)) {}
Bundle::Bundle(Bundle&&) noexcept = default;
Bundle& Bundle::operator=(Bundle&&) noexcept = default;
Bundle::~Bundle() = default;

const std::string& Bundle::path() const {
  return held_->path;
}
const Manifest& Bundle::manifest() const {
  return held_->manifest;
}
const std::string& Bundle::sha256() const {
  return held_->sha256;
}

Result<Bundle> Bundle::open(const std::string& path) {
  return guarded(Error::kBundle, path, [&]() -> Result<Bundle> {
    ATTEMPT(ZipArchive archive, ZipArchive::open(path));
    ATTEMPT(const std::vector<std::uint8_t> text, manifest_bytes(path, archive));
    ATTEMPT(Manifest manifest, manifest_from_json({reinterpret_cast<const char*>(text.data()), text.size()}, path));
    ATTEMPT_DONE(check_listing(path, archive, manifest));
    for (const Member& member : manifest.members) {
      ATTEMPT(const std::vector<std::uint8_t> content, checked_bytes(path, archive, manifest, member.name));
      // Of two graphs in one member the last counts, as in Python; both have been hashed.
      const auto graph = std::find_if(manifest.graphs.rbegin(), manifest.graphs.rend(),
                                      [&](const Graph& entry) { return entry.member == member.name; });
      if (graph != manifest.graphs.rend()) ATTEMPT_DONE(check_graph(path, *graph, content));
    }
    std::string sha256 = sha256_of(text);
    return Bundle(std::make_unique<Held>(Held{path, std::move(archive), std::move(manifest), std::move(sha256)}));
  });
}

Result<std::vector<std::uint8_t>> Bundle::member(std::string_view name) const {
  return guarded(Error::kBundle, held_->path,
                 [&] { return checked_bytes(held_->path, held_->archive, held_->manifest, name); });
}

Result<Vectors> Bundle::vectors() const {
  return guarded(Error::kBundle, held_->path, [&]() -> Result<Vectors> {
    ATTEMPT(const std::vector<std::uint8_t> frames, member(kVectorFrames));
    ATTEMPT(const std::vector<std::uint8_t> logits, member(kVectorLogits));
    ATTEMPT(const NpyView frames_view, array_of(held_->path, kVectorFrames, frames, NpyType::kUint8, 3));
    ATTEMPT(const NpyView logits_view, array_of(held_->path, kVectorLogits, logits, NpyType::kFloat32, 2));
    const std::size_t size = held_->manifest.preprocess.size;
    const std::vector<std::size_t> expected{logits_view.shape[0], size, size};
    if (logits_view.shape[0] == 0 || frames_view.shape != expected ||
        logits_view.shape[1] != held_->manifest.taxonomy.num_columns()) {
      return refusal(held_->path + ": the test vectors do not fit the manifest's input size and class tree");
    }
    Vectors vectors{logits_view.shape[0], {frames_view.data.begin(), frames_view.data.end()}, {}};
    vectors.logits.resize(logits_view.data.size() / sizeof(float));
    std::memcpy(vectors.logits.data(), logits_view.data.data(), logits_view.data.size());
    return vectors;
  });
}

}  // namespace hffnet
