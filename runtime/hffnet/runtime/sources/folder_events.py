"""Linux tells what happened in a folder (inotify): what makes a look come early, and no more than that.

Events do not cross SMB or NFS, overflow, and are limited in number, so nothing depends on them: where there are none,
looks come as often as without. libc is called directly; the packages that wrap these three calls bring threads.
"""

import ctypes
import logging
import os
import select
import struct
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic

_log = logging.getLogger(__name__)
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _IGNORED = 0x8, 0x40, 0x80, 0x8000  # inotify.h
_ONLYDIR = 0x01000000
_TICK_S = 0.1  # a stop is noticed within this
_GATHER_S = 0.005  # files that come together are looked at together


@dataclass(slots=True)
class Happened:
    """Names in one folder: ``came`` were closed by their writer or moved in, ``left`` were moved out."""

    came: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)


class FolderEvents:
    """Events of some folders; one thread uses it.

    Args:
        is_on: false tells of nothing and waits all the same.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._paths: dict[int, Path] = {}
        self._watches: dict[Path, int] = {}
        self._is_told = False
        self._descriptor = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK) if is_on else -1
        if is_on and self._descriptor < 0:
            self._cannot("are not to be had")

    def follow(self, path: Path) -> None:
        """Tell of a folder too, of the one that is there now: another in its place is to be followed anew."""
        if self._descriptor < 0:
            return
        mask = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _ONLYDIR
        watch = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask)
        if watch < 0:
            self._cannot(f"of {path} are not to be had")
            return
        if self._watches.get(path, watch) != watch:
            self.leave(path)
        self._paths[watch], self._watches[path] = path, watch

    def leave(self, path: Path) -> None:
        """Tell no more of a folder; one that is not followed is left alone."""
        watch = self._watches.pop(path, None)
        if watch is not None and self._paths.get(watch) == path:  # else it was renamed, and is followed by its new name
            del self._paths[watch]
            self._libc.inotify_rm_watch(self._descriptor, watch)

    def wait(self, timeout_s: float, stop: Event) -> dict[Path, Happened]:
        """Wait until something happens, ``stop`` is set or the time is up; what happened."""
        until = monotonic() + timeout_s
        if self._descriptor < 0:
            stop.wait(timeout_s)
            return {}
        while not stop.is_set() and (left := until - monotonic()) > 0:
            if select.select([self._descriptor], [], [], min(left, _TICK_S))[0]:
                stop.wait(_GATHER_S)
                return self._read()
        return {}

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> dict[Path, Happened]:
        happened = dict[Path, Happened]()
        try:
            data = os.read(self._descriptor, 1 << 20)
        except BlockingIOError:
            return happened
        place = 0
        while place < len(data):
            watch, mask, _, size = _EVENT.unpack_from(data, place)
            place += _EVENT.size + size
            name = os.fsdecode(data[place - size : place].rstrip(b"\0"))
            path = self._paths.pop(watch, None) if mask & _IGNORED else self._paths.get(watch)
            if path is not None and name:
                names = happened.setdefault(path, Happened())
                (names.left if mask & _MOVED_FROM else names.came).add(name)
        return happened

    def _cannot(self, what: str) -> None:
        if self._is_told:  # once: there may be thousands of folders, and the limit is on their number
            return
        self._is_told = True
        _log.info("events %s (%s); folders are looked at now and then only", what, os.strerror(ctypes.get_errno()))
