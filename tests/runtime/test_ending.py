"""How a run ends: soon after it was asked to, with the right code, and never at the same frame for ever."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.engines import OpenEngine, Outputs, open_engine
from hffnet.runtime.errors import EngineError
from hffnet.runtime.field_of_view import TileSettings
from hffnet.runtime.in_hand import MOST_ENDS
from hffnet.runtime.pipeline import RunSummary, done_in, run_pipeline
from hffnet.runtime.record import Record
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_archive import Retention, tidy
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.sources import open_source
from tests.runtime.drafts import draft

ROOT = Path(__file__).parents[2]
SETTINGS = "5" * 64


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def write_frame(path: Path, seed: int, height: int = 96, width: int = 128, dark: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(20, 250, (height, width), dtype=np.uint8)
    pixels[:, :dark] //= 8
    tifffile.imwrite(path, pixels)
    return path


class Engine(OpenEngine):
    """The real engine, with something happening before each answer."""

    def __init__(self, bundle: Path, happening: Callable[[int], object]) -> None:
        self._whole = open_engine(open_bundle(bundle), engine="onnxruntime", threads=1)
        self.identity = self._whole.identity
        self.num, self._happening = 0, happening

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        self.num += 1
        self._happening(self.num)
        return self._whole.infer(frames_NHW)

    def close(self) -> None:
        self._whole.close()


def run(
    folder: Path,
    classifier: Classifier,
    store: RecordStore,
    *,
    stop: Event | None = None,
    beat: Callable[[], None] = lambda: None,
) -> RunSummary:
    is_done = done_in(store, bundle_sha256=classifier.bundle.sha256, settings_sha256=SETTINGS)
    source = open_source(f"dir:{folder}?poll_s=0.01&settle_s=0", idle_exit_s=0.0, is_done=is_done)
    return run_pipeline(source, classifier, store, [], settings_sha256=SETTINGS, stop=stop or Event(), beat=beat)


TILES = TileSettings(side_px=32, overlap=0.0)


def test_a_large_frame_gives_signs_of_life_between_its_batches(
    folder: Path, bundle_path: Path, store: RecordStore
) -> None:
    write_frame(folder / "large.tif", 1, 512, 512)  # 256 tiles, 32 batches
    beats, beats_at = [0], list[int]()

    def beat() -> None:
        beats[0] += 1

    engine = Engine(bundle_path, lambda _num: beats_at.append(beats[0]))
    with Classifier(open_bundle(bundle_path), engine, tiles=TILES) as classifier:
        assert run(folder, classifier, store, beat=beat).counts == {"classified": 1}
    assert len(beats_at) == 32
    assert all(later > earlier for earlier, later in pairwise(beats_at))


@pytest.mark.parametrize(
    ("grace_s", "status"),
    [pytest.param(0.0, [], id="would take too long"), pytest.param(60.0, ["classified"], id="is done soon")],
)
def test_a_stop_within_a_large_frame(
    folder: Path,
    bundle_path: Path,
    store: RecordStore,
    monkeypatch: pytest.MonkeyPatch,
    grace_s: float,
    status: list[str],
) -> None:
    monkeypatch.setattr("hffnet.runtime.pipeline._FRAME_S", grace_s)
    write_frame(folder / "large.tif", 1, 512, 512)
    stop = Event()
    engine = Engine(bundle_path, lambda num: stop.set() if num == 3 else None)
    with Classifier(open_bundle(bundle_path), engine, tiles=TILES) as classifier:
        summary = run(folder, classifier, store, stop=stop)
        assert summary.was_stopped
        assert [record.status for record in store.iterate()] == status
        assert engine.num == (32 if status else 3)
        run(folder, classifier, store)
    assert [record.status for record in store.iterate()] == ["classified"]


def test_a_frame_that_the_engine_fails_on_is_given_up_after_three_runs(
    folder: Path, bundle_path: Path, store: RecordStore
) -> None:
    write_frame(folder / "a.tif", 1)
    write_frame(folder / "b.tif", 2)

    def fail(_num: int) -> None:
        raise EngineError("out of memory")

    for _ in range(MOST_ENDS):
        with (
            Classifier(open_bundle(bundle_path), Engine(bundle_path, fail)) as classifier,
            pytest.raises(EngineError),
        ):
            run(folder, classifier, store)
        assert store.last_seq() == 0
    with Classifier(open_bundle(bundle_path), Engine(bundle_path, lambda _num: None)) as classifier:
        run(folder, classifier, store)
    rows = {record.name: record for record in store.iterate()}
    assert {name: record.status for name, record in rows.items()} == {"a.tif": "failed", "b.tif": "classified"}
    assert "ended the service 3 times" in str(rows["a.tif"].reason)
    assert [path.name for path in store.path.parent.iterdir() if "hand" in path.name] == []


def test_what_another_run_has_in_hand_is_not_counted(folder: Path, bundle_path: Path, store: RecordStore) -> None:
    write_frame(folder / "a.tif", 1)

    def another_run(_num: int) -> None:
        with Classifier(open_bundle(bundle_path), Engine(bundle_path, lambda _num: None)) as other:
            run(folder, other, store)

    with Classifier(open_bundle(bundle_path), Engine(bundle_path, another_run)) as classifier:
        run(folder, classifier, store)
    assert store.ends() == {}
    assert [record.status for record in store.iterate()] == ["classified"]


_HANGS = """
import os, sys, time
from pathlib import Path
from threading import Event
from hffnet.runtime import service
from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.pipeline import done_in, run_pipeline
from hffnet.runtime.records import RecordStore
from hffnet.runtime.service import Service
from hffnet.runtime.sources import open_source
from tests.runtime.test_ending import Engine

