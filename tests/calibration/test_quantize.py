"""The INT8 graph: same function, integer kernels, refusals."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, helper, numpy_helper

from hffnet.calibration.fidelity import logit_error, logits_from_onnx
from hffnet.calibration.observers import ObserverName, observer_from_name
from hffnet.calibration.placement import Placement, placement_from_onnx
from hffnet.calibration.quantize import ActivationType, qdq_from_onnx
from hffnet.calibration.statistics import ranges_from_frames
from hffnet.calibration.weights import int8_from_weight, scales_from_weight
from hffnet.runtime.errors import GraphError
from hffnet.runtime.taxonomy import Taxonomy
from tests.calibration.graphs import small_network, textured_frames

FRAMES = textured_frames(16)
HELD_OUT = textured_frames(16, seed=1)


def run(model: ModelProto) -> npt.NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    evidence: npt.NDArray[np.float32] = session.run(["evidence"], {"frames": HELD_OUT})[0].astype(np.float32)
    return evidence


def cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


def calibrated(name: ObserverName = "minmax") -> tuple[ModelProto, dict[str, float], Placement]:
    model = small_network()
    placement = placement_from_onnx(model)
    observers = {tensor: observer_from_name(name, percentile=99.99) for tensor in placement.tensors}
    return model, ranges_from_frames(model.SerializeToString(), FRAMES, observers, num_threads=1), placement


@pytest.mark.parametrize("name", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_int8_stays_close_to_float(name: ObserverName, activations: ActivationType) -> None:
    model, ranges, placement = calibrated(name)
    quantized = qdq_from_onnx(model, ranges, placement, activations=activations)
    onnx.checker.check_model(quantized, full_check=True)
    assert cosine(run(quantized), run(model)) > 0.999


def test_graph_is_standard_symmetric_shared_and_smaller() -> None:
    model, ranges, placement = calibrated()
    before = model.SerializeToString()
    quantized = qdq_from_onnx(model, ranges, placement)
    assert model.SerializeToString() == before
    assert qdq_from_onnx(model, ranges, placement).SerializeToString() == quantized.SerializeToString()
    assert quantized.ByteSize() < 0.45 * len(before)
    constants = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    nodes = list(quantized.graph.node)
    quantizers = [n for n in nodes if n.op_type == "QuantizeLinear"]
    assert {n.input[0] for n in quantizers} == set(placement.for_tensorrt().tensors)
    assert len(quantizers) == len(placement.for_tensorrt().tensors)
    for node in nodes:
        assert node.domain == ""
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
    assert "b1_w" not in constants
    assert constants["b1_w_int8"].dtype == np.int8
    assert constants["b1_b"].dtype == np.float32
    assert {"head_w", "positions"} <= constants.keys()


def test_float16_graph_takes_the_same_ranges() -> None:
    model, ranges, _ = calibrated()
    half = small_network(dtype=np.float16)
    quantized = qdq_from_onnx(half, ranges, placement_from_onnx(half))
    onnx.checker.check_model(quantized, full_check=True)
    assert {t.data_type for t in quantized.graph.initializer if t.name.endswith("_scale")} == {onnx.TensorProto.FLOAT16}
    assert cosine(run(quantized), run(model)) > 0.999


def test_a_convolution_with_an_empty_third_input_takes_its_corrected_bias_there() -> None:
    model, ranges, placement = calibrated()
    bare = ModelProto()
    bare.CopyFrom(model)
    conv = next(node for node in bare.graph.node if node.name == "b1")
    del conv.input[2:]
    empty = ModelProto()
    empty.CopyFrom(bare)
    next(node for node in empty.graph.node if node.name == "b1").input.append("")
    shifts = {"b1_out": np.full(32, 0.5, np.float32)}
    graphs = [qdq_from_onnx(graph, ranges, placement, shifts=shifts) for graph in (bare, empty)]
    onnx.checker.check_model(graphs[1], full_check=True)
    assert len(next(node for node in graphs[1].graph.node if node.name == "b1").input) == 3
    np.testing.assert_array_equal(run(graphs[1]), run(graphs[0]))


_ROUND_TRIP = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N] x) => (float[N] y) {
  positive = Relu (x)
  picture = Unsqueeze (positive, axes)
  y0 = MatMul (picture, w)
  y = Squeeze (y0, axes)
}
"""


