// A shared library that is opened at run time, so that the program starts where it is absent.
#pragma once

#include <dlfcn.h>

#include <memory>
#include <string>

#include "hffnet/result.hpp"

namespace hffnet {

// Moves, does not copy. The library stays loaded until the process ends: GPU libraries leave work for that end, which must
// find their code.
class LoadedLibrary {
 public:
  // Opens by name (searched as the dynamic linker does) or path. Error::kMissing with the linker's own words.
  static Result<LoadedLibrary> open(const std::string& name) {
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (handle == nullptr) return Failure{Error::kMissing, dlerror()};
    return LoadedLibrary(name, handle);
  }

  const std::string& name() const { return name_; }

  // Fills `function` with the function of that name; Error::kEngine where the library has none.
  template <class Function>
  Status bind(const char* symbol, Function*& function) const {
    function = reinterpret_cast<Function*>(dlsym(handle_.get(), symbol));
    if (function != nullptr) return Done{};
    return Failure{Error::kEngine, name_ + " has no function " + symbol +
                                       ": it is not the library that it is named after; install it again"};
  }

 private:
  LoadedLibrary(std::string name, void* handle) : name_(std::move(name)), handle_(handle, dlclose) {}

  std::string name_;
  std::unique_ptr<void, int (*)(void*)> handle_;
};

}  // namespace hffnet
