"""Live sources: the newest frame, counted drops, back after any loss. Clocks are turned by hand; a few tests use the
real capture process with a fake camera."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from time import monotonic

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffnet.runtime.classifier import Classifier, Prediction, Timings
from hffnet.runtime.errors import ConfigError, FrameError, SourceError
from hffnet.runtime.frame import Frame, GreyPixels
from hffnet.runtime.gates import FrameFingerprint
from hffnet.runtime.pipeline import RunSummary, done_in, run_pipeline
from hffnet.runtime.record import Record
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import FileStamp, FrameItem, Notice, Source, open_source
from hffnet.runtime.sources.array_source import ArraySource, PushSource
from hffnet.runtime.sources.capture_link import Inbox, Kind, Message, send
from hffnet.runtime.sources.capture_process import CaptureProcess
from hffnet.runtime.sources.live_options import LiveOptions, address_from_uri
from hffnet.runtime.sources.live_source import LiveSource, LiveState
from hffnet.runtime.sources.restarts import Restarts
from hffnet.runtime.sources.stream_source import StreamSource

FAKE = Path(__file__).with_name("fake_camera.py")
PIXELS = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)


class Camera:
    """A capture without a process: the test puts messages in, and every wait moves the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.queue = list[Message]()
        self.num_open = self.num_started = 0
        self.pixels: GreyPixels | None = PIXELS
        self.source = LiveSource(
            "fake",
            self.start,
            LiveOptions(),
            clock=lambda: self.now,
            wall_clock=lambda: 1.8e9,
            chance=lambda: 0.5,
        )

    def start(self) -> "Camera":
        self.num_open += 1
        self.num_started += 1
        return self

    def receive(self, timeout_s: float) -> list[Message]:
        self.now += timeout_s if not self.queue else 0.0
        messages, self.queue = self.queue, []
        return messages

    def take(self, message: Message) -> GreyPixels | None:
        del message
        return self.pixels

    def close(self) -> None:
        self.num_open -= 1
        self.queue = []

    def give(self, *kinds: Kind, age_s: float = 0.0) -> None:
        self.queue += [Message(kind=kind, captured_at=self.now - age_s, text="No such device") for kind in kinds]

    def step(self, wait_s: float = 0.1) -> FrameItem | Notice | None:
        return self.source.step(wait_s)

    def until(self, state: LiveState, most_s: float = 100.0) -> list[FrameItem | Notice]:
        """Let time pass until the source is in a state; what was offered on the way."""
        offered, end = list[FrameItem | Notice](), self.now + most_s
        while self.source.state is not state:
            assert self.now < end, f"still {self.source.state} after {most_s} s"
            offer = self.step()
            self.now += 0.05
            if offer is not None:
                offered.append(offer)
        return offered

    def running(self) -> "Camera":
        self.give(Kind.OPENED, Kind.FRAME)
        assert isinstance(self.step(), FrameItem)
        return self


def test_the_newest_frame_is_offered_and_the_others_are_counted() -> None:
    camera = Camera()
    camera.give(Kind.OPENED, Kind.FRAME, Kind.FRAME, Kind.NOTHING, Kind.FRAME)
    item = camera.step()
    assert isinstance(item, FrameItem)
    assert camera.source.state is LiveState.RUNNING
    assert camera.source.dropped == {"superseded": 2, "unreadable": 1}
    assert item.facts is not None
    assert item.facts["dropped"] == {"superseded": 2, "unreadable": 1}
    assert item.read().picture.shape == PIXELS.shape
    camera.give(Kind.FRAME)
    item = camera.step()
    assert isinstance(item, FrameItem)
    assert item.facts is not None
    assert item.facts["dropped"] == {}
    assert item.facts["captured_utc"] == "2027-01-15T08:00:00.000+00:00"


def test_an_old_frame_is_never_offered() -> None:
    camera = Camera().running()
    camera.give(Kind.FRAME, age_s=0.6)
    assert camera.step() is None
    assert camera.source.dropped["stale"] == 1


def test_a_frame_that_was_written_over_is_counted() -> None:
    camera = Camera().running()
    camera.pixels = None
    camera.give(Kind.FRAME)
    assert camera.step() is None
    assert camera.source.dropped["superseded"] == 1


