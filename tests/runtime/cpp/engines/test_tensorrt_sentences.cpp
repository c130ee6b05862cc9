#include <catch2/catch.hpp>

#include "engines/build_progress.hpp"
#include "engines/tensorrt_sentences.hpp"

using namespace hffnet;
using Catch::Matchers::Contains;

TEST_CASE("a refused node is named, without places in the library's sources") {
  const ParserError error{"unsupported node", "encoder/Attention", "Attention", 12,
                          "In parseNode at /opt/src/parser/onnx.cpp:211\nInvalid Node - encoder/Attention\n"
                          "In importAttention at /opt/src/ops.cpp:99\nno kernel for FP32."};
  CHECK(sentence_from_parser("TensorRT 10.3.0", error) ==
        "TensorRT 10.3.0 refuses node 'encoder/Attention' (Attention) of the graph: no kernel for FP32 (unsupported "
        "node); export the bundle again with this hffnet, or use --engine openvino");
}

TEST_CASE("a node without name or reason") {
  const ParserError error{"unsupported node", "", "Einsum", 3, "false"};
  CHECK_THAT(sentence_from_parser("TensorRT", error),
             Contains("node number 3") && Contains("operator Einsum is not supported here"));
}

TEST_CASE("what is no ONNX model") {
  CHECK_THAT(sentence_from_parser("TensorRT", {"model deserialize failed", "", "", -1, ""}),
             Contains("it is not a whole ONNX model"));
}

TEST_CASE("builds that fail") {
  CHECK_THAT(sentence_from_build("TensorRT", {"[api::build::1] Error Code 2: OutOfMemory (no further information)"}),
             Contains("ran out of memory while building") && Contains("choose int8"));
  CHECK_THAT(sentence_from_build("TensorRT", {}), Contains("it gave no reason"));
}

TEST_CASE("progress counts nested phases and never goes back") {
  BuildProgress progress;
  progress.start("build", "", 4);
  progress.step("build", 0);
  progress.start("inner", "build", 2);
  progress.step("inner", 0);
  CHECK(progress.share() == Approx(0.375));
  progress.finish("inner");
  progress.start("other", "build", 10);
  progress.step("other", 0);
  CHECK(progress.share() == Approx(0.375));
  progress.step("build", 1);
  CHECK(progress.share() == Approx(0.5));
  progress.step("unknown", 0);
  CHECK(progress.share() <= 1.0);
}
