"""``hffnet calibrate``: outputs, interruptions, memory, damaged graphs, what it says while it runs."""

import errno
import hashlib
import json
import logging
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import ModelProto

from hffnet.calibration import int8
from hffnet.calibration.frames import check_magnification, choose_frames, load_frames, origins_from_pixels
from hffnet.calibration.int8 import CalibrationOptions, calibration_from_frames
from hffnet.calibration.observers import MinMax, Observer, observer_from_name
from hffnet.calibration.progress import watch_through
from hffnet.calibration.report import CalibrationReport
from hffnet.calibration.resume import save_progress
from hffnet.calibration.statistics import Resume, ranges_from_frames
from hffnet.runtime.cli import main
from hffnet.runtime.dataset import Dataset, open_dataset
from hffnet.runtime.errors import ConfigError, DatasetError, FrameError
from hffnet.runtime.preprocess import PreprocessSpec
from tests.calibration.graphs import small_network, textured_frames


@pytest.fixture
def float_model(tmp_path: Path) -> Path:
    path = tmp_path / "float.onnx"
    onnx.save(small_network(), path)
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight train and four val frames of two classes, and four that a CSV without them does not name."""
    root = tmp_path_factory.mktemp("data")
    for number, pixels in enumerate(textured_frames(12, 48)):
        cv2.imwrite(str(root / f"{number}.png"), pixels)
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(12)]
    split = [f"{row},{'train' if number < 8 else 'val'}" for number, row in enumerate(rows)]
    (root / "split.csv").write_text("\n".join(["path,level1,split", *split]))
    (root / "plain.csv").write_text("\n".join(["path,level1", *rows]))
    return root


def code_of(*command: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in command])
    return ended.value.code


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-o", "gone/o.onnx"], "gone of the output o.onnx does not exist"),
        (["-o", "folder"], "folder is a folder; name a file"),
        (["-o", "float.onnx"], "is the float model itself"),
        (["-o", "o.onnx", "--html", "gone/o.html"], "gone of the output o.html does not exist"),
        (["-o", "o.onnx", "--html", "o.onnx"], "two outputs are to be written to"),
        (["-o", "o.onnx", "--html", "o.calibration.json"], "two outputs are to be written to"),
        (["-o", "o.onnx", "--no-smoothing", "--tensorrt-cache", "gone/c"], "gone of the output c does not exist"),
    ],
    ids=["missing", "folder", "model", "page", "twice", "report", "cache"],
)
def test_outputs_are_looked_at_before_the_data(
    float_model: Path, tmp_path: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    placed = [option if option.startswith("-") else tmp_path / option for option in options]
    assert code_of("calibrate", float_model, "--data", tmp_path / "no-data", *placed) == 2
    assert sentence in said(capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "float.onnx"}


def test_graph_and_report_belong_together_and_tell_what_was_measured(
    float_model: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.onnx"
    assert code_of("calibrate", float_model, "--data", frames / "split.csv", "-o", out) == 0
    told = capsys.readouterr()
    report = CalibrationReport.model_validate_json((tmp_path / "o.calibration.json").read_bytes())
    assert report.int8_sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert report.measured is not None
    assert report.measured.num_frames == 4
    assert [row.method for row in report.methods][:2] == ["all", "no bias correction"]
    assert report.methods[0].logit_db == pytest.approx(report.measured.logit_db)
    assert report.measured.logit_db == pytest.approx(-20 * np.log10(report.measured.logit_error))
    assert f"on 4 held-out frames {report.measured.num_flips} answers change" in told.out
    assert f"{report.measured.logit_db:.1f} dB" in told.out
    for step in ("reading 8 train frames", "looking at 8 train frames first", "calibrating with 8 train frames"):
        assert step in told.err
    assert code_of("calibrate", float_model, "--data", frames / "plain.csv", "-o", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["measured"] is None
    assert code_of("calibrate", float_model, "--data", frames / "plain.csv", "-o", out) == 0
    assert "was not measured: no frame of --data is marked val or test" in capsys.readouterr().out


def test_an_interruption_while_writing_leaves_no_graph_without_its_report(
    float_model: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, page = tmp_path / "o.onnx", tmp_path / "o.html"
    arguments = ["calibrate", float_model, "--data", frames / "plain.csv", "-o", out, "--html", page]
    renamed: list[str] = []
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target.suffix in {".onnx", ".json", ".html"}:
            renamed.append(target.name)
            if len(renamed) == 2:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        assert code_of(*arguments) == 5
    assert renamed == ["o.html", "o.calibration.json"]
    assert {path.name for path in tmp_path.iterdir()} == {"float.onnx", "o.html"}
    assert code_of(*arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"float.onnx", "o.html", "o.calibration.json", "o.onnx"}


def test_low_and_high_are_those_of_training(float_model: Path, frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    given = ["--low", "0.2", "--high", "0.8", "--num-frames", "8"]
    assert code_of("calibrate", float_model, "--data", frames / "plain.csv", "-o", out, *given) == 0
    report = CalibrationReport.model_validate_json((tmp_path / "o.calibration.json").read_bytes())
    dataset = open_dataset(frames / "plain.csv")
    pixels = load_frames(choose_frames(dataset, 8), dataset, PreprocessSpec(size=32, low=0.2, high=0.8)).pixels
    assert report.ranges == dict(calibration_from_frames(float_model, pixels).ranges)
    plain = load_frames(choose_frames(dataset, 8), dataset, PreprocessSpec(size=32)).pixels
    assert report.ranges != dict(calibration_from_frames(float_model, plain).ranges)


def cut_input(model: ModelProto) -> None:
    del next(node for node in model.graph.node if node.op_type == "MatMul").input[1:]


def cut_output(model: ModelProto) -> None:
    del next(node for node in model.graph.node if node.op_type == "Relu").output[:]


def flatten_weight(model: ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "a1_w")
    num = int(np.prod(tensor.dims))
    del tensor.dims[:]
    tensor.dims.append(num)


def unknown_operator(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Gelu").op_type = "Golu"


def make_half(model: ModelProto) -> None:
    model.CopyFrom(small_network(dtype=np.float16))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_input, "is malformed at 'query' (MatMul): it has 1 inputs, expected 2"),
        (cut_output, "(Relu): it has 0 outputs, expected 1"),
        (flatten_weight, "is malformed at 'a1' (Conv): its weight 'a1_w' has 1 axes, expected 3"),
        (unknown_operator, "(Golu): opset 20 has no such operator"),
        (make_half, "is float16, and"),
    ],
    ids=["input", "output", "weight", "operator", "half"],
)
def test_graphs_that_cannot_be_calibrated_are_described(
    float_model: Path,
    frames: Path,
    tmp_path: Path,
    damage: Callable[[ModelProto], None],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = onnx.load(float_model)
    damage(model)
    onnx.save(model, float_model)
    assert code_of("calibrate", float_model, "--data", frames / "plain.csv", "-o", tmp_path / "o.onnx") == 3
    assert sentence in said(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["float.onnx"]


def test_memory_does_not_grow_with_the_frames(tmp_path: Path, float_model: Path) -> None:
    size, peaks = 32, []
    root = tmp_path / "data"
    root.mkdir()
    rng, rows = np.random.default_rng(0), ["path,level1"]
    for number in range(512):
        cv2.imwrite(str(root / f"{number}.bmp"), rng.integers(0, 256, (size, size), np.uint8))
        rows.append(f"{number}.bmp,{'ab'[number % 2]}")
    (root / "all.csv").write_text("\n".join(rows))
    dataset = open_dataset(root / "all.csv")
    spec = PreprocessSpec(size=128)
    for num in (8, 64, 512):  # the first one warms up
        folder = tmp_path / str(num)
        folder.mkdir()
        chosen = dataset.frames[:num]
        tracemalloc.start()
        loaded = load_frames(chosen, dataset, spec, folder=folder)
        assert loaded.pixels.shape == (num, 128, 128)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The pixels of 448 frames more are 7.3 MB; their names and hashes are not a tenth of it.
    assert peaks[2] - peaks[1] < 600_000
    few, many = (
        _peak_of_pass(float_model, np.load(tmp_path / "512" / "calibration-frames.npy", mmap_mode="r")[:num, :32, :32])
        for num in (64, 512)
    )
    assert many - few < 300_000


def _peak_of_pass(model: Path, pixels: np.ndarray) -> int:
    tracemalloc.start()
    ranges_from_frames(model, pixels, {"n1": MinMax()}, num_threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_frame_that_changed_is_not_calibrated_with(frames: Path, tmp_path: Path) -> None:
    shutil.copytree(frames, tmp_path / "data")
    dataset = open_dataset(tmp_path / "data" / "plain.csv")
    (tmp_path / "data" / "3.png").write_bytes((tmp_path / "data" / "4.png").read_bytes())
    with pytest.raises(FrameError, match=r"3\.png has changed since the data set was opened"):
        load_frames(dataset.frames, dataset, PreprocessSpec(size=32))


@pytest.mark.parametrize("change", ["nothing", "pixels", "version"])
def test_progress_is_of_the_same_pixels_and_program(
    float_model: Path, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, keep = textured_frames(18), tmp_path / "keep.npz"
    dataset_origins = origins_from_pixels(pixels)
    calibration_from_frames(float_model, pixels, origins=dataset_origins, keep=keep)
    if change == "pixels":
        pixels = textured_frames(18, seed=1)
    if change == "version":
        monkeypatch.setattr(int8, "tool_versions", lambda: {"hffnet": "99"})
    with caplog.at_level(logging.INFO):
        calibration_from_frames(float_model, pixels, origins=dataset_origins, keep=keep)
    assert ("going on after 18 frames" in caplog.text) == (change == "nothing")


def test_a_restore_that_fails_halfway_changes_nothing(
    float_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first observer's state is sound and of other frames, the second's is broken."""

    def fresh() -> dict[str, Observer]:
        return {name: observer_from_name("cubed-error") for name in ("n1", "pooled")}

    pixels, keep, seen = textured_frames(6), tmp_path / "keep.npz", fresh()
    expected = ranges_from_frames(float_model, pixels, fresh())
    ranges_from_frames(float_model, 255 - textured_frames(6, seed=5), seen)

    class Broken(MinMax):
        def state(self) -> dict[str, np.ndarray]:
            return {"unknown": np.zeros(3)}

    save_progress(keep, "this", 4, {"n1": seen["n1"], "pooled": Broken()})
    found = ranges_from_frames(float_model, pixels, fresh(), resume=Resume(path=keep, identity="this"))
    assert "calibrating anew" in caplog.text
    assert found == expected


