"""Decoding in a process that is killed where a file takes too much: the file is refused, the service goes on."""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import tifffile

from hffnet.runtime import read
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.errors import FrameError, ReaderError
from hffnet.runtime.infobar import BarSetting
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.pipeline import run_pipeline
from hffnet.runtime.read_worker import ReadWorker, read_here
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import open_source
from tests.bench.process_tree import sample

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


class HeldClock:
    """Time that passes by waiting alone."""

    def __init__(self) -> None:
        self.now, self.told = 0.0, list[str | None]()

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_a_process_that_cannot_start_is_no_files_fault_and_is_started_at_most_five_times_a_minute(
    tmp_path: Path,
) -> None:
    clock, starts = HeldClock(), tmp_path / "starts"
    command = (sys.executable, "-c", f"open({str(starts)!r}, 'a').write('x'); raise SystemExit(3)")
    with (
        ReadWorker(
            SETTINGS, command=command, clock=clock, pause=clock.pause, hold_s=150.0, on_held=clock.told.append
        ) as worker,
        pytest.raises(ReaderError, match=r"exit code 3.*run hffnet doctor"),
    ):
        worker(Path("any.tif"))
    assert 150 <= clock.now < 200
    assert 5 < len(starts.read_text()) <= 5 * (1 + clock.now / 60)
    (sentence,) = clock.told
    assert "cannot be started" in str(sentence)


def test_without_memory_for_a_process_files_wait_and_are_read_when_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An interpreter that is replaced while the service runs: absent for a while."""
    clock, python = HeldClock(), tmp_path / "python"

    def pause(seconds: float) -> None:
        clock.pause(seconds)
        if clock.now > 20 and not python.exists():
            python.symlink_to(sys.executable)

    path = frame_file(tmp_path / "frame.tif")
    command = (str(python), FAKE[1])
    settings = ReadingSettings(seconds=20.0, memory_mb=256)
    with ReadWorker(settings, command=command, clock=clock, pause=pause, on_held=clock.told.append) as worker:
        assert worker(path).pixels.shape == (96, 128)
    assert len(clock.told) == 2
    assert clock.told[1] is None
    assert len([line for line in caplog.messages if "holding still" in line]) == 1


def test_a_stop_ends_the_waiting(tmp_path: Path) -> None:
    stop = Event()
    with (
        ReadWorker(
            SETTINGS, command=(str(tmp_path / "absent"),), is_stopped=stop.is_set, on_held=lambda _: stop.set()
        ) as worker,
        pytest.raises(FrameError, match="given up because the run was stopped"),
    ):
        worker(tmp_path / "any.tif")


def test_a_process_killed_from_outside_gets_the_file_once_more(tmp_path: Path) -> None:
    with ReadWorker(SETTINGS, command=FAKE) as worker:
        assert worker(frame_file(tmp_path / "killed.tif")).pixels.shape == (96, 128)
        with pytest.raises(FrameError, match=r"killed from outside \(signal 9\), 2 times"):
            worker(frame_file(tmp_path / "always.tif"))


def test_memory_of_a_large_frame_is_given_back(tmp_path: Path) -> None:
    def shared_mb() -> float:
        return sample(os.getpid(), 0.0).shared_mb

    with ReadWorker(ReadingSettings()) as worker:
        before_mb = shared_mb()
        medium, large = tmp_path / "medium.tif", tmp_path / "large.tif"
        tifffile.imwrite(medium, np.zeros((2048, 2048), np.uint8))
        worker(medium)
        assert shared_mb() == pytest.approx(before_mb + 4, abs=0.1)
        tifffile.imwrite(large, np.zeros((8200, 8200), np.uint8))
        assert worker(large).pixels.nbytes > 64 * 2**20
        assert shared_mb() == pytest.approx(before_mb, abs=0.1)
        assert worker(frame_file(tmp_path / "small.tif")).pixels.any()


def test_bytes_that_are_not_the_ones_asked_for_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = frame_file(tmp_path / "frame.tif")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with ReadWorker(SETTINGS) as worker:
        assert worker(path, sha256=sha256).sha256 == sha256
        with pytest.raises(FrameError, match="was changed since"):
            worker(path, sha256="0" * 64)
    monkeypatch.setattr(read, "_decoded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(FrameError, match="was changed since"):
        read.read_frame(path, sha256="0" * 64)


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
