"""Live sources on what they are for: a network camera (RTSP, on the loopback) and a screen (a virtual X server)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from hffnet.runtime.sources import FrameItem, Notice, open_source
from hffnet.runtime.sources.live_source import LiveSource, LiveState
from tests.runtime.rtsp_server import HEIGHT, WIDTH, RtspServer

OPTIONS = "open_timeout_s=20&stall_s=0.3&read_timeout_s=1&max_age_s=5"


def frames(items: Iterator[object], num: int) -> list[FrameItem]:
    found = list[FrameItem]()
    for item in items:
        assert isinstance(item, FrameItem)
        found.append(item)
        if len(found) == num:
            break
    return found


def test_a_network_camera_gives_frames_is_lost_and_comes_back() -> None:
    stop = Event()
    with RtspServer() as camera:
        port = camera.port
        source = open_source(f"rtsp://me:secret@127.0.0.1:{port}/live#{OPTIONS}")
        assert isinstance(source, LiveSource)
        items = source.items(stop)
        levels = [float(item.read().pixels.mean()) for item in frames(items, 4)]
        assert levels == sorted(set(levels))
    item = next(item for item in items if isinstance(item, Notice))
    assert item.event == "source_lost"
    assert "secret" not in item.reason
    assert source.state is LiveState.RECONNECTING
    with RtspServer(port):
        item = next(item for item in items if isinstance(item, Notice))
        assert item.event == "source_back"
        (frame,) = frames(items, 1)
        assert frame.read().pixels.shape == (HEIGHT, WIDTH)
        stop.set()
        assert list(items) == []
    assert source.state.value == "stopped"


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Path]:
    """The memory of a virtual screen, 320 × 240, 32 bits a pixel."""
    pytest.importorskip("mss", reason="no mss: pip install 'hffnet[screen]'")
    if shutil.which("Xvfb") is None:
        pytest.skip("no virtual X server: apt-get install xvfb")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "320x240x24", "-fbdir", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "-nolisten", "tcp"], pass_fds=[writing], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as told:
        display = told.readline().strip()  # the whole line: a server that cannot write its end gives up
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", f":{display}")
        yield tmp_path / "Xvfb_screen0"
    process.terminate()
    process.wait()


def test_a_rectangle_of_the_screen_is_seen_as_it_is(screen: Path) -> None:
    """The screen's memory is the last 320 x 240 x 4 bytes of an xwd file."""
    shown = np.random.default_rng(0).integers(0, 256, (240, 320), dtype=np.uint8)
    with screen.open("r+b") as file:
        file.seek(-240 * 320 * 4, os.SEEK_END)
        file.write(np.repeat(shown[:, :, None], 4, axis=2).tobytes())
    stop = Event()
    items = open_source("screen:32,16,64,48?open_timeout_s=20&max_age_s=5&fps=20").items(stop)
    (item,) = frames(items, 1)
    stop.set()
    assert list(items) == []
    np.testing.assert_array_equal(item.read().pixels, shown[16:64, 32:96])


def test_without_a_screen_the_source_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mss", reason="no mss: pip install 'hffnet[screen]'")
    monkeypatch.setenv("DISPLAY", ":4711")
    stop = Event()
    items = open_source("screen:0,0,64,48?open_timeout_s=20").items(stop)
    notice = next(items)
    assert isinstance(notice, Notice)
    assert "is there an X11 display" in notice.reason
    stop.set()
    assert list(items) == []
