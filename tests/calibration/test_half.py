"""What float16 cannot hold is found on the calibration frames and stays float32."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from hffnet.calibration.half import half_with_float_parts, overflowing, peaks_from_frames
from hffnet.runtime.errors import GateError
from tests.calibration.graphs import small_network, textured_frames

FRAMES = textured_frames(8)


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
    assert types["b2_out"] == types["n1"] == onnx.TensorProto.FLOAT16
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


def test_a_graph_that_would_stay_float_is_refused() -> None:
    half = small_network(dtype=np.float16)
    names = [output for node in half.graph.node[1:] for output in node.output]
    with pytest.raises(GateError, match="tensors come near the end of float16"):
        half_with_float_parts(half, names)
