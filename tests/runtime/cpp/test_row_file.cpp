#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <string>

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
