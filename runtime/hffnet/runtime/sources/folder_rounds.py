"""Which folders are looked at in one pass: the busy ones first, and all together within a share of the time.

There may be thousands of folders. Each alone is cheap to look at, and all of them in every pass would keep a core busy,
or a file server. Folders where something changed lately take turns in a quarter of the time, the quiet ones in a
twentieth; who was not reached is first in the next pass. New folders and those whose files are called for are looked at
at once.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from hffnet.runtime.sources.folder_listing import PAUSE, PAUSE_WHEN_CHANGED, FolderListing

_SAVED_S = 1.0  # a pass may use up what the passes of one second did not


class Pace:
    """Keeps what some kind of work takes at a share of the time.

    Args:
        pause: in times of what the work took.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._free_at = -float("inf")

    def is_free(self, now: float) -> bool:
        """Whether there is time for more."""
        return self._free_at <= now

    def spend(self, now: float, cost_s: float) -> None:
        """Some work took so long."""
        self._free_at = max(self._free_at, now - _SAVED_S) + (self._pause + 1) * cost_s


class FolderRounds:
    """The folders that are watched, and whose turn it is."""

    def __init__(self) -> None:
        self._all = dict[Path, FolderListing]()
        self._at_once = deque[FolderListing]()
        self._busy, self._quiet = dict[Path, FolderListing](), dict[Path, FolderListing]()
        self._busy_pace, self._quiet_pace = Pace(PAUSE_WHEN_CHANGED), Pace(PAUSE)

    def __iter__(self) -> Iterator[FolderListing]:
        return iter(self._all.values())

    def __contains__(self, path: Path) -> bool:
        return path in self._all

    def get(self, path: Path) -> FolderListing | None:
        """The listing of a folder that is watched."""
        return self._all.get(path)

    def add(self, folder: FolderListing) -> None:
        """Watch one more; it is looked at in this pass."""
        self._all[folder.path] = self._busy[folder.path] = folder
        self._at_once.append(folder)

    def remove(self, folder: FolderListing) -> None:
        """Do not watch it any more."""
        for group in (self._all, self._busy, self._quiet):
            group.pop(folder.path, None)

    def call(self, folder: FolderListing) -> None:
        """Look at it in the next pass whatever it takes."""
        self._at_once.append(folder)

    def turns(self, now: float) -> Iterator[FolderListing]:
        """Folders to look at in this pass, each once; what the caller does with one is what it costs."""
        seen = set[Path]()
        yield from self._those_at_once(seen)
        for group, pace in ((self._busy, self._busy_pace), (self._quiet, self._quiet_pace)):
            for path in list(group):
                if not pace.is_free(now):
                    break
                if path not in group or path in seen:
                    continue
                group[path] = folder = group.pop(path)  # to the end
                began = monotonic()
                seen.add(path)
                yield folder
                pace.spend(now, monotonic() - began)
                if path in group:
                    (self._busy if folder.is_busy(now) else self._quiet)[path] = group.pop(path)
                yield from self._those_at_once(seen)

    def _those_at_once(self, seen: set[Path]) -> Iterator[FolderListing]:
        while self._at_once:
            folder = self._at_once.popleft()
            if folder.path in self._all and folder.path not in seen:
                seen.add(folder.path)
                yield folder
