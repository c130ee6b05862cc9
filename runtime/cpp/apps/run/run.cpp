// hffnet-run-cpp BUNDLE SOURCE: classifies what a source offers, live, until it ends or a signal comes; one JSON line
// per result with the fields of `hffnet run --jsonl`, sentences for people on stderr.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../options.hpp"
#include "attempt.hpp"
#include "pipeline.hpp"
#include "sources/address.hpp"
#include "sources/capture_process.hpp"

namespace {

using namespace hffnet;
using apps::RowFile;

constexpr const char* kUsage =
    "usage: hffnet-run-cpp [options] BUNDLE SOURCE\n"
    "SOURCE: a folder to watch, dir:FOLDER?pattern=*.tif&recursive=1, v4l2:/dev/v4l/by-id/..., rtsp://..., or\n"
    "gst:PIPELINE. Each result is one JSON line on stdout, as of `hffnet run --jsonl -`.\n"
    "  --jsonl FILE      append the lines to FILE instead, and skip what it holds already; - is stdout\n"
    "  --done FILE       skip what this earlier output holds; may be repeated\n"
    "  --once            end when everything that is there is done\n"
    "  --idle-exit S     end when nothing was new for S seconds\n"
    "  --bar ROWS        rows at the bottom that are info bar, where the frame does not tell\n"
    "  --engine NAME, --precision NAME, --threads N\n"
    "The first Ctrl-C or SIGTERM finishes the frame in hand and exits with 0, a second one ends at once with 5.\n"
    "Exit code: 0 done, 2 wrong use, 3 bundle, source or FILE cannot be used, 4 no engine, no live sources in this\n"
    "build, 5 interrupted, or nobody reads stdout any more.\n";

constexpr int kInterrupted = 5;

// Set before the handlers are installed.
sources::Stop* stop_of_signals = nullptr;

void on_signal(int) {
  if (stop_of_signals->set()) return;
  constexpr const char kSentence[] = "hffnet: second signal, ending at once; the frame in hand will be redone\n";
  static_cast<void>(!::write(STDERR_FILENO, kSentence, sizeof kSentence - 1));
  ::_exit(kInterrupted);
}

void tell(const std::string& sentence) {
  std::cerr << "hffnet: " + sentence + "\n";
}

int fail(const Failure& failure) {
  tell(failure.sentence);
  return exit_code(failure.error);
}

// Opens what was closed of the standard streams, so that no file of ours takes such a number and gets others' words.
bool has_standard_output() {
  const bool has_output = ::fcntl(STDOUT_FILENO, F_GETFD) >= 0;
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) < 0) static_cast<void>(::open("/dev/null", O_RDWR));
  }
  return has_output;
}

void install_signals(sources::Stop& stop) {
  stop_of_signals = &stop;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGCHLD, SIG_DFL);  // ignored by who started us, the capture's end would not be told
}

// Where rows go, going on after what is there; `done` gets what was done.
Result<RowFile> open_rows(const apps::Options& options, const std::string& bundle_sha256, const std::string& settings,
                          apps::DoneRows& done) {
  std::vector<std::string> earlier = options.done;
  const bool is_file = options.jsonl != "-";
  ATTEMPT(RowFile rows, is_file ? RowFile::open(options.jsonl) : Result<RowFile>(RowFile::standard_output()));
  if (is_file) earlier.push_back(options.jsonl);  // last: its last row is the one that is followed
  for (const std::string& path : earlier) {
    ATTEMPT_DONE(done.read(path, bundle_sha256, settings));
    if (rows.is(path)) ATTEMPT_DONE(rows.cut(done.whole_bytes()));
  }
  return rows;
}

Result<apps::Source> open_source(const sources::Address& address, const apps::Options& options,
                                 std::shared_ptr<apps::DoneRows> done) {
  if (const auto* folder = std::get_if<sources::FolderAddress>(&address)) {
    const auto is_done = [done](const std::string& path, const sources::FileStamp& stamp) {
      return done->holds(path, stamp);
    };
    return apps::Source(sources::WatchFolder(*folder, options.idle_exit_s, is_done, tell));
  }
  ATTEMPT(const std::string program, sources::capture_program());
  const auto& live = std::get<sources::LiveAddress>(address);
  const std::string uri = options.words[1];
  return apps::Source(sources::LiveSource(
      live, [program, uri] { return sources::start_capture(program, uri); }, tell));
}

void tell_summary(const apps::RunSummary& summary, double seconds) {
  std::string counts;
  for (const auto& [status, count] : summary.counts) {
    counts += (counts.empty() ? "" : ", ") + std::to_string(count) + " " +
              (status == "not_classified" ? "not classified" : status);
  }
  tell((counts.empty() ? "no frames" : counts) + " in " + std::to_string(seconds).substr(0, 6) + " s");
  for (const auto& [reason, count] : summary.dropped) {
    tell(std::to_string(count) + " live frames dropped: " + reason);
  }
}

Result<apps::RunSummary> run(const apps::Options& options, sources::Stop& stop) {
  apps::Service service;
  ATTEMPT(const sources::Address address, sources::address_from_uri(options.words[1]));  // before anything is written
  ATTEMPT(Classifier classifier, Classifier::open(options.words[0], options.engine));
  const std::string settings = settings_sha256(options.engine, options.bar);
  auto done = std::make_shared<apps::DoneRows>();
  ATTEMPT(apps::Source source, open_source(address, options, done));
  ATTEMPT(RowFile rows, open_rows(options, classifier.bundle().sha256(), settings, *done));
  RecordChain chain(settings, done->last_seq(), done->head());
  const auto* live = std::get_if<sources::LiveAddress>(&address);
  service.ready("classifying " + (live != nullptr ? live->name : options.words[1]));
  return apps::run_pipeline(std::move(source), options.bar, classifier, chain, rows, stop, service, tell);
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): without memory for a sentence there is nothing to say
int main(int argc, char** argv) {
  apps::keep_memory();
  const bool has_output = has_standard_output();
  const auto options = apps::options_from(argc, argv, kUsage);
  if (!options.ok()) return fail(options.failure());
  if (options.value().help || options.value().words.size() != 2) {
    (options.value().help ? std::cout : std::cerr) << kUsage;
    return options.value().help ? 0 : 2;
  }
  if (!has_output && options.value().jsonl == "-") {
    return fail({Error::kRecord, "standard output is closed: name a file with --jsonl"});
  }
  sources::Stop stop;
  install_signals(stop);
  const double began = sources::monotonic_s();
  const auto summary = guarded(Error::kSource, options.value().words[1], [&] { return run(options.value(), stop); });
  int code = 0;
  if (!summary.ok()) {
    code = fail(summary.failure());
  } else {
    tell_summary(summary.value(), sources::monotonic_s() - began);
    code = summary.value().is_cut_off ? kInterrupted : 0;
  }
  // A reader that hangs on a dead share still holds what it reads from: nothing may be taken down around it.
  std::cerr.flush();
  ::_exit(code);
}
