"""Decoding in a process that is killed where a file takes too much: the file is refused, the service goes on."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import tifffile

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.errors import FrameError
from hffnet.runtime.infobar import BarSetting
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.pipeline import run_pipeline
from hffnet.runtime.read_worker import ReadWorker, read_here
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import open_source

FAKE = (sys.executable, str(Path(__file__).with_name("fake_reader.py")))
SETTINGS = ReadingSettings(seconds=0.3, memory_mb=256)


@pytest.fixture(scope="module")
def worker() -> Iterator[ReadWorker]:
    with ReadWorker(SETTINGS, command=FAKE) as opened:
        yield opened


def frame_file(path: Path, shape: tuple[int, int] = (96, 128), dtype: type = np.uint8) -> Path:
    tifffile.imwrite(path, np.random.default_rng(0).integers(20, 230, shape).astype(dtype))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_frame_is_the_same_as_read_here(worker: ReadWorker, tmp_path: Path, dtype: type) -> None:
    path, bar = frame_file(tmp_path / os.fsdecode(b"fr\xff\xc3\xa4me.tif"), dtype=dtype), BarSetting(rows=7)
    there, here = worker(path, bar), read_here(path, bar)
    assert np.array_equal(there.pixels, here.pixels)
    assert there.pixels.dtype == here.pixels.dtype
    assert replace(there, pixels=here.pixels) == here


def test_what_cannot_be_read_is_refused_with_the_same_sentence(worker: ReadWorker, tmp_path: Path) -> None:
    path = tmp_path / "none.tif"
    path.write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(FrameError) as here:
        read_here(path, None)
    with pytest.raises(FrameError) as there:
        worker(path)
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("hangs", "not decoded in 0.3 s, which is the limit", id="for ever"),
        pytest.param("crashes", r"ended \(signal 11\)", id="crash in native code"),
        pytest.param("explodes", "more than 256 MB of memory", id="memory"),
    ],
)
def test_a_file_that_takes_too_much_is_refused_and_the_next_is_read(
    worker: ReadWorker, tmp_path: Path, name: str, sentence: str
) -> None:
    with pytest.raises(FrameError, match=sentence):
        worker(frame_file(tmp_path / f"{name}.tif"))
    assert worker(frame_file(tmp_path / "good.tif")).pixels.shape == (96, 128)


def test_limits_are_checked_before_decoding(tmp_path: Path) -> None:
    path = frame_file(tmp_path / "large.tif", (400, 400))
    with ReadWorker(ReadingSettings(max_pixels=100_000)) as worker, pytest.raises(FrameError, match="160000 bytes"):
        worker(path)


def test_five_starts_a_minute_and_no_more() -> None:
    now, waited = [0.0], list[float]()

    def pause(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    command = (sys.executable, "-c", "raise SystemExit(3)")
    with ReadWorker(SETTINGS, command=command, clock=lambda: now[0], pause=pause) as worker:
        for _ in range(5):
            with pytest.raises(FrameError, match="exit code 3"):
                worker(Path("any.tif"))
        assert not waited
        with pytest.raises(FrameError, match="exit code 3"):
            worker(Path("any.tif"))
        assert sum(waited) == pytest.approx(60.0, abs=1.0)


def test_a_closed_worker_leaves_no_descriptor_and_no_process() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ReadWorker(SETTINGS, command=FAKE) as worker:
        with pytest.raises(FrameError):
            worker(Path("/nowhere/crashes.tif"))
        with pytest.raises(FrameError, match="cannot be read"):
            worker(Path("/nowhere/frame.tif"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_hostile_files_are_recorded_with_the_reason_and_the_service_goes_on(bundle_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("a", "crashes", "defect", "explodes", "hangs", "z"):
        frame_file(folder / f"{name}.tif")
    with (
        Classifier.open(bundle_path, engine="onnxruntime", threads=1) as classifier,
        RecordStore.open(tmp_path / "records.sqlite") as store,
        ReadWorker(SETTINGS, command=FAKE) as worker,
    ):
        source = open_source(f"glob:{folder}/*.tif")
        run_pipeline(source, classifier, store, [], settings_sha256="0" * 64, stop=Event(), read_file=worker)
        rows = {Path(row.name).stem: row for row in store.iterate()}
    assert {name: row.status for name, row in rows.items()} == {
        "a": "classified",
        "crashes": "failed",
        "defect": "failed",
        "explodes": "failed",
        "hangs": "failed",
        "z": "classified",
    }
    assert "ZeroDivisionError" in str(rows["defect"].reason)
