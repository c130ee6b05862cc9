"""The page stands alone and shows what was measured."""

import dataclasses
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from hffnet.calibration.contributions import rows_of_methods
from hffnet.calibration.fidelity import HeldOut, logits_from_onnx, scored
from hffnet.calibration.gate import Budget, placement_within_budget
from hffnet.calibration.html_report import Flip, html_from_calibration
from hffnet.calibration.int8 import Calibration, CalibrationOptions, calibration_from_frames
from hffnet.calibration.observers import MovingAverage, ObserverName
from hffnet.calibration.report import CalibrationReport
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.taxonomy import Taxonomy
from tests.calibration.graphs import outlier_network, textured_frames

TAXONOMY = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])


class Page(HTMLParser):
    """Counts elements and keeps what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href"}]


@pytest.mark.parametrize("observer", ["entropy", "minmax", "moving-average"])
def test_page_shows_every_tensor_flip_and_frame_and_fetches_nothing(tmp_path: Path, observer: ObserverName) -> None:
    path = tmp_path / "float.onnx"
    onnx.save(outlier_network(), path)
    calibration = calibration_from_frames(path, textured_frames(4), options=CalibrationOptions(observer=observer))
    report = calibration.report()
    flip = Flip(
        name="<script>alert(1)</script>.tif",
        pixels=np.zeros((32, 32), np.uint8),
        truth=("a", "x"),
        before=("a", "x"),
        after=("b", "z"),
    )
    text = html_from_calibration(calibration, report, [flip])
    page = Page(text)
    assert "script" not in page.counts
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.tif" in text
    assert page.counts["img"] == 1
    assert all(url.startswith("data:") for url in page.fetched)
    assert all(tensor in text for tensor in report.ranges)
    assert all(origin.name in text for origin in report.frames)
    assert page.counts.get("svg", 0) == len(report.ranges)
    assert "α 0.5" in text


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "float.onnx"
    onnx.save(outlier_network(), path)
    return path


def held_out_frames(num: int = 12) -> HeldOut:
    truths = [TAXONOMY.path_of_leaf(k % 3) for k in range(num)]
    frames = textured_frames(num, seed=5)
    return HeldOut(frames=frames, truths=truths, taxonomy=TAXONOMY, decode=DecodeSpec.plain(TAXONOMY))


def calibrated(path: Path, **options: bool) -> Calibration:
    chosen = CalibrationOptions(**options)  # type: ignore[arg-type]
    return calibration_from_frames(path, textured_frames(20), options=chosen, activations="uint8")


def test_each_method_is_measured_against_the_graph_without_it(float_model: Path) -> None:
    calibration, held_out = calibrated(float_model, weight_clipping=True), held_out_frames()
    reference, _ = logits_from_onnx(float_model, held_out.frames)

    def answers(model: bytes) -> npt.NDArray[np.float32]:
        return logits_from_onnx(model, held_out.frames)[0]

    rows = rows_of_methods(calibration, calibration.placement, reference, held_out, answers)
    found = {row.method: row.logit_db for row in rows}
    assert [*found] == ["all", "no bias correction", "no smoothing", "no weight clipping"]
    assert found["no smoothing"] < found["all"] - 3, "the network has LayerNorm outliers"
    text = html_from_calibration(calibration, calibration.report().model_copy(update={"methods": rows}))
    assert all(f"<td>{method}</td>" in text for method in found)
    bare = calibrated(float_model, bias_correction=False, smoothing=False)
    assert rows_of_methods(bare, bare.placement, reference, held_out, answers) == ()


def test_without_smoothing_is_what_a_calibration_without_it_finds(float_model: Path) -> None:
    without = calibrated(float_model).without_smoothing()
    plain = calibrated(float_model, smoothing=False)
    assert without.ranges == pytest.approx(plain.ranges)
    assert without.shifts.keys() == plain.shifts.keys()
    for name, shift in plain.shifts.items():
        np.testing.assert_allclose(without.shifts[name], shift, rtol=1e-3, atol=1e-4)


def test_clipped_weights_reach_graph_corrections_and_page(float_model: Path, tmp_path: Path) -> None:
    model = onnx.load(float_model)
    weight = next(t for t in model.graph.initializer if t.name == "b1_w")
    values = onnx.numpy_helper.to_array(weight)
    steps = np.abs(values).max(axis=(1, 2, 3), keepdims=True) / 127
    # All but the largest half-way between two levels: any smaller scale errs less.
    values = np.where(np.abs(values) < 127 * steps, (np.floor(values / steps) + 0.5) * steps, values)
    weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), weight.name))
    path = tmp_path / "between.onnx"
    onnx.save(model, path)
    clipped, plain = calibrated(path, weight_clipping=True), calibrated(path)
    stored = [
        {t.name: onnx.numpy_helper.to_array(t) for t in c.quantized().graph.initializer if t.name.endswith("w_scale")}
        for c in (clipped, plain)
    ]
    for (name, _), scales in clipped.weight_scales.items():
        np.testing.assert_array_equal(stored[0][f"{name}_scale"], scales)
    assert any((stored[0][name] < 0.99 * stored[1][name]).any() for name in stored[0])
    assert any(not np.array_equal(clipped.shifts[name], plain.shifts[name]) for name in plain.shifts)
    again = plain.with_weights(clipping=True)
    assert all(np.array_equal(again.shifts[name], clipped.shifts[name]) for name in clipped.shifts)
    assert "Weights clipped by squared error" in html_from_calibration(clipped, clipped.report())


def test_page_says_on_how_many_frames_a_range_was_seen_and_what_is_not_known(float_model: Path) -> None:
    calibration = calibration_from_frames(float_model, textured_frames(40), activations="uint8")
    report = calibration.report()
    brief = {point.activation for point in calibration.placement.cpu_sums}
    assert brief
    assert {name: seen.num_frames for name, seen in report.seen.items()} == {
        name: 16 if name in brief else 40 for name in report.ranges
    }
    assert {seen.counted_share for seen in report.seen.values()} == {1.0}
    text = html_from_calibration(calibration, report)
    assert '<td class="n">16</td><td class="n">100 %</td>' in text
    assert "not known" not in text
    blind = dict.fromkeys(calibration.observers, MovingAverage())
    text = html_from_calibration(dataclasses.replace(calibration, observers=blind), report)
    assert text.count("not known") == 3 * len(report.ranges)


def test_a_lossless_weight_is_exact(float_model: Path) -> None:
    model = onnx.load(float_model)
    weight = next(t for t in model.graph.initializer if t.name == "project_w")
    whole = np.sign(onnx.numpy_helper.to_array(weight)).astype(np.float32) * 127
    weight.CopyFrom(onnx.numpy_helper.from_array(whole, weight.name))
    path = float_model.with_name("whole.onnx")
    onnx.save(model, path)
    calibration = calibration_from_frames(path, textured_frames(4))
    text = html_from_calibration(calibration, calibration.report())
    assert '<td class="n">exact</td>' in text
    assert '<td class="n">0.0</td></tr>' not in text


def test_page_names_level_drops_flips_and_whose_milliseconds_for_tensorrt(float_model: Path) -> None:
    calibration, held_out = calibrated(float_model), held_out_frames()
    passed = placement_within_budget(
        lambda placement: calibration.quantized(placement, activations="int8"),
        calibration.placement.for_tensorrt(),
        scored(float_model, held_out),
        held_out,
        Budget(max_drop=100, min_quantized_share=0),
    )
    report = calibration.report().model_copy(update={"gate_tensorrt": passed.report})
    flip = Flip(
        name="only-tensorrt.tif",
        pixels=np.zeros((32, 32), np.uint8),
        truth=("a", "x"),
        before=("a", "x"),
        after=("b", "z"),
    )
    text = html_from_calibration(calibration, report, flips_tensorrt=[flip])
    assert "points of accuracy, level 2" in text
    assert "Changed decisions: int8 for TensorRT" in text
    assert "only-tensorrt.tif" in text
    assert "ONNX Runtime&#39;s CPU, not TensorRT" in text


def test_document_says_what_is_needed_to_make_it_again_and_old_ones_are_read(float_model: Path) -> None:
    options = CalibrationOptions(observer="mse")
    calibration = calibration_from_frames(float_model, textured_frames(20), options=options, activations="uint8")
    report = calibration.report()
    assert report.float_sha256 == hashlib.sha256(float_model.read_bytes()).hexdigest()
    assert report.activations == "uint8"
    for_tensorrt = calibration.ranges_for("int8", calibration.placement)
    assert for_tensorrt.keys() == set(calibration.placement.for_tensorrt().tensors)
    assert any(for_tensorrt[name] != report.ranges[name] for name in for_tensorrt)
    document = json.loads(report.model_dump_json())
    for new in ("float_sha256", "activations", "ranges_tensorrt", "seen", "methods"):
        del document[new]
    del document["method"]["weight_clipping"]
    old = CalibrationReport.model_validate_json(json.dumps(document))
    assert old.ranges == report.ranges
    assert "not known" in html_from_calibration(calibration, old)
