#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "row_file.hpp"
#include "temporary.hpp"

namespace {

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

const std::string kRow =
    R"({"schema_version":1,"seq":3,"kind":"result","input_path":"/a","input_size":5,"input_mtime_ns":7,)"
    R"("bundle_sha256":"b","settings_sha256":"s","hash":"h"})";

}  // namespace

TEST_CASE("what earlier rows hold is done, under the same bundle and settings") {
  const TemporaryFolder folder;
  folder.write("rows", kRow + "\n");
  hffnet::apps::DoneRows done, other;
  REQUIRE(done.read(folder / "rows", "b", "s").ok());
  CHECK(done.holds("/a", {5, 7, 1}));
  CHECK_FALSE(done.holds("/a", {5, 8, 1}));
  CHECK_FALSE(done.holds("/b", {5, 7, 1}));
  CHECK(done.last_seq() == 3);
  CHECK(done.head() == "h");
  REQUIRE(other.read(folder / "rows", "b", "another").ok());
  CHECK_FALSE(other.holds("/a", {5, 7, 1}));
}

TEST_CASE("a torn last line is left out and cut, any other foreign line is refused") {
  const TemporaryFolder folder;
  folder.write("rows", kRow + "\n" + kRow.substr(0, 20));
  hffnet::apps::DoneRows done;
  REQUIRE(done.read(folder / "rows", "b", "s").ok());
  {
    auto rows = hffnet::apps::RowFile::open(folder / "rows").value();
    CHECK(rows.is(folder / "rows"));
    REQUIRE(rows.cut(done.whole_bytes()).ok());
    CHECK_FALSE(hffnet::apps::RowFile::open(folder / "rows").ok());  // one writer
    hffnet::sources::Stop stop;
    CHECK(rows.append("{}", stop, [](const std::string&) {}));
  }
  CHECK(content_of(folder / "rows") == kRow + "\n{}\n");
  const auto refused = hffnet::apps::DoneRows().read(folder / "rows", "b", "s");
  CHECK(refused.failure().error == hffnet::Error::kRecord);
  const std::string foreign = GENERATE(
      as<std::string>{}, "no json\n", "[]\n", "{\"schema_version\":2,\"kind\":\"result\"}\n",
      "{\"schema_version\":\"1\",\"kind\":\"result\"}\n", "{\"schema_version\":1,\"kind\":\"result\"}\n", "\n");
  folder.write("foreign", foreign);
  CHECK_FALSE(hffnet::apps::DoneRows().read(folder / "foreign", "b", "s").ok());
}

TEST_CASE("what is no file of lines holds no rows, and what cannot be read to its end is not cut") {
  const TemporaryFolder folder;
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  hffnet::apps::DoneRows done;
  CHECK(done.read(folder / "pipe", "b", "s").ok());  // waits for nobody
  CHECK(done.read("/dev/null", "b", "s").ok());
  const auto refused = done.read(folder.path().string(), "b", "s");
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.failure().sentence.find("cannot be read to its end (Is a directory)") != std::string::npos);
  folder.write("long", std::string(17 << 20, 'x'));
  CHECK(done.read(folder / "long", "b", "s").failure().sentence.find("line 1 is too long") != std::string::npos);
}

TEST_CASE("a full pipe that its maker set not to wait is waited for") {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_NONBLOCK) == 0);
  const int output = ::dup(STDOUT_FILENO);
  std::fflush(stdout);
  REQUIRE(::dup2(ends[1], STDOUT_FILENO) == STDOUT_FILENO);
  const std::string row(200'000, 'r');  // three times what a pipe holds
  std::string got;
  std::thread reader([&] {
    std::array<char, 4096> part{};
    pollfd waited{ends[0], POLLIN, 0};
    while (got.size() < row.size() + 1 && ::poll(&waited, 1, 5000) == 1) {
      const ssize_t count = ::read(ends[0], part.data(), part.size());
      if (count > 0) got.append(part.data(), static_cast<std::size_t>(count));
    }
  });
  const hffnet::sources::Stop stop;
  std::vector<std::string> said;
  const bool is_written = hffnet::apps::RowFile::standard_output().append(
      row, stop, [&](const std::string& sentence) { said.push_back(sentence); });
  reader.join();
  ::dup2(output, STDOUT_FILENO);
  for (const int descriptor : {output, ends[0], ends[1]}) ::close(descriptor);
  CHECK(is_written);
  CHECK(got == row + "\n");
  CHECK(said.empty());
}
