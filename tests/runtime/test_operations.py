"""Work counted from a graph's own shapes."""

import onnx
import pytest

from hffnet.runtime.graph import facts_from_onnx

_TOKENS = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 49, 8] tokens, float[8, 16] w1, float[16] b1, float[16, 4] w2, float[4] b2) => (float[R, 4] y)
<float[R, 8] flat, float[R, 16] h, float[R, 16] a> {
  flat = Reshape (tokens, shape)
  h = Gemm (flat, w1, b1)
  a = Relu (h)
  y = Gemm (a, w2, b2)
}
"""
_POOLED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 8, 1, 1] pooled, float[4, 8] w, float[4] b) => (float[N, 4] y)
<float[N, 8] flat> {
  flat = Flatten (pooled)
  y = Gemm <transB = 1> (flat, w, b)
}
"""


@pytest.mark.parametrize(
    ("text", "work"),
    [
        pytest.param(_TOKENS, 49 * (8 * 16 + 16 * 4), id="tokens flattened into rows"),
        pytest.param(_POOLED, 8 * 4, id="one row for each frame"),
    ],
)
def test_a_gemm_counts_the_rows_of_a_frame(text: str, work: int) -> None:
    model = onnx.parser.parse_model(text)
    macs = facts_from_onnx(model.SerializeToString()).macs
    assert macs.by_type.total() == work
    assert not macs.num_unknown
