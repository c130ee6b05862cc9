"""Video files, addresses, frames on a pipe and from arrays."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from threading import Event

import imagecodecs
import numpy as np
import pytest

from hffnet.runtime.errors import ConfigError, FrameError, SourceAwayError, SourceError
from hffnet.runtime.sources import FileStamp, FrameItem, Notice, open_source
from hffnet.runtime.sources.array_source import ArraySource, PushSource
from hffnet.runtime.sources.live_options import address_from_uri
from hffnet.runtime.sources.live_source import LiveSource
from hffnet.runtime.sources.stream_source import StreamSource
from tests.runtime.live_stand import PIXELS, video


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


def test_a_stream_that_is_not_there_is_waited_for_and_hides_the_password() -> None:
    uri, stop = "rtsp://me:secret@127.0.0.1:9/live#open_timeout_s=5", Event()
    items = open_source(uri).items(stop)
    notice = next(items)
    assert isinstance(notice, Notice)
    assert notice.event == "source_lost"
    assert "source rtsp://127.0.0.1:9/live gave no frame" in notice.reason
    assert "secret" not in notice.reason
    stop.set()
    assert list(items) == []


def test_a_stream_that_is_not_there_is_told_to_who_asks() -> None:
    source = open_source("rtsp://me:secret@127.0.0.1:9/live#open_timeout_s=5")
    assert isinstance(source, LiveSource)
    with pytest.raises(SourceAwayError, match="source rtsp://127") as caught:
        source.prove()
    assert "secret" not in str(caught.value)


def test_a_rectangle_of_the_screen_is_looked_at_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="names no rectangle"):
        open_source("screen:all")


@pytest.mark.parametrize(("share", "num_notices"), [(1.0, 0), (0.5, 1)], ids=["whole", "cut at half"])
def test_a_video_that_is_cut_off_is_told_at_its_end(tmp_path: Path, share: float, num_notices: int) -> None:
    path = video(tmp_path / "a.avi", 60)
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    items = list(open_source(f"video:{path}?every=7").items(Event()))
    notices = [item for item in items if isinstance(item, Notice)]
    assert len(notices) == num_notices
    assert isinstance(items[0], FrameItem)
    for notice in notices:
        assert notice is items[-1]
        assert "of about 60 frames; it is cut off or damaged" in notice.reason


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
