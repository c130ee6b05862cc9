"""What is known of one watched folder, in 16 bytes per file, and what a new look at it says.

A folder at a microscope can hold a million old frames. A look reads names only; the few that are new are asked for
size and time, and a rotating share of the known ones, so that a file rewritten in place is noticed as well. Looks
at a large folder cost at most 5 % of one core, and 25 % while the folder's own time changes. Names that the system
told of (``folder_events``) are asked for at once, without a look. Whatever this process did not handle is asked for in
the records before it counts as new: names come back, with a share that was away or a folder that was moved.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import numpy.typing as npt

from hffnet.runtime.sources import FileStamp
from hffnet.runtime.sources.folder_backlog import Backlog, Hashes

MOST_NEW = 10_000
"""Most new files that are waited for at a time, of all folders together, oldest first; the rest has its turn later."""

PAUSE, PAUSE_WHEN_CHANGED = 20, 3
"""Between looks, in times of what they take: where nothing changed, and where something did."""

_CHUNK = 4096
_CHEAP = 10_000  # files whose names are read in some milliseconds
_LOOKED_AT_AGAIN = 256
_RACY_S = 2.0  # a folder's time has ticks of up to 2 s (FAT): a change in the same tick would not show
_BUSY_S = 10.0
_NONE: Hashes = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A version of a file that was not handled yet.

    Attributes:
        changed_at: wall-clock seconds of the last change that shows: of the file's state (Linux ctime, which no tool
            sets back; on FAT it is when the file was made) or of its content.
        was_there: whether it was there at the first look.
    """

    name: str
    stamp: FileStamp
    changed_at: float
    was_there: bool = False


@dataclass(slots=True)
class Look:
    """Result of one look at a folder.

    Attributes:
        new: files that were not handled, in any order.
        vanished: hashed stamps of handled files whose name is gone, sorted.
        folders: names of sub-folders.
    """

    new: list[NewFile] = field(default_factory=list)
    vanished: Hashes = field(default_factory=lambda: _NONE)
    folders: list[str] = field(default_factory=list)


def stamp_hash(stamp: FileStamp) -> int:
    """64 bits that stand for a version of a file within this process."""
    return hash((stamp.size, stamp.mtime_ns, stamp.inode))


