"""What cannot calibrate, through both commands: the sentence, the exit code, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import onnx
import pytest

from hffnet.calibration.gate import Budget
from hffnet.export.bundle import ExportOptions, bundle_from_checkpoint
from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.cli import main
from hffnet.runtime.dataset import Dataset
from hffnet.runtime.read import read_frame
from hffnet.train.checkpoint import Checkpoint, open_checkpoint

Picture = Callable[[int], np.ndarray]


@dataclass(frozen=True, slots=True)
class Made:
    """A float graph, the checkpoint it came from, and the frames that it was trained on."""

    checkpoint: Checkpoint
    graph: Path
    quantized: Path
    frames: Dataset
    bundle: Path


@pytest.fixture(scope="module")
def made(checkpoint: Checkpoint, drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    options = ExportOptions(int8=True, budget=Budget(max_drop=100.0), num_frames=4)
    bundle = bundle_from_checkpoint(checkpoint, folder / "model.hffnet", drawn, options)
    graphs = [folder / name for name in ("float.onnx", "int8.onnx")]
    with ZipFile(bundle.path) as archive:
        for path, member in zip(graphs, ("graphs/fp32-cpu.onnx", "graphs/int8-cpu.onnx"), strict=True):
            path.write_bytes(archive.read(member))
    return Made(checkpoint, graphs[0], graphs[1], drawn, bundle.path)


def code_of(command: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


def textured(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (96, 96), dtype=np.uint8)


def identical(number: int) -> np.ndarray:  # noqa: ARG001
    return textured(0)


def black(number: int) -> np.ndarray:
    return np.zeros((96, 96 + number), np.uint8)


def written(root: Path, made: Made, picture: Picture, *, um: float | None = None, first: int = 0) -> Path:
    """Four frames in two of the checkpoint's classes, with TESCAN's text beside each where ``um`` is given."""
    leaves = [made.frames.taxonomy.path_of_leaf(leaf) for leaf in (0, 1)]
    for number in range(first, first + 4):
        folder = root.joinpath(*leaves[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), picture(number))
        if um:
            (folder / f"{number}-png.hdr").write_text(f"[MAIN]\nDevice=VEGA3\n[SEM]\nPixelSizeX={um * 1e-6:.6e}\n")
    return root


def commands(made: Made, data: Path, measured: Path, out: Path) -> Iterator[list[str]]:
    yield ["calibrate", str(made.graph), "--data", str(data), "-o", str(out / "o.onnx")]
    yield ["export", str(made.checkpoint.folder), "--data", str(data), "--held-out", str(measured), "--int8",
           "-o", str(out / "o.hffnet")]  # fmt: skip


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (identical, "all 4 calibration frames are the same picture"),
        (black, "all 4 calibration frames are blank (one grey value)"),
    ],
    ids=["identical", "black"],
)
def test_frames_that_show_nothing_are_refused_by_both_commands(
    made: Made, tmp_path: Path, picture: Picture, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, measured = written(tmp_path / "d", made, picture), written(tmp_path / "h", made, textured, first=4)
    out = tmp_path / "out"
    out.mkdir()
    for command in commands(made, data, measured, out):
        assert code_of(command) == 3
        assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(out.iterdir())


def test_held_out_frames_that_show_nothing_are_called_so(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, measured = written(tmp_path / "d", made, textured), written(tmp_path / "h", made, black)
    *_, export = commands(made, data, measured, tmp_path)
    assert code_of(export) == 3
    assert "all 4 held-out frames are blank" in " ".join(capsys.readouterr().err.split())


def test_another_magnification_is_refused_by_both_commands(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "d", made, textured, um=5.0)
    measured = written(tmp_path / "h", made, textured, um=0.01, first=4)
    calibrate, export = commands(made, data, measured, tmp_path)
    for command in ([*calibrate, "--pixel-size-um", "0.01", "0.02"], export):
        assert code_of(command) == 3
        said = " ".join(capsys.readouterr().err.split())
        assert (
            "4 of 4 calibration frames are more than a factor of two away: they have 5 to 5 µm per pixel, but" in said
        )
    lines = ["path,level1,level2,split"]
    for root, split in ((data, "train"), (measured, "test")):
        lines += [f"{p.relative_to(tmp_path)},{p.parts[-3]},{p.parts[-2]},{split}" for p in root.rglob("*.png")]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    calibrate[3] = str(tmp_path / "all.csv")
    assert code_of(calibrate) == 3
    assert "but the val and test frames have 0.01 to 0.01;" in " ".join(capsys.readouterr().err.split())
    assert code_of([*calibrate, "--pixel-size-um", "2", "1"]) == 2
    assert code_of([*calibrate, "--pixel-size-um", "4", "8"]) == 0


def test_the_checkpoint_knows_the_pixel_sizes_it_was_trained_at(made: Made, tmp_path: Path) -> None:
    config = made.checkpoint.config
    assert config.pixel_size_um is not None
    train = [read_frame(frame.path).acquisition.pixel_size_um or 0.0 for frame in made.frames.frames_of("train")]
    assert config.pixel_size_um == pytest.approx((min(train), max(train)))
    assert open_bundle(made.bundle).manifest.pixel_size_um == config.pixel_size_um
    older = tmp_path / "older"
    shutil.copytree(made.checkpoint.folder, older)
    document = json.loads((older / "config.json").read_text())
    del document["pixel_size_um"]
    (older / "config.json").write_text(json.dumps(document))
    assert open_checkpoint(older).config.pixel_size_um is None


def test_calibration_frames_are_held_against_the_trained_sizes(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibration and held-out frames are alike, so nothing but the checkpoint knows that they are of another kind."""
    data = written(tmp_path / "d", made, textured, um=5.0)
    measured = written(tmp_path / "h", made, textured, um=5.0, first=4)
    *_, export = commands(made, data, measured, tmp_path)
    assert code_of(export) == 3
    assert "µm per pixel, but the network was trained at 0.0" in " ".join(capsys.readouterr().err.split())


