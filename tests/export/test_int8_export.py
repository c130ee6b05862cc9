"""int8 through export: an interrupted one goes on, both graphs come through the gate, nothing is left behind."""

import json
import logging
from pathlib import Path
from zipfile import ZipFile

import onnx
import pytest

from hffnet.calibration.gate import Budget
from hffnet.calibration.progress import Progress
from hffnet.calibration.report import CalibrationReport
from hffnet.export.bundle import ExportOptions, bundle_from_checkpoint
from hffnet.runtime.dataset import Dataset
from hffnet.runtime.errors import GateError
from hffnet.train.checkpoint import Checkpoint


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