def test_a_camera_that_blocks_for_ever_stalls_and_is_opened_anew() -> None:
    camera = Camera().running()
    began = camera.now
    assert camera.until(LiveState.STALLED) == []
    assert camera.now - began == pytest.approx(2.0, abs=0.3)
    (notice,) = camera.until(LiveState.RECONNECTING)
    assert isinstance(notice, Notice)
    assert notice.event == "source_lost"
    assert camera.now - began == pytest.approx(5.0, abs=0.3)
    assert (camera.num_open, camera.num_started) == (0, 1)
    while camera.num_open == 0:
        camera.step()
        camera.now += 0.05
    camera.give(Kind.OPENED, Kind.FRAME)
    back = camera.step()
    assert isinstance(back, Notice)
    assert back.event == "source_back"
    camera.give(Kind.FRAME)
    assert isinstance(camera.step(), FrameItem)


@pytest.mark.parametrize(
    "message", [pytest.param(Kind.FAILED, id="device lost"), pytest.param(Kind.ENDED, id="stream ended")]
)
def test_a_device_that_fails_is_closed_at_once(message: Kind) -> None:
    camera = Camera().running()
    camera.give(message)
    assert isinstance(camera.step(), Notice)
    assert camera.source.state is LiveState.RECONNECTING
    assert camera.num_open == 0


@pytest.mark.parametrize("messages", [(), (Kind.FAILED,), (Kind.OPENED,), (Kind.NOTHING,)], ids=str)
def test_a_device_that_was_never_seen_is_an_error(messages: Sequence[Kind]) -> None:
    camera = Camera()
    camera.give(*messages)
    with pytest.raises(SourceError, match="source fake gave no frame"):
        camera.until(LiveState.RUNNING)
    assert camera.source.state is LiveState.ERROR
    assert camera.num_open == 0


def test_a_thousand_losses_leave_nothing_open_and_one_pair_of_notices_each() -> None:
    camera = Camera().running()
    notices = list[str]()
    for n in range(1000):
        camera.give((Kind.FAILED, Kind.ENDED)[n % 2])
        offers = [camera.step()]
        while camera.num_open == 0:
            offers.append(camera.step())
            camera.now += 1.0
        camera.give(Kind.OPENED, Kind.FRAME, Kind.FRAME)
        offers += [camera.step()]
        notices += [offer.event for offer in offers if isinstance(offer, Notice)]
        assert camera.source.state is LiveState.RUNNING
    assert notices == ["source_lost", "source_back"] * 1000
    assert camera.num_open == 1
    assert camera.source.num_restarts == 1000


def test_a_stop_ends_a_waiting_source_and_closes_it() -> None:
    camera, stop = Camera().running(), Event()
    camera.give(Kind.FAILED)
    items = camera.source.items(stop)
    assert isinstance(next(items), Notice)
    stop.set()
    assert list(items) == []
    assert camera.source.state is LiveState.STOPPED
    assert camera.num_open == 0


def test_waits_double_to_thirty_seconds_and_begin_again_after_steady_work() -> None:
    restarts = Restarts(lambda: 1.0)
    waits = [restarts.wait_s(0.0, worked_s=0.0) for _ in range(7)]
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert restarts.wait_s(0.0, worked_s=60.0) == 1


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 0.999)), max_size=60))
def test_there_are_never_more_than_five_starts_a_minute(failures: list[tuple[float, float]]) -> None:
    now, starts, chances = 0.0, list[float](), iter([chance for _, chance in failures])
    restarts = Restarts(lambda: next(chances))
    for worked_s, _ in failures:
        restarts.started(now)
        starts.append(now)
        now += worked_s
        wait_s = restarts.wait_s(now, worked_s)
        assert wait_s >= 1.0
        now += wait_s
    assert all(later - first >= 60.0 - 1e-6 for first, later in zip(starts, starts[5:], strict=False))


def fake(what: str, slot_bytes: int = 1 << 20) -> Callable[[], CaptureProcess]:
    command = (sys.executable, str(FAKE))
    return lambda: CaptureProcess(f"fake:{what}", slot_bytes=slot_bytes, command=command)


