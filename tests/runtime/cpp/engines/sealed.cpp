// For tests/parity/test_cpp_cache.py: `hffnet-sealed read NAME` prints a blob of the engine cache, `write NAME TEXT` stores
// one; HFFNET_CACHE_DIR says where.
#include <iostream>
#include <string>

#include "engines/engine_cache.hpp"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  hffnet::EngineCache cache(hffnet::cache_folder(), hffnet::notice_to_stderr);
  if (argc == 4) {
    const std::string text = argv[3];
    cache.write(argv[2], hffnet::Bytes(text.begin(), text.end()));
    return 0;
  }
  const auto found = cache.read(argv[2]);
  if (!found) return 1;
  std::cout << std::string(found->begin(), found->end());
}
