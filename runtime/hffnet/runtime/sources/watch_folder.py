"""A folder that a microscope writes into: every finished file once, none before it is complete.

A file is offered after two looks found the same size, time and inode, ``settle_s`` apart, and, where the system can
tell (Linux leases on local disks), after its writer has closed it. Where the system tells of new files, the first look
comes at once; the second is never left out. What is locked, empty, still open or not yet
readable is waited for until it has stayed unchanged for ``patience_s``; then it is offered as final, so that the
reason gets into the records. A file renamed after it was handled is not offered again; a file rewritten is. Sub-folders
that cannot be read are left out, told once, and tried again.
"""

import errno
import logging
import os
import re
import signal
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from threading import Event
from time import monotonic, time

import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import ConfigError, RecordError, SourceAwayError
from hffnet.runtime.metadata import sidecars_of
from hffnet.runtime.sources import FileStamp, FolderOptions, IsDone, Item, folder_listing
from hffnet.runtime.sources.folder_backlog import Hashes
from hffnet.runtime.sources.folder_events import FolderEvents, Happened
from hffnet.runtime.sources.folder_listing import FolderListing, NewFile, holds, stamp_hash
from hffnet.runtime.sources.folder_rounds import FolderRounds

_log = logging.getLogger(__name__)
_UNFINISHED = re.compile(r"^[.~]|(\.(part|partial|tmp|temp|crdownload|filepart|swp)|~)$", re.IGNORECASE)
_LEAST_PAUSE_S = 0.01
_RENAME_S = 5.0  # how long a vanished version is remembered: a move may show in its new folder a look later
_SIDECAR_S = 2.0  # instruments write both within a second; a network may hold the second one back
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_Found = list[tuple[FolderListing, NewFile]]


@dataclass(slots=True)
class _Candidate:
    """A file that was found and not handed over yet; times are monotonic seconds.

    Attributes:
        has_waited: whether it was there at the first look and is old by its times: that it cannot be read is final.
            The clock that wrote the times may be another one, so nothing else is concluded from them.
    """

    folder: FolderListing
    name: str
    stamp: FileStamp
    found_at: float
    unchanged_since: float
    has_waited: bool
    looks: int = 0
    is_unreadable: bool = False
    sidecar: FileStamp | None = None


