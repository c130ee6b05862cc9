"""Copies are found whatever was done to them, leaks end with exit code 1, and different textures are not copies."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import typer
from typer.testing import CliRunner, Result

from hffnet.runtime.dataset import Dataset, open_dataset
from hffnet.train.data_command import data
from hffnet.train.hygiene import DataReport, check_dataset, divided_by_checkpoint, divided_by_seed
from hffnet.train.likeness import pairs_from_thumbnails, thumbnail_from_picture

Picture = npt.NDArray[np.uint8]

app = typer.Typer()
app.add_typer(data, name="data")


def _texture(seed: int, side: int = 96) -> Picture:
    rng = np.random.default_rng(seed)
    rough = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / 24)
    scaled: Picture = cv2.normalize(rough, None, 20, 220, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
    return scaled


def _jpeg(picture: Picture) -> Picture:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0), np.uint8)


@pytest.mark.parametrize(
    ("alter", "turned"),
    [
        pytest.param(_jpeg, False, id="jpeg"),
        pytest.param(lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), False, id="half"),
        pytest.param(lambda p: p.astype(np.uint16) * 200 + 900, False, id="16 bit"),
        pytest.param(np.rot90, True, id="turned"),
        pytest.param(lambda p: p[:, ::-1], True, id="mirrored"),
    ],
)
def test_altered_copies_are_alike(alter: Callable[[Picture], Picture], turned: bool) -> None:
    pictures = [_texture(0), _texture(1), np.ascontiguousarray(alter(_texture(0)))]
    (pair,) = pairs_from_thumbnails([thumbnail_from_picture(picture) for picture in pictures])
    assert (pair.first, pair.second, pair.turned) == (0, 2, turned)
    assert pair.correlation > 0.95


def test_blank_pictures_are_like_nothing() -> None:
    grey = [np.full((64, 64), value, np.uint8) for value in (0, 90, 90)]
    assert pairs_from_thumbnails([thumbnail_from_picture(picture) for picture in grey]) == ()


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Folders a/x, a/y and b/z with 8 different textures each."""
    for n in range(24):
        path = tmp_path / "data" / ("a/x", "a/y", "b/z")[n % 3] / f"{n:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), _texture(n))
    return tmp_path / "data"


def _report(path: Path) -> DataReport:
    return check_dataset(divided_by_seed(open_dataset(path), 0, (0.6, 0.2, 0.2)))


def test_sound_frames(frames: Path) -> None:
    report = _report(frames)
    assert (report.clusters, report.unreadable, report.warnings, report.split_problem) == ((), (), (), None)
    assert sum(report.splits.values()) == 24
    assert set(report.splits) == {"train", "val", "test"}
    assert [row.num_frames for row in report.classes] == [8, 8, 8]
    assert report.picture_sizes == ((96, 96), (96, 96))


def test_each_kind_of_copy_is_told_once(frames: Path) -> None:
    shutil.copy(frames / "a/x/00.png", frames / "a/x/90.png")
    cv2.imwrite(str(frames / "a/y/91.bmp"), _texture(1))
    cv2.imwrite(str(frames / "b/z/92.jpg"), _texture(3))
    report = _report(frames)
    kinds = {cluster.kind: {frame.name for frame in cluster.frames} for cluster in report.clusters}
    assert kinds == {
        "same bytes": {"a/x/00.png", "a/x/90.png"},
        "same picture": {"a/y/01.png", "a/y/91.bmp"},
        "near-duplicate": {"a/x/03.png", "b/z/92.jpg"},
    }
    assert [c.kind for c in report.clusters if c.two_labels] == ["near-duplicate"]
    assert [c.kind for c in report.clusters if c.one_group] == ["same bytes"]


def test_what_is_mixed_is_noted(frames: Path) -> None:
    for path in (frames / "b/z").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), 0).astype(np.uint16) * 256)  # type: ignore[union-attr]
    (frames / "a/x/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    report = _report(frames)
    assert [entry.name for entry in report.unreadable] == ["a/x/bad.png"]
    assert report.depths == {"uint8": 16, "uint16": 8}
    assert "bit depths are mixed" in report.warnings[0]
    assert "whether depth tells the class" in report.warnings[0]


def test_a_split_that_cannot_be_made_is_reported(frames: Path) -> None:
    for path in sorted((frames / "b/z").iterdir())[1:]:
        path.unlink()
    assert "has no frame of class b/z" in (_report(frames).split_problem or "")


def test_the_split_of_a_training(frames: Path) -> None:
    cv2.imwrite(str(frames / "a/x/90.jpg"), _texture(0))
    dataset = open_dataset(frames)
    splits = {f.sha256: "test" if f.path.suffix == ".jpg" else "train" for f in dataset.frames[1:]}
    report = check_dataset(divided_by_checkpoint(dataset, splits, "ckpt"))  # type: ignore[arg-type]
    assert report.split_problem == "1 of 25 frames are not known to ckpt and stand in no split"
    assert report.leaks == ()  # the original stands in no split
    splits[dataset.frames[0].sha256] = "train"
    assert len(check_dataset(divided_by_checkpoint(dataset, splits, "ckpt")).leaks) == 1  # type: ignore[arg-type]


def _csv(frames: Path, split_of: Callable[[int], str], group_of: Callable[[int], str] = str) -> Path:
    rows = [
        f"{path.relative_to(frames)},{path.parent.parent.name},{path.parent.name},{group_of(n)},{split_of(n)}"
        for n, path in enumerate(sorted(frames.glob("*/*/*.*")))
    ]
    (frames / "labels.csv").write_text("\n".join(["path,level1,level2,group,split", *rows]) + "\n")
    return frames / "labels.csv"


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "check", *arguments])


def test_a_sound_split_ends_well(frames: Path) -> None:
    result = _run(str(frames), "--val-fraction", "0.2", "--test-fraction", "0.2", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["schema_version"], document["leaks"], document["split_source"]) == (1, 0, "seed 0")


def test_a_group_in_two_splits_is_a_leak(frames: Path) -> None:
    path = _csv(frames, lambda n: ("train", "val", "test")[n % 3], lambda n: str(n // 2))
    result = _run(str(path))
    assert result.exit_code == 1, result.output
    assert "LEAK: group:" in result.stdout
    assert "12 leaks" in result.stdout


def test_a_copy_in_two_splits_is_a_leak(frames: Path) -> None:
    cv2.imwrite(str(frames / "a/x/000.jpg"), _texture(0))
    result = _run(str(_csv(frames, lambda n: "test" if n == 1 else "train")), "--json")
    assert result.exit_code == 1, result.output
    (cluster,) = json.loads(result.stdout)["clusters"]
    assert cluster["kind"] == "near-duplicate"
    assert {frame["split"] for frame in cluster["frames"]} == {"train", "test"}


def test_an_unreadable_file_is_named(frames: Path) -> None:
    (frames / "a/x/bad.png").write_bytes(b"no picture")
    result = _run(str(frames), "--val-fraction", "0.2", "--test-fraction", "0.2")
    assert result.exit_code == 3, result.output
    assert "bad.png" in result.stdout


def test_real_duplicates(shared: Path) -> None:
    dataset = open_dataset(shared / "data/x_sdd/hierarchy.csv")
    red: Dataset = replace(dataset, frames=tuple(f for f in dataset.frames if f.classes[-1] == "red iron"))
    report = check_dataset(divided_by_checkpoint(red, {}, "nothing"))
    assert [(c.kind, len(c.frames)) for c in report.clusters] == [("same bytes", 2)] * 9
