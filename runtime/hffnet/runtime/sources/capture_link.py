"""What a capture process and the pipeline share: slots for frames in memory, and a pipe of short messages.

The memory is an anonymous file (memfd): it has no name to clean up and is gone with the last process that holds it. A
slot is written and read under a record lock of the kernel, which a killed process gives back, and carries the index of
its frame, so that a slot that was written again meanwhile is noticed.
"""

import fcntl
import mmap
import os
import select
import struct
from dataclasses import dataclass
from enum import IntEnum
from time import monotonic_ns

import numpy as np
import numpy.typing as npt

from hffnet.runtime.frame import GreyPixels

NUM_SLOTS = 3
"""One that is read, one that is the newest, one to write to."""

DEFAULT_SLOT_BYTES = 64 * 2**20
"""Largest frame; memory is taken only where frames are written."""

READ, SKIP = b"\0", b"\1"
"""What a capture on demand is asked for: the next frame, or to pass over it."""

_HEADER = struct.Struct("<BBBxIIQQI")  # kind, slot, dtype, height, width, index, captured_ns, bytes of text
_INDEX = struct.Struct("<Q")
_OFFSET = 64  # pixels begin on a cache line
_MOST_TEXT = 2000  # a message stays below PIPE_BUF, so that it is written whole
_DTYPES: tuple[npt.DTypeLike, ...] = (np.uint8, np.uint16, np.float32)


class Kind(IntEnum):
    """What a message says."""

    OPENED = 1
    FRAME = 2
    NOTHING = 3
    ENDED = 4
    FAILED = 5
    SKIPPED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a capture process.

    Attributes:
        kind: ``NOTHING``: a read gave no frame. ``SKIPPED``: one was passed over, as asked. ``ENDED``: there are
            no more; ``text`` says what speaks against that. ``FAILED``: ``text`` says why.
        slot, index: where the frame is, and its number from 0.
        shape, dtype: of the frame.
        captured_at: monotonic seconds (one clock for all processes of the machine).
        text: a sentence.
    """

    kind: Kind
    slot: int = 0
    index: int = 0
    shape: tuple[int, int] = (0, 0)
    dtype: int = 0
    captured_at: float = 0.0
    text: str = ""


class Slots:
    """Both sides' view of the shared memory.

    Args:
        descriptor: of the anonymous file; made by the reading side with ``memory_for_slots``.
        slot_bytes: size of each slot.
    """

    def __init__(self, descriptor: int, slot_bytes: int) -> None:
        self._descriptor, self._slot_bytes = descriptor, slot_bytes
        self._memory = mmap.mmap(descriptor, NUM_SLOTS * slot_bytes)
        self._newest = 0

    def write(self, pixels: GreyPixels, index: int) -> int | None:
        """Put a frame into a slot that is neither the newest nor being read; None where it is too large."""
        if pixels.nbytes > self._slot_bytes - _OFFSET:
            return None
        for step in range(1, NUM_SLOTS):
            slot = (self._newest + step) % NUM_SLOTS
            if self._lock(slot):
                break
        else:  # the reader holds one slot at most
            raise AssertionError("no slot is free")
        start = slot * self._slot_bytes
        _INDEX.pack_into(self._memory, start, index)
        np.copyto(self._view(slot, pixels.shape, pixels.dtype), pixels)
        self._unlock(slot)
        self._newest = slot
        return slot

    def take(self, message: Message) -> GreyPixels | None:
        """A copy of the frame that a message told of; None where it was written over since."""
        if not self._lock(message.slot):
            return None
        try:
            (index,) = _INDEX.unpack_from(self._memory, message.slot * self._slot_bytes)
            if index != message.index:
                return None
            pixels: GreyPixels = self._view(message.slot, message.shape, np.dtype(_DTYPES[message.dtype])).copy()
            return pixels
        finally:
            self._unlock(message.slot)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()

    def _view(self, slot: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> GreyPixels:
        num = int(np.prod(shape))
        flat = np.frombuffer(self._memory, dtype, num, slot * self._slot_bytes + _OFFSET)
        view: GreyPixels = flat.reshape(shape)
        return view

    def _lock(self, slot: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError:
            return False
        return True

    def _unlock(self, slot: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, slot)


def memory_for_slots(slot_bytes: int) -> int:
    """Descriptor of new shared memory for ``Slots``."""
    descriptor = os.memfd_create("hffnet-frames")
    os.ftruncate(descriptor, NUM_SLOTS * slot_bytes)
    return descriptor


def send(descriptor: int, message: Message) -> None:
    """Write a message; waits while the reader is 64 KiB of messages behind."""
    text = message.text.encode()[:_MOST_TEXT]
    height, width = message.shape
    captured_ns = int(message.captured_at * 1e9)
    fields = (message.kind, message.slot, message.dtype, height, width, message.index, captured_ns, len(text))
    os.write(descriptor, _HEADER.pack(*fields) + text)


def frame_message(slot: int, index: int, pixels: GreyPixels) -> Message:
    """The message that a frame captured just now is in a slot."""
    height, width = pixels.shape
    return Message(
        kind=Kind.FRAME,
        slot=slot,
        index=index,
        shape=(height, width),
        dtype=[np.dtype(dtype) for dtype in _DTYPES].index(pixels.dtype),
        captured_at=monotonic_ns() / 1e9,
    )


class Inbox:
    """The reading end of the message pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bytes = b""
        self.is_closed = False
        """The writer is gone."""

    def receive(self, timeout_s: float) -> list[Message]:
        """Everything that has come, waiting for the first at most ``timeout_s``."""
        messages = list[Message]()
        while not self.is_closed and select.select([self._descriptor], [], [], 0 if messages else timeout_s)[0]:
            data = os.read(self._descriptor, 1 << 16)
            self.is_closed = not data
            self._bytes += data
            messages += self._whole()
            timeout_s = 0.0
        return messages

    def _whole(self) -> list[Message]:
        messages = list[Message]()
        while len(self._bytes) >= _HEADER.size:
            kind, slot, dtype, height, width, index, captured_ns, size = _HEADER.unpack_from(self._bytes)
            end = _HEADER.size + size
            if len(self._bytes) < end:
                break
            messages.append(
                Message(
                    kind=Kind(kind),
                    slot=slot,
                    index=index,
                    shape=(height, width),
                    dtype=dtype,
                    captured_at=captured_ns / 1e9,
                    text=self._bytes[_HEADER.size : end].decode("utf-8", "replace"),
                )
            )
            self._bytes = self._bytes[end:]
        return messages
