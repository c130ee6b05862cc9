"""What is known of one watched folder, in 16 bytes per file, and what a new look at it says.

A folder at a microscope can hold a million old frames. A look reads names only; the few that are new are asked for
size and time, and a rotating share of the known ones, so that a file rewritten in place is noticed as well. Looks
at a large folder cost at most 5 % of one core, and 25 % while the folder's own time changes. Names that the system
told of (``folder_events``) are asked for at once, without a look.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import numpy.typing as npt

from hffnet.runtime.sources import FileStamp

MOST_NEW = 10_000
"""Most new files taken from one look, oldest first; the rest is found again at a later one."""

_CHUNK = 4096
_PAUSE, _PAUSE_WHEN_CHANGED = 20, 3  # in times of what the last look took
_CHEAP = 10_000  # files whose names are read in some milliseconds
_LOOKED_AT_AGAIN = 256
_RACY_S = 2.0  # a folder's time has ticks of up to 2 s (FAT): a change in the same tick would not show
_Hashes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A version of a file that was not handled yet.

    Attributes:
        changed_at: wall-clock seconds of the last change of the file's state (Linux ctime, which no tool sets back).
    """

    name: str
    stamp: FileStamp
    changed_at: float


@dataclass(slots=True)
class Look:
    """Result of one look at a folder.

    Attributes:
        new: files that were not handled, oldest first.
        vanished: hashed stamps of handled files whose name is gone.
        folders: names of sub-folders.
    """

    new: list[NewFile] = field(default_factory=list)
    vanished: set[int] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)


def stamp_hash(stamp: FileStamp) -> int:
    """64 bits that stand for a version of a file within this process."""
    return hash((stamp.size, stamp.mtime_ns, stamp.inode))