def received(capture: CaptureProcess, enough: Callable[[list[Message]], bool]) -> list[Message]:
    messages, end = list[Message](), monotonic() + 20
    while not enough(messages):
        assert monotonic() < end, messages
        messages += capture.receive(0.5)
    return messages


def test_frames_cross_the_process_boundary_whole_whatever_their_size() -> None:
    capture = fake("resizes")()
    try:
        heights, indices = set[int](), list[int]()
        while len(indices) < 20:
            frames = [m for m in capture.receive(5.0) if m.kind is Kind.FRAME]
            pixels = capture.take(frames[-1]) if frames else None
            if pixels is None:
                continue
            assert (pixels == frames[-1].index + 1).all()
            heights.add(pixels.shape[0])
            indices.append(frames[-1].index)
        assert heights <= {48, 56}
        assert indices == sorted(set(indices))
    finally:
        capture.close()


@pytest.mark.parametrize(
    ("what", "kind", "sentence"),
    [
        pytest.param("ends", Kind.ENDED, "", id="ends"),
        pytest.param("breaks", Kind.FAILED, "No such device", id="device lost"),
        pytest.param("absent", Kind.FAILED, "no such camera", id="absent"),
        pytest.param("large", Kind.FAILED, "too large", id="frame larger than its slot"),
    ],
)
def test_the_end_of_a_device_is_told(what: str, kind: Kind, sentence: str) -> None:
    capture = fake(what)()
    try:
        last = received(capture, lambda messages: any(m.kind in {Kind.ENDED, Kind.FAILED} for m in messages))[-1]
        assert last.kind is kind
        assert sentence in last.text
        assert "ended" in received(capture, bool)[-1].text
    finally:
        capture.close()


def num_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_hanging_camera_is_killed_and_leaves_no_descriptor() -> None:
    before = num_descriptors()
    for _ in range(3):
        capture = fake("hangs")()
        received(capture, lambda messages: sum(m.kind is Kind.FRAME for m in messages) == 2)
        capture.close()
    assert num_descriptors() == before


_ORPHAN = """
import sys
from hffnet.runtime.sources.capture_process import CaptureProcess
capture = CaptureProcess("fake:hangs", slot_bytes=1 << 20, command=(sys.executable, sys.argv[1]))
capture.receive(20)
print(capture._process.pid, flush=True)
sys.stdin.read()
"""


