"""Which tensors and weights are quantized on a network with residual convolutions and a transformer block."""

import pytest
from onnx import parser

from hffnet.calibration.placement import placement_from_onnx
from hffnet.runtime.errors import ConfigError, GraphError
from tests.calibration.graphs import CONV_SHAPES, LINEAR_SHAPES, small_network

CONVS = [name for name in CONV_SHAPES if name != "stem"]
LINEARS = [name for name in LINEAR_SHAPES if name != "head"]


def test_default_quantizes_weighted_nodes_and_cnn_identities_only() -> None:
    placement = placement_from_onnx(small_network())
    assert [p.node for p in placement.weighted] == [*CONVS, *LINEARS]
    assert {p.weight_axis for p in placement.weighted if p.op_type == "Conv"} == {0}
    assert {p.weight_axis for p in placement.weighted if p.op_type == "MatMul"} == {1}
    # Both inputs of the first Add come from convolutions; the transformer's Adds stay float.
    assert [(p.node, p.activation) for p in placement.residuals] == [("b_add", "a_relu")]
    assert [(p.node, p.activation) for p in placement.cpu_sums] == [
        ("a_add", "a2_out"), ("a_add", "down_out"), ("b_add", "b2_out"),
    ]  # fmt: skip
    assert {p.node: p.reason for p in placement.left_float} == {
        "stem": "reads the picture",
        "scores": "both inputs are activations",
        "mix": "both inputs are activations",
        "head": "head",
    }
    # One entry for each tensor, however many read it.
    assert placement.tensors == (
        "pooled", "a1_relu", "a_relu", "b1_relu", "b_relu", "n1", "mixed", "n2", "h2", "a2_out", "down_out", "b2_out",
    )  # fmt: skip
    assert placement.for_tensorrt().tensors == placement.tensors[:-3]


def test_mode_cnn_leaves_linear_layers_float() -> None:
    placement = placement_from_onnx(small_network(), "cnn")
    assert [p.node for p in placement.weighted] == CONVS
    assert {p.node for p in placement.left_float if p.reason == "mode cnn"} == set(LINEARS)


def test_exclude_beats_include_beats_the_rules() -> None:
    placement = placement_from_onnx(small_network(), include=["head", "fc1", "stem"], exclude=["fc?", "b2", "a_add"])
    names = {p.node for p in placement.weighted}
    assert {"head", "stem"} <= names
    assert not names & {"fc1", "fc2", "b2"}
    assert placement.residuals == placement.cpu_sums == ()  # b_add has no quantized convolution left to fuse with


def test_without_leaves_nodes_float() -> None:
    placement = placement_from_onnx(small_network()).without({"b1_out", "b_sum"}, "sensitive")
    assert "b1" not in {p.node for p in placement.weighted}
    assert placement.residuals == ()
    assert {p.node for p in placement.cpu_sums} == {"a_add"}
    assert placement.left_float[-1].reason == "sensitive"


def test_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'trunk\.\*' matches no node"):
        placement_from_onnx(small_network(), exclude=["trunk.*"])


def test_graph_with_nothing_to_quantize_is_refused() -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) {y = Relu(x)}')
    with pytest.raises(GraphError, match="nothing in the graph would be quantized"):
        placement_from_onnx(model)