@given(
    arrays(np.float32, 64, elements=st.floats(-200, 200, width=32)),
    st.floats(0.01, 100),
    st.sampled_from(["int8", "uint8"]),
)
@settings(max_examples=30)
def test_activations_are_rounded_as_numpy_does(
    values: npt.NDArray[np.float32], limit: float, activations: ActivationType
) -> None:
    """The Q and DQ that are written, run by onnxruntime."""
    model = onnx.parser.parse_model(_ROUND_TRIP)
    constants: dict[str, npt.NDArray[np.generic]] = {"axes": np.array([0], np.int64), "w": np.eye(64, dtype=np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    placement = placement_from_onnx(model, include=["*"])
    tensor = placement.weighted[0].activation
    quantized = qdq_from_onnx(model, {tensor: limit}, placement, activations=activations)
    onnx.checker.check_model(quantized, full_check=True)
    dequantized = next(
        n.output[0] for n in quantized.graph.node if n.op_type == "DequantizeLinear" and "w" not in n.name
    )
    quantized.graph.output.append(helper.make_tensor_value_info(dequantized, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(quantized.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run([dequantized], {"x": values})[0].reshape(-1)
    levels = 255 if activations == "uint8" else 127
    step = np.float32(max(limit / levels, 2.0**-20))
    expected = np.clip(np.rint(np.maximum(values, 0) / step), 0, levels) * step
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@given(
    arrays(np.float32, (5, 4, 3), elements=st.floats(-100, 100, width=32)),
    st.integers(0, 2),
)
def test_weight_round_trip_is_within_half_a_step(weight: npt.NDArray[np.float32], axis: int) -> None:
    scales = scales_from_weight(weight, axis)
    shape = [-1 if i == axis else 1 for i in range(3)]
    restored = int8_from_weight(weight, scales, axis) * scales.reshape(shape)
    assert np.all(np.abs(restored - weight) <= 0.5001 * scales.reshape(shape))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf], ids=["zero", "negative", "nan", "infinite"])
def test_impossible_range_is_refused(bad: float) -> None:
    model, ranges, placement = calibrated()
    with pytest.raises(GraphError, match="the range of tensor 'pooled'"):
        qdq_from_onnx(model, {**ranges, "pooled": bad}, placement)


def test_missing_range_is_refused() -> None:
    model, ranges, placement = calibrated()
    del ranges["pooled"]
    with pytest.raises(GraphError, match="no range for tensor 'pooled'"):
        qdq_from_onnx(model, ranges, placement)


def test_quantized_and_foreign_graphs_are_refused_by_node() -> None:
    model, ranges, placement = calibrated()
    with pytest.raises(GraphError, match=r"already quantized at 'a1_w_dq' \(DequantizeLinear\)"):
        qdq_from_onnx(qdq_from_onnx(model, ranges, placement), ranges, placement)
    model.graph.node.append(helper.make_node("FusedConv", ["a"], ["b"], name="odd", domain="com.microsoft"))
    with pytest.raises(GraphError, match=r"outside the standard ONNX domain: 'odd' \(FusedConv\)"):
        qdq_from_onnx(model, ranges, placement)


def test_openvino_runs_every_placed_node_in_integers() -> None:
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    model, ranges, placement = calibrated()
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(qdq_from_onnx(model, ranges, placement).SerializeToString()),
        "CPU",
        {"INFERENCE_NUM_THREADS": 1},
    )
    kinds = [
        (info["layerType"].astype(str), info["runtimePrecision"].astype(str))
        for info in (op.get_rt_info() for op in compiled.get_runtime_model().get_ops())
    ]
    integer = [kind for kind, precision in kinds if precision in {"i8", "u8"}]
    assert integer.count("Convolution") == 6  # all but the one that reads the picture
    assert integer.count("FullyConnected") == 6  # all but the head


@pytest.mark.tensorrt
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["fp32", "fp16"])
def test_tensorrt_rtx_parses_the_graph(dtype: type[np.float32 | np.float16]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    _, ranges, _ = calibrated()
    model = small_network(dtype=dtype)
    quantized = qdq_from_onnx(model, ranges, placement_from_onnx(model))
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    onnx_parser = trt.OnnxParser(network, logger)
    parsed = onnx_parser.parse(quantized.SerializeToString())
    assert parsed, [onnx_parser.get_error(i).desc() for i in range(onnx_parser.num_errors)]


def test_a_quantized_half_graph_is_measured_as_written() -> None:
    """Tiny weights, large biases: the product of the scales underflows in float16, where onnxruntime would use it."""
    model, wide = small_network(dtype=np.float16), small_network()
    for one, kind in ((model, np.float16), (wide, np.float32)):
        constants = {tensor.name: tensor for tensor in one.graph.initializer}
        for name, factor in (("b1_w", 2.0**-9), ("b1_b", 2.0**-4), ("b2_w", 2.0**9)):
            values = numpy_helper.to_array(constants[name]) * kind(factor)
            constants[name].CopyFrom(numpy_helper.from_array(values, name))
    placement = placement_from_onnx(model)
    observers = {tensor: observer_from_name("minmax") for tensor in placement.tensors}
    ranges = ranges_from_frames(wide.SerializeToString(), FRAMES, observers, num_threads=1)
    quantized = qdq_from_onnx(model, ranges, placement).SerializeToString()
    expected, found = (logits_from_onnx(one, HELD_OUT)[0] for one in (model.SerializeToString(), quantized))
    tree = Taxonomy.from_paths([(name,) for name in "abcde"])
    assert logit_error(expected, found, tree) < 0.05
    assert logit_error(expected, run(ModelProto.FromString(quantized)).mean(axis=(2, 3)), tree) > 0.05


def test_bytes_are_not_pooled_behind_a_float_convolution(tmp_path: Path) -> None:
    """There onnxruntime would lose ten milliseconds of a ResNet50's thirty; nothing else changes."""
    model = small_network()
    placement = placement_from_onnx(model)
    observers = {tensor: observer_from_name("cubed-error") for tensor in placement.tensors}
    ranges = ranges_from_frames(model.SerializeToString(), FRAMES, observers, num_threads=1)
    quantized = qdq_from_onnx(model, ranges, placement, activations="uint8")
    (clip,) = (node for node in quantized.graph.node if node.op_type == "Clip")
    assert clip.input[0] == "pooled"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4  # it warns that the file is for this machine only
    ort.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = {output: node for node in onnx.load(tmp_path / "optimized.onnx").graph.node for output in node.output}
    (pool,) = (node for node in optimized.values() if node.op_type.endswith("MaxPool"))
    assert optimized[pool.input[0]].op_type != "QuantizeLinear"
    plain = ModelProto()
    plain.CopyFrom(quantized)
    next(n for n in plain.graph.node if n.input[0] == clip.output[0]).input[0] = clip.input[0]
    np.testing.assert_array_equal(run(quantized), run(plain))
    whole = qdq_from_onnx(
        model, ranges | {"picture": 2.0}, placement_from_onnx(model, include=["stem"]), activations="uint8"
    )
    assert not [node for node in whole.graph.node if node.op_type == "Clip"]
