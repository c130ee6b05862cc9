#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "sources/address.hpp"
#include "sources/capture_link.hpp"
#include "sources/capture_process.hpp"
#include "sources/live_source.hpp"
#include "sources/restarts.hpp"
#include "temporary.hpp"

using namespace hffnet;
using namespace hffnet::sources;
using Names = std::vector<std::string>;

TEST_CASE("frames and messages cross a pipe and memory whole") {
  const int memory = ::memfd_create("test", 0);
  REQUIRE(::ftruncate(memory, 3 * 4096) == 0);
  Slots slots(memory, 4096);
  REQUIRE(slots.ok());
  const std::vector<std::uint16_t> pixels{1, 2, 0, 3, 4, 0};
  const auto slot = slots.write({pixels.data(), Depth::kUint16, 2, 2, 6}, 5);
  REQUIRE(slot);
  CHECK_FALSE(slots.write({pixels.data(), Depth::kUint16, 1000, 1000, 2000}, 6));
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  Message message{Kind::kFrame, *slot, Depth::kUint16, 2, 2, 5};
  message.text = std::string(3000, 'x');
  REQUIRE(send(ends[1], message));
  Inbox inbox(ends[0]);
  const auto got = inbox.receive(1.0, -1);
  REQUIRE(got.size() == 1);
  CHECK(got[0].text.size() == 2000);
  const auto taken = slots.take(got[0]);
  REQUIRE(taken);
  CHECK(*taken == std::vector<std::uint8_t>{1, 0, 2, 0, 3, 0, 4, 0});
  Message forged = got[0];
  forged.height = 4000000000U;
  CHECK_FALSE(slots.take(forged));
  CHECK_FALSE(Slots(memory, 4097).ok());  // beyond the end of the memory
  CHECK_FALSE(Slots(memory, 8).ok());
  forged = got[0];
  forged.index = 4;  // written over meanwhile
  CHECK_FALSE(slots.take(forged));
  const std::array<char, 32> garbage{9};
  REQUIRE(::write(ends[1], garbage.data(), garbage.size()) == 32);
  CHECK(inbox.receive(1.0, -1).empty());
  CHECK(inbox.is_closed());
  for (const int descriptor : {memory, ends[0], ends[1]}) ::close(descriptor);
}

namespace {

// A program that stands for the capture: a shell with the words of the test. "$1" and "$2" are its descriptors.
class Program {
 public:
  Program(const TemporaryFolder& folder, const std::string& words) : path_(folder / "capture") {
    folder.write("capture", "#!/bin/sh\n" + words + "\n");
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all);
  }
  std::unique_ptr<Capture> start() const { return start_capture(path_, "gst:x").value(); }

 private:
  std::string path_;
};

std::string content_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// What it says last, however long it takes.
std::string last_words(Capture& capture) {
  std::vector<Message> messages;
  while (messages.empty()) messages = capture.receive(1.0, -1);
  return messages.back().text;
}

}  // namespace

TEST_CASE("a capture gets its two descriptors and no other, and its end is told") {
  const TemporaryFolder folder;
  const int left_open = ::open("/dev/null", O_RDONLY);  // by a library that does not close on exec
  const Program program(folder, "ls /proc/$$/fd > " + (folder / "fds") + "; exit 7");
  const auto capture = program.start();
  CHECK(last_words(*capture) == "the capture process ended (exit code 7)");
  ::close(left_open);
  std::istringstream lines(content_of(folder / "fds"));
  Names given;  // shells open their own from 10 on
  for (std::string number; std::getline(lines, number);) {
    if (number.size() == 1 && number > "2") given.push_back(number);
  }
  CHECK(given == Names{"3", "4"});
}

TEST_CASE("a capture that dies of a signal says so, and one that stays is killed") {
  const TemporaryFolder folder;
  CHECK(last_words(*Program(folder, "kill -9 $$").start()) == "the capture process ended (signal 9)");
  auto capture = Program(folder, "echo $$ > " + (folder / "pid.part") + "; mv " + (folder / "pid.part") + " " +
                                     (folder / "pid") + "; exec sleep 600")
                     .start();
  const Stop stop;
  while (!std::filesystem::exists(folder / "pid")) stop.wait(0.005);
  const pid_t process = std::stoi(content_of(folder / "pid"));
  CHECK(::kill(process, 0) == 0);
  capture.reset();
  CHECK(::kill(process, 0) != 0);
}

TEST_CASE("a capture that talks nonsense is closed, and one that is not there cannot be started") {
  const TemporaryFolder folder;
  const auto capture = Program(folder, "head -c 64 /dev/zero >&4; exit 3").start();
  CHECK(last_words(*capture) == "the capture process ended (exit code 3)");
  const auto absent = start_capture(folder / "absent", "gst:x");
  CHECK(absent.failure().error == Error::kSource);
  CHECK(absent.failure().sentence.find("No such file") != std::string::npos);
}

