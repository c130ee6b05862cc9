"""What goes wrong at a microscope, done to the real service: killed, disk full. Long versions: `make soak`."""

import json
import logging
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.pipeline import run_pipeline
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import open_source
from tests.faults.service import classified, rest_of, started, wait_for_log, write_frames
from tests.receivers import SECRET, Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


_LONG = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.mark.parametrize(
    ("num_kills", "seed"),
    [
        pytest.param(3, 3, id="short"),
        *[pytest.param(50, 10 + part, id=f"long-{part}-of-4", marks=_LONG) for part in (1, 2, 3, 4)],
    ],
)
def test_a_service_that_is_killed_again_and_again_loses_and_repeats_nothing(
    tmp_path: Path, bundle_path: Path, receiver: Receiver, num_kills: int, seed: int
) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    hook = f"""[sinks.webhook]\nurl = "{receiver.url}"\nsecret_file = "{tmp_path}/secret"\n"""
    names, chance, acknowledged = list[str](), random.Random(seed), set[str]()
    for n in range(num_kills):
        names += write_frames(tmp_path / "in", 8, first=8 * n)  # a run has eight to do at least
        process = started(bundle_path, tmp_path / "in", tmp_path / "out", sinks=hook)
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 8)):
            acknowledged.add(json.loads(process.stdout.readline())["name"])
        time.sleep(chance.uniform(0.0, 0.01))  # any moment of a frame's journey, not only the one after a line
        process.kill()
        acknowledged |= set(rest_of(process))
    process = started(bundle_path, tmp_path / "in", tmp_path / "out", "--once", sinks=hook)
    rest_of(process)
    assert process.returncode == 0
    with RecordStore.open(tmp_path / "out" / "records.sqlite") as store:
        results = {record.seq: record.name for record in store.iterate() if record.kind == "result"}
        assert store.verify().is_sound
    assert sorted(results.values()) == names
    assert acknowledged <= set(results.values())
    lines = (tmp_path / "out" / "out.csv").read_text().splitlines()[1:]
    assert [int(line.partition(",")[0]) for line in lines] == list(results)
    # At least once and in order: a kill between an answer and the cursor repeats what that one request held.
    posted = receiver.seqs()
    assert list(dict.fromkeys(posted)) == list(results)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def filled(folder: Path) -> Callable[[], None]:
    """Take what is left of a disk; the result gives it back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler.unlink


class WhenHolding(logging.Handler):
    """Acts when the recorder says that it cannot write."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(logging.ERROR)
        self.act, self.num = act, 0

    def emit(self, record: logging.LogRecord) -> None:
        if "holding still" in record.getMessage():
            self.num += 1
            self.act()


def run_with_a_full_disk(
    bundle: Path, frames: Path, records: Path, fill: Callable[[RecordStore], Callable[[], None]]
) -> None:
    log = logging.getLogger("hffnet.runtime.recorder")
    with (
        Classifier.open(bundle, engine="onnxruntime", threads=1) as classifier,
        RecordStore.open(records) as store,
    ):
        handler = WhenHolding(fill(store))
        log.addHandler(handler)
        try:
            source = open_source(f"dir:{frames}?poll_s=0.01&settle_s=0", idle_exit_s=0.0)
            summary = run_pipeline(source, classifier, store, [], settings_sha256="5" * 64, stop=Event())
        finally:
            log.removeHandler(handler)
        assert handler.num >= 1, "the disk never was full"
        assert summary.num_unrecorded == 0
        rows = list(store.iterate())
        assert store.verify().is_sound
    names = sorted(path.name for path in frames.iterdir())
    assert [row.name for row in rows if row.kind == "result"] == names
    assert "degraded" in [row.name for row in rows if row.kind == "event"]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hffnet.runtime.recorder._FIRST_PAUSE_S", 0.01)


def test_a_full_disk_is_waited_for_and_nothing_is_lost(tmp_path: Path, small_disk: Path, bundle_path: Path) -> None:
    write_frames(tmp_path / "in", 20)
    run_with_a_full_disk(bundle_path, tmp_path / "in", small_disk / "records.sqlite", lambda _store: filled(small_disk))


def test_files_that_may_not_grow_are_waited_for(tmp_path: Path, bundle_path: Path) -> None:
    """The whole service under a quota that is reached and lifted: records and lines, by the system's own errors."""
    out = tmp_path / "out"
    names = write_frames(tmp_path / "in", 2)
    process = started(bundle_path, tmp_path / "in", out)
    assert classified(process, 2) == set(names)
    largest = max(path.stat().st_size for path in out.iterdir())
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest + 20_000, hard))
    names += write_frames(tmp_path / "in", 12, first=2)
    wait_for_log(out, "holding still")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert classified(process, 12) == set(names[2:])
    end = time.monotonic() + 20
    while len(rows := (out / "out.csv").read_text().splitlines()[1:]) < len(names):
        assert time.monotonic() < end, "the CSV file never got what it missed"
        Event().wait(0.02)
    process.send_signal(signal.SIGTERM)
    rest_of(process)
    assert process.returncode == 0
    with RecordStore.open(out / "records.sqlite") as store:
        records = list(store.iterate())
        assert store.verify().is_sound
    assert [record.name for record in records if record.kind == "result"] == names
    assert "degraded" in [record.name for record in records if record.kind == "event"]
    assert len(rows) == len({row.partition(",")[0] for row in rows}) == len(names)


def test_a_database_that_may_not_grow_is_waited_for(tmp_path: Path, bundle_path: Path) -> None:
    """The same where nothing can be mounted: SQLite itself says that the disk is full."""
    write_frames(tmp_path / "in", 20)

    def fill(store: RecordStore) -> Callable[[], None]:
        writer = store._writer
        most = writer.execute("PRAGMA max_page_count = 16").fetchone()[0]
        assert most <= 64

        def grow() -> None:
            writer.execute("PRAGMA max_page_count = 1000000")

        return grow

    run_with_a_full_disk(bundle_path, tmp_path / "in", tmp_path / "records.sqlite", fill)
