// Says what version it is, as libnvinfer does, and has nothing else: for the refusal of a library that does not fit the
// headers, which must come before any of its objects is made.
#include <cstdint>

extern "C" std::int32_t getInferLibVersion() {
  return VERSION;
}
