"""What tests of live sources share: a picture, a fake camera behind the real capture process, a video file."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from hffnet.runtime.sources.capture_process import CaptureProcess

FAKE = Path(__file__).with_name("fake_camera.py")
PIXELS = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)


def fake(what: str, slot_bytes: int = 1 << 20) -> Callable[[], CaptureProcess]:
    """The real capture process, with the fake camera that does what ``what`` says."""
    command = (sys.executable, str(FAKE))
    return lambda: CaptureProcess(f"fake:{what}", slot_bytes=slot_bytes, command=command)


def video(path: Path, num: int = 6) -> Path:
    """A video of noise that grows brighter frame by frame, and begins again after seven."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write a video to test with")
    for n in range(num):
        picture = np.random.default_rng(n).integers(0, 40, (96, 128, 3), dtype=np.uint8)
        writer.write(np.asarray(picture + 30 * (n % 7), np.uint8))
    writer.release()
    return path
