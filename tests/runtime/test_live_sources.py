"""Live sources: the newest frame, counted drops, back after any loss; clocks are turned by hand."""

from collections.abc import Sequence
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffnet.runtime.errors import SourceAwayError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.sources import FrameItem, Notice
from hffnet.runtime.sources.capture_link import Kind, Message
from hffnet.runtime.sources.live_options import LiveOptions
from hffnet.runtime.sources.live_source import LiveSource, LiveState
from hffnet.runtime.sources.restarts import Restarts
from tests.runtime.live_stand import PIXELS


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
def test_a_device_that_is_not_there_at_the_start_is_waited_for(messages: Sequence[Kind]) -> None:
    camera = Camera()
    camera.give(*messages)
    (notice,) = camera.until(LiveState.RECONNECTING)
    assert isinstance(notice, Notice)
    assert notice.event == "source_lost"
    assert "source fake gave no frame" in notice.reason
    assert camera.num_open == 0
    for _ in range(1000):
        assert camera.step() is None  # told once, however long it takes
        camera.now += 0.5
    while camera.num_open == 0:
        camera.step()
        camera.now += 0.05
    camera.give(Kind.OPENED, Kind.FRAME)
    back = camera.step()
    assert isinstance(back, Notice)
    assert back.event == "source_back"
    camera.running()


def test_who_asks_whether_a_device_is_there_is_told() -> None:
    camera = Camera()
    camera.give(Kind.FAILED)
    with pytest.raises(SourceAwayError, match="gave no frame: No such device"):
        camera.source.prove()
    there = Camera()
    there.give(Kind.OPENED, Kind.FRAME)
    there.source.prove()
    assert (camera.num_open, there.num_open) == (0, 0)


def test_a_capture_that_cannot_be_started_is_tried_again() -> None:
    camera = Camera()
    starts = iter([OSError(24, "Too many open files")])

    def start() -> Camera:
        for error in starts:
            raise error
        return camera.start()

    source = LiveSource("fake", start, LiveOptions(), clock=lambda: camera.now, chance=lambda: 0.5)
    notice = source.step(0.1)
    assert isinstance(notice, Notice)
    assert "Too many open files" in notice.reason
    camera.now += 2.0
    source.step(0.1)
    assert camera.num_open == 1


def test_a_defect_leaves_the_source_in_error() -> None:
    def start() -> Camera:
        raise ValueError("a defect")

    source = LiveSource("fake", start, LiveOptions())
    with pytest.raises(ValueError, match="a defect"):
        next(source.items(Event()))
    assert source.state is LiveState.ERROR


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