bundle, folder, records, fate = sys.argv[1:]
service.BEAT_S = 0.05

class Doomed(Engine):
    def infer(self, frames_NHW):
        if frames_NHW[:, :, 16:].mean() - frames_NHW[:, :, :16].mean() > 60:
            time.sleep(60) if fate == "hangs" else os.kill(os.getpid(), 11)
        return super().infer(frames_NHW)

def run():
    with (
        Classifier(open_bundle(Path(bundle)), Doomed(Path(bundle), lambda _num: None)) as classifier,
        RecordStore.open(Path(records)) as store,
        Service(0.5) as life,
    ):
        is_done = done_in(store, bundle_sha256=classifier.bundle.sha256, settings_sha256="5" * 64)
        source = open_source(f"dir:{folder}?poll_s=0.01&settle_s=0", idle_exit_s=0.0, is_done=is_done)
        life.ready("")
        run_pipeline(source, classifier, store, [], settings_sha256="5" * 64, stop=Event(), beat=life.beat)

status = None
while status != 0:
    child = os.fork()
    if not child:
        run()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
"""


@pytest.mark.parametrize(("fate", "code"), [("hangs", 4), ("crashes", -signal.SIGSEGV)])
def test_a_frame_that_ends_the_process_is_given_up_and_what_is_behind_it_is_reached(
    folder: Path, bundle_path: Path, tmp_path: Path, fate: str, code: int
) -> None:
    """A real process and its watchdog: ended three times at one frame, and started again as systemd does."""
    for n in range(3):
        path = write_frame(folder / f"{n}.tif", n, dark=64 if n == 1 else 0)
        os.utime(path, (1e9 + n, 1e9 + n))
    records = tmp_path / "records.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", _HANGS, bundle_path, folder, records, fate],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )
    assert [int(line) for line in done.stdout.split()] == [code] * 3 + [0], done.stderr
    with RecordStore.open(records) as store:
        rows = [(record.name, record.status) for record in store.iterate()]
        assert store.verify().is_sound
    assert rows == [("0.tif", "classified"), ("1.tif", "failed"), ("2.tif", "classified")]


class Silent:
    """A sink whose other end never answers."""

    def __init__(self, name: str, release: Event) -> None:
        self.name, self._release = name, release

    def start(self, cursor: int | None, last_seq: int) -> int:
        del last_seq
        return cursor or 0

    def deliver(self, records: Sequence[Record]) -> None:
        del records
        self._release.wait(30)

    def close(self) -> None:
        pass


def test_dead_sinks_have_one_second_together(
    folder: Path, bundle_path: Path, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffnet.runtime.pipeline._SINKS_S", 0.2)
    close, given = Delivery.close, list[float]()

    def noted(self: Delivery, timeout_s: float) -> int:
        given.append(timeout_s)
        return close(self, timeout_s)

    monkeypatch.setattr(Delivery, "close", noted)
    write_frame(folder / "a.tif", 1)
    release = Event()
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as classifier:
        summary = run_pipeline(
            open_source(f"dir:{folder}?poll_s=0.01&settle_s=0", idle_exit_s=0.0),
            classifier,
            store,
            [Silent(name, release) for name in "abc"],
            settings_sha256=SETTINGS,
            stop=Event(),
        )
    release.set()
    assert summary.undelivered == {"a": 1, "b": 1, "c": 1}
    assert given[0] <= 0.2
    assert given[1:] == [0.0, 0.0]


@pytest.mark.parametrize("num_asked", [1, 150], ids=["while it is written", "while it is read back"])
def test_tidying_ends_with_a_stop_and_removes_nothing(store: RecordStore, tmp_path: Path, num_asked: int) -> None:
    for n in range(100):
        store.append(draft(n))
    asked = iter(range(1000))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    retention = Retention(archive=tmp_path / "old", keep_days=0.0)
    assert tidy(store, retention, now=tomorrow, is_stopped=lambda: next(asked) >= num_asked) is None
    assert len(list(store.iterate())) == 100
    assert list((tmp_path / "old").iterdir()) == []
    assert tidy(store, retention, now=tomorrow) is not None
    assert store.archived().last_seq == 100


_SIGNALLED = """
import threading, time
from hffnet.runtime.signals import stop_on_signals
stop, begun = threading.Event(), threading.Event()
with stop_on_signals(stop, begun):
    {do}
    print("ready", flush=True)
    stop.wait(30)
    print("stopping", flush=True)
    time.sleep({stays_s})
"""


@pytest.mark.parametrize(
    ("do", "stays_s", "code", "words"),
    [
        pytest.param("pass", 30, 0, "nothing was in hand", id="engine is being opened"),
        pytest.param("begun.set()", 0, 0, "", id="running"),
        pytest.param("begun.set(); stop.set()", 0.5, 0, "", id="ending by itself"),
    ],
)
def test_a_first_signal_ends_with_0(do: str, stays_s: float, code: int, words: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SIGNALLED.format(do=do, stays_s=stays_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code, said
    assert words in said
