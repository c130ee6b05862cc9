#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "sources/address.hpp"
#include "sources/watch_folder.hpp"
#include "temporary.hpp"

using namespace hffnet;
using namespace hffnet::sources;
using Names = std::vector<std::string>;

namespace {

// A watch folder with a clock of the test; `look` takes what is ready as the pipeline would.
class Watched {
 public:
  explicit Watched(const TemporaryFolder& folder, FolderOptions options = {}, IsDone is_done = {})
      : source_(
            {folder.path().string(), std::move(options)}, {},
            is_done ? std::move(is_done) : [](const std::string&, const FileStamp&) { return false; },
            [](const std::string&) {}, {[this] { return now_; }, [] { return 0.0; }}) {}

  std::vector<Item> look(double after_s = 0.1) {
    now_ += after_s;
    std::vector<Item> taken;
    for (Item& item : source_.scan()) {
      if (source_.hand_over(item)) taken.push_back(std::move(item));
    }
    return taken;
  }
  Names names(double after_s = 0.1) {
    Names found;
    for (const Item& item : look(after_s)) found.push_back(item.name);
    return found;
  }
  Names until_quiet() {
    Names found;
    for (int i = 0; i < 4; ++i) {
      for (std::string& name : names()) found.push_back(std::move(name));
    }
    return found;
  }
  bool retry(const Item& item) { return source_.retry(item); }

 private:
  double now_ = 1000.0;
  WatchFolder source_;
};

FolderOptions patient(double patience_s) {
  FolderOptions options;
  options.patience_s = patience_s;
  return options;
}

}  // namespace

TEST_CASE("a file is offered at the second look and once") {
  const TemporaryFolder folder;
  Watched watched(folder);
  folder.write("a.tif");
  CHECK(watched.names().empty());
  CHECK(watched.names() == Names{"a.tif"});
  CHECK(watched.until_quiet().empty());
}

TEST_CASE("a slow copy is offered only when it is complete") {
  const TemporaryFolder folder;
  Watched watched(folder);
  std::string content;
  for (int i = 0; i < 5; ++i) {
    folder.write("a.tif", content += "chunk");
    CHECK(watched.names().empty());
  }
  CHECK(watched.until_quiet() == Names{"a.tif"});
}

TEST_CASE("a stalled copy is waited for while its writer has it open") {
  const TemporaryFolder folder;
  Watched watched(folder, patient(5));
  folder.write("a.tif", "half");
  const int writer = ::open((folder / "a.tif").c_str(), O_WRONLY);
  if (why_not_ready(folder / "a.tif")) {  // this file system grants leases
    for (int i = 0; i < 10; ++i) CHECK(watched.names().empty());
    CHECK(watched.names(5.0) == Names{"a.tif"});  // with patience at its end: read as it is
  }
  ::close(writer);
}

TEST_CASE("names of unfinished files, links and pipes are left alone") {
  const TemporaryFolder folder;
  Watched watched(folder, [] {
    FolderOptions options;
    options.pattern = "*";
    return options;
  }());
  for (const char* name : {"a.tif.part", "a.TMP", ".a.tif", "~a.tif", "a.tif~", "a.crdownload", "a.swp"})
    folder.write(name);
  std::filesystem::create_symlink(folder / "a.TMP", folder / "link.tif");
  CHECK(::mkfifo((folder / "pipe.tif").c_str(), 0600) == 0);
  CHECK(watched.until_quiet().empty());
  std::filesystem::rename(folder / "a.tif.part", folder / "a.tif");
  CHECK(watched.until_quiet() == Names{"a.tif"});
}

TEST_CASE("a rename is no new frame, a rewritten file is one") {
  const TemporaryFolder folder;
  Watched watched(folder);
  folder.write("a.tif");
  CHECK(watched.until_quiet() == Names{"a.tif"});
  std::filesystem::rename(folder / "a.tif", folder / "b.tif");
  CHECK(watched.until_quiet().empty());
  folder.write("b.tif", "another frame");
  CHECK(watched.until_quiet() == Names{"b.tif"});
}

TEST_CASE("files that are there already come oldest first, and not those that are done") {
  const TemporaryFolder folder;
  for (const int age : {3, 1, 2}) {
    const std::string name = std::to_string(age) + ".tif";
    folder.write(name);
    std::filesystem::last_write_time(folder / name,
                                     std::filesystem::file_time_type::clock::now() - std::chrono::hours(age));
  }
  Watched watched(folder, {}, [](const std::string& path, const FileStamp&) { return path.ends_with("/2.tif"); });
  CHECK(watched.until_quiet() == Names{"3.tif", "1.tif"});
}

