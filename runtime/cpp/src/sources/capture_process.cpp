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

class CaptureProcess final : public Capture {
 public:
  CaptureProcess(pid_t process, Descriptor memory, Descriptor reading)
      : process_(process),
        memory_(std::move(memory)),
        reading_(std::move(reading)),
        slots_(memory_.get(), kSlotBytes),
        inbox_(reading_.get()) {}

  ~CaptureProcess() override {
    ::kill(process_, SIGKILL);
    ended();
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

Failure cannot_start(const std::string& program, int number) {
  return Failure{Error::kSource, program + " cannot be started (" + std::strerror(number) +
                                     "); check free memory and the number of open files"};
}

// What the child gets: nothing on standard streams, the two descriptors, and its signals as they were.
class SpawnSettings {
 public:
  explicit SpawnSettings(std::initializer_list<int> kept) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      posix_spawn_file_actions_addopen(&actions_, stream, "/dev/null", O_RDWR, 0);
    }
    // Onto itself: the child's copy is not closed on exec.
    for (const int descriptor : kept) posix_spawn_file_actions_adddup2(&actions_, descriptor, descriptor);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK);
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
  Descriptor memory(::memfd_create("hffnet-frames", MFD_CLOEXEC));
  std::array<int, 2> ends{-1, -1};
  if (memory.get() < 0 || ::ftruncate(memory.get(), static_cast<off_t>(kNumSlots * kSlotBytes)) != 0 ||
      ::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return cannot_start(program, errno);
  }
  Descriptor reading(ends[0]);
  const Descriptor writing(ends[1]);
  const SpawnSettings settings({memory.get(), writing.get()});
  pid_t process = 0;
  const int failed = settings.spawn(
      {program, std::to_string(memory.get()), std::to_string(writing.get()), "-1", std::to_string(kSlotBytes), uri},
      process);
  if (failed != 0) return cannot_start(program, failed);
  return std::unique_ptr<Capture>(std::make_unique<CaptureProcess>(process, std::move(memory), std::move(reading)));
}

}  // namespace hffnet::sources
