"""The main job with the real commands, on drawn frames and the nano network: thin, but nothing is left out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.cli import main
from hffnet.train.synthetic import write_dataset

pytestmark = pytest.mark.slow

KEPT = ("mechanical/fatigue", "thermal/hot_corrosion")
"""Two classes that a few epochs tell apart, so that a score can fall."""


class Ran:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set, a checkpoint of a few epochs, and a bundle with int8: enough to follow, not to be good."""
    root = tmp_path_factory.mktemp("job")
    write_dataset(root / "drawn", frames_per_class=16, seed=0)
    write_dataset(root / "unseen", frames_per_class=3, seed=1)
    for leaf in KEPT:
        shutil.move(root / "drawn" / leaf, root / "data" / leaf)
    for frames in (root / "unseen").glob("*/*"):
        if frames.relative_to(root / "unseen").as_posix() not in KEPT:
            shutil.rmtree(frames)
    run("train", root / "data", "-o", root / "checkpoint", "--recipe", "nano", "--epochs", 12, "--json")
    options = ("--int8", "--calibration-data", root / "data", "--max-drop", 20)
    run("export", *options, root / "checkpoint", "-o", root / "model.hffnet")
    return root


def run(*arguments: object) -> None:
    """A command that must succeed."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """A command and all it said."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return Ran(int(ended.value.code or 0), said.out, said.err)


