"""The real capture process with a fake camera: frames cross whole, and whatever hangs is killed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffnet.runtime.sources import Notice
from hffnet.runtime.sources.capture_link import Inbox, Kind, Message, send
from hffnet.runtime.sources.capture_process import CaptureProcess
from hffnet.runtime.sources.live_options import LiveOptions
from hffnet.runtime.sources.live_source import LiveSource, LiveState
from tests.runtime.live_stand import FAKE, fake


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


def test_a_camera_that_gives_nothing_says_so_and_goes_on() -> None:
    capture = fake("nothing")()
    try:
        messages = received(capture, lambda messages: sum(m.kind is Kind.NOTHING for m in messages) >= 3)
    finally:
        capture.close()
    assert [m.kind for m in messages[:3]] == [Kind.OPENED, Kind.FRAME, Kind.NOTHING]


def test_real_captures_that_vanish_and_return_leave_nothing_behind() -> None:
    """The clock alone is turned by hand; a thousand losses are in test_live_sources, without processes."""
    before, now = num_descriptors(), [0.0]
    source = LiveSource("fake", fake("breaks"), LiveOptions(), clock=lambda: monotonic() + now[0])
    events, end = list[str](), monotonic() + 60
    while source.num_restarts < 10:
        assert monotonic() < end, events
        offer = source.step(0.5)
        if isinstance(offer, Notice):
            events.append(offer.event)
        if source.state is LiveState.RECONNECTING:
            now[0] += 30.0
    source._end_capture()
    # A frame that comes together with its loss is no return, so there may be fewer pairs than losses.
    assert set(events[::2]) == {"source_lost"}
    assert set(events[1::2]) == {"source_back"}
    assert num_descriptors() == before


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
