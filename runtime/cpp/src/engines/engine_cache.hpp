// Where built engines are kept between runs: this user's folder on this machine, sealed, capped in size; as
// hffnet.runtime.engines.cache, with which it shares folder, secret, locks and the form of its files.
//
// Deserialising an engine is running native code, so a file counts only if this very installation wrote it: each is
// sealed with an HMAC under a secret that never leaves the folder, mixed with the machine's identity. Anything else,
// whether damaged, stale or brought from elsewhere, is rebuilt with one line of explanation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hffnet/engine.hpp"
#include "hffnet/result.hpp"

namespace hffnet {

using Bytes = std::vector<std::uint8_t>;

// What an engine depends on: if any of it changes, the engine is another one. Batch 1, workspace by free memory.
struct EngineKey {
  std::string onnx_sha256;
  std::string library;  // tensorrt
  std::string library_version;
  std::string gpu;  // name and architecture, e.g. "NVIDIA RTX A4000 sm86"

  nlohmann::json document() const;
  // File name: everything but the library's version, so that an old engine is found, explained and replaced. Apart from
  // Python's, which names versions as its package does and would replace ours at every turn.
  std::string stem() const;
};

// A new engine and what is known of it.
struct BuiltEngine {
  Bytes engine;
  nlohmann::json sidecar;  // as hffnet.runtime.engines.sidecar
};

// HFFNET_CACHE_DIR where set, else the user's own cache of this system.
std::filesystem::path cache_folder();

// Sealed files in one folder; safe for several processes at once. Every failure of the folder itself (read-only, full,
// open to others) is said once through `notice` and costs only time.
class EngineCache {
 public:
  static constexpr std::uint64_t kMaxBytes = std::uint64_t{8} << 30U;

  EngineCache(std::filesystem::path folder, OnNotice notice, std::uint64_t max_bytes = kMaxBytes)
      : folder_(std::move(folder)), notice_(std::move(notice)), max_bytes_(max_bytes) {}

  // The stored engine, or a new one that is stored; `build`'s failure where that fails.
  Result<Bytes> engine(const EngineKey& key, const std::function<Result<BuiltEngine>()>& build);

  // A sealed blob (timing cache); none where there is none that is sound.
  std::optional<Bytes> read(const std::string& name);
  // Seals and stores a blob; a notice where the folder does not allow it.
  void write(const std::string& name, std::span<const std::uint8_t> content);

 private:
  class Lock;

  std::filesystem::path path(const std::string& name) const { return folder_ / (name + ".sealed"); }
  std::optional<Lock> locked(const std::string& name);
  std::optional<Bytes> stored_engine(const EngineKey& key);
  Result<Bytes> unsealed(const std::string& name);
  Result<Bytes> seal(const std::string& name, std::span<const std::uint8_t> content);
  Result<Bytes> secret();
  void store(const std::string& name, std::span<const std::uint8_t> content);
  void evict(const std::filesystem::path& keep);

  std::filesystem::path folder_;
  OnNotice notice_;
  std::uint64_t max_bytes_;
};

}  // namespace hffnet