def test_inspect_tells_the_true_precision(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = ran(capsys, "inspect", folder / "model.hffnet", "--json").document
    int8 = document["graphs"]["graphs/int8-cpu.onnx"]
    assert int8["precision"] == "int8"
    assert int8["parameters"]["int8"] > 0.9 * sum(int8["parameters"].values())
    assert set(document["manifest"]["metrics"]) == {"fp32", "int8"}
    assert "trained" in ran(capsys, "inspect", folder / "model.hffnet").out


def test_checkpoint_and_bundle_decide_alike(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder / "data"
    checkpoint = ran(capsys, "evaluate", folder / "checkpoint", data, "--json").document
    options = ("--split", "test", "--checkpoint", folder / "checkpoint", "--precision", "fp32", "--json")
    bundle = ran(capsys, "evaluate", folder / "model.hffnet", data, *options).document
    assert checkpoint["metrics"] == bundle["metrics"]
    assert [frame["path"] for frame in checkpoint["frames"]] == [frame["path"] for frame in bundle["frames"]]


def test_a_target_accuracy_is_stored_reported_and_used(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    careful, data = tmp_path / "careful.hffnet", folder / "data"
    options = ("--data", data, "-o", careful, "--json")
    few = ran(capsys, "export", folder / "checkpoint", *options, "--target-accuracy", 0.99)
    assert (few.code, careful.exists()) == (3, False)
    assert "cannot promise a target accuracy of 0.99; at least 99 are needed" in few.err
    assert ran(capsys, "export", folder / "checkpoint", *options, "--target-accuracy", 95).code == 2
    run("export", folder / "checkpoint", *options, "--target-accuracy", 0.6)
    report = json.loads(open_bundle(careful).member("trust.json"))
    assert report["target_accuracy"] == 0.6
    split = ("--split", "test", "--checkpoint", folder / "checkpoint", "--engine", "onnxruntime", "--json")
    found = ran(capsys, "evaluate", careful, data, *split).document["assessment"]
    assert found["min_confidence"] == report["min_confidence"]
    assert found["operating_point"] == pytest.approx(report["precisions"]["fp32"]["realised"])


def test_a_watched_folder_gives_each_frame_once_as_classify_says(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    for file in (folder / "unseen").rglob("*.tif"):
        shutil.copy(file, watched / f"{file.parent.name}.{file.name}")
    (watched / "broken.tif").write_bytes(b"II*\0 not a picture")
    records, csv = tmp_path / "records.sqlite", tmp_path / "decisions.csv"
    options = ("--records", records, "--csv", csv, "--once", "--json")
    first = ran(capsys, "run", folder / "model.hffnet", f"dir:{watched}?patience_s=0.2", *options)
    assert first.code == 0, first.err
    assert first.document["counts"] == {"classified": 6, "failed": 1}
    again = ran(capsys, "run", folder / "model.hffnet", f"dir:{watched}?patience_s=0.2", *options)
    assert again.document["counts"] == {}
    files = sorted(path for path in watched.iterdir() if path.name != "broken.tif")
    singly = ran(capsys, "classify", folder / "model.hffnet", *files, "--json").document["results"]
    exported = tmp_path / "records.jsonl"
    assert ran(capsys, "records", "verify", records).code == 0
    assert ran(capsys, "records", "export", records, "--jsonl", exported).code == 0
    exported_lines = map(json.loads, exported.read_text().splitlines())
    recorded = {line["name"]: line for line in exported_lines if line["kind"] == "result"}
    assert len(recorded) == 7
    for result in singly:
        assert recorded[Path(result["name"]).name]["class_path"] == result["class_path"]
    assert len(csv.read_text().splitlines()) == 8


def test_the_gate_writes_nothing_when_it_cannot_be_met(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The head always stays float, so all of the work cannot be quantized: a budget no placement can keep."""
    options = ("--int8", "--calibration-data", folder / "data", "--min-quantized-share", 1)
    done = ran(capsys, "export", folder / "checkpoint", *options, "-o", tmp_path / "bad.hffnet")
    assert done.code == 1, done.err
    assert "at least 100.0% is asked for, so no int8 graph was written" in done.err
    assert not list(tmp_path.iterdir())


def test_half_precision_and_int8_for_tensorrt_stand_beside_the_cpu_graphs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--int8", "--fp16", "--calibration-data", folder / "data", "--max-drop", 100, "--num-frames", 12)
    bundle = tmp_path / "all.hffnet"
    assert ran(capsys, "export", folder / "checkpoint", *options, "-o", bundle).code == 0
    document = ran(capsys, "inspect", bundle, "--json").document
    kinds = {name: graph["precision"] for name, graph in document["graphs"].items()}
    assert kinds == {
        "graphs/fp32-cpu.onnx": "fp32",
        "graphs/fp16-tensorrt.onnx": "fp16",
        "graphs/int8-cpu.onnx": "int8",
        "graphs/int8-tensorrt.onnx": "int8",
    }
    assert document["graphs"]["graphs/fp16-tensorrt.onnx"]["macs"].keys() == {"float16"}
    assert document["graphs"]["graphs/int8-tensorrt.onnx"]["quantized_share"] == pytest.approx(
        0.8990, abs=1e-3
    )  # the convolution that reads the picture and TensorRT's shortcuts stay float
    assert set(document["manifest"]["metrics"]) == {"fp32", "fp16", "int8"}


def test_benchmark_measures_every_engine_and_precision(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--frames", folder / "unseen", "--seconds", 0.2, "--no-memory", "--json")
    document = ran(capsys, "benchmark", folder / "model.hffnet", *options).document
    journeys = [row for row in document["rows"] if row["scenario"] == "end-to-end" and "tensorrt" not in row["engine"]]
    assert {(row["engine"], row["precision"]) for row in journeys} == {
        (engine, precision) for engine in ("openvino", "onnxruntime") for precision in ("fp32", "int8")
    }
    for row in journeys:
        assert row["status"] == "ok", row["reason"]
        assert set(row["stages"]) == {"read", "gates", "preprocess", "infer", "decode", "record"}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        pytest.param(("train", "{t}/absent", "-o", "{t}/c"), 3, "does not exist", id="no-data"),
        pytest.param(("train", "{t}/empty", "-o", "{t}/c"), 3, "no labelled frame", id="empty-data"),
        pytest.param(("train", "{t}/one", "-o", "{t}/c"), 3, "one class", id="one-class"),
        pytest.param(("train", "{d}", "-o", "{t}/c", "--recipe", "giant"), 2, "no recipe 'giant'", id="recipe"),
        pytest.param(
            ("export", "{f}/checkpoint", "-o", "{t}/x.onnx", "--data", "{d}"), 2, "end in .hffnet", id="ending"
        ),
        pytest.param(
            ("export", "{t}", "-o", "{t}/x.hffnet", "--data", "{d}"), 3, "has no model.safetensors", id="no-ckpt"
        ),
        pytest.param(("classify", "{t}/absent.hffnet", "x.tif"), 3, "cannot be read", id="no-bundle"),
        pytest.param(("classify", "{f}/model.hffnet", "{t}/absent.tif"), 3, "absent.tif", id="no-frame"),
        pytest.param(("classify", "{f}/model.hffnet"), 2, "See hffnet classify --help", id="no-argument"),
        pytest.param(("inspect", "{f}/model.hffnet", "--nonsense"), 2, "--nonsense", id="unknown-option"),
        pytest.param(
            ("classify", "{f}/model.hffnet", "x.tif", "--precision", "fp16"), 3, "--precision", id="precision"
        ),
        pytest.param(("run", "{f}/model.hffnet", "{t}/absent"), 4, "absent", id="no-source"),
        pytest.param(("evaluate", "{f}/model.hffnet", "{d}", "--split", "test"), 2, "--checkpoint", id="whose-split"),
    ],
)
def test_bad_input_is_a_sentence_and_a_code(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one/class").mkdir(parents=True)
    shutil.copytree(folder / "data/mechanical/fatigue", tmp_path / "one/class/fatigue")
    before = set(tmp_path.rglob("*"))
    filled = [word.format(t=tmp_path, d=folder / "data", f=folder) for word in arguments]
    done = ran(capsys, *filled)
    assert (done.code, sentence in done.err) == (code, True), done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert set(tmp_path.rglob("*")) == before
