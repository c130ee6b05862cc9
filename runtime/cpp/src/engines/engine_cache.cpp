#include "engines/engine_cache.hpp"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "attempt.hpp"
#include "engines/durable_file.hpp"
#include "sha256.hpp"

namespace hffnet {
namespace {

using View = std::span<const std::uint8_t>;
namespace fs = std::filesystem;

constexpr std::string_view kMagic = "hffnet sealed 1\n";
constexpr std::size_t kSeal = SHA256_DIGEST_LENGTH;
constexpr std::size_t kMaxHeader = std::size_t{1} << 20U;
constexpr const char* kFolderVariable = "HFFNET_CACHE_DIR";
constexpr std::array kMachineIds = {"/etc/machine-id", "/proc/device-tree/serial-number"};

Failure refused(std::string reason) {
  return {Error::kEngine, std::move(reason)};
}

View bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string words_of(int error) {
  return std::generic_category().message(error);
}

// HMAC-SHA256 of name, a zero byte and content.
Result<Bytes> hmac(View secret, const std::string& name, View content) {
  const std::unique_ptr<EVP_MAC, void (*)(EVP_MAC*)> mac(EVP_MAC_fetch(nullptr, "HMAC", nullptr), EVP_MAC_free);
  const std::unique_ptr<EVP_MAC_CTX, void (*)(EVP_MAC_CTX*)> state(EVP_MAC_CTX_new(mac.get()), EVP_MAC_CTX_free);
  std::string digest = "SHA256";
  const std::array parameters = {OSSL_PARAM_construct_utf8_string("digest", digest.data(), 0),
                                 OSSL_PARAM_construct_end()};
  Bytes seal(kSeal);
  std::size_t length = 0;
  const bool done =
      state != nullptr && EVP_MAC_init(state.get(), secret.data(), secret.size(), parameters.data()) == 1 &&
      EVP_MAC_update(state.get(), reinterpret_cast<const unsigned char*>(name.c_str()), name.size() + 1) == 1 &&
      EVP_MAC_update(state.get(), content.data(), content.size()) == 1 &&
      EVP_MAC_final(state.get(), seal.data(), &length, seal.size()) == 1;
  if (!done || length != kSeal) return refused("OpenSSL could not compute a seal");
  return seal;
}

// Who may write to the folder could replace the secret, and seal what this process would then run.
Status is_ours(const fs::path& folder) {
  struct stat found {};
  if (::stat(folder.c_str(), &found) != 0) return refused(words_of(errno));
  if (!S_ISDIR(found.st_mode)) return refused("it is not a folder");
  if (found.st_uid != ::getuid()) return refused("its folder belongs to user " + std::to_string(found.st_uid));
  if ((found.st_mode & (S_IWGRP | S_IWOTH)) != 0) return refused("others can write to its folder");
  return Done{};
}

// Why the folder cannot be used; made where it is absent.
Status usable(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    fs::create_directories(folder.parent_path(), error);
    if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return refused(words_of(errno));
  }
  ATTEMPT_DONE(is_ours(folder));
  if (::access(folder.c_str(), W_OK) != 0) return refused("it is read-only");
  return Done{};
}

// Bytes of a file, or of all files in a folder that a library fills itself.
std::uint64_t size_of(const fs::directory_entry& entry, std::error_code& gone) {
  if (entry.symlink_status(gone).type() != fs::file_type::directory) return entry.file_size(gone);
  std::uint64_t total = 0;
  for (auto below = fs::recursive_directory_iterator(entry.path(), gone);
       !gone && below != fs::recursive_directory_iterator(); below.increment(gone)) {
    std::error_code none;
    if (below->symlink_status(none).type() == fs::file_type::regular) total += below->file_size(none);
  }
  return total;
}

}  // namespace

nlohmann::json EngineKey::document() const {
  return {
      {"onnx_sha256", onnx_sha256},
      {"library", library},
      {"library_version", library_version},
      {"gpu", gpu},
      {"options", {{"architectures", nlohmann::json::array()}, {"batch", {1, 1, 1}}, {"workspace_bytes", nullptr}}}};
}

std::string EngineKey::stem() const {
  nlohmann::json parts = document();
  parts["library_version"] = "";
  return "cpp-" + library + "-" + sha256_of(bytes_of(parts.dump())).substr(0, 32);
}

