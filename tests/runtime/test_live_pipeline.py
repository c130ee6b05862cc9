"""Live sources through the whole pipeline: what is classified, dropped and recorded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt
import pytest

from hffnet.runtime.classifier import Classifier, Prediction, Timings
from hffnet.runtime.frame import Frame
from hffnet.runtime.pipeline import RunSummary, done_in, run_pipeline
from hffnet.runtime.record import Record
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import Source, open_source
from hffnet.runtime.sources.array_source import ArraySource, PushSource
from hffnet.runtime.sources.capture_process import CaptureProcess
from hffnet.runtime.sources.live_options import LiveOptions
from hffnet.runtime.sources.live_source import LiveSource
from tests.runtime.live_stand import fake, video


@pytest.fixture(scope="module")
def classifier(bundle_path: Path) -> Iterator[Classifier]:
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as opened:
        yield opened


def noise(seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(20, 230, (96, 128), dtype=np.uint8)


def streamed(source: Source, classifier: Classifier, folder: Path) -> tuple[RunSummary, list[Record]]:
    with RecordStore.open(folder / "records.sqlite") as store:
        summary = run_pipeline(source, classifier, store, [], settings_sha256="5" * 64, stop=Event())
        assert store.verify().is_sound
        return summary, list(store.iterate())


class PushedDuringInference(Classifier):
    """While a frame is classified, the camera goes on: three more come in."""

    def __init__(self, inner: Classifier, source: PushSource, num: int) -> None:
        super().__init__(inner.bundle, inner._engine)
        self.source, self.left = source, num

    def classify_frame(
        self, frame: Frame, timings: Timings | None = None, *, pulse: Callable[[], None] | None = None
    ) -> Prediction:
        prediction = super().classify_frame(frame, timings, pulse=pulse)
        if self.left:
            for n in range(3):
                self.source.push(noise(10 * self.left + n))
            self.left -= 1
        if not self.left:
            self.source.end()
        return prediction


def test_a_slow_engine_gets_the_newest_frame_and_every_drop_is_on_record(
    classifier: Classifier, tmp_path: Path
) -> None:
    source = PushSource(name="camera")
    source.push(noise(0))
    summary, records = streamed(source, PushedDuringInference(classifier, source, 4), tmp_path)
    assert [record.name for record in records] == [f"camera#{n}" for n in (1, 4, 7, 10, 13)]
    assert summary.counts == {"classified": 5}
    assert summary.dropped == {"superseded": 8}
    for record in records:
        live = (record.details or {})["live"]
        assert isinstance(live, dict)
        assert float(live["age_ms"]) >= sum(record.timings_ms.values()) - 1
        assert record.input_path is None


def test_a_live_source_that_repeats_its_frame_is_frozen(classifier: Classifier, tmp_path: Path) -> None:
    source = PushSource()

    class Repeating(PushedDuringInference):
        def classify_frame(
            self, frame: Frame, timings: Timings | None = None, *, pulse: Callable[[], None] | None = None
        ) -> Prediction:
            prediction = Classifier.classify_frame(self, frame, timings, pulse=pulse)
            if self.left:
                source.push(noise(0))
            else:
                source.end()
            self.left -= 1
            return prediction

    source.push(noise(0))
    summary, records = streamed(source, Repeating(classifier, source, 1), tmp_path)
    assert summary.counts == {"classified": 1, "not_classified": 1}
    assert "is the last one again" in str(records[1].reason)


def test_equal_files_and_arrays_are_not_frozen(classifier: Classifier, tmp_path: Path) -> None:
    summary, records = streamed(ArraySource([noise(0), noise(0)]), classifier, tmp_path)
    assert summary.counts == {"classified": 2}
    evidence = (records[0].details or {})["evidence"]
    assert isinstance(evidence, dict)
    assert evidence["class"] == list(records[0].answer)[-1]


def test_a_camera_in_its_own_process_is_lost_and_comes_back_on_record(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffnet.runtime.sources.restarts._FIRST_S", 0.01)
    starts = iter(["breaks", "steady"])

    def start() -> CaptureProcess:
        return fake(next(starts))()

    source = LiveSource("fake", start, LiveOptions())
    stop = Event()
    with RecordStore.open(tmp_path / "records.sqlite") as store:

        def stop_when_back(record: Record, _times: object) -> None:
            kinds = [row.name for row in store.iterate()]
            if "source_back" in kinds and record.kind == "result" and kinds[-1] != "source_back":
                stop.set()

        run_pipeline(source, classifier, store, [], settings_sha256="5" * 64, stop=stop, on_record=stop_when_back)
        rows = list(store.iterate())
        assert store.verify().is_sound
    events = [row.name for row in rows if row.kind == "event"]
    assert events == ["source_lost", "source_back"]
    assert "No such device" in str(next(row.reason for row in rows if row.name == "source_lost"))
    assert rows[-1].kind == "result"


def test_a_video_file_is_classified_frame_by_frame_and_once(classifier: Classifier, tmp_path: Path) -> None:
    path = video(tmp_path / "a.avi", 3)
    with RecordStore.open(tmp_path / "records.sqlite") as store:
        is_done = done_in(store, bundle_sha256=classifier.bundle.sha256, settings_sha256="5" * 64)
        for expected in ({"classified": 3}, {}):
            source = open_source(f"video:{path}", is_done=is_done)
            summary = run_pipeline(source, classifier, store, [], settings_sha256="5" * 64, stop=Event())
            assert summary.counts == expected