def test_test_frames_may_not_calibrate(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "d", made, textured)
    calibrate, export = commands(made, data, data, tmp_path)
    files = sorted(data.rglob("*.png"))
    lines = [f"{p.relative_to(tmp_path)},{p.parts[-3]},{p.parts[-2]},train" for p in files]
    copy = tmp_path / "copy.png"
    copy.write_bytes(files[0].read_bytes())
    lines.append(f"copy.png,{files[0].parts[-3]},{files[0].parts[-2]},test")
    (tmp_path / "all.csv").write_text("\n".join(["path,level1,level2,split", *lines]))
    calibrate[3] = str(tmp_path / "all.csv")
    for command in (calibrate, export):
        assert code_of(command) == 3
        assert "are the same file; the int8 score would be" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("quantized", "is already quantized at 'trunk.layer1.0."),
        ("foreign", "has nodes outside the standard ONNX domain: 'normalise/Cast' (Cast)"),
        ("nan", "tensor 'normalise/Mul': a value is NaN or infinite"),
        ("cut", "is not an ONNX model"),
    ],
)
def test_graphs_that_cannot_be_calibrated_name_the_place(
    made: Made, tmp_path: Path, damage: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, graph = written(tmp_path / "d", made, textured), tmp_path / "damaged.onnx"
    model = onnx.load(made.graph)
    if damage == "foreign":
        model.graph.node[0].domain = "com.microsoft"
    if damage == "nan":
        scale = next(tensor for tensor in model.graph.initializer if tensor.name == "normalise.scale")
        scale.CopyFrom(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), scale.name))
    whole = made.quantized.read_bytes() if damage == "quantized" else model.SerializeToString()
    graph.write_bytes(whole[: len(whole) // 2] if damage == "cut" else whole)
    assert code_of(["calibrate", str(graph), "--data", str(data), "-o", str(tmp_path / "o.onnx")]) == 3
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("*o.*"))


@pytest.mark.slow
def test_a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up(made: Made, tmp_path: Path) -> None:
    data, measured = written(tmp_path / "d", made, textured), written(tmp_path / "h", made, textured, first=4)
    out = tmp_path / "out"
    out.mkdir()
    *_, export = commands(made, data, measured, out)
    run = f"import sys; from hffnet.runtime.cli import main; sys.exit(main({[*export, '--max-drop', '100']!r}))"
    with subprocess.Popen([sys.executable, "-c", run], stderr=subprocess.DEVNULL, env=dict(os.environ)) as child:
        deadline = time.monotonic() + 60
        while not list(out.glob(".hffnet-export-*/fp32-cpu.onnx")) and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert [path.name.rpartition("-")[0] for path in out.iterdir()] == [".hffnet-export"]
    assert code_of([*export, "--max-drop", "100"]) == 0
    assert [path.name for path in out.iterdir()] == ["o.hffnet"]