TEST_CASE("waits double to thirty seconds, and there are never more than five starts a minute") {
  Restarts restarts([] { return 1.0; });
  double now = 0.0;
  std::vector<double> starts;
  for (int i = 0; i < 20; ++i) {
    restarts.started(now);
    starts.push_back(now);
    now += restarts.wait_s(now, 0.0);
    if (i >= 4) CHECK(now - starts[static_cast<std::size_t>(i) - 4] >= 60.0);
  }
  CHECK(restarts.wait_s(now + 1000.0, 20.0) == 1.0);
}

namespace {

// A capture that says what the test tells it to.
class Scripted final : public Capture {
 public:
  explicit Scripted(std::deque<std::vector<Message>>& script) : script_(script) {}
  std::vector<Message> receive(double, int) override {
    if (script_.empty()) return {};
    auto messages = script_.front();
    script_.pop_front();
    return messages;
  }
  std::optional<std::vector<std::uint8_t>> take(const Message& message) override {
    if (message.slot == 9) return std::nullopt;
    return std::vector<std::uint8_t>(message.height * message.width, 7);
  }

 private:
  std::deque<std::vector<Message>>& script_;
};

Message frame(double at, std::uint64_t index, std::uint8_t slot = 0) {
  Message message{Kind::kFrame, slot, Depth::kUint8, 2, 3, index};
  message.captured_ns = static_cast<std::uint64_t>(at * 1e9);
  return message;
}

}  // namespace

TEST_CASE("the newest frame is offered, old ones never, and drops are counted") {
  double now = 100.0;
  std::deque<std::vector<Message>> script{
      {frame(100.0, 0), frame(100.0, 1)}, {frame(98.0, 2)}, {frame(100.0, 3, 9)}, {frame(100.0, 4)}};
  LiveSource source(
      LiveAddress{"v4l2", "/dev/x", "v4l2:/dev/x", {}},
      [&] { return Result<std::unique_ptr<Capture>>(std::make_unique<Scripted>(script)); }, [](const std::string&) {},
      [&] { return now; }, [] { return 0.0; });
  const auto first = source.step(0.0, -1).value();
  REQUIRE(first);
  CHECK(std::get<LiveFrame>(*first).name == "v4l2:/dev/x#1");
  CHECK(std::get<LiveFrame>(*first).facts.dropped.at("superseded") == 1);
  CHECK_FALSE(source.step(0.0, -1).value());
  CHECK_FALSE(source.step(0.0, -1).value());
  const auto last = source.step(0.0, -1).value();
  REQUIRE(last);
  CHECK(std::get<LiveFrame>(*last).facts.dropped.at("stale") == 1);
  CHECK(std::get<LiveFrame>(*last).facts.dropped.at("superseded") == 1);
}

TEST_CASE("a source that goes silent is lost, opened anew, and back") {
  double now = 100.0;
  int num_starts = 0;
  std::deque<std::vector<Message>> script{{frame(100.0, 0)}};
  LiveSource source(
      LiveAddress{"gst", "x", "gst:x", {}},
      [&] {
        ++num_starts;
        return Result<std::unique_ptr<Capture>>(std::make_unique<Scripted>(script));
      },
      [](const std::string&) {}, [&] { return now; }, [] { return 0.0; });
  REQUIRE(source.step(0.0, -1).value());
  now += 5.0;
  const auto lost = source.step(0.0, -1).value();
  REQUIRE(lost);
  CHECK(std::get<Notice>(*lost).event == "source_lost");
  CHECK_FALSE(source.step(0.0, -1).value());  // not yet
  CHECK(num_starts == 1);
  now += 1.0;
  script.push_back({frame(now, 0)});
  const auto back = source.step(0.0, -1).value();
  REQUIRE(back);
  CHECK(std::get<Notice>(*back).event == "source_back");
  CHECK(num_starts == 2);
  script.push_back({frame(now, 1)});
  CHECK(std::holds_alternative<LiveFrame>(*source.step(0.0, -1).value()));
}

TEST_CASE("a source that was never seen is an error") {
  double now = 100.0;
  std::deque<std::vector<Message>> script;
  LiveSource source(
      LiveAddress{"gst", "x", "gst:x", {}},
      [&] { return Result<std::unique_ptr<Capture>>(std::make_unique<Scripted>(script)); }, [](const std::string&) {},
      [&] { return now; }, [] { return 0.0; });
  CHECK_FALSE(source.step(0.0, -1).value());
  now += 10.0;
  CHECK(source.step(0.0, -1).failure().error == Error::kSource);
}
