"""A camera for the real capture process: ``python fake_camera.py … fake:WHAT`` behaves as WHAT says."""

import sys
import time

import numpy as np

from hffnet.runtime.errors import SourceError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.sources.cameras import NoMoreFramesError
from hffnet.runtime.sources.capture import run_capture


class FakeCamera:
    def __init__(self, uri: str) -> None:
        self.what = uri.partition(":")[2]
        self.num = 0
        if self.what == "absent":
            raise SourceError("no such camera")

    def read(self) -> GreyPixels | None:
        self.num += 1
        time.sleep(1 / 30 if self.what == "30fps" else 0.005)
        match self.what:
            case "hangs":
                while self.num > 2:
                    time.sleep(3600)
            case "ends" if self.num > 3:
                raise NoMoreFramesError
            case "breaks" if self.num > 2:
                raise OSError(19, "No such device")
            case "nothing" if self.num > 1:
                return None
            case "30fps":
                return np.random.default_rng(self.num).integers(20, 230, (480, 640), dtype=np.uint8)
            case "large":
                return np.zeros((4096, 4096), np.uint8)
        height = 48 + 8 * (self.num % 2) if self.what == "resizes" else 48
        # Every pixel is the frame's number: a torn frame would show.
        return np.full((height, 64), self.num % 65536, np.uint16)

    def skip(self) -> None:
        self.num += 1

    def close(self) -> None:
        pass


if __name__ == "__main__":
    run_capture(sys.argv[1:], FakeCamera)
