"""int8 through export: an interrupted one goes on, both graphs come through the gate, nothing is left behind."""

import json
import logging
from pathlib import Path
from zipfile import ZipFile

import onnx
import pytest

from hffnet.calibration.gate import Budget
from hffnet.calibration.report import CalibrationReport
from hffnet.export.bundle import ExportOptions, bundle_from_checkpoint
from hffnet.runtime.dataset import Dataset, open_dataset
from hffnet.runtime.errors import GateError
from hffnet.runtime.split import split_dataset
from hffnet.train.checkpoint import Checkpoint, open_checkpoint
from hffnet.train.loop import train
from hffnet.train.plan import Plan
from hffnet.train.recipes import altered, recipe_by_name
from hffnet.train.synthetic import write_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, frames_per_class=6, seed=0)
    return split_dataset(open_dataset(folder), 0, (0.5, 0.25, 0.25))


@pytest.fixture(scope="module")
def checkpoint(drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("trained")
    recipe = altered(recipe_by_name("nano", drawn.taxonomy.num_classes), epochs=1)
    return open_checkpoint(train(Plan(dataset=drawn, recipe=recipe), folder / "checkpoint", threads=1))


def test_an_interrupted_export_goes_on_after_the_frames_it_has_seen(
    checkpoint: Checkpoint, drawn: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Hardly trained, so its decisions hang on little: what is tested is the way, not the score.
    options = ExportOptions(int8=True, fp16=True, budget=Budget(max_drop=100.0), num_frames=8)
    out, steps = tmp_path / "model.hffnet", list[str]()

    def interrupt(step: str) -> None:
        if step.startswith("int8 for cpu: measuring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundle_from_checkpoint(checkpoint, out, drawn, options, say=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["model.calibration.part.npz"]
    with caplog.at_level(logging.INFO):
        bundle_from_checkpoint(checkpoint, out, drawn, options, say=steps.append)
    assert "going on after 8 frames" in caplog.text
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


def test_a_budget_that_cannot_be_met_leaves_nothing_behind(
    checkpoint: Checkpoint, drawn: Dataset, tmp_path: Path
) -> None:
    options = ExportOptions(int8=True, budget=Budget(max_drop=100.0, min_quantized_share=1.0), num_frames=8)
    with pytest.raises(GateError, match="no int8 graph was written"):
        bundle_from_checkpoint(checkpoint, tmp_path / "model.hffnet", drawn, options)
    assert not list(tmp_path.iterdir())
