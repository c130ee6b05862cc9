"""int8 through export: an interrupted one goes on, both graphs come through the gate, nothing is left behind."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import onnx
import pytest
from safetensors.torch import load_file, save_file

from hffnet.calibration.gate import Budget
from hffnet.calibration.progress import Progress
from hffnet.calibration.report import CalibrationReport, FramesReport
from hffnet.export.bundle import ExportOptions, bundle_from_checkpoint
from hffnet.runtime.cli import main
from hffnet.runtime.dataset import Dataset
from hffnet.runtime.errors import GateError
from hffnet.train.checkpoint import Checkpoint, open_checkpoint


def test_an_interrupted_export_goes_on_after_the_frames_it_has_seen(
    checkpoint: Checkpoint, drawn: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Hardly trained, so its decisions hang on little: what is tested is the way, not the score.
    options = ExportOptions(int8=True, fp16=True, budget=Budget(max_drop=100.0), num_frames=20)
    out, steps = tmp_path / "model.hffnet", list[str]()

    def interrupt(step: str) -> None:
        if step.startswith("int8 for cpu: measuring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundle_from_checkpoint(checkpoint, out, drawn, options, say=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["model.calibration.part.npz"]
    with caplog.at_level(logging.INFO):
        bundle_from_checkpoint(checkpoint, out, drawn, options, say=steps.append)
    assert "going on after 18 frames" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["model.hffnet"]
    assert [step for step in steps if step.startswith("int8 for tensorrt")]
    with ZipFile(out) as archive:
        report = CalibrationReport.model_validate(json.loads(archive.read("calibration.json")), strict=False)
        cpu, tensorrt = (
            onnx.load_model_from_string(archive.read(f"graphs/int8-{f}.onnx")) for f in ("cpu", "tensorrt")
        )
    assert report.gate is not None
    assert report.gate_tensorrt is not None
    assert report.ranges_tensorrt
    assert [row.method for row in report.methods][:2] == ["all", "no bias correction"]
    assert report.seen.keys() == report.ranges.keys()
    quantizers = [sum(node.op_type == "QuantizeLinear" for node in one.graph.node) for one in (cpu, tensorrt)]
    assert quantizers[0] - quantizers[1] == len(report.placement.cpu_sums) > 0


def test_steps_over_frames_are_watched(checkpoint: Checkpoint, drawn: Dataset, tmp_path: Path) -> None:
    options = ExportOptions(int8=True, budget=Budget(max_drop=100.0), num_frames=20)
    told, done = dict[str, int](), dict[str, int]()

    def watch(name: str, total: int) -> Progress:
        told[name] = total
        return lambda number: done.update({name: number})

    bundle_from_checkpoint(checkpoint, tmp_path / "model.hffnet", drawn, options, watch=watch)
    assert list(told)[1:] == [
        "reading 18 train frames", "looking at 16 train frames first", "calibrating with 18 train frames",
    ]  # fmt: skip
    assert next(iter(told)) == "reading held-out frames"
    assert done == told


def test_a_budget_that_cannot_be_met_leaves_nothing_behind(
    checkpoint: Checkpoint, drawn: Dataset, tmp_path: Path
) -> None:
    options = ExportOptions(int8=True, budget=Budget(max_drop=100.0, min_quantized_share=1.0), num_frames=8)
    with pytest.raises(GateError, match="no int8 graph was written"):
        bundle_from_checkpoint(checkpoint, tmp_path / "model.hffnet", drawn, options)
    assert not list(tmp_path.iterdir())


def read_calibration(path: Path) -> dict[str, Any]:
    with ZipFile(path) as archive:
        found: dict[str, Any] = json.loads(archive.read("calibration.json"))
    return found


def test_fp16_alone_keeps_its_frames_peaks_and_cost(checkpoint: Checkpoint, drawn: Dataset, tmp_path: Path) -> None:
    options = ExportOptions(fp16=True, budget=Budget(max_drop=100.0), num_frames=8)
    bundle_from_checkpoint(checkpoint, tmp_path / "model.hffnet", drawn, options)
    report = FramesReport.model_validate(read_calibration(tmp_path / "model.hffnet"), strict=False)
    assert len(report.frames) == 8
    assert report.fp16 is not None
    assert report.fp16.left_float == ()
    assert report.fp16.peaks[0].magnitude >= report.fp16.peaks[-1].magnitude > 0
    assert report.fp16.gate.accepted is not None
    assert report.fp16.gate.accepted.quantized_share == 1.0


@pytest.fixture
def peaking(checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    """Three channels of the residual stream and one hidden channel near the end of float16; norms gain by smoothing."""
    folder = tmp_path / "peaking"
    shutil.copytree(checkpoint.folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["pos_embedding"][:3] += 3.0e4
    layer, factor = "transformer.0.feed_forward", 2.0e5
    tensors[f"{layer}.conv1.weight"][0] *= factor
    tensors[f"{layer}.conv2.weight"][:, 0] /= factor
    save_file(tensors, folder / "model.safetensors")
    return open_checkpoint(folder)


def test_fp16_and_int8_of_a_network_that_nears_the_end_of_float16(
    peaking: Checkpoint, drawn: Dataset, tmp_path: Path
) -> None:
    options = ExportOptions(int8=True, fp16=True, budget=Budget(max_drop=100.0), num_frames=8)
    bundle = bundle_from_checkpoint(peaking, tmp_path / "model.hffnet", drawn, options)
    report = CalibrationReport.model_validate(read_calibration(bundle.path), strict=False)
    assert report.smoothed
    assert report.fp16 is not None
    kept = {entry.tensor: entry.reason for entry in report.fp16.left_float}
    assert {"transformer.0/Add", "transformer.0.feed_forward.fc1/MatMul"} <= kept.keys()
    assert all("on the calibration frames" in reason for reason in kept.values())
    share = report.fp16.gate.accepted.quantized_share if report.fp16.gate.accepted else None
    assert share is not None
    assert 0.5 < share < 1
    assert report.gate_tensorrt is not None
    shares = [facts.macs.quantized_share for name, facts in bundle.facts.items() if "int8" in name]
    assert shares[0] == shares[1]  # int8 stands in the float32 parts too


def code_of(command: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


def test_a_refusal_exits_with_1_and_writes_the_page_but_no_bundle(
    checkpoint: Checkpoint, drawn: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ranges that clip nearly everything: entropy of one percent of the values."""
    page = tmp_path / "int8.html"
    command = ["export", str(checkpoint.folder), "--data", str(drawn.root), "--int8", "--num-frames", "4",
               "--observer", "percentile", "--percentile", "1", "--max-drop", "0", "--min-quantized-share", "0.85",
               "-o", str(tmp_path / "model.hffnet")]  # fmt: skip
    assert code_of(command) == 1
    assert "no int8 graph was written" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
    assert code_of([*command, "--report", str(page)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["int8.html"]
    text = page.read_text()
    assert "Refused: int8 costs" in text
    assert "What each group costs alone" in text
    assert text.count("<circle") >= 2 * 2  # at least two measured graphs, in both plots


def test_too_little_float16_exits_with_1(
    peaking: Checkpoint, drawn: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(peaking.folder), "--data", str(drawn.root), "--fp16", "--num-frames", "4",
               "--max-drop", "100", "--min-half-share", "1", "-o", str(tmp_path / "model.hffnet")]  # fmt: skip
    assert code_of(command) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "of the work is in float16 before anything is restored to float; at least 100.0% is asked for" in said
    assert not (tmp_path / "model.hffnet").exists()