TEST_CASE("sub-folders are watched when asked, those that come later too") {
  const TemporaryFolder folder;
  FolderOptions options;
  options.recursive = true;
  Watched watched(folder, options), flat(folder);
  folder.write("one/a.tif");
  CHECK(watched.until_quiet() == Names{"one/a.tif"});
  folder.write("one/two/b.tif");
  folder.write(".hidden/c.tif");
  CHECK(watched.until_quiet() == Names{"one/two/b.tif"});
  CHECK(flat.until_quiet().empty());
  std::filesystem::remove_all(folder.path() / "one");
  CHECK(watched.until_quiet().empty());
  folder.write("one/a.tif", "again");
  CHECK(watched.until_quiet() == Names{"one/a.tif"});
}

TEST_CASE("an unreadable file comes again as final, and then its reason is recorded") {
  const TemporaryFolder folder;
  Watched watched(folder, patient(1));
  folder.write("a.tif", "half a frame");
  watched.look();
  const auto first = watched.look();
  REQUIRE(first.size() == 1);
  CHECK_FALSE(first[0].final);
  CHECK(watched.retry(first[0]));
  CHECK(watched.names().empty());
  const auto last = watched.look(1.0);
  REQUIRE(last.size() == 1);
  CHECK(last[0].final);
  CHECK_FALSE(watched.retry(last[0]));
  CHECK(watched.until_quiet().empty());
}

TEST_CASE("an empty file is waited for") {
  const TemporaryFolder folder;
  Watched watched(folder, patient(2));
  folder.write("a.tif", "");
  CHECK(watched.until_quiet().empty());
  CHECK(watched.names(2.0) == Names{"a.tif"});
}

TEST_CASE("a folder that vanishes and returns is watched again") {
  const TemporaryFolder folder;
  Watched watched(folder);
  folder.write("a.tif");
  CHECK(watched.until_quiet() == Names{"a.tif"});
  std::filesystem::rename(folder.path(), folder.path().string() + ".away");
  CHECK(watched.until_quiet().empty());
  std::filesystem::rename(folder.path().string() + ".away", folder.path());
  folder.write("b.tif");
  CHECK(watched.until_quiet() == Names{"b.tif"});
}

TEST_CASE("years that 64 bits of nanoseconds do not reach are years like others") {
  const TemporaryFolder folder;
  Watched watched(folder);
  folder.write("a.tif");
  folder.write("b.tif");
  const std::array<timespec, 2> far{{{13'569'465'600, 0}, {13'569'465'600, 0}}};  // 2400-01-01
  const std::array<timespec, 2> before{{{-13'569'465'600, 0}, {-13'569'465'600, 0}}};
  REQUIRE(::utimensat(AT_FDCWD, (folder / "a.tif").c_str(), far.data(), 0) == 0);
  REQUIRE(::utimensat(AT_FDCWD, (folder / "b.tif").c_str(), before.data(), 0) == 0);
  CHECK(watched.until_quiet() == Names{"b.tif", "a.tif"});
}

TEST_CASE("patterns are Python's: a backslash is a letter") {
  const TemporaryFolder folder;
  FolderOptions options;
  options.pattern = " *\\?.png , [!a]*.tif";
  Watched watched(folder, options);
  for (const char* name : {"x\\1.PNG", "x?.png", "a.tif", "b.tif"}) folder.write(name);
  Names names = watched.until_quiet();
  std::sort(names.begin(), names.end());
  CHECK(names == Names{"b.tif", "x\\1.PNG"});
}

TEST_CASE("a folder whose time does not change is looked at seldom, and at once when it changes") {
  const TemporaryFolder folder;
  for (int i = 0; i < 50; ++i) folder.write(std::to_string(i));
  const std::array<timespec, 2> past{{{1'000'000'000, 0}, {1'000'000'000, 0}}};  // the kernel's clock has ticks
  REQUIRE(::utimensat(AT_FDCWD, folder.path().c_str(), past.data(), 0) == 0);
  FolderListing listing(
      folder.path().string(), [](const std::string&) { return true; },
      [](const std::string&, const FileStamp&) { return true; });
  int gone = 0;
  CHECK(listing.is_due(1000.0, gone));
  CHECK(listing.look(1000.0, gone).found.empty());
  CHECK(listing.stamps().size() == 50);
  CHECK(listing.is_due(1001.0, gone));  // within a tick of its time
  listing.look(1003.0, gone);
  CHECK_FALSE(listing.is_due(1003.0, gone));
  folder.write("new");
  CHECK(listing.is_due(1003.0, gone));
  CHECK(listing.look(1003.0, gone).found.size() == 1);
}