class WatchFolder:
    """Looks at a folder again and again; one thread drives it."""

    is_live = False

    def __init__(
        self,
        folder: Path,
        options: FolderOptions,
        *,
        idle_exit_s: float | None = None,
        is_done: IsDone | None = None,
        clock: Callable[[], float] = monotonic,
        wall_clock: Callable[[], float] = time,
    ) -> None:
        if not folder.is_dir():
            raise SourceAwayError(
                f"{folder} is not a folder that can be watched; create or mount it, or correct the path"
            )
        self._root = folder.absolute()
        self._options = options
        self._idle_exit_s = idle_exit_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._is_done = is_done or (lambda _path, _stamp: False)
        patterns = [pattern.strip() for pattern in options.pattern.split(",") if pattern.strip()]
        if not patterns:
            raise ConfigError(f"pattern {options.pattern!r} is empty; expected something like *.tif")
        self._pattern = re.compile("|".join(translate(pattern) for pattern in patterns), re.IGNORECASE)
        self._folders = FolderRounds()
        self._folders.add(self._listing(self._root))
        self._to_follow, self._to_leave = set[Path](), set[Path]()
        self._refused = set[Path]()  # sub-folders that cannot be read now
        self._with_sidecars = set[Path]()  # folders in which a frame had a text beside it
        self._pending: dict[Path, _Candidate] = {}
        self._vanished: list[tuple[float, Hashes]] = []
        self._given: _Candidate | None = None
        self._is_root_lost = False

    def items(self, stop: Event) -> Iterator[Item]:
        """Items as they become complete, oldest first; waits without using the processor."""
        with closing(FolderEvents(is_on=self._options.events)) as events:
            yield from self._items(events, stop)

    def _items(self, events: FolderEvents, stop: Event) -> Iterator[Item]:
        new_at = self._clock()
        while not stop.is_set():
            for item in self.scan():
                if stop.is_set():
                    return
                if self._hand_over(item):
                    yield item
                    new_at = self._clock()
            if self._pending:
                new_at = self._clock()
            elif self._idle_exit_s is not None and self._clock() - new_at >= self._idle_exit_s and self._has_seen_all():
                return
            self._follow(events)
            self._happened(events.wait(self._pause_s(), stop))

    def _follow(self, events: FolderEvents) -> None:
        for path in self._to_leave - self._to_follow:
            events.leave(path)
        for path in self._to_follow:
            events.follow(path)
        self._to_follow, self._to_leave = set(), set()

    def _pause_s(self) -> float:
        """Until the next look: the next time one can tell that a file has settled, at most ``poll_s``."""
        now, pause_s = self._clock(), self._options.poll_s
        for candidate in self._pending.values():
            left_s = candidate.unchanged_since + self._options.settle_s - now
            if left_s > 0 or candidate.looks < 2:
                pause_s = min(pause_s, max(left_s, _LEAST_PAUSE_S))
        return pause_s

    def _happened(self, happened: Mapping[Path, Happened]) -> None:
        """What the system told of: as if a look had found it."""
        now, found = self._clock(), _Found()
        for path, names in happened.items():
            folder = self._folders.get(path)
            if folder is None or not folder.was_looked_at:
                continue
            self._vanish(folder.left(names.left), now)
            try:
                found += [(folder, file) for file in folder.came(names.came)]
            except RecordError as error:
                _log.warning("%s; %s is looked at again", error, path)
                self._call(folder, np.empty(0, np.intp))
        self._take(found, now)

    def scan(self) -> list[Item]:
        """One look: what is ready now, oldest first. Nothing counts as handed over before ``items`` yields it."""
        now = self._clock()
        self._look(now)
        ready = list[Item]()
        for path, candidate in list(self._pending.items()):
            item = self._item_when_ready(path, candidate, now)
            if item:
                ready.append(item)
        return sorted(ready, key=lambda item: (item.stamp.mtime_ns, item.name))

    def retry(self, item: Item) -> bool:
        """Wait for a file that could not be read, unless that was done already and it did not change."""
        candidate, self._given = self._given, None
        if candidate is None or (item.final and item.is_unchanged()):
            return False
        candidate.is_unreadable = not item.final
        candidate.folder.unmark(candidate.name)
        self._pending[item.path] = candidate
        return True

    def _hand_over(self, item: Item) -> bool:
        if item.problem is None and not item.is_unchanged():
            return False  # written to while earlier items were read: stays pending and settles anew
        self._given = self._pending.pop(item.path)
        self._given.folder.mark(self._given.name, item.stamp)
        return True

    def _has_seen_all(self) -> bool:
        return all(folder.is_complete or folder.path in self._refused for folder in self._folders)

    def _listing(self, path: Path) -> FolderListing:
        return FolderListing(path, self._is_wanted, self._is_done)

    def _is_wanted(self, name: str) -> bool:
        return self._pattern.match(name) is not None and _UNFINISHED.search(name) is None

    def _look(self, now: float) -> None:
        """One pass over the folders whose turn it is; the oldest of what they have is waited for."""
        self._vanished = [(at, stamps) for at, stamps in self._vanished if now - at < _RENAME_S]
        self._call_oldest()
        found = _Found()
        for folder in self._folders.turns(now):
            found += self._found_in(folder, now)
            if len(found) > 2 * folder_listing.MOST_NEW:
                _put_off(found, folder_listing.MOST_NEW)
        self._take(found, now)

    def _call_oldest(self) -> None:
        """Where there is room for many more, let the oldest of all that wait be found by this pass."""
        room = folder_listing.MOST_NEW - len(self._pending)
        folders = [folder for folder in self._folders if len(folder.waiting)]
        if not folders or 2 * room < folder_listing.MOST_NEW:
            return
        times = np.concatenate([folder.waiting.mtimes for folder in folders])
        num = min(room, times.size)
        chosen = np.sort(np.argpartition(times, num - 1)[:num])
        starts = np.cumsum([0, *(len(folder.waiting) for folder in folders)])
        parts = np.split(chosen, np.searchsorted(chosen, starts[1:-1]))
        for folder, start, part in zip(folders, starts[:-1], parts, strict=True):
            if part.size:
                self._call(folder, part - start)

    def _call(self, folder: FolderListing, places: npt.NDArray[np.intp]) -> None:
        folder.call(places)
        self._folders.call(folder)

    def _found_in(self, folder: FolderListing, now: float) -> _Found:
        """What is new in a folder, if it is worth a look; a sub-folder's trouble is its own."""
        try:
            before = folder.identity
            is_due = folder.is_due(now)
            if folder.identity != before:
                self._to_follow.add(folder.path)
            look = folder.look(now) if is_due else None
        except (OSError, RecordError) as error:
            self._lost(folder, error, now)
            return []
        if look is None:
            return []
        self._is_back(folder)
        self._vanish(look.vanished, now)
        if self._options.recursive:
            for name in look.folders:
                path = folder.path / name
                if path not in self._folders and not name.startswith("."):
                    self._folders.add(self._listing(path))
        return [(folder, file) for file in look.new]

    def _take(self, found: _Found, now: float) -> None:
        """Wait for these files; for the oldest of them where they are too many, for the others later."""
        _put_off(found, max(folder_listing.MOST_NEW - len(self._pending), 0))
        for folder, file in found:
            path = folder.path / file.name
            folder.offer(file.name)
            if path in self._pending:
                self._pending[path].folder = folder
                continue
            has_waited = file.was_there and self._wall_clock() - file.changed_at > self._options.patience_s
            self._pending[path] = _Candidate(
                folder, file.name, file.stamp, found_at=now, unchanged_since=now, has_waited=has_waited
            )

    def _drop(self, path: Path) -> None:
        candidate = self._pending.pop(path)
        candidate.folder.drop(candidate.name)

    def _vanish(self, stamps: Hashes, now: float) -> None:
        if stamps.size:
            self._vanished.append((now, stamps))

    def _lost(self, folder: FolderListing, error: OSError | RecordError, now: float) -> None:
        path = folder.path
        folder.call(np.empty(0, np.intp))  # due until it can be looked at
        if path == self._root:
            if not self._is_root_lost:
                self._is_root_lost = True
                _log.warning("watched folder %s cannot be read (%s); waiting for it to come back", path, error)
        elif isinstance(error, OSError) and error.errno in _GONE:
            self._vanish(folder.stamps(), now)
            self._folders.remove(folder)
            self._refused.discard(path)
            self._to_leave.add(path)
        elif path not in self._refused:
            self._refused.add(path)
            _log.warning("sub-folder %s cannot be read (%s); it is left out until it can be", path, error)

    def _is_back(self, folder: FolderListing) -> None:
        if folder.path == self._root and self._is_root_lost:
            self._is_root_lost = False
            _log.warning("watched folder %s is back", folder.path)
        elif folder.path in self._refused:
            self._refused.remove(folder.path)
            _log.warning("sub-folder %s can be read", folder.path)

    def _item_when_ready(self, path: Path, candidate: _Candidate, now: float) -> Item | None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            self._drop(path)
            _log.info("%s was deleted or renamed before it was read", path)
            return None
        except OSError as error:
            _log.debug("%s cannot be looked at: %s", path, error)
            return None
        stamp = FileStamp.from_stat(status)
        if not stat.S_ISREG(status.st_mode) or self._is_renamed(path, candidate, stamp):
            self._drop(path)
            return None
        if stamp != candidate.stamp:
            candidate.stamp, candidate.unchanged_since, candidate.looks = stamp, now, 1
            candidate.is_unreadable = candidate.has_waited = False
            return None
        candidate.looks += 1
        if candidate.looks < 2 or now - candidate.unchanged_since < self._options.settle_s:
            return None
        return self._item(path, candidate, now)

    def _is_renamed(self, path: Path, candidate: _Candidate, stamp: FileStamp) -> bool:
        version = stamp_hash(stamp)
        if not any(holds(stamps, version) for _, stamps in self._vanished):
            return False
        _log.info("%s is a new name of a file that was handled", path)
        candidate.folder.mark(candidate.name, stamp)
        return True

    def _item(self, path: Path, candidate: _Candidate, now: float) -> Item | None:
        waits = candidate.is_unreadable or candidate.stamp.size == 0
        problem = None
        if not waits:
            problem = why_not_ready(path)
            waits = problem is not None
        has_waited = candidate.has_waited and problem != _STILL_OPEN
        is_final = has_waited or now - candidate.unchanged_since >= self._options.patience_s
        if (waits and not is_final) or self._waits_for_sidecar(path, candidate, now):
            return None
        return Item(
            path=path,
            name=str(path.relative_to(self._root)),
            stamp=candidate.stamp,
            found_at=candidate.found_at,
            settled_at=now,
            final=is_final,
            problem=None if problem == _STILL_OPEN else problem,
        )

    def _waits_for_sidecar(self, path: Path, candidate: _Candidate, now: float) -> bool:
        """Whether a text beside the frame may still come; one that is there must be the same in two looks."""
        wait_s = self._options.sidecar_s
        if wait_s == 0:
            return False
        before, candidate.sidecar = candidate.sidecar, _stamp_of_first(sidecars_of(path))
        if candidate.sidecar is not None:
            self._with_sidecars.add(path.parent)
        if wait_s is None:
            wait_s = _SIDECAR_S if path.parent in self._with_sidecars else 0.0
        if now - candidate.unchanged_since >= wait_s:
            return False
        return candidate.sidecar is None or candidate.sidecar != before


