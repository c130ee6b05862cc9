"""Frames that another program pipes in: a length of 4 bytes (big-endian), then that many bytes of an image file.

The pipe itself holds the other program back; every frame is classified. A length of 0, or the end of the pipe, ends
the run.
"""

import os
import select
import struct
import sys
from collections.abc import Iterator
from functools import partial
from threading import Event
from time import monotonic

from hffnet.runtime.errors import SourceError
from hffnet.runtime.limits import Limits
from hffnet.runtime.read import frame_from_bytes
from hffnet.runtime.sources import FrameItem, Item

_TICK_S = 0.1
_LENGTH = struct.Struct(">I")


class StreamSource:
    """Reads a pipe; one thread drives it.

    Args:
        descriptor: of the pipe; standard input by default.
        limits: the longest frame.
    """

    is_live = False

    def __init__(self, descriptor: int | None = None, limits: Limits | None = None) -> None:
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._limits = limits or Limits()

    def items(self, stop: Event) -> Iterator[FrameItem]:
        """Every frame in order.

        Raises:
            SourceError: a length that no frame has, or the pipe ended inside a frame.
        """
        index = 0
        while (header := self._read(_LENGTH.size, stop, "a length")) and (size := _LENGTH.unpack(header)[0]):
            if size > self._limits.max_file_bytes:
                raise SourceError(
                    f"frame {index + 1} on the pipe claims {size} bytes, at most {self._limits.max_file_bytes} are"
                    " read; expected 4 bytes of length (big-endian), then an image file"
                )
            found_at = monotonic()
            data = self._read(size, stop, f"frame {index + 1}")
            if data is None:
                return
            index += 1
            name = f"stdin#{index}"
            read = partial(frame_from_bytes, data, name, limits=self._limits)
            yield FrameItem(name=name, read=read, found_at=found_at, settled_at=monotonic())

    def retry(self, item: Item) -> bool:
        """A pipe gives nothing twice."""
        del item
        return False

    def _read(self, size: int, stop: Event, what: str) -> bytes | None:
        """Exactly so many bytes; None at the end of the pipe or on a stop."""
        data = bytearray()
        while len(data) < size:
            if stop.is_set():
                return None
            if not select.select([self._descriptor], [], [], _TICK_S)[0]:
                continue
            part = os.read(self._descriptor, min(size - len(data), 1 << 20))
            if not part:
                if data or what != "a length":
                    raise SourceError(f"the pipe ended after {len(data)} of {size} bytes of {what}")
                return None
            data += part
        return bytes(data)