TEST_CASE("what was deleted is forgotten, what was rewritten is found, what is left is known") {
  const TemporaryFolder folder;
  for (int i = 0; i < 20; ++i) folder.write(std::to_string(i));
  FolderListing listing(
      folder.path().string(), [](const std::string&) { return true; },
      [](const std::string&, const FileStamp&) { return false; });
  int gone = 0;
  for (const NewFile& file : listing.look(1000.0, gone).found) listing.mark(file.name, file.stamp);
  CHECK(listing.look(1001.0, gone).found.empty());
  std::filesystem::remove(folder.path() / "3");
  folder.write("4", "another frame");
  listing.look(1002.0, gone);  // the places that are asked again go round
  const Look look = listing.look(1003.0, gone);
  REQUIRE(look.found.size() == 1);
  CHECK(look.found[0].name == "4");
  CHECK(listing.stamps().size() == 18);
}

TEST_CASE("the wait for a new file ends when it comes, in a folder that came later too") {
  if (const int events = ::inotify_init1(IN_CLOEXEC); events >= 0) {
    ::close(events);
  } else {
    WARN("not tried: this system has no inotify to give");
    return;
  }
  const TemporaryFolder folder, elsewhere;
  FolderOptions options;
  options.poll_s = 3600.0;  // without events nothing would be seen
  options.settle_s = 0.01;
  options.recursive = true;
  WatchFolder source(
      {folder.path().string(), options}, {}, [](const std::string&, const FileStamp&) { return false; },
      [](const std::string&) {});
  Stop stop, seen;
  std::thread writer([&] {
    stop.wait(0.05);
    folder.write("a.tif");
    std::filesystem::create_directory(elsewhere.path() / "below");
    std::filesystem::rename(elsewhere.path() / "below", folder.path() / "below");
    stop.wait(0.05);
    folder.write("below/b.tif");
    if (!seen.wait(10.0)) stop.set();
  });
  Names names;
  while (names.size() < 2) {
    const auto item = source.next(stop);
    if (!item) break;
    names.push_back(item->name);
    source.hand_over(*item);
  }
  seen.set();
  writer.join();
  CHECK(names == Names{"a.tif", "below/b.tif"});
}

TEST_CASE("more files than one look takes all come in order") {
  const TemporaryFolder folder;
  FolderListing listing(
      folder.path().string(), [](const std::string&) { return true; },
      [](const std::string&, const FileStamp&) { return false; }, 10);
  for (int i = 0; i < 95; ++i) folder.write(std::to_string(i));
  std::size_t found = 0;
  for (int looks = 0; looks < 20 && !listing.is_complete(); ++looks) {
    int gone = 0;
    for (const NewFile& file : listing.look(1000.0 + looks, gone).found) {
      listing.mark(file.name, file.stamp);
      ++found;
    }
    CHECK(gone == 0);
  }
  CHECK(found >= 90);
  int gone = 0;
  CHECK(found + listing.look(2000.0, gone).found.size() == 95);
}

TEST_CASE("addresses say what is wrong with them") {
  const TemporaryFolder folder;
  const std::string path = folder.path().string();
  const std::string dir = std::string("dir:").append(path);
  const auto folder_of = [](const std::string& uri) { return std::get<FolderAddress>(address_from_uri(uri).value()); };
  CHECK(folder_of(path + "/").folder == path);
  CHECK(folder_of(dir + "/.//").folder == path);
  std::filesystem::create_directories(folder.path() / "far" / "below");
  std::filesystem::create_directory_symlink(folder.path() / "far" / "below", folder.path() / "link");
  CHECK(folder_of(path + "/link/..").folder == path + "/link/..");  // not the folder that the text alone would give
  CHECK_FALSE(folder_of(dir + "?events=Off").options.events);
  CHECK(address_from_uri(dir + "%00.tif").failure().error == Error::kSource);
  CHECK(address_from_uri(dir + "?pattern=,%20,").failure().error == Error::kConfig);
  CHECK(folder_of(dir + "?pattern=a%2A.tif&recursive=true&poll_s=0.5").options.pattern == "a*.tif");
  const auto live = std::get<LiveAddress>(address_from_uri("rtsp://me:secret@camera/live?x=1#stall_s=3").value());
  CHECK(live.name == "rtsp://camera/live?x=1");
  CHECK(live.target == "rtsp://me:secret@camera/live?x=1");
  CHECK(live.options.stall_s == 3.0);
  const auto camera = std::get<LiveAddress>(address_from_uri("v4l2:/dev/video0?width=640&fps=29.97").value());
  CHECK(camera.target == "/dev/video0");
  CHECK(camera.options.width == 640);
  const std::string wrong = GENERATE(as<std::string>{}, "", "nowhere", "ftp://a", "v4l2:", "v4l2:/dev/video0?width=0",
                                     "v4l2:/dev/video0?width", "rtsp://a#pattern=*", "gst:", "gst:a#fps=nan");
  CHECK(address_from_uri(wrong).failure().error == Error::kConfig);
  CHECK(address_from_uri(dir + "?recursive=maybe").failure().error == Error::kConfig);
  CHECK(address_from_uri(dir + "/absent").failure().error == Error::kSource);
}