fs::path cache_folder() {
  if (const char* chosen = std::getenv(kFolderVariable); chosen != nullptr && *chosen != '\0') return chosen;
  if (const char* caches = std::getenv("XDG_CACHE_HOME"); caches != nullptr && *caches == '/') {
    return fs::path(caches) / "hffnet";
  }
  const char* home = std::getenv("HOME");
  const passwd* user = home == nullptr ? ::getpwuid(::getuid()) : nullptr;
  return fs::path(home != nullptr ? home : user != nullptr ? user->pw_dir : "/") / ".cache" / "hffnet";
}

// Holds a file's lock, and so this folder's entry of that name, until it goes.
class EngineCache::Lock {
 public:
  explicit Lock(FileDescriptor file) : file_(std::move(file)) {}

 private:
  FileDescriptor file_;
};

// The lock; none where the folder cannot be used, which was said then.
std::optional<EngineCache::Lock> EngineCache::locked(const std::string& name) {
  const auto unusable = [&](const std::string& reason) {
    notice_("the engine cache " + folder_.string() + " cannot be used: " + reason +
            "; what it cannot serve is built anew at each start (set " + kFolderVariable +
            " to a folder that only you can write)");
    return std::nullopt;
  };
  if (const auto able = usable(folder_); !able.ok()) return unusable(able.failure().sentence);
  const fs::path path = folder_ / (name + ".lock");
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.is_open()) return unusable(words_of(errno));
  if (::flock(file.number(), LOCK_EX | LOCK_NB) != 0) {
    notice_("another process is building " + name + "; waiting for it");
    while (::flock(file.number(), LOCK_EX) != 0) {
      if (errno != EINTR) return unusable(words_of(errno));
    }
  }
  return Lock(std::move(file));
}

Result<Bytes> EngineCache::engine(const EngineKey& key, const std::function<Result<BuiltEngine>()>& build) {
  const auto lock = locked(key.stem());
  // A folder that can only be read, as of a system image, still serves what it holds.
  if (lock || is_ours(folder_).ok()) {
    if (auto stored = stored_engine(key)) return std::move(*stored);
  }
  ATTEMPT(BuiltEngine built, build());
  if (lock) {
    const std::string header = nlohmann::json{{"key", key.document()}, {"sidecar", built.sidecar}}.dump() + "\n";
    Bytes content(header.begin(), header.end());
    content.insert(content.end(), built.engine.begin(), built.engine.end());
    store(key.stem(), content);
  }
  return std::move(built.engine);
}

std::optional<Bytes> EngineCache::stored_engine(const EngineKey& key) {
  const auto pass_over = [&](const std::string& reason) {
    notice_("the stored engine " + path(key.stem()).string() + " is not used and is built anew: " + reason);
    return std::nullopt;
  };
  auto found = unsealed(key.stem());
  if (!found.ok()) return pass_over(found.failure().sentence);
  Bytes content = std::move(found).value();
  if (content.empty()) return std::nullopt;
  const auto limit = content.begin() + static_cast<std::ptrdiff_t>(std::min(content.size(), kMaxHeader));
  const auto end = std::find(content.begin(), limit, '\n');
  const auto header = nlohmann::json::parse(content.begin(), end, nullptr, false);
  if (end == limit || !header.is_object() || !header.contains("key") || !header["key"].is_object()) {
    return pass_over("its header is not of this version");
  }
  const nlohmann::json& built_for = header["key"];
  if (const std::string version = built_for.value("library_version", ""); version != key.library_version) {
    return pass_over("it is stale: built by " + key.library + " " + version + ", this is " + key.library_version);
  }
  if (built_for != key.document()) return pass_over("it was built for another graph, GPU or option");
  content.erase(content.begin(), end + 1);
  return content;
}

std::optional<Bytes> EngineCache::read(const std::string& name) {
  auto found = unsealed(name);
  if (found.ok() && found.value().empty()) return std::nullopt;
  if (found.ok()) return std::move(found).value();
  notice_(path(name).string() + " is not used and will be made anew: " + found.failure().sentence);
  return std::nullopt;
}

void EngineCache::write(const std::string& name, std::span<const std::uint8_t> content) {
  if (const auto lock = locked(name)) store(name, content);
}

