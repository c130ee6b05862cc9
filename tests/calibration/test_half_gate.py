"""Half precision through the gate: what stays float32, why, and how much of the work is left."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hffnet.calibration.fidelity import HeldOut, Scored, logits_from_onnx, scored
from hffnet.calibration.gate import Budget, RefusedError
from hffnet.calibration.half import peaks_from_frames
from hffnet.calibration.half_gate import HalfReport, PassedHalf, groups_from_half, half_within_budget
from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.graph import facts_from_onnx
from hffnet.runtime.taxonomy import Taxonomy
from tests.calibration.graphs import half_of, outlier_network, textured_frames

TREE = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
FRAMES = textured_frames(8)


def typed(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "float.onnx"
    onnx.save(outlier_network(), path)
    return path


@pytest.fixture(scope="module")
def held_out(float_model: Path) -> HeldOut:
    frames = textured_frames(48, seed=5)
    decisions = decode(logits_from_onnx(float_model, frames)[0], TREE, DecodeSpec.plain(TREE))
    truths = [decision.path for decision in decisions]
    return HeldOut(frames=frames, truths=truths, taxonomy=TREE, decode=DecodeSpec.plain(TREE))


@pytest.fixture(scope="module")
def reference(float_model: Path, held_out: HeldOut) -> Scored:
    return scored(float_model, held_out)


def gated(float_model: Path, half: onnx.ModelProto, reference: Scored, held_out: HeldOut, budget: Budget) -> PassedHalf:
    path = float_model.with_name("half.onnx")
    onnx.save(typed(half), path)
    peaks = peaks_from_frames(float_model, FRAMES)
    return half_within_budget(path, float_model, peaks, reference, held_out, budget)


def damaged(float_model: Path, name: str, factor: float) -> onnx.ModelProto:
    """A half-precision twin in which one weight has lost what float16 may lose: it became ``factor`` times itself."""
    half = half_of(onnx.load(float_model))
    tensor = next(one for one in half.graph.initializer if one.name == name)
    with np.errstate(over="ignore"):
        values = (numpy_helper.to_array(tensor).astype(np.float32) * factor).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return half


def test_all_of_it_passes_and_the_nearest_peaks_are_told(
    float_model: Path, reference: Scored, held_out: HeldOut
) -> None:
    passed = gated(float_model, half_of(onnx.load(float_model)), reference, held_out, Budget(max_drop=2.5))
    report = passed.report
    assert report.left_float == ()
    assert report.gate.accepted is not None
    assert report.gate.accepted.quantized_share == 1.0
    assert report.peaks[0].tensor in {"x0", "x1", "x2"}  # the outliers of the residual stream
    assert 1000 < report.peaks[0].magnitude < report.largest / report.margin
    assert HalfReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("broken", ["underflow", "nan"])
def test_just_the_part_that_float16_breaks_is_restored(
    float_model: Path, reference: Scored, held_out: HeldOut, broken: str
) -> None:
    """With the float graph's own weights, which float16 had lost."""
    if broken == "underflow":
        half = damaged(float_model, "project_w", 1e-9)
    else:
        half = half_of(onnx.load(float_model))
        k = next(k for k, node in enumerate(half.graph.node) if node.name == "fc2")
        half.graph.node[k].input[0] = "h2_log"  # the logarithm of a negative number
        half.graph.node.insert(k, onnx.helper.make_node("Log", ["h2"], ["h2_log"], name="fc2/Log"))
    if broken == "nan":
        with pytest.raises(RefusedError, match=r"fp16 costs .*\(48 of 48 frames are answered with NaN") as refused:
            gated(float_model, half, reference, held_out, Budget(max_drop=2.5))
        assert refused.value.report.curve[0].cost.num_broken == 48
        return
    passed = gated(float_model, half, reference, held_out, Budget(max_drop=2.5))
    assert passed.report.gate.curve[0].cost.hf1_drop > 10
    assert passed.report.gate.restored == ("project all",)
    assert [(entry.tensor, entry.reason) for entry in passed.report.left_float] == [
        ("projected", "restored by the gate")
    ]
    share = facts_from_onnx(passed.model.SerializeToString()).macs.share("float16")
    assert share == passed.report.gate.accepted.quantized_share  # type: ignore[union-attr]
    assert 0.9 < (share or 0) < 1


def test_too_little_work_in_float16_is_refused_as_for_int8(
    float_model: Path, reference: Scored, held_out: HeldOut
) -> None:
    path = float_model.with_name("half.onnx")
    onnx.save(typed(half_of(onnx.load(float_model))), path)
    peaks = dict.fromkeys((f"{name}_out" for name in ("stem", "a1", "a2", "down", "b1", "b2")), 3.0e4)
    with pytest.raises(RefusedError, match=r"only \d+% of the work is in float16 .*--min-half-share") as refused:
        half_within_budget(path, float_model, peaks, reference, held_out, Budget(max_drop=100.0))
    assert refused.value.report.min_quantized_share == 0.5


def test_groups_are_all_that_computes_in_float16(float_model: Path) -> None:
    half = typed(half_of(onnx.load(float_model)))
    outputs = {output for group in groups_from_half(half) for output in group.outputs}
    assert {"n1", "attention", "h2", "x1", "logits"} <= outputs
    assert "pixels" not in outputs  # a cast
