// Passing a Failure on, and keeping foreign exceptions inside the library.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "hffnet/result.hpp"

#define HFFNET_JOIN_(a, b) a##b
#define HFFNET_JOIN(a, b) HFFNET_JOIN_(a, b)

// ATTEMPT(auto x, f()); declares x from f()'s value, or returns f()'s failure from the enclosing function.
#define ATTEMPT(declaration, expression) ATTEMPT_(HFFNET_JOIN(attempted_, __LINE__), declaration, expression)
#define ATTEMPT_(result, declaration, expression)       \
  auto result = (expression);                           \
  if (!result.ok()) return std::move(result).failure(); \
  declaration = std::move(result).value()

// ATTEMPT_DONE(f()); the same for functions that return Status.
#define ATTEMPT_DONE(expression)                                                               \
  do {                                                                                         \
    if (auto attempted = (expression); !attempted.ok()) return std::move(attempted).failure(); \
  } while (false)

namespace hffnet {

// Runs `work`, turning what it throws (memory that cannot be had, a library's own exceptions) into a Failure.
template <class Work>
auto guarded(Error error, const std::string& subject, Work&& work) -> decltype(work()) {
  try {
    return std::forward<Work>(work)();
  } catch (const std::bad_alloc&) {
    return Failure{error, subject + ": there is not enough memory; close other programs or use a smaller input"};
  } catch (const std::exception& thrown) {
    return Failure{error, subject + ": " + thrown.what()};
  }
}

}  // namespace hffnet
