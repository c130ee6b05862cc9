"""``hffnet benchmark`` on a real bundle and real engines."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from hffnet.runtime.benchmark.footprint import footprint
from hffnet.runtime.benchmark.report import read_report
from hffnet.runtime.benchmark.run import BenchmarkOptions, benchmark_bundle
from hffnet.runtime.benchmark_command import benchmark
from hffnet.runtime.errors import ConfigError, DatasetError, EngineError, ExitCode, GateError
from tests.tiny import tiny_graph, write_tiny_bundle


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of each class of the tiny tree."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for name in ("mechanical/dimples", "mechanical/fatigue", "thermal/spalling"):
        (root / name).mkdir(parents=True)
        for n in range(2):
            cv2.imwrite(str(root / name / f"{n}.png"), rng.integers(0, 256, size=(128, 128), dtype=np.uint8))
    return root


def ran(*arguments: object) -> Any:
    done = CliRunner().invoke(benchmark, [str(a) for a in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_run_is_written_and_can_be_compared(bundle_path: Path, labelled: Path, tmp_path: Path) -> None:
    files = ("--save", tmp_path / "a.json", "--html", tmp_path / "a.html", "--json")
    rows = ("--scenario", "single-stream", "--scenario", "end-to-end", "--batch", "1", "--batch", "2")
    data = ("--frames", labelled, "--data", labelled, "--engine", "onnxruntime", "--threads", "1")
    done = ran(bundle_path, *rows, *data, *files, "--seconds", "0.1", "--no-memory", "--layers")
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["partial"]) == (1, None)
    assert [(row["scenario"], row["batch"]) for row in document["rows"]] == [
        ("single-stream", 1),
        ("single-stream", 2),
        ("end-to-end", 1),
    ]
    for row in document["rows"]:
        assert row["status"] == "ok"
        assert row["accuracy"]["num_flips"] == 0
        assert row["accuracy"]["metrics"]["num_frames"] == 6
        assert row["samples"]["latency_ms"]["num"] == row["latency"]["num_samples"]
    assert set(document["rows"][2]["stages"]) == {"read", "gates", "preprocess", "infer", "decode", "record"}
    assert read_report(tmp_path / "a.json").model_dump(mode="json") == document
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    compared = json.loads(ran("compare", tmp_path / "a.json", tmp_path / "a.json", "--json").stdout)
    assert {row["ratio"] for row in compared["rows"]} == {1.0}


def test_an_interrupted_run_is_kept_and_marked(bundle_path: Path) -> None:
    stop = Event()

    def stop_in_the_run(_what: str, share: float) -> None:
        if share > 0:
            stop.set()

    options = BenchmarkOptions(engines=("onnxruntime",), threads=(1,), batches=(1, 2), seconds=3600.0, block_s=0.05)
    report = benchmark_bundle(bundle_path, options, stop=stop, on_step=stop_in_the_run)
    assert report.partial is not None
    assert [row.status for row in report.rows] == ["ok", "skipped"]
    assert report.rows[1].reason == "the run was stopped before its turn"


def test_a_slowed_run_fails_the_comparison(tmp_path: Path) -> None:
    from hffnet.runtime.benchmark.report import write_report
    from tests.runtime.benchmark.drafts import draft_report
    from tests.runtime.benchmark.test_report import ORT, turns

    for name, median_ms in (("a", 10.0), ("b", 13.0)):
        write_report(draft_report({ORT: turns(median_ms, seed=1)}), tmp_path / f"{name}.json")
    arguments = ("compare", tmp_path / "a.json", tmp_path / "b.json", "--fail-above")
    with pytest.raises(GateError, match=r"onnxruntime fp32 b1 by 1\.30"):
        ran(*arguments, "1.2")
    assert "slower" in ran(*arguments, "1.4").stdout


def test_ctrl_c_leaves_page_and_document_marked_partial(bundle_path: Path, tmp_path: Path) -> None:
    """The signal comes once something was measured."""
    files = ("--save", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html"))
    words = [str(bundle_path), "--engine", "onnxruntime", "--seconds", "3600", "--no-memory", *files]
    program = f"from hffnet.runtime.benchmark_command import benchmark; benchmark({words!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "measuring" in line)
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=60)[1]
    assert process.returncode == ExitCode.INTERRUPTED
    assert "partial: the run was interrupted" in said
    report = read_report(tmp_path / "a.json")
    assert report.partial is not None
    assert "partial: the run was interrupted" in (tmp_path / "a.html").read_text()


def test_a_bundle_that_fails_its_self_test_is_not_measured(tmp_path: Path) -> None:
    model = tiny_graph(np.random.default_rng(0).normal(size=(1, 5)) * 4)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[2] *= -1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "weight"))
    bundle = write_tiny_bundle(tmp_path / "corrupted.hffnet", model=model)
    with pytest.raises(EngineError, match=r"no engine could be measured: onnxruntime: .*test vectors with an error of"):
        ran(bundle, "--engine", "onnxruntime", "--seconds", "0.1", "--no-memory", "--save", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_labels_that_are_missing_or_unknown(bundle_path: Path, labelled: Path, tmp_path: Path) -> None:
    unlabelled, stranger = tmp_path / "unlabelled", tmp_path / "stranger"
    shutil.copytree(labelled / "mechanical/dimples", unlabelled)
    shutil.copytree(labelled / "mechanical/dimples", stranger / "mechanical/rust")
    for data, sentence in ((unlabelled, "lies in no class folder"), (stranger, "which the taxonomy has not")):
        with pytest.raises(DatasetError, match=sentence):
            ran(bundle_path, "--engine", "onnxruntime", "--data", data, "--seconds", "0.1", "--no-memory")


def test_too_short_a_run_for_a_percentile(bundle_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    options = ("--engine", "onnxruntime", "--seconds", "0.1", "--no-memory", "--percentile", "99.9", "--save", path)
    with pytest.raises(
        GateError, match=r"a row has too few samples for p99\.9, which takes 6636: .* run with --seconds"
    ):
        ran(bundle_path, *options)
    assert read_report(path).rows[0].latency is not None


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        pytest.param(("--scenario", "fast"), ConfigError, "--scenario fast is not known", id="scenario"),
        pytest.param(("--engine", "cuda"), ConfigError, "--engine cuda is not known", id="engine"),
        pytest.param(("--scenario", "end-to-end"), ConfigError, "--frames", id="no-frames"),
        pytest.param(("--frames", "{t}"), ConfigError, "0 image files", id="empty-frames"),
        pytest.param(("--data", "{t}/absent"), DatasetError, "does not exist", id="no-data"),
        pytest.param(("--save", "{t}/absent/a.json"), ConfigError, "is not a folder", id="no-folder"),
        pytest.param(("--precision", "int8"), EngineError, "no engine could be measured", id="no-graph"),
    ],
)
def test_bad_input(
    bundle_path: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        ran(bundle_path, *(argument.format(t=tmp_path) for argument in arguments), "--seconds", "0.1", "--no-memory")
    assert not list(tmp_path.iterdir())


def test_the_footprint_of_an_engine_in_its_own_process(bundle_path: Path, tmp_path: Path) -> None:
    found = footprint(bundle_path, "onnxruntime", "fp32", batch=2, threads=1)
    assert 20 < found.peak_rss_mb < 2000
    assert found.open_ms > 0
    with pytest.raises(EngineError, match="in a process of its own"):
        footprint(tmp_path / "absent.hffnet", "onnxruntime", "fp32", batch=1, threads=1)
