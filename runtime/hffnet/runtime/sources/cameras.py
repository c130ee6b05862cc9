"""Devices that give frame after frame, opened inside the capture process and nowhere else: their calls can hang.

``rtsp://…`` and ``video:FILE`` through OpenCV's FFmpeg, ``v4l2:/dev/v4l/by-id/…`` through V4L2, ``screen:x,y,w,h``
through mss (X11; Wayland shows nothing to other programs).
"""

import re
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from hffnet.runtime.errors import ConfigError, MissingExtraError, SourceError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.grey import grey_from_samples
from hffnet.runtime.sources.live_options import LiveAddress, address_from_uri

_SCREEN = re.compile(r"^(-?\d+),(-?\d+),(\d+),(\d+)$")
# A container's number of frames may be its duration times its rate, rounded, so that a little less is no damage.
_FEWER, _FEWER_SHARE = 2, 0.02


class NoMoreFramesError(Exception):
    """The source has ended, as a file does; the message, if any, says what speaks against that being its end."""


class Camera(Protocol):
    """An open device."""

    def read(self) -> GreyPixels | None:
        """The next frame, waiting for it; None where the device gave nothing this time.

        Raises:
            NoMoreFramesError: there will be none any more.
            Exception: the device is lost.
        """

    def skip(self) -> None:
        """Pass over the next frame, at less cost than reading it; raises as ``read`` does."""

    def close(self) -> None:
        """Give the device back."""


OpenCamera = Callable[[str], Camera]


def open_camera(uri: str) -> Camera:
    """Open a device, or raise SourceError with a sentence that says what to look at."""
    address = address_from_uri(uri)
    match address.scheme:
        case "screen":
            return ScreenCamera(address)
        case "video" | "rtsp" | "rtsps" | "v4l2":
            return VideoCamera(address)
    raise ConfigError(f"source {address.name!r} is not a camera, stream, video file or screen")


class VideoCamera:
    """Anything that OpenCV opens as a video."""

    def __init__(self, address: LiveAddress) -> None:
        import cv2

        options, timeout_ms = address.options, int(address.options.read_timeout_s * 1000)
        self._name, self._is_file = address.name, address.scheme == "video"
        self._num = 0
        if address.scheme == "v4l2":
            wanted = {
                cv2.CAP_PROP_FRAME_WIDTH: options.width,
                cv2.CAP_PROP_FRAME_HEIGHT: options.height,
                cv2.CAP_PROP_FPS: options.fps,
            }
            self._video = cv2.VideoCapture(address.target, cv2.CAP_V4L2)
            for key, value in wanted.items():
                if value is not None:
                    self._video.set(key, value)
            self._video.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            # The timeouts work only with the backend named (opencv#23207).
            timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(options.open_timeout_s * 1000)]
            timeouts += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
            self._video = cv2.VideoCapture(address.target, cv2.CAP_FFMPEG, timeouts)
        if not self._video.isOpened():
            raise SourceError(f"{address.name} cannot be opened as a video; check that it is there and not in use")
        self._num_announced = int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)) if self._is_file else 0

    def read(self) -> GreyPixels | None:
        """The next frame in grey (Rec. 601)."""
        import cv2

        is_there, samples = self._video.read()
        if not is_there:
            if self._is_file:
                raise self._end()
            return None
        self._num += 1
        return grey_from_samples(
            cv2.cvtColor(samples, cv2.COLOR_BGR2GRAY) if samples.ndim == 3 else samples, self._name
        )

    def skip(self) -> None:
        """Pass over a frame: decoded, because later ones are built on it, but neither converted nor handed over."""
        if self._video.grab():
            self._num += 1
        elif self._is_file:
            raise self._end()

    def _end(self) -> NoMoreFramesError:
        """No more frames; with a sentence where there are clearly fewer than the file announces."""
        missing = self._num_announced - self._num
        if missing <= max(_FEWER, _FEWER_SHARE * self._num_announced):
            return NoMoreFramesError()
        return NoMoreFramesError(
            f"ended after {self._num} of about {self._num_announced} frames; it is cut off or damaged"
        )

    def close(self) -> None:
        """Give the device back."""
        self._video.release()


def check_screen(address: LiveAddress) -> tuple[int, int, int, int]:
    """Left, top, width and height of a rectangle of the screen.

    Raises:
        ConfigError: the address names none.
        MissingExtraError: the extra ``screen`` is not installed.
    """
    match = _SCREEN.match(address.target)
    if match is None:
        raise ConfigError(f"source {address.name!r} names no rectangle; expected screen:LEFT,TOP,WIDTH,HEIGHT")
    if find_spec("mss") is None:
        raise MissingExtraError("looking at the screen needs mss, which is not installed: pip install 'hffnet[screen]'")
    left, top, width, height = map(int, match.groups())
    return left, top, width, height


class ScreenCamera:
    """A rectangle of the screen, for microscopes whose software shows the live picture and gives it to nobody."""

    def __init__(self, address: LiveAddress) -> None:
        import mss

        left, top, width, height = check_screen(address)
        self._area = {"left": left, "top": top, "width": width, "height": height}
        self._name, self._period_s = address.name, 1.0 / (address.options.fps or 10.0)
        self._next_at = time.monotonic()
        try:
            self._screen = mss.mss()
        except Exception as error:  # mss has one exception type per system
            raise SourceError(f"the screen cannot be looked at ({error}); is there an X11 display?") from error

    def read(self) -> GreyPixels | None:
        """The rectangle as it is now, at the rate asked for."""
        time.sleep(max(self._next_at - time.monotonic(), 0.0))
        self._next_at = max(self._next_at + self._period_s, time.monotonic())
        shot = np.asarray(self._screen.grab(self._area))
        return grey_from_samples(np.ascontiguousarray(shot[:, :, 2::-1]), self._name)

    def skip(self) -> None:
        """A picture that nobody looks at is not taken."""

    def close(self) -> None:
        """Give the display back."""
        self._screen.close()
