"""Preprocess of whole frames, C++ against Python/OpenCV and Pillow, interleaved in one run.

``python -m tests.bench.cpp_preprocess build/dev/runtime/cpp/libhffnet.so``: medians in milliseconds and their ratios.
The C++ time is the stage's own, as the library prints it.
"""

import ctypes
import json
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from tests import tiny

ROUNDS = 200
SPEC = PreprocessSpec()
DEPTHS: dict[np.dtype[Any], int] = {np.dtype(np.uint8): 0, np.dtype(np.uint16): 1}
SHAPES = ((884, 1024), (2048, 3072))


class Library:
    """The C interface, as far as a stage's time needs it."""

    def __init__(self, path: str, bundle: Path) -> None:
        self._c = ctypes.CDLL(path)
        self._c.hffnet_json.restype = self._c.hffnet_last_error.restype = ctypes.c_char_p
        self._classifier = ctypes.c_void_p()
        if self._c.hffnet_open(str(bundle).encode(), None, ctypes.byref(self._classifier)):
            raise RuntimeError(self._c.hffnet_last_error().decode())

    def preprocess_ms(self, picture: npt.NDArray[np.generic]) -> float:
        """Classify one picture; the time of its stage preprocess."""
        prediction, (height, width) = ctypes.c_void_p(), map(ctypes.c_size_t, picture.shape)
        status = self._c.hffnet_classify_pixels(
            self._classifier, ctypes.c_void_p(picture.ctypes.data), DEPTHS[picture.dtype], height, width,
            ctypes.c_size_t(picture.strides[0]), b"bench", ctypes.byref(prediction),
        )  # fmt: skip
        if status:
            raise RuntimeError(self._c.hffnet_last_error().decode())
        document = json.loads(self._c.hffnet_json(prediction))
        self._c.hffnet_release(prediction)
        return float(document["timings_ms"]["preprocess"])


def python_ms(picture: npt.NDArray[np.generic]) -> float:
    """The Python path."""
    start = perf_counter_ns()
    preprocess(picture, SPEC)  # type: ignore[arg-type]
    return (perf_counter_ns() - start) / 1e6


def pillow_ms(picture: npt.NDArray[np.generic]) -> float:
    """Pillow's box filter and a stretch by its own quantiles; NaN where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return float("nan")
    start = perf_counter_ns()
    image = Image.fromarray(picture.astype(np.float32)).resize((SPEC.size, SPEC.size), Image.Resampling.BOX)
    small = np.asarray(image)
    low, high = np.quantile(small, [SPEC.low, SPEC.high])
    np.clip((small - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    return (perf_counter_ns() - start) / 1e6


def main() -> None:
    """Print one line per frame size and depth."""
    tiny.SIZE = SPEC.size
    with tempfile.TemporaryDirectory() as folder:
        library = Library(sys.argv[1], tiny.write_tiny_bundle(Path(folder) / "size224.hffnet"))
        for threads in (1, cv2.getNumThreads()):
            cv2.setNumThreads(threads)
            for (height, width), dtype in product(SHAPES, DEPTHS):
                picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width), dtype)
                times = [
                    (library.preprocess_ms(picture), python_ms(picture), pillow_ms(picture)) for _ in range(ROUNDS)
                ]
                cpp, python, pillow = (statistics.median(column) for column in zip(*times, strict=True))
                sys.stdout.write(
                    f"{width}x{height} {dtype.name}, OpenCV on {threads} threads: C++ {cpp:.3f} ms,"
                    f" Python {python:.3f} ms (x{python / cpp:.1f}), Pillow {pillow:.3f} ms (x{pillow / cpp:.1f})\n"
                )


if __name__ == "__main__":
    main()
