// Seconds and peak memory (kB) of one program, on stdout: PROGRAM ARGUMENT... The kernel counts what a process had before
// it became another program, so a small one must start it.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <iostream>

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const auto began = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open("/dev/null", O_RDWR), STDOUT_FILENO);
    ::execvp(argv[1], argv + 1);
    ::_exit(127);
  }
  int status = 0;
  rusage usage{};
  if (child < 0 || ::wait4(child, &status, 0, &usage) != child || status != 0) return 1;
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - began;
  std::cout << passed.count() << ' ' << usage.ru_maxrss << '\n';
}
