#include <catch2/catch.hpp>
#include <string>

#include "npy.hpp"

namespace {

std::vector<std::uint8_t> npy(const std::string& header, std::size_t num_bytes) {
  std::string text = std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + '\0' + header;
  text.resize(text.size() + num_bytes, '\1');
  return {text.begin(), text.end()};
}

}  // namespace

TEST_CASE("an array is taken as it lies") {
  const auto content = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }  \n", 6);
  const auto view = hffnet::npy_from_bytes(content, hffnet::NpyType::kUint8, 2);
  REQUIRE(view.ok());
  CHECK(view.value().shape == std::vector<std::size_t>{2, 3});
  CHECK(view.value().data.size() == 6);
}

TEST_CASE("a header that claims something else is refused before anything is allocated") {
  const std::string header = GENERATE(as<std::string>{}, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4), }",
                                      "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
                                      "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }",
                                      "{'descr': '|u1', 'fortran_order': False, 'shape': (6,), }",
                                      "{'descr': '|u1', 'fortran_order': False, 'shape': (999999999, 999999999), }",
                                      "{'descr': __import__('os'), 'fortran_order': False, 'shape': (2, 3), }");
  CHECK_FALSE(hffnet::npy_from_bytes(npy(header, 6), hffnet::NpyType::kUint8, 2).ok());
}
