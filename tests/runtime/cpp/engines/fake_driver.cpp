// A driver's five functions as libcuda has them, answering INIT at the start: for the sentences of a machine whose driver
// refuses, and of one that has a driver and no TensorRT.
#include <cstddef>
#include <cstring>

extern "C" {
int cuInit(unsigned) {
  return INIT;
}
int cuDriverGetVersion(int* version) {
  *version = 12080;
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 1;
  return 0;
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int) {
  *bytes = std::size_t{8} << 30U;
  return 0;
}
int cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, "Orin", static_cast<std::size_t>(length));
  return 0;
}
}
