"""``hffnet classify`` on large frames: tiles, and maps of the evidence to look at and to measure in."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import typer
from typer.testing import CliRunner

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.commands import classify
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.evidence_map import write_map
from hffnet.runtime.frame import Acquisition
from hffnet.runtime.read import frame_from_pixels
from tests.tiny import tiny_taxonomy

APP = typer.Typer()
APP.command()(classify)
ENGINE = ["--engine", "onnxruntime", "--threads", "1"]


def frame_file(path: Path, rows: int = 256, columns: int = 384) -> Path:
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, np.random.default_rng(0).integers(20, 230, (rows, columns), dtype=np.uint8))
    return path


def test_large_frames_are_cut_and_mapped(bundle_path: Path, tmp_path: Path) -> None:
    frames = [frame_file(tmp_path / name / "a.tif") for name in ("one", "two")]
    options = ["--tile-px", "64", "--maps", str(tmp_path / "maps"), "--json", *ENGINE]
    result = CliRunner().invoke(APP, [str(bundle_path), *map(str, frames), *options])
    assert result.exit_code == 0, result.output
    for document in json.loads(result.stdout)["results"]:
        assert document["status"] == "classified"
        assert document["details"]["area"]["num_tiles"] == 40
    for name in ("a.evidence.png", "a-2.evidence.png"):
        shown = cv2.imread(str(tmp_path / "maps" / name))
        assert shown is not None
        assert shown.shape[1] == 384
        assert shown.shape[0] > 256


def test_the_table_tells_shares_of_area(bundle_path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        APP, [str(bundle_path), str(frame_file(tmp_path / "d" / "a.tif")), "--tile-px", "64", *ENGINE]
    )
    assert result.exit_code == 0, result.output
    assert "40 of 40 tiles of 64 px" in " ".join(result.stdout.split())


def test_a_tiff_holds_every_class_with_its_scale(bundle_path: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(20, 230, (96, 128), dtype=np.uint8)
    frame = frame_from_pixels(pixels, "frame", acquisition=Acquisition(pixel_size_um=0.5))
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as classifier:
        prediction = classifier.classify_frame(frame)
    taxonomy = tiny_taxonomy()
    assert write_map(tmp_path / "map.tif", frame, prediction, taxonomy, "tiff")
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(file.asarray(), prediction.evidence)
        metadata = file.imagej_metadata
        assert metadata is not None
        assert metadata["Labels"][2:] == [f"{taxonomy.levels[1].name}: {name}" for name in taxonomy.levels[1].classes]
        assert metadata["unit"] == "um"
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert numerator / denominator == pytest.approx(2 / (128 * 0.5), rel=1e-6)


def test_what_was_not_classified_has_no_map(bundle_path: Path, tmp_path: Path) -> None:
    frame = frame_from_pixels(np.full((96, 128), 7, np.uint8), "blank")
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as classifier:
        prediction = classifier.classify_frame(frame)
    assert not write_map(tmp_path / "map.png", frame, prediction, tiny_taxonomy())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    options = ["--maps", str(tmp_path / "file"), *ENGINE]
    result = CliRunner().invoke(APP, [str(bundle_path), str(frame_file(tmp_path / "d" / "a.tif")), *options])
    assert isinstance(result.exception, ConfigError)
    assert "name another folder for maps" in str(result.exception)