// Empty where there is no such file.
Result<Bytes> EngineCache::unsealed(const std::string& name) {
  ATTEMPT(auto file, whole_file(path(name), kMaxBytes));
  if (!file) return Bytes();
  ATTEMPT_DONE(is_ours(folder_));
  Bytes content = std::move(*file);
  if (content.size() <= kMagic.size() + kSeal) return refused("it is damaged");
  if (!std::equal(kMagic.begin(), kMagic.end(), content.begin())) return refused("it is not a file of this cache");
  const View found = View(content).subspan(kMagic.size(), kSeal);
  ATTEMPT(const Bytes expected, seal(name, View(content).subspan(kMagic.size() + kSeal)));
  if (CRYPTO_memcmp(found.data(), expected.data(), kSeal) != 0) {
    return refused("it is damaged, or was not written by this user on this machine");
  }
  content.erase(content.begin(), content.begin() + static_cast<std::ptrdiff_t>(kMagic.size() + kSeal));
  std::error_code error;
  fs::last_write_time(path(name), fs::file_time_type::clock::now(), error);  // most recently used
  return content;
}

Result<Bytes> EngineCache::seal(const std::string& name, std::span<const std::uint8_t> content) {
  ATTEMPT(const Bytes key, secret());
  return hmac(key, name, content);
}

// The folder's secret, made where there is none, mixed with what names this machine.
Result<Bytes> EngineCache::secret() {
  const fs::path kept = folder_ / "secret";
  ATTEMPT(auto secret, whole_file(kept, kMaxHeader));
  if (!secret || secret->size() != kSeal) {
    // Several processes may get here at once: the first link wins and all read it.
    Bytes fresh(kSeal), salt(4);
    if (RAND_bytes(fresh.data(), kSeal) != 1 || RAND_bytes(salt.data(), 4) != 1) {
      return refused("OpenSSL has no random numbers");
    }
    const fs::path temporary = folder_ / (".secret." + std::to_string(::getpid()) + "." + sha256_of(salt).substr(0, 8));
    const auto written = write_durably(temporary, {fresh});
    int error = 0;
    if (written.ok()) {
      const bool placed = secret ? ::rename(temporary.c_str(), kept.c_str()) == 0
                                 : ::link(temporary.c_str(), kept.c_str()) == 0 || errno == EEXIST;
      error = placed ? 0 : errno;
    }
    ::unlink(temporary.c_str());
    if (!written.ok()) return written.failure();
    if (error != 0) return refused(words_of(error));
    ATTEMPT(secret, whole_file(kept, kMaxHeader));
    if (!secret || secret->size() != kSeal) return refused("the cache's secret is damaged");
  }
  for (const char* place : kMachineIds) {
    ATTEMPT(const auto machine, whole_file(place, 4096));
    if (machine) secret->insert(secret->end(), machine->begin(), machine->end());
  }
  Bytes key(SHA256_DIGEST_LENGTH);
  SHA256(secret->data(), secret->size(), key.data());
  return key;
}

void EngineCache::store(const std::string& name, std::span<const std::uint8_t> content) {
  const fs::path place = path(name);
  const fs::path temporary = folder_ / ("." + place.filename().string() + ".part");
  const auto stored = [&]() -> Status {
    ATTEMPT(const Bytes sealed, seal(name, content));
    ATTEMPT_DONE(write_durably(temporary, {bytes_of(kMagic), sealed, content}));
    if (::rename(temporary.c_str(), place.c_str()) != 0) return refused(words_of(errno));
    return Done{};
  }();
  if (!stored.ok()) {
    ::unlink(temporary.c_str());
    notice_(place.string() + " could not be stored (" + stored.failure().sentence +
            "); it is made anew at the next start");
    return;
  }
  evict(place);
}

// Least recently used files, and folders of libraries, go first once the cache holds more than it may.
void EngineCache::evict(const fs::path& keep) {
  struct Kept {
    fs::file_time_type used;
    std::uint64_t size;
    fs::path path;
  };
  std::vector<Kept> files;
  std::uint64_t total = 0;
  std::error_code error;
  for (auto entry = fs::directory_iterator(folder_, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (entry->path().extension() != ".sealed" && entry->path().extension() != ".files") continue;
    std::error_code gone;  // another process may remove it meanwhile
    const Kept kept{entry->last_write_time(gone), size_of(*entry, gone), entry->path()};
    if (gone) continue;
    total += kept.size;
    files.push_back(kept);
  }
  std::sort(files.begin(), files.end(), [](const Kept& one, const Kept& other) { return one.used < other.used; });
  std::string kept_folder = keep.stem().string();  // X.files, of which X-files.sealed is the list
  if (kept_folder.ends_with("-files")) kept_folder.resize(kept_folder.size() - std::string_view("-files").size());
  for (const Kept& file : files) {
    if (total <= max_bytes_) return;
    if (file.path == keep || file.path.stem() == kept_folder) continue;
    std::error_code gone;
    fs::remove_all(file.path, gone);
    total -= file.size;
  }
}

}  // namespace hffnet