def test_frames_of_another_magnification_are_refused_from_half_on(caplog: pytest.LogCaptureFixture) -> None:
    check_magnification([0.1, 0.2, 5.0, 5.0, None], [0.1, 0.3])
    assert "2 of 4 calibration frames are more than a factor of two away" in caplog.text
    with pytest.raises(DatasetError, match="3 of 4 calibration frames are more than a factor of two away"):
        check_magnification([0.1, 5.0, 5.0, 5.0, None], [0.1, 0.3])


def test_steps_are_told_now_and_then_with_the_time_that_is_left() -> None:
    now, lines = 0.0, list[str]()
    watch = watch_through(lines.append, 5.0, lambda: now)
    progress = watch("calibrating", 100)
    progress(40)  # what an interrupted run had done: no measure of speed
    for done in range(41, 61):
        now += 1.0
        progress(done)
    assert lines == [
        "calibrating",
        "calibrating: 45 of 100, 55 s left",
        "calibrating: 50 of 100, 50 s left",
        "calibrating: 55 of 100, 45 s left",
        "calibrating: 60 of 100, 40 s left",
    ]


def test_a_full_disk_is_a_sentence(
    float_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: Path
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(ConfigError, match=r"cannot be copied into .*: No space left on device; calibration needs"):
            calibration_from_frames(float_model, textured_frames(4), options=CalibrationOptions(smoothing=False))
    assert [path.name for path in tmp_path.iterdir()] == ["float.onnx"]
    dataset: Dataset = open_dataset(frames / "plain.csv")
    with pytest.raises(ConfigError, match=r"cannot be written: .*; the frames take 0 MB there"):
        load_frames(dataset.frames, dataset, PreprocessSpec(size=32), folder=tmp_path / "gone")


def test_what_a_killed_command_left_is_removed(float_model: Path, frames: Path, tmp_path: Path) -> None:
    left = tmp_path / ".hffnet-calibrate-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "calibration-frames.npy").write_bytes(b"half")
    assert code_of("calibrate", float_model, "--data", frames / "plain.csv", "-o", tmp_path / "o.onnx") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"float.onnx", "o.onnx", "o.calibration.json"}
