// Only an engine that this machine sealed is ever handed out; everything else costs a rebuild and one line.
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <exception>
#include <fstream>
#include <future>
#include <iterator>
#include <thread>

#include "engines/engine_cache.hpp"

using namespace hffnet;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const EngineKey kKey{std::string(64, 'a'), "tensorrt", "10.3.0", "Orin sm87"};

// A folder of its own, removed at the end, and what was said.
struct Place {
  Place() {
    std::string name = (fs::temp_directory_path() / "hffnet-cache-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    root = name;
    folder = root / "cache";
  }
  ~Place() { fs::remove_all(root); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  EngineCache cache(std::uint64_t max_bytes = EngineCache::kMaxBytes) {
    return EngineCache(
        folder, [this](const std::string& sentence) { said.push_back(sentence); }, max_bytes);
  }
  // Each build gives other bytes, as real builds do.
  Result<Bytes> engine(const EngineKey& key = kKey, std::size_t size = 1000) {
    return cache().engine(key, [&]() -> Result<BuiltEngine> {
      return BuiltEngine{Bytes(size, static_cast<std::uint8_t>(++num_builds)), {{"library", key.library}}};
    });
  }
  fs::path stored(const EngineKey& key = kKey) const { return folder / (key.stem() + ".sealed"); }

  fs::path root, folder;
  std::vector<std::string> said;
  int num_builds = 0;
};

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

constexpr int kNotTried = 77;

// For this process alone, as whom it began.
bool mounted_read_only(const fs::path& folder) {
  return ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
         ::mount(folder.c_str(), folder.c_str(), nullptr, MS_BIND, nullptr) == 0 &&
         ::mount(nullptr, folder.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) == 0;
}

}  // namespace

TEST_CASE("a stored engine is not built again, and only its owner can read it") {
  Place place;
  const Bytes first = place.engine().value();
  CHECK(place.engine().value() == first);
  CHECK(place.num_builds == 1);
  CHECK(place.said.empty());
  struct stat found {};
  REQUIRE(::stat(place.stored().c_str(), &found) == 0);
  CHECK((found.st_mode & 0777U) == 0600U);
  for (const auto& entry : fs::directory_iterator(place.folder)) CHECK(entry.path().extension() != ".part");
}

TEST_CASE("damaged files are rebuilt with one line") {
  Place place;
  place.engine().value();
  const std::string sound = content_of(place.stored());
  std::string flipped = sound, renamed = sound;
  flipped.back() = static_cast<char>(flipped.back() ^ 1);
  renamed.replace(renamed.find("sm87"), 4, "sm89");
  const std::vector<std::string> kinds = {flipped, renamed, sound.substr(0, sound.size() - 10), "",
                                          "vtrt" + std::string(5000, '\0')};
  const auto kind = GENERATE(std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{4});
  write(place.stored(), kinds[kind]);
  CHECK(place.engine().value().front() == 2);
  CHECK(place.num_builds == 2);
  REQUIRE(place.said.size() == 1);
  CHECK_THAT(place.said.front(), Contains("is not used and is built anew: it is"));
  place.engine().value();
  CHECK(place.num_builds == 2);
}

TEST_CASE("an engine from elsewhere is never handed out") {
  Place here, elsewhere;
  elsewhere.engine().value();
  here.engine({std::string(64, 'b'), "tensorrt", "10.3.0", "Orin sm87"}).value();  // so that there is a secret
  fs::copy_file(elsewhere.stored(), here.stored());
  here.engine().value();
  CHECK(here.num_builds == 2);
  CHECK_THAT(here.said.front(), Contains("was not written by this user on this machine"));
}

TEST_CASE("a sound file under another name is not handed out") {
  Place place;
  const EngineKey other{std::string(64, 'b'), "tensorrt", "10.3.0", "Orin sm87"};
  place.engine(other).value();
  fs::rename(place.stored(other), place.stored());
  place.engine().value();
  CHECK(place.num_builds == 2);
}

TEST_CASE("another library, graph or GPU is another engine") {
  Place place;
  place.engine().value();
  EngineKey newer = kKey;
  newer.library_version = "10.7.0";
  CHECK(newer.stem() == kKey.stem());
  place.engine(newer).value();
  CHECK(place.num_builds == 2);
  CHECK_THAT(place.said.front(), Contains("it is stale: built by tensorrt 10.3.0, this is 10.7.0"));
  EngineKey graph = kKey, gpu = kKey;
  graph.onnx_sha256 = std::string(64, 'c');
  gpu.gpu = "Thor sm110";
  CHECK(graph.stem() != kKey.stem());
  CHECK(gpu.stem() != kKey.stem());
}

TEST_CASE("a folder that cannot be used costs a build at each start and says so") {
  Place place;
  SECTION("it is a file") {
    write(place.folder, "no folder");
  }
  SECTION("it cannot be made") {
    place.folder = "/proc/hffnet";
  }
  SECTION("others can write to it") {
    fs::create_directory(place.folder);
    fs::permissions(place.folder, fs::perms::all);
  }
  CHECK(place.engine().ok());
  CHECK(place.engine().ok());
  CHECK(place.num_builds == 2);
  REQUIRE(place.said.size() == 2);
  CHECK_THAT(place.said.front(), Contains("cannot be used") && Contains("HFFNET_CACHE_DIR"));
}

TEST_CASE("a read-only folder serves what it holds and says that it keeps nothing") {
  Place place;
  const Bytes first = place.engine().value();
  EngineKey other = kKey;
  other.gpu = "another";
  const pid_t child = ::fork();
  if (child == 0) {  // with mounts of its own: permissions alone do not stop root
    if (!mounted_read_only(place.folder)) ::_exit(kNotTried);
    const bool is_served = place.engine().value() == first && place.num_builds == 1;
    const bool is_built = place.engine(other).ok() && place.num_builds == 2 && !fs::exists(place.stored(other));
    const bool is_said = place.said.size() == 2 && Contains("cannot be used: it is read-only; ").match(place.said[1]);
    ::_exit((is_served ? 0 : 1) + (is_built ? 0 : 2) + (is_said ? 0 : 4));
  }
  int ended = 0;
  REQUIRE(::waitpid(child, &ended, 0) == child);
  REQUIRE(WIFEXITED(ended));
  if (WEXITSTATUS(ended) == kNotTried) {
    WARN("not tried: nothing can be mounted here");
    return;
  }
  CHECK(WEXITSTATUS(ended) == 0);
}

TEST_CASE("a disk that is full") {
  Place place;
  fs::create_directory(place.folder);
  fs::permissions(place.folder, fs::perms::owner_all);
  fs::create_directory(place.folder / ("." + place.stored().filename().string() + ".part"));  // nothing can be written
  CHECK(place.engine().ok());
  REQUIRE(place.said.size() == 1);
  CHECK_THAT(place.said.front(), Contains("could not be stored"));
  CHECK(!fs::exists(place.stored()));
}

TEST_CASE("a build that fails leaves nothing behind") {
  Place place;
  const auto failed = place.cache().engine(kKey, [] { return Result<BuiltEngine>(Failure{Error::kEngine, "no"}); });
  CHECK(failed.failure().sentence == "no");
  CHECK(!fs::exists(place.stored()));
  CHECK(place.engine().ok());
}

TEST_CASE("two at once build once: the second waits and takes what the first stored") {
  Place place;
  std::promise<void> building, go_on;
  std::thread first([&] {
    const auto built = place.cache().engine(kKey, [&]() -> Result<BuiltEngine> {
      building.set_value();
      go_on.get_future().wait();
      return BuiltEngine{Bytes(10, 1), {{"library", "tensorrt"}}};
    });
    if (!built.ok()) std::terminate();
  });
  building.get_future().wait();
  std::vector<std::string> said;
  EngineCache second(place.folder, [&](const std::string& sentence) {
    said.push_back(sentence);
    go_on.set_value();  // the second waits now
  });
  const auto taken = second.engine(kKey, [] { return Result<BuiltEngine>(Failure{Error::kEngine, "built twice"}); });
  first.join();
  CHECK(taken.value() == Bytes(10, 1));
  REQUIRE(said.size() == 1);
  CHECK_THAT(said.front(), Contains("another process is building") && Contains("waiting for it"));
}

TEST_CASE("least recently used files go first") {
  Place place;
  auto cache = place.cache(3000);
  for (const char* name : {"one", "two", "three"}) {
    cache.write(name, Bytes(1200, 7));
    fs::last_write_time(place.folder / (std::string(name) + ".sealed"),
                        fs::file_time_type::clock::now() - std::chrono::hours(std::string(name) == "one" ? 2 : 1));
  }
  CHECK(!cache.read("one"));
  CHECK(cache.read("three") == Bytes(1200, 7));
  CHECK(place.said.empty());
}

TEST_CASE("what was read counts as used") {
  Place place;
  auto cache = place.cache(3000);
  for (const char* name : {"one", "two"}) {
    cache.write(name, Bytes(1200, 7));
    fs::last_write_time(place.folder / (std::string(name) + ".sealed"),
                        fs::file_time_type::clock::now() - std::chrono::hours(std::string(name) == "one" ? 2 : 1));
  }
  REQUIRE(cache.read("one"));
  cache.write("three", Bytes(1200, 7));
  CHECK(cache.read("one"));
  CHECK(!cache.read("two"));
}

TEST_CASE("folders that a library fills itself count, and go when they are the oldest") {
  Place place;
  auto cache = place.cache(3000);
  cache.write("rtx-files", Bytes(10, 7));
  fs::create_directories(place.folder / "rtx.files" / "deep");
  write(place.folder / "rtx.files" / "deep" / "kernel", std::string(2000, 'k'));
  fs::create_directory_symlink(place.root, place.folder / "rtx.files" / "link");
  fs::last_write_time(place.folder / "rtx.files", fs::file_time_type::clock::now() - std::chrono::hours(2));
  cache.write("rtx-files", Bytes(1200, 7));  // its own list does not drive it out
  CHECK(fs::exists(place.folder / "rtx.files" / "deep" / "kernel"));
  cache.write("two", Bytes(1200, 7));
  CHECK_FALSE(fs::exists(place.folder / "rtx.files"));
  CHECK(fs::exists(place.root));
  CHECK(cache.read("rtx-files"));
}

TEST_CASE("nothing is taken from a folder that others can write to") {
  Place place;
  place.cache().write("one", Bytes(10, 7));
  fs::permissions(place.folder, fs::perms::others_write, fs::perm_options::add);
  CHECK(!place.cache().read("one"));
  REQUIRE(place.said.size() == 1);
  CHECK_THAT(place.said.front(), Contains("others can write"));
}

TEST_CASE("a secret that is damaged is replaced, and what it sealed is not believed") {
  Place place;
  place.engine().value();
  write(place.folder / "secret", "short");
  place.engine().value();
  CHECK(place.num_builds == 2);
  place.engine().value();
  CHECK(place.num_builds == 2);
}

TEST_CASE("where the cache is") {
  ::setenv("HFFNET_CACHE_DIR", "/somewhere", 1);
  CHECK(cache_folder() == "/somewhere");
  ::unsetenv("HFFNET_CACHE_DIR");
  ::setenv("XDG_CACHE_HOME", "/caches", 1);
  CHECK(cache_folder() == "/caches/hffnet");
  ::unsetenv("XDG_CACHE_HOME");
  ::setenv("HOME", "/home/someone", 1);
  CHECK(cache_folder() == "/home/someone/.cache/hffnet");
}