class FolderListing:
    """Remembers which versions of which files in one folder were handled."""

    def __init__(
        self, path: Path, is_wanted: Callable[[str], bool], is_done: Callable[[Path, FileStamp], bool]
    ) -> None:
        self.path = path
        self.folders: list[str] = []
        self._is_wanted = is_wanted
        self._is_done = is_done
        self._names: _Hashes = np.empty(0, np.int64)  # sorted
        self._stamps: _Hashes = np.empty(0, np.int64)  # of the same files
        self._is_there = np.empty(0, np.bool_)  # of the same files, while looking
        self._handled: dict[str, int] = {}  # since the last look
        self._is_complete = False
        self._mtime_ns = -1
        self._changed_at = self._looked_at = -np.inf
        self._cost_s = 0.0
        self._next_again = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything that was there at the first look has been offered."""
        return self._is_complete

    def mark(self, name: str, stamp: FileStamp) -> None:
        """This version is handled: it will not be new again."""
        self._handled[name] = stamp_hash(stamp)

    def unmark(self, name: str) -> None:
        """Take back a mark made since the last look."""
        self._handled.pop(name, None)

    def stamps(self) -> set[int]:
        """Every handled version, hashed."""
        return {*self._stamps.tolist(), *self._handled.values()}

    def is_due(self, now: float) -> bool:
        """Whether a look is worth its cost; raises OSError where the folder is gone."""
        mtime_ns = self.path.stat().st_mtime_ns
        if mtime_ns != self._mtime_ns:
            self._mtime_ns, self._changed_at = mtime_ns, now
        if not self._is_complete or now - self._looked_at >= _PAUSE * self._cost_s:
            return True
        has_changed = self._looked_at < self._changed_at + _RACY_S
        is_cheap = self._names.size < _CHEAP
        return has_changed and (is_cheap or now - self._looked_at >= _PAUSE_WHEN_CHANGED * self._cost_s)

    def came(self, names: Iterable[str]) -> list[NewFile]:
        """Of these files, those that are there in a version that was not handled; without reading the folder."""
        new = list[NewFile]()
        for name in names:
            with suppress(OSError):
                status = (self.path / name).lstat()
                stamp = FileStamp.from_stat(status)
                is_file = stat.S_ISREG(status.st_mode) and self._is_wanted(name)
                if is_file and stamp_hash(stamp) != self._handled_version(name):
                    new.append(NewFile(name=name, stamp=stamp, changed_at=status.st_ctime))
        return new

    def left(self, names: Iterable[str]) -> set[int]:
        """Hashed stamps of the handled versions of these files, which are gone."""
        return {version for name in names if (version := self._handled_version(name)) is not None}

    def look(self, now: float) -> Look:
        """Read the folder; raises OSError, and keeps what was known, where it cannot be read."""
        began = monotonic()
        look = Look()
        for name, version in self._handled.items():
            if _holds(self._names, hash(name)):  # an event told that it was rewritten
                self._stamps[np.searchsorted(self._names, hash(name))] = version
        self._is_there = np.zeros(self._names.size, np.bool_)
        added = dict[int, int]()
        num_files, is_cut = 0, False
        with os.scandir(self.path) as entries:
            for chunk in self._chunks(entries, look):
                added |= self._sift(chunk, num_files, look)
                num_files += len(chunk)
                is_cut |= len(look.new) > 2 * MOST_NEW
                _cut(look.new, 2 * MOST_NEW)
        is_cut |= _cut(look.new, MOST_NEW)
        self._replace(added, look)
        self._next_again = (self._next_again + _LOOKED_AT_AGAIN) if self._next_again < num_files else 0
        self._is_complete = self._is_complete or not is_cut
        self.folders = look.folders
        self._looked_at, self._cost_s = now, monotonic() - began
        return look

    def _chunks(self, entries: Iterator[os.DirEntry[str]], look: Look) -> Iterator[list[os.DirEntry[str]]]:
        """Regular files with a wanted name, some thousands at a time; sub-folders go to ``look``."""
        chunk = list[os.DirEntry[str]]()
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                look.folders.append(entry.name)
            elif self._is_wanted(entry.name) and entry.is_file(follow_symlinks=False):
                chunk.append(entry)
                if len(chunk) == _CHUNK:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    def _sift(self, chunk: list[os.DirEntry[str]], start: int, look: Look) -> dict[int, int]:
        """Put what is new into ``look`` and note what is still there; hashes of what was handled since the last."""
        names = np.array([hash(entry.name) for entry in chunk], np.int64)
        places = np.minimum(np.searchsorted(self._names, names), max(self._names.size - 1, 0))
        is_known = self._names[places] == names if self._names.size else np.zeros(len(chunk), np.bool_)
        self._is_there[places[is_known]] = True
        again = slice(max(self._next_again - start, 0), max(self._next_again + _LOOKED_AT_AGAIN - start, 0))
        is_asked = ~is_known
        is_asked[again] = True
        added = dict[int, int]()
        for i in np.flatnonzero(is_asked).tolist():
            entry, place = chunk[i], int(places[i])
            handled = int(self._stamps[place]) if is_known[i] else self._handled.get(entry.name)
            now_stamp = self._stat(entry, handled, look)
            if is_known[i]:
                self._is_there[place] = now_stamp is not None
            elif now_stamp is not None:
                added[int(names[i])] = now_stamp
        return added

    def _handled_version(self, name: str) -> int | None:
        if name in self._handled:
            return self._handled[name]
        if not _holds(self._names, hash(name)):
            return None
        return int(self._stamps[np.searchsorted(self._names, hash(name))])

    def _stat(self, entry: os.DirEntry[str], handled: int | None, look: Look) -> int | None:
        """The file's hashed stamp where this version is handled; else None, and it is in ``look`` unless gone."""
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        stamp = FileStamp.from_stat(status)
        is_old = handled is None and not self._is_complete
        if stamp_hash(stamp) == handled or (is_old and self._is_done(Path(entry.path), stamp)):
            return stamp_hash(stamp)
        look.new.append(NewFile(name=entry.name, stamp=stamp, changed_at=status.st_ctime))
        return None

    def _replace(self, added: dict[int, int], look: Look) -> None:
        """What is there now becomes what is known, so that deleted files are forgotten; copies only what changed."""
        if not self._is_there.all():
            look.vanished = set(self._stamps[~self._is_there].tolist())
            self._names, self._stamps = self._names[self._is_there], self._stamps[self._is_there]
        if added:
            new = np.array(sorted(added.items()), np.int64)
            places = np.searchsorted(self._names, new[:, 0])
            self._names = np.insert(self._names, places, new[:, 0])
            self._stamps = np.insert(self._stamps, places, new[:, 1])
        # By name, one by one: a set of everything that is there would take more memory than all that is remembered.
        look.vanished.update(h for name, h in self._handled.items() if not _holds(self._names, hash(name)))
        self._handled = {}


def _holds(names: _Hashes, name: int) -> bool:
    """Whether a sorted array has a value."""
    place = int(np.searchsorted(names, name))
    return place < names.size and int(names[place]) == name


def _cut(new: list[NewFile], most: int) -> bool:
    """Sort by age and keep the oldest ``most``; whether any had to go."""
    new.sort(key=lambda file: (file.stamp.mtime_ns, file.name))
    is_cut = len(new) > most
    del new[most:]
    return is_cut
