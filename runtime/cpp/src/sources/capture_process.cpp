#include "sources/capture_process.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <utility>

#include "attempt.hpp"
#include "sources/stop.hpp"

extern char** environ;

namespace hffnet::sources {
namespace {

// SIGKILL waits for a driver call that cannot be interrupted; nothing waits for it longer than this.
constexpr double kKillS = 2.0;

// The child's descriptors. Ours lie above them, so that none is overwritten before it is handed on.
constexpr int kMemory = 3, kMessages = 4, kFirstFree = 5;

// A descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }

 private:
  int number_;
};

// Processes that did not end when they were killed; waited for later, so that they do not stay as zombies. One thread
// drives a source.
std::vector<pid_t>& left_behind() {
  static std::vector<pid_t> processes;
  return processes;
}

void wait_for_those_left_behind() {
  std::erase_if(left_behind(), [](pid_t process) { return ::waitpid(process, nullptr, WNOHANG) != 0; });
}

class CaptureProcess final : public Capture {
 public:
  CaptureProcess(pid_t process, Descriptor memory, Descriptor reading)
      : process_(process),
        memory_(std::move(memory)),
        reading_(std::move(reading)),
        slots_(memory_.get(), kSlotBytes),
        inbox_(reading_.get()) {}

  ~CaptureProcess() override {
    // Its number may be another process's once it was waited for.
    if (!is_reaped_) ::kill(process_, SIGKILL);
    ended();
    if (!is_reaped_) left_behind().push_back(process_);
  }

  std::vector<Message> receive(double timeout_s, int other) override {
    std::vector<Message> messages = inbox_.receive(timeout_s, other);
    if (!messages.empty() || !inbox_.is_closed()) return messages;
    Message last{Kind::kFailed};
    last.text = "the capture process ended (" + ended() + ")";
    return {last};
  }

  std::optional<std::vector<std::uint8_t>> take(const Message& message) override {
    return slots_.ok() ? slots_.take(message) : std::nullopt;
  }

 private:
  // How it ended, waiting a little; a process that hangs in its driver is left to the system.
  std::string ended() {
    const double end = monotonic_s() + kKillS;
    while (!is_reaped_) {
      const pid_t reaped = ::waitpid(process_, &status_, WNOHANG);
      is_reaped_ = reaped == process_ || (reaped < 0 && errno != EINTR);
      if (reaped < 0 && is_reaped_) return "and nothing is known of how";
      if (is_reaped_) break;
      if (monotonic_s() >= end) return "not yet: it hangs in its driver";
      ::usleep(2000);
    }
    return WIFSIGNALED(status_) ? "signal " + std::to_string(WTERMSIG(status_))
                                : "exit code " + std::to_string(WEXITSTATUS(status_));
  }

  pid_t process_;
  bool is_reaped_ = false;
  int status_ = 0;
  Descriptor memory_;
  Descriptor reading_;
  Slots slots_;
  Inbox inbox_;
};

// A descriptor above those that the child gets, or -1.
Descriptor moved_up(Descriptor low) {
  return Descriptor(low.get() < 0 ? -1 : ::fcntl(low.get(), F_DUPFD_CLOEXEC, kFirstFree));
}

Failure cannot_start(const std::string& program, int number) {
  return Failure{Error::kSource, program + " cannot be started (" + std::strerror(number) +
                                     "); check free memory and the number of open files"};
}

// What the child gets: nothing on standard streams, the two descriptors and no other, and signals as they usually are.
class SpawnSettings {
 public:
  SpawnSettings(int memory, int messages) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      posix_spawn_file_actions_addopen(&actions_, stream, "/dev/null", O_RDWR, 0);
    }
    posix_spawn_file_actions_adddup2(&actions_, memory, kMemory);
    posix_spawn_file_actions_adddup2(&actions_, messages, kMessages);
    posix_spawn_file_actions_addclosefrom_np(&actions_, kFirstFree);
    sigset_t none, usual;
    sigemptyset(&none);
    sigemptyset(&usual);
    for (const int number : {SIGPIPE, SIGTERM}) sigaddset(&usual, number);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &usual);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }

  int spawn(std::vector<std::string> words, pid_t& process) const {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    return ::posix_spawn(&process, arguments[0], &actions_, &attributes_, arguments.data(), environ);
  }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
};

}  // namespace

Result<std::string> capture_program() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string program = (self.parent_path() / "hffnet-capture-cpp").string();
  if (::access(program.c_str(), X_OK) == 0) return program;
  return Failure{Error::kMissing,
                 program +
                     " is not there: this build has no live sources. Install libgstreamer1.0-dev and "
                     "libgstreamer-plugins-base1.0-dev, configure anew (HFFNET_GSTREAMER=ON) and build"};
}

Result<std::unique_ptr<Capture>> start_capture(const std::string& program, const std::string& uri) {
  wait_for_those_left_behind();
  Descriptor memory = moved_up(Descriptor(::memfd_create("hffnet-frames", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
  std::array<int, 2> ends{-1, -1};
  // Sealed: a child that shortened it would end this process with SIGBUS.
  if (memory.get() < 0 || ::ftruncate(memory.get(), static_cast<off_t>(kNumSlots * kSlotBytes)) != 0 ||
      ::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0 ||
      ::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return cannot_start(program, errno);
  }
  Descriptor reading(ends[0]);
  const Descriptor writing = moved_up(Descriptor(ends[1]));
  if (writing.get() < 0) return cannot_start(program, errno);
  const SpawnSettings settings(memory.get(), writing.get());
  pid_t process = 0;
  const int failed = settings.spawn(
      {program, std::to_string(kMemory), std::to_string(kMessages), "-1", std::to_string(kSlotBytes), uri}, process);
  if (failed != 0) return cannot_start(program, failed);
  return std::unique_ptr<Capture>(std::make_unique<CaptureProcess>(process, std::move(memory), std::move(reading)));
}

}  // namespace hffnet::sources
