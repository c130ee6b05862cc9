"""Which frame is with the engine: a process that dies of it leaves its key behind, and the next one counts.

A frame that hangs or crashes the engine would else be the first thing that every new process does. The key stands in a
small file beside the records, written without waiting for the disk: it outlives the process, and a power cut, which is
no frame's fault, may take it. What is counted stands in the records file (`RecordStore.count_end`).
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hffnet.runtime.errors import EngineError, RecordError
from hffnet.runtime.record import text_from_name
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_inputs import input_key
from hffnet.runtime.sources import FrameItem, Item

_log = logging.getLogger(__name__)
MOST_ENDS = 3
"""A frame that ended the service so often is not given to the engine again."""

_KEY_BYTES = 16
_NOTHING = bytes(_KEY_BYTES)


class InHand:
    """The frame in hand of one run.

    Args:
        store: where ends are counted; the key stands beside it.
        bundle_sha256, settings_sha256: of the run; under others the frame is given to the engine again.

    A second run on the same records, or a folder that takes no file, goes without: nothing is counted then.
    """

    def __init__(self, store: RecordStore, *, bundle_sha256: str, settings_sha256: str) -> None:
        self._identity = (bundle_sha256, settings_sha256)
        self._path = store.path.with_name(f"{store.path.name}-hand")
        self._is_held = False
        self._descriptor = self._opened()
        left = os.pread(self._descriptor, _KEY_BYTES, 0) if self._descriptor is not None else b""
        try:
            if len(left) == _KEY_BYTES and left != _NOTHING:
                store.count_end(left)
                self._write(_NOTHING)
            self._ends = store.ends()
        except RecordError as error:
            _log.warning("what ended the last run is not counted: %s", error)
            self._ends = {}

    def num_ends(self, item: Item | FrameItem) -> int:
        """How often the service ended while the engine had this frame."""
        key = self._key(item)
        return self._ends.get(key, 0) if key is not None else 0

    @contextmanager
    def holding(self, item: Item | FrameItem) -> Iterator[None]:
        """The engine has this frame until the block ends; an error of the engine leaves the key there."""
        key = self._key(item)
        if key is None or self._descriptor is None:
            yield
            return
        self._write(key)
        self._is_held = True
        try:
            yield
        except EngineError:
            raise
        except BaseException:
            self._let_go()
            raise
        else:
            self._let_go()

    def close(self) -> None:
        """Nothing stays behind but the key of a frame that the engine failed on."""
        if self._descriptor is None:
            return
        if not self._is_held:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _key(self, item: Item | FrameItem) -> bytes | None:
        """None for frames that no later run can know again: of cameras, pipes and arrays."""
        if item.path is None or item.stamp is None:
            return None
        return input_key(text_from_name(str(item.path)), item.stamp.mtime_ns, item.stamp.size, *self._identity)

    def _let_go(self) -> None:
        self._write(_NOTHING)
        self._is_held = False

    def _opened(self) -> int | None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            _log.warning("%s cannot be written (%s): frames that end the service are not counted", self._path, error)
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            _log.debug("%s is another run's (%s)", self._path, error)
            return None
        return descriptor

    def _write(self, key: bytes) -> None:
        assert self._descriptor is not None
        try:
            os.pwrite(self._descriptor, key, 0)
        except OSError as error:  # a full disk: the recorder tells of it
            _log.debug("%s cannot be written: %s", self._path, error)
