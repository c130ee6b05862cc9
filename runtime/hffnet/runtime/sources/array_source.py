"""Frames that a Python program has in memory: all of them in order, or pushed live with only the newest kept."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from threading import Condition, Event
from time import monotonic

import numpy as np
import numpy.typing as npt

from hffnet.runtime.frame import Acquisition, Frame
from hffnet.runtime.grey import grey_from_samples
from hffnet.runtime.infobar import BarSetting
from hffnet.runtime.read import frame_from_pixels
from hffnet.runtime.sources import FrameItem, Item

_TICK_S = 0.1
Samples = npt.NDArray[np.generic]


class ArraySource:
    """Every array of an iterable, in order, none dropped.

    Args:
        arrays: (H, W) or (H, W, samples) as ``grey_from_samples`` takes them.
        name: for people and records.
        pixel_size_um: micrometres per pixel, where known.
    """

    is_live = False

    def __init__(self, arrays: Iterable[Samples], *, name: str = "array", pixel_size_um: float | None = None) -> None:
        self._arrays, self._name, self._pixel_size_um = arrays, name, pixel_size_um

    def items(self, stop: Event) -> Iterator[FrameItem]:
        """One item per array."""
        for index, array in enumerate(self._arrays, start=1):
            if stop.is_set():
                return
            now, name = monotonic(), f"{self._name}#{index}"
            yield FrameItem(
                name=name, read=partial(_frame, array, name, self._pixel_size_um), found_at=now, settled_at=now
            )

    def retry(self, item: Item) -> bool:
        """An array does not change."""
        del item
        return False


class PushSource:
    """The newest array that was pushed; older ones are dropped and counted. ``push`` never waits.

    For programs that get frames by callback (Micro-Manager, pymmcore): connect the callback to ``push``.
    """

    is_live = True

    def __init__(self, *, name: str = "push", pixel_size_um: float | None = None) -> None:
        self.dropped: Counter[str] = Counter()
        self._name, self._pixel_size_um = name, pixel_size_um
        self._changed = Condition()
        self._newest: tuple[Samples, float, int] | None = None
        self._num, self._is_ended = 0, False

    def push(self, array: Samples) -> None:
        """Offer a copy of a frame, from any thread."""
        copy = array.copy()
        with self._changed:
            self._num += 1
            self.dropped["superseded"] += self._newest is not None
            self._newest = (copy, monotonic(), self._num)
            self._changed.notify_all()

    def end(self) -> None:
        """No more frames will come; the newest is still classified."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def items(self, stop: Event) -> Iterator[FrameItem]:
        """The newest frame each time one is asked for."""
        told: Counter[str] = Counter()
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._is_ended, _TICK_S)
                newest, self._newest = self._newest, None
                since, told = self.dropped - told, self.dropped.copy()
                if newest is None and self._is_ended:
                    return
            if newest is not None:
                array, pushed_at, index = newest
                name = f"{self._name}#{index}"
                yield FrameItem(
                    name=name,
                    read=partial(_frame, array, name, self._pixel_size_um),
                    found_at=pushed_at,
                    settled_at=pushed_at,
                    is_live=True,
                    facts={"index": index, "dropped": dict(since)},
                )

    def retry(self, item: Item) -> bool:
        """A live frame does not come again."""
        del item
        return False


def _frame(array: Samples, name: str, pixel_size_um: float | None, *, bar: BarSetting | None = None) -> Frame:
    source = "given by the caller" if pixel_size_um is not None else None
    acquisition = Acquisition(pixel_size_um=pixel_size_um, pixel_size_source=source)
    return frame_from_pixels(grey_from_samples(array, name), name, acquisition=acquisition, bar=bar)
