"""From a folder to records and sinks, with a real bundle: exactly once, whatever goes wrong on the way."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from typer.testing import CliRunner

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.classifier import Classifier, Prediction, PreparedFrame, Timings
from hffnet.runtime.engines import OpenEngine, Outputs, open_engine
from hffnet.runtime.errors import EngineError, RecordError
from hffnet.runtime.frame import Frame
from hffnet.runtime.gates import FrameFingerprint
from hffnet.runtime.infobar import BarSetting
from hffnet.runtime.pipeline import RunSummary, done_in, run_pipeline
from hffnet.runtime.read_worker import read_here
from hffnet.runtime.record import Record, RecordDraft
from hffnet.runtime.recorder import OnHold, OnRecord
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_command import records as records_app
from hffnet.runtime.result import prediction_json, record_json
from hffnet.runtime.sinks import Sink
from hffnet.runtime.sinks.jsonl_sink import JsonlSink
from hffnet.runtime.sources import open_source
from hffnet.runtime.stage_times import StageTimes
from tests.runtime.dead_sink import DeadSink

ROOT = Path(__file__).parents[2]
SETTINGS = "5" * 64


@pytest.fixture(scope="module")
def classifier(bundle_path: Path) -> Iterator[Classifier]:
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def write_frame(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(20, 230, (96, 128), dtype=np.uint8)
    tifffile.imwrite(path, pixels)
    return path


def run(
    folder: Path,
    classifier: Classifier,
    store: RecordStore,
    sinks: Sequence[Sink] = (),
    *,
    stop: Event | None = None,
    on_record: OnRecord | None = None,
    on_hold: OnHold | None = None,
) -> RunSummary:
    is_done = done_in(store, bundle_sha256=classifier.bundle.sha256, settings_sha256=SETTINGS)
    uri = f"dir:{folder}?poll_s=0.01&settle_s=0&patience_s=0.05"
    return run_pipeline(
        open_source(uri, idle_exit_s=0.0, is_done=is_done),
        classifier,
        store,
        sinks,
        settings_sha256=SETTINGS,
        stop=stop or Event(),
        on_record=on_record,
        on_hold=on_hold,
    )


def test_a_name_that_is_not_utf8_is_classified_and_known_again(
    folder: Path, classifier: Classifier, store: RecordStore
) -> None:
    write_frame(Path(os.fsdecode(os.fsencode(folder) + b"/e\xff.tif")), 1)
    assert run(folder, classifier, store).counts == {"classified": 1}
    assert run(folder, classifier, store).counts == {}
    assert store.get(1).name == "e\\xff.tif"


def test_every_frame_gets_one_record_with_the_classifiers_decision(
    folder: Path, classifier: Classifier, store: RecordStore
) -> None:
    paths = [write_frame(folder / f"{n}.tif", n) for n in range(5)]
    summary = run(folder, classifier, store)
    assert summary.counts == {"classified": 5}
    assert not summary.was_stopped
    for path, record in zip(paths, store.iterate(), strict=True):
        prediction = classifier.classify(path)
        assert record.name == path.name
        assert record.input_path == str(path)
        assert record.input_sha256 == prediction.sha256
        assert tuple(record.class_path) == prediction.path
        assert prediction.decision is not None
        assert tuple(record.confidence) == pytest.approx(prediction.decision.confidence)
        assert record.bundle_sha256 == classifier.bundle.sha256
    assert store.verify().is_sound
    stages = ["waited", "read", "gates", "preprocess", "queued", "infer", "decode"]
    assert list(store.get(1).timings_ms) == sorted(stages)
    assert list(summary.stages_ms) == [*stages, "record", "total"]


class Copying(OpenEngine):
    """An engine that says it spent some milliseconds on copies."""

    def __init__(self, engine: OpenEngine, copy_ms: float) -> None:
        self._whole, self._copy_ms = engine, copy_ms
        self.identity = engine.identity

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        return replace(self._whole.infer(frames_NHW), copy_ms=self._copy_ms)


@pytest.mark.parametrize("copy_ms", [1e-6, 1e6], ids=["part", "more than the whole"])
def test_copies_are_a_stage_of_their_own_and_stages_still_add_up(
    folder: Path, bundle_path: Path, store: RecordStore, copy_ms: float
) -> None:
    write_frame(folder / "0.tif", 0)
    bundle = open_bundle(bundle_path)
    with open_engine(bundle, engine="onnxruntime", threads=1) as engine:
        summary = run(folder, Classifier(bundle, Copying(engine, copy_ms)), store)
    timings_ms = store.get(1).timings_ms
    assert timings_ms["infer"] >= 0
    assert timings_ms["copy"] == copy_ms or timings_ms["infer"] == 0
    assert "copy" in summary.stages_ms


def test_the_next_file_is_read_while_the_last_is_prepared(folder: Path, bundle_path: Path, store: RecordStore) -> None:
    for n in range(3):
        write_frame(folder / f"{n}.tif", n)
    second_is_read, in_time = Event(), list[bool]()

    class Waits(Classifier):
        def prepared(
            self, frame: Frame, timings: Timings | None = None, *, previous: FrameFingerprint | None = None
        ) -> PreparedFrame:
            in_time.append(second_is_read.wait(5))
            return super().prepared(frame, timings, previous=previous)

    def read(path: Path, bar: BarSetting | None) -> Frame:
        if path.name == "1.tif":
            second_is_read.set()
        return read_here(path, bar)

    with Waits.open(bundle_path, engine="onnxruntime", threads=1) as classifier:
        source = open_source(f"dir:{folder}?poll_s=0.01&settle_s=0", idle_exit_s=0.0)
        summary = run_pipeline(source, classifier, store, [], settings_sha256=SETTINGS, stop=Event(), read_file=read)
    assert all(in_time), "nothing is read while a frame is prepared"
    assert summary.counts == {"classified": 3}
    assert [record.name for record in store.iterate()] == ["0.tif", "1.tif", "2.tif"]


def test_a_second_run_does_only_what_is_new(folder: Path, classifier: Classifier, store: RecordStore) -> None:
    write_frame(folder / "a.tif", 1)
    run(folder, classifier, store)
    write_frame(folder / "b.tif", 2)
    assert run(folder, classifier, store).counts == {"classified": 1}
    write_frame(folder / "a.tif", 3)
    assert run(folder, classifier, store).counts == {"classified": 1}
    assert [record.name for record in store.iterate()] == ["a.tif", "b.tif", "a.tif"]


def test_what_cannot_be_classified_is_recorded_with_the_reason(
    folder: Path, classifier: Classifier, store: RecordStore
) -> None:
    whole = write_frame(folder / "c_good.tif", 1).read_bytes()
    (folder / "a_torn.tif").write_bytes(whole[:5000])
    (folder / "b_empty.tif").write_bytes(b"")
    tifffile.imwrite(folder / "d_blank.tif", np.zeros((96, 128), np.uint8))
    summary = run(folder, classifier, store)
    assert summary.counts == {"failed": 2, "not_classified": 1, "classified": 1}
    reasons = {record.name: record.reason for record in store.iterate()}
    assert "cannot be decoded" in str(reasons["a_torn.tif"])
    assert reasons["b_empty.tif"]
    assert reasons["c_good.tif"] is None
    assert "standard deviation" in str(reasons["d_blank.tif"])


def test_a_torn_file_that_is_completed_gets_one_record(
    folder: Path, classifier: Classifier, store: RecordStore
) -> None:
    whole = write_frame(folder / "a.tif", 1).read_bytes()
    late = folder / "b.tif"
    late.write_bytes(whole[:5000])
    source = open_source(f"dir:{folder}?poll_s=0.01&settle_s=0&patience_s=30", idle_exit_s=0.0)

    def complete(record: Record, _times: StageTimes) -> None:
        if record.name == "a.tif":
            late.write_bytes(whole)

    summary = run_pipeline(source, classifier, store, [], settings_sha256=SETTINGS, stop=Event(), on_record=complete)
    assert summary.counts == {"classified": 2}


class Scripted(Classifier):
    """The real classifier, with something happening before one of its frames."""

    def __init__(self, inner: Classifier, number: int, happening: object) -> None:
        super().__init__(inner.bundle, inner._engine)
        self.left, self.happening = number, happening

    def classify_frame(
        self, frame: Frame, timings: Timings | None = None, *, pulse: Callable[[], None] | None = None
    ) -> Prediction:
        self.left -= 1
        if self.left == 0:
            if isinstance(self.happening, Exception):
                raise self.happening
            self.happening()  # type: ignore[operator]
        return super().classify_frame(frame, timings, pulse=pulse)


def test_a_defect_on_one_frame_does_not_end_the_run(folder: Path, classifier: Classifier, store: RecordStore) -> None:
    for n in range(3):
        write_frame(folder / f"{n}.tif", n)
    summary = run(folder, Scripted(classifier, 2, ValueError("odd frame")), store)
    assert summary.counts == {"classified": 2, "failed": 1}
    assert "odd frame" in str(store.get(2).reason)


def test_an_engine_that_fails_ends_the_run_and_its_frame_is_redone(
    folder: Path, classifier: Classifier, store: RecordStore
) -> None:
    for n in range(6):
        write_frame(folder / f"{n}.tif", n)
    with pytest.raises(EngineError, match="device lost"):
        run(folder, Scripted(classifier, 3, EngineError("device lost")), store)
    assert [record.name for record in store.iterate()] == ["0.tif", "1.tif"]
    assert run(folder, classifier, store).counts == {"classified": 4}


def test_a_stop_finishes_the_frame_in_hand_and_the_rest_is_left_for_later(
    folder: Path, classifier: Classifier, store: RecordStore
) -> None:
    for n in range(6):
        write_frame(folder / f"{n}.tif", n)
    stop = Event()
    summary = run(folder, Scripted(classifier, 3, stop.set), store, stop=stop)
    assert summary.was_stopped
    assert [record.name for record in store.iterate()] == ["0.tif", "1.tif", "2.tif"]
    assert run(folder, classifier, store).counts == {"classified": 3}


def test_a_dead_sink_stops_neither_classification_nor_other_sinks(
    folder: Path, classifier: Classifier, store: RecordStore, tmp_path: Path
) -> None:
    for n in range(5):
        write_frame(folder / f"{n}.tif", n)
    hanging = DeadSink("hanging")
    summary = run(folder, classifier, store, [hanging, JsonlSink(tmp_path / "out.jsonl")])
    hanging.release.set()
    assert summary.counts == {"classified": 5}
    assert summary.undelivered == {"hanging": 5}
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5


def test_a_full_disk_holds_the_run_and_loses_nothing(
    folder: Path, classifier: Classifier, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(5):
        write_frame(folder / f"{n}.tif", n)
    monkeypatch.setattr("hffnet.runtime.recorder._FIRST_PAUSE_S", 0.001)
    append, refusals = store.append, [RecordError("disk full")] * 3

    def sometimes(draft: RecordDraft) -> Record:
        if refusals and store.last_seq() == 2:
            raise refusals.pop()
        return append(draft)

    monkeypatch.setattr(store, "append", sometimes)
    told = list[tuple[str | None, int]]()
    summary = run(folder, classifier, store, on_hold=lambda sentence: told.append((sentence, len(refusals))))
    assert summary.counts == {"classified": 5}
    assert told == [("degraded: holding still, disk full", 2), (None, 0)]  # with the first refusal, not afterwards
    assert [record.name for record in store.iterate()] == ["0.tif", "1.tif", "2.tif", "degraded", "3.tif", "4.tif"]


def test_classify_and_run_say_the_same_of_a_frame(folder: Path, classifier: Classifier, store: RecordStore) -> None:
    path = write_frame(folder / "a.tif", 1)
    run(folder, classifier, store)
    recorded = record_json(store.get(1))
    said = prediction_json(classifier.classify(path), classifier.bundle.manifest.taxonomy)
    same = ("schema_version", "kind", "status", "class_path", "answer", "confidence", "probabilities", "crop", "engine")
    assert json.loads(json.dumps({key: recorded[key] for key in same})) == json.loads(
        json.dumps({key: said[key] for key in same})
    )


def start_command(folder: Path, bundle: Path, tmp_path: Path) -> "subprocess.Popen[str]":
    code = "import typer; from hffnet.runtime.run_command import run; typer.run(run)"
    arguments = [str(bundle), str(folder), "--engine", "onnxruntime", "--threads", "1", "--jsonl", "-"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--records", str(tmp_path / "records.sqlite")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_0(
    folder: Path, bundle_path: Path, tmp_path: Path, number: signal.Signals
) -> None:
    write_frame(folder / "a.tif", 1)
    process = start_command(folder, bundle_path, tmp_path)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["name"] == "a.tif"
    process.send_signal(number)
    assert process.wait(timeout=5) == 0
    process.stdout.close()
    with RecordStore.open(tmp_path / "records.sqlite") as store:
        assert [record.name for record in store.iterate()] == ["start", "a.tif", "stop"]
        assert store.get(3).reason == "ended on request"
        assert store.verify().is_sound


_STUCK = """
import threading, time
from hffnet.runtime.signals import stop_on_signals
stop = threading.Event()
with stop_on_signals(stop):
    threading.Thread(target=lambda: stop.wait() and print("stopping", flush=True)).start()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_second_signal_ends_a_stuck_process_at_once_with_5() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    assert process.stdout is not None
    for line in ("ready", "stopping"):
        assert process.stdout.readline().strip() == line
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 5
    process.stdout.close()


def test_the_records_commands_list_show_export_and_verify(
    folder: Path, classifier: Classifier, store: RecordStore, tmp_path: Path
) -> None:
    write_frame(folder / "a.tif", 1)
    write_frame(folder / "b.tif", 2)
    run(folder, classifier, store)
    runner, file = CliRunner(), str(store.path)
    listed = json.loads(runner.invoke(records_app, ["list", file, "--json"]).stdout)
    assert [record["name"] for record in listed["records"]] == ["a.tif", "b.tif"]
    assert json.loads(runner.invoke(records_app, ["show", file, "2"]).stdout)["name"] == "b.tif"
    out = [str(tmp_path / "o.csv"), str(tmp_path / "o.jsonl")]
    assert runner.invoke(records_app, ["export", file, "--csv", out[0], "--jsonl", out[1]]).exit_code == 0
    assert [len(Path(path).read_text().splitlines()) for path in out] == [3, 2]
    assert runner.invoke(records_app, ["verify", file]).exit_code == 0
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE records SET answer = '[]' WHERE seq = 2")
    connection.close()
    broken = runner.invoke(records_app, ["verify", file, "--json"])
    assert broken.exit_code == 1
    assert json.loads(broken.stdout)["broken_seq"] == 2
