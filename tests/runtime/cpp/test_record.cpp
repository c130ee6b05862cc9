#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "canonical_json.hpp"
#include "clock_watch.hpp"
#include "hffnet/record.hpp"

TEST_CASE("numbers are written as Python's repr has them") {
  const auto text = [](double value) { return hffnet::canonical_json(value); };
  CHECK(text(1.0) == "1.0");
  CHECK(text(-0.0) == "-0.0");
  CHECK(text(0.1) == "0.1");
  CHECK(text(1e-4) == "0.0001");
  CHECK(text(1e-5) == "1e-05");
  CHECK(text(123456789012345680.0) == "1.2345678901234568e+17");
  CHECK(text(1e15) == "1000000000000000.0");
  CHECK(text(1e16) == "1e+16");
  CHECK(text(-1234.5) == "-1234.5");
  CHECK(text(5e-324) == "5e-324");
}

TEST_CASE("one text for one value") {
  const nlohmann::ordered_json value = {{"b", {1, nullptr, true}}, {"a", "\u00e9\n\""}, {"c", {{"y", {}}}}};
  CHECK(hffnet::canonical_json(value) == "{\"a\":\"\u00e9\\n\\\"\",\"b\":[1,null,true],\"c\":{\"y\":null}}");
  CHECK(hffnet::canonical_json(nlohmann::ordered_json::object()) == "{}");
  CHECK(hffnet::canonical_json(nlohmann::ordered_json::array()) == "[]");
}

TEST_CASE("names that are not UTF-8 become text") {
  CHECK(hffnet::text_from_name("caf\u00e9 \U0001F600") == "caf\u00e9 \U0001F600");
  CHECK(hffnet::text_from_name("a\xff.tif") == "a\\xff.tif");
  CHECK(hffnet::text_from_name("\xe9") == "\\xe9");
  CHECK(hffnet::text_from_name("\xc0\xaf") == "\\xc0\\xaf");           // overlong
  CHECK(hffnet::text_from_name("\xed\xa0\x80") == "\\xed\\xa0\\x80");  // a surrogate
  CHECK(hffnet::text_from_name("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80");
}

TEST_CASE("a clock that is set is a row, one that runs is none") {
  double now = 10.0, wall = 0.0;  // 1970
  hffnet::apps::ClockWatch watch([&] { return now; }, [&] { return wall; });
  now += 3600.0;
  wall += 3601.0;  // slewed
  CHECK_FALSE(watch.jump_s());
  now += 1.0;
  wall = 1.8e9;
  CHECK(watch.jump_s() == Approx(1.8e9 - 3602.0));
  CHECK_FALSE(watch.jump_s());
  hffnet::RecordChain chain("s");
  const auto row = nlohmann::json::parse(chain.clock_jump(-7.25049));
  CHECK(row["kind"] == "event");
  CHECK(row["name"] == "clock_jump");
  CHECK(row["reason"] == "the clock was set back by 7.3 s");
  CHECK(row["details"]["seconds"] == -7.25);
}

TEST_CASE("rows are numbered, and an event is a row") {
  hffnet::RecordChain chain("s", 7, std::string(64, 'a'));
  const auto row = nlohmann::json::parse(chain.event("source_lost", "gone", {{"restarts", 1}}));
  CHECK(row["seq"] == 8);
  CHECK(row["prev_hash"] == std::string(64, 'a'));
  CHECK(row["kind"] == "event");
  CHECK(row["details"]["restarts"] == 1);
  CHECK(nlohmann::json::parse(chain.event("source_back", "back", {}))["prev_hash"] == row["hash"]);
}
