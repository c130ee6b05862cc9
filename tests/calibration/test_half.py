"""What float16 cannot hold is found on the calibration frames and stays float32."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from hffnet.calibration.fidelity import logit_error, logits_from_onnx
from hffnet.calibration.half import half_with_float_parts, overflowing, peaks_from_frames
from hffnet.calibration.int8 import calibration_from_frames
from hffnet.runtime.errors import GateError, GraphError
from hffnet.runtime.graph import facts_from_onnx
from hffnet.runtime.taxonomy import Taxonomy
from tests.calibration.graphs import half_of, outlier_network, small_network, textured_frames

FRAMES = textured_frames(8)
TREE = Taxonomy.from_paths([(name,) for name in "abcde"])


def logits(model: onnx.ModelProto) -> np.ndarray:
    found: np.ndarray = ort.InferenceSession(model.SerializeToString()).run(["logits"], {"frames": FRAMES})[0]
    return found


def scale(model: onnx.ModelProto, name: str, factor: float) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))


@pytest.fixture
def peaking(tmp_path: Path) -> tuple[Path, onnx.ModelProto]:
    """A float32 file whose projection passes 65504 on some frames, and its half-precision twin."""
    models = [small_network(), small_network(dtype=np.float16)]
    for model in models:
        scale(model, "project_w", 8.0e3)
        scale(model, "project_b", 8.0e3)
        scale(model, "head_w", 0.05)
    models = [onnx.shape_inference.infer_shapes(model) for model in models]
    path = tmp_path / "float.onnx"
    onnx.save(models[0], path)
    return path, models[1]


@pytest.fixture
def outliers(tmp_path: Path) -> Path:
    """A float32 file whose LayerNorms gain by smoothing."""
    path = tmp_path / "outliers.onnx"
    onnx.save(outlier_network(), path)
    return path


def test_overflowing_tensors_are_named_and_kept_in_float32(peaking: tuple[Path, onnx.ModelProto]) -> None:
    path, half = peaking
    found = overflowing(peaks_from_frames(path, FRAMES))
    assert {"projected", "flat", "tokens"} <= found.keys()
    assert "n1" not in found
    assert found["projected"] > 65504
    kept = half_with_float_parts(half, found)
    onnx.checker.check_model(kept, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(kept, strict_mode=True)
    types = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    assert types["projected"] == onnx.TensorProto.FLOAT
    assert types["b2_out"] == types["n1_half"] == types["k0"] == onnx.TensorProto.FLOAT16
    assert types["n1"] == onnx.TensorProto.FLOAT  # made by a node that reads what overflows; keeps its name
    expected = logits(onnx.load(path))
    np.testing.assert_allclose(logits(kept), expected, atol=2e-2 * np.abs(expected).max())


def test_nothing_changes_where_nothing_overflows(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(small_network()), path)
    found = overflowing(peaks_from_frames(path, FRAMES))
    half = small_network(dtype=np.float16)
    before = half.SerializeToString()
    assert found == {}
    assert half_with_float_parts(half, found).SerializeToString() == before


def test_a_weight_beyond_float16_is_refused_by_name() -> None:
    half = small_network(dtype=np.float16)
    with np.errstate(over="ignore"):
        scale(half, "fc1_w", 6.0e4)
        scale(half, "fc1_w", 6.0e4)
    with pytest.raises(GateError, match="the weight 'fc1_w' is beyond float16"):
        half_with_float_parts(half, [])


def test_a_name_that_the_graph_lacks_is_not_passed_over() -> None:
    with pytest.raises(GraphError, match="1 tensors that must stay float32, such as 'elsewhere', are not in the"):
        half_with_float_parts(small_network(dtype=np.float16), ["projected", "elsewhere"])


def test_single_nodes_stay_float_and_shared_weights_with_them() -> None:
    half = small_network(dtype=np.float16)
    value = next(node for node in half.graph.node if node.name == "value")
    value.input[1] = "key_w"
    kept = half_with_float_parts(onnx.shape_inference.infer_shapes(half), (), {"k0"})
    onnx.checker.check_model(kept, full_check=True)
    weights = {tensor.name: tensor.data_type for tensor in kept.graph.initializer}
    assert weights["key_w"] == onnx.TensorProto.FLOAT
    assert weights["query_w"] == onnx.TensorProto.FLOAT16
    casts = [(node.input[0], node.output[0]) for node in kept.graph.node if node.op_type == "Cast"]
    assert casts == [("frames", "pixels"), ("n1", "n1_wide"), ("k0", "k0_half"), ("v", "v_half")]
    logits(kept)


@pytest.mark.parametrize("wide", ["n1", "k0", "n2", "h0", "projected", "b2_out", "b_sum"])
def test_int8_goes_into_a_graph_with_float32_parts(outliers: Path, wide: str) -> None:
    """Smoothing and Q/DQ address tensors and weights by the float graph's names."""
    calibration = calibration_from_frames(outliers, FRAMES)
    assert calibration.smoothing.keys() == {"n1", "n2"}
    half = onnx.shape_inference.infer_shapes(half_of(onnx.load(outliers)), data_prop=True)
    path = outliers.with_name("half.onnx")
    onnx.save(half_with_float_parts(half, [wide]), path)
    quantized = calibration.quantized(float_model=path, activations="int8")
    onnx.checker.check_model(quantized, full_check=True)
    macs = facts_from_onnx(quantized.SerializeToString()).macs
    expected = facts_from_onnx(calibration.quantized().SerializeToString()).macs
    assert macs.quantized_share == expected.quantized_share
    found = logits_from_onnx(quantized.SerializeToString(), FRAMES)[0]
    near = logits_from_onnx(calibration.quantized().SerializeToString(), FRAMES)[0]
    assert logit_error(near, found, TREE) < 0.05