def test_a_capture_ends_with_a_pipeline_that_was_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _ORPHAN, str(FAKE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    import select

    assert select.select([child], [], [], 10)[0], "the capture process outlived its pipeline"
    os.close(child)


@given(st.lists(st.text(max_size=50), max_size=20), st.integers(1, 7))
def test_messages_survive_any_cut_of_the_pipe(texts: list[str], size: int) -> None:
    reading, writing = os.pipe()
    for index, text in enumerate(texts):
        send(writing, Message(kind=Kind.FAILED, index=index, text=text))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    source, sink = os.pipe()
    inbox, got = Inbox(source), list[Message]()
    for start in range(0, len(data), size):
        os.write(sink, data[start : start + size])
        got += inbox.receive(0.0)
    os.close(sink)
    os.close(source)
    assert [(m.index, m.text) for m in got] == list(enumerate(texts))


def video(path: Path, num: int = 6) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write a video to test with")
    for n in range(num):
        picture = np.random.default_rng(n).integers(0, 40, (96, 128, 3), dtype=np.uint8)
        writer.write(np.asarray(picture + 30 * n, np.uint8))
    writer.release()
    return path


def frames_of(uri: str, is_done: Callable[[Path, FileStamp], bool] | None = None) -> list[FrameItem]:
    return [item for item in open_source(uri, is_done=is_done).items(Event()) if isinstance(item, FrameItem)]


def test_every_frame_of_a_video_file_comes_once_and_none_is_lost(tmp_path: Path) -> None:
    path = video(tmp_path / "a.avi")
    items = frames_of(f"video:{path}")
    assert [item.name for item in items] == [f"a.avi#{n}" for n in range(6)]
    means = [float(item.read().picture.mean()) for item in items]
    assert means == sorted(means)
    assert means[-1] - means[0] == pytest.approx(150, abs=10)


def test_a_video_goes_on_where_it_stopped_and_can_be_thinned(tmp_path: Path) -> None:
    path = video(tmp_path / "a.avi")
    done = {"a.avi#0", "a.avi#1"}
    everything = frames_of(f"video:{path}")
    rest = frames_of(f"video:{path}", lambda p, _s: p.name in done)
    assert [item.name for item in rest] == [f"a.avi#{n}" for n in range(2, 6)]
    for skipped_to, item in zip(rest, everything[2:], strict=True):
        assert np.array_equal(skipped_to.read().pixels, item.read().pixels)
    assert [item.name for item in frames_of(f"video:{path}?every=3")] == ["a.avi#0", "a.avi#3"]


def test_a_damaged_video_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(b"RIFF" + bytes(5000))
    with pytest.raises(SourceError, match="cannot be opened as a video"):
        frames_of(f"video:{path}")


def test_a_stream_that_is_not_there_is_an_error_and_hides_the_password() -> None:
    source = open_source("rtsp://me:secret@127.0.0.1:9/live#open_timeout_s=5")
    with pytest.raises(SourceError, match="source rtsp://127") as caught:
        next(source.items(Event()))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        pytest.param("v4l2:/dev/v4l/by-id/cam?fsp=3", "it takes", id="unknown option"),
        pytest.param("rtsp://camera#stall_s=0", "stall_s", id="out of range"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(uri: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        open_source(uri)


def test_an_rtsp_address_keeps_its_own_query() -> None:
    address = address_from_uri("rtsp://camera/live?channel=1#read_timeout_s=3")
    assert address.target == "rtsp://camera/live?channel=1"
    assert address.options.read_timeout_s == 3


def piped(data: bytes) -> StreamSource:
    reading, writing = os.pipe()
    os.write(writing, data)  # a few kilobytes: the pipe holds them
    os.close(writing)
    return StreamSource(reading)


def framed(*frames: bytes | bytearray) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + bytes(frame) for frame in frames)


def test_frames_on_a_pipe_come_in_order_and_a_bad_one_stops_nothing() -> None:
    good = imagecodecs.png_encode(PIXELS)
    items = list(piped(framed(good, b"no frame", good)).items(Event()))
    assert [item.name for item in items] == ["stdin#1", "stdin#2", "stdin#3"]
    assert np.array_equal(items[2].read().pixels, PIXELS)
    with pytest.raises(FrameError):
        items[1].read()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(framed(b"x" * 99)[:50], "ended after 46 of 99 bytes", id="cut frame"),
        pytest.param(b"\0\0", "ended after 2 of 4", id="cut length"),
        pytest.param(b"\xff\xff\xff\xff", "claims 4294967295 bytes", id="absurd length"),
    ],
)
def test_a_pipe_that_is_not_frames_is_told(data: bytes, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        list(piped(data).items(Event()))


def test_a_stop_ends_the_wait_for_a_silent_pipe() -> None:
    reading, writing = os.pipe()
    stop = Event()
    stop.set()
    assert list(StreamSource(reading).items(stop)) == []
    os.close(writing)
    os.close(reading)


def test_arrays_come_in_order_with_their_pixel_size() -> None:
    items = list(ArraySource([PIXELS, PIXELS[:40]], name="scan", pixel_size_um=0.2).items(Event()))
    assert [item.name for item in items] == ["scan#1", "scan#2"]
    frame = items[1].read()
    assert (frame.acquisition.pixel_size_um, frame.pixels.shape) == (0.2, (40, 64))


def test_of_pushed_arrays_the_newest_counts() -> None:
    source = PushSource()
    for n in range(3):
        source.push(np.full((48, 64), n, np.uint8))
    source.end()
    (item,) = source.items(Event())
    assert int(item.read().pixels[0, 0]) == 2
    assert item.facts == {"index": 3, "dropped": {"superseded": 2}}


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
        self, frame: Frame, timings: Timings | None = None, *, previous: FrameFingerprint | None = None
    ) -> Prediction:
        prediction = super().classify_frame(frame, timings, previous=previous)
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
            self, frame: Frame, timings: Timings | None = None, *, previous: FrameFingerprint | None = None
        ) -> Prediction:
            prediction = Classifier.classify_frame(self, frame, timings, previous=previous)
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