def _put_off(found: _Found, most: int) -> None:
    """Keep the oldest ``most``, sorted by age; the others wait in their folders."""
    found.sort(key=lambda one: (one[1].stamp.mtime_ns, one[1].name))
    late = dict[FolderListing, list[NewFile]]()
    for folder, file in found[most:]:
        late.setdefault(folder, []).append(file)
    for folder, files in late.items():
        folder.put_off(files)
    del found[most:]


def _stamp_of_first(places: Iterable[Path]) -> FileStamp | None:
    for place in places:
        try:
            return FileStamp.from_stat(place.lstat())
        except OSError:
            continue
    return None


_STILL_OPEN = "another program still has it open for writing"


def why_not_ready(path: Path) -> str | None:
    """Why a file cannot be read to its end yet, as far as the system tells; None when nothing speaks against it.

    A Linux read lease is granted only where nobody has the file open for writing; it is given back at once. Network
    file systems and foreign owners refuse leases, which says nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        return f"locked or not permitted: {error.strerror}"
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    try:
        return _STILL_OPEN if _is_open_for_writing(descriptor) else None
    finally:
        os.close(descriptor)


def _is_open_for_writing(descriptor: int) -> bool:
    import fcntl

    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        # A writer that opens the file within the lease's microseconds makes the kernel signal us: SIGURG is ignored
        # by default, the default SIGIO would end the process.
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


_F_SETSIG = 10  # fcntl.h; Python names it from 3.13 on