class FolderListing:
    """Remembers which versions of which files in one folder were handled, and which wait for their turn.

    Attributes:
        path: the folder.
        folders: names of its sub-folders at the last look.
        identity: device and inode at the last visit; another one is another folder in its place.
        waiting: files that were found and have to wait.
    """

    def __init__(
        self, path: Path, is_wanted: Callable[[str], bool], is_done: Callable[[Path, FileStamp], bool]
    ) -> None:
        self.path = path
        self.folders: list[str] = []
        self.identity: tuple[int, int] | None = None
        self.waiting = Backlog()
        self._is_wanted = is_wanted
        self._is_done = is_done
        self._names: Hashes = _NONE  # sorted
        self._stamps: Hashes = _NONE  # of the same files
        self._is_there = np.empty(0, np.bool_)  # of the same files, while looking
        self._handled: dict[str, int] = {}  # since the last look
        self._offered = set[str]()
        self._is_called = False
        self._mtime_ns = -1
        self._changed_at = self._looked_at = -np.inf
        self._cost_s = 0.0
        self._next_again = 0

    @property
    def was_looked_at(self) -> bool:
        """Whether what is new can be told from what was there."""
        return self._looked_at != -np.inf

    @property
    def is_complete(self) -> bool:
        """Whether everything that was found has been offered."""
        return self.was_looked_at and not len(self.waiting)

    def is_busy(self, now: float) -> bool:
        """Whether something changed lately."""
        return now - self._changed_at < _BUSY_S

    def offer(self, name: str) -> None:
        """Somebody follows this file now: looks need not."""
        self._offered.add(name)

    def drop(self, name: str) -> None:
        """Nobody follows this file any more."""
        self._offered.discard(name)

    def mark(self, name: str, stamp: FileStamp) -> None:
        """This version is handled: it will not be new again."""
        self._handled[name] = stamp_hash(stamp)
        self._offered.discard(name)

    def unmark(self, name: str) -> None:
        """Take back a mark made since the last look; the file is followed again."""
        self._handled.pop(name, None)
        self._offered.add(name)

    def put_off(self, files: Iterable[NewFile]) -> None:
        """Let these wait for their turn."""
        self.waiting.add((hash(file.name), file.stamp.mtime_ns) for file in files)
        self.waiting.merge()

    def call(self, places: npt.NDArray[np.intp]) -> None:
        """It is the turn of these files that wait, by place in ``waiting.mtimes``: the next look finds them."""
        self.waiting.take(places)
        self._is_called = True

    def stamps(self) -> Hashes:
        """Every handled version, hashed and sorted."""
        return np.union1d(self._stamps, np.fromiter(self._handled.values(), np.int64, len(self._handled)))

    def is_due(self, now: float) -> bool:
        """Whether a look is worth its cost; raises OSError where the folder is gone."""
        status = self.path.stat()
        if status.st_mtime_ns != self._mtime_ns:
            self._mtime_ns, self._changed_at = status.st_mtime_ns, now
        self.identity = (status.st_dev, status.st_ino)
        if self._is_called or now - self._looked_at >= PAUSE * self._cost_s:
            return True
        has_changed = self._looked_at < self._changed_at + _RACY_S
        is_cheap = self._names.size + len(self.waiting) < _CHEAP
        return has_changed and (is_cheap or now - self._looked_at >= PAUSE_WHEN_CHANGED * self._cost_s)

    def came(self, names: Iterable[str]) -> list[NewFile]:
        """Of these files, those that are there in a version that was not handled; without reading the folder."""
        new = list[NewFile]()
        for name in names:
            if name in self._offered or not self._is_wanted(name):
                continue
            with suppress(OSError):
                status = (self.path / name).lstat()
                if stat.S_ISREG(status.st_mode):
                    stamp = FileStamp.from_stat(status)
                    if stamp_hash(stamp) == self._handled_version(name):
                        continue
                    if self._is_done(self.path / name, stamp):
                        self.mark(name, stamp)
                    else:
                        new.append(NewFile(name=name, stamp=stamp, changed_at=_changed_at(status)))
        return new

    def left(self, names: Iterable[str]) -> Hashes:
        """Hashed stamps of the handled versions of these files, which are gone; sorted."""
        versions = {version for name in names if (version := self._handled_version(name)) is not None}
        return np.array(sorted(versions), np.int64)

    def look(self, now: float) -> Look:
        """Read the folder; what is new beyond 2 ``MOST_NEW`` files waits.

        Raises:
            OSError: it cannot be read; what was known is kept.
            RecordError: the records cannot be asked; what was known is kept.
        """
        began = monotonic()
        look = Look()
        for name, version in self._handled.items():
            if holds(self._names, hash(name)):  # an event told that it was rewritten
                self._stamps[np.searchsorted(self._names, hash(name))] = version
        self._is_there = np.zeros(self._names.size, np.bool_)
        self.waiting.begin_look()
        added, num_files = dict[int, int](), 0
        with os.scandir(self.path) as entries:
            for chunk in self._chunks(entries, look):
                added |= self._sift(chunk, num_files, look)
                num_files += len(chunk)
                if len(look.new) > 2 * MOST_NEW:
                    self.waiting.add((hash(file.name), file.stamp.mtime_ns) for file in cut(look.new, MOST_NEW))
        self.waiting.end_look()
        self._replace(added, look)
        self._next_again = (self._next_again + _LOOKED_AT_AGAIN) if self._next_again < num_files else 0
        self.folders = look.folders
        self._is_called = False
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
        is_asked &= ~self.waiting.holds(names)
        added = dict[int, int]()
        for i in np.flatnonzero(is_asked).tolist():
            entry, place = chunk[i], int(places[i])
            if entry.name in self._offered:
                continue
            handled = int(self._stamps[place]) if is_known[i] else self._handled.get(entry.name)
            version = self._version(entry, handled, look)
            if not is_known[i]:
                added |= {int(names[i]): version} if version is not None else {}
            elif version is None:
                self._is_there[place] = False
            else:
                self._stamps[place] = version
        return added

    def _handled_version(self, name: str) -> int | None:
        if name in self._handled:
            return self._handled[name]
        if not holds(self._names, hash(name)):
            return None
        return int(self._stamps[np.searchsorted(self._names, hash(name))])

    def _version(self, entry: os.DirEntry[str], handled: int | None, look: Look) -> int | None:
        """The file's hashed stamp where this version is handled; else None, and it is in ``look`` unless gone."""
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        stamp = FileStamp.from_stat(status)
        version = stamp_hash(stamp)
        if version == handled or self._is_done(Path(entry.path), stamp):
            return version
        changed_at = _changed_at(status)
        look.new.append(NewFile(name=entry.name, stamp=stamp, changed_at=changed_at, was_there=not self.was_looked_at))
        return None

    def _replace(self, added: dict[int, int], look: Look) -> None:
        """What is there now becomes what is known, so that deleted files are forgotten; copies only what changed."""
        if not self._is_there.all():
            look.vanished = self._stamps[~self._is_there]
            self._names, self._stamps = self._names[self._is_there], self._stamps[self._is_there]
        if added:
            new = np.array(sorted(added.items()), np.int64)
            places = np.searchsorted(self._names, new[:, 0])
            self._names = np.insert(self._names, places, new[:, 0])
            self._stamps = np.insert(self._stamps, places, new[:, 1])
        # By name, one by one: a set of everything that is there would take more memory than all that is remembered.
        gone = [h for name, h in self._handled.items() if not holds(self._names, hash(name))]
        look.vanished = np.union1d(look.vanished, np.array(gone, np.int64))
        self._handled = {}


def holds(hashes: Hashes, value: int) -> bool:
    """Whether a sorted array has a value."""
    place = int(np.searchsorted(hashes, value))
    return place < hashes.size and int(hashes[place]) == value


def cut(new: list[NewFile], most: int) -> Sequence[NewFile]:
    """Keep the oldest ``most``, sorted by age; those that had to go."""
    new.sort(key=lambda file: (file.stamp.mtime_ns, file.name))
    gone = new[most:]
    del new[most:]
    return gone


def _changed_at(status: os.stat_result) -> float:
    return max(status.st_ctime, status.st_mtime)
