"""Files of one folder that wait for their turn, in 16 bytes each: which names, and how old they are.

A folder can hold a million frames that nobody classified yet. Some thousands are worked on at a time, oldest first;
the rest is remembered as hashed names and times, so that a look need not ask for them again.
"""

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.int64]


class Backlog:
    """Hashed names and modification times (ns) of files that wait."""

    def __init__(self) -> None:
        self._names: Hashes = np.empty(0, np.int64)  # sorted
        self._mtimes: Hashes = np.empty(0, np.int64)  # of the same files
        self._is_there = np.empty(0, np.bool_)  # of the same files, while looking
        self._new_names, self._new_mtimes = array("q"), array("q")

    def __len__(self) -> int:
        return self._names.size

    @property
    def mtimes(self) -> Hashes:
        """When each was written, ns; ``take`` counts in this order."""
        return self._mtimes

    def begin_look(self) -> None:
        """From here to ``end_look``, what ``holds`` is not asked for is gone from the folder."""
        self._is_there = np.zeros(self._names.size, np.bool_)

    def holds(self, names: Hashes) -> npt.NDArray[np.bool_]:
        """Which of these hashed names, all of them in the folder now, wait."""
        if not self._names.size:
            return np.zeros(names.size, np.bool_)
        places = np.minimum(np.searchsorted(self._names, names), self._names.size - 1)
        found: npt.NDArray[np.bool_] = self._names[places] == names
        self._is_there[places[found]] = True
        return found

    def end_look(self) -> None:
        """Forget what is gone, and take in what was added."""
        if not self._is_there.all():
            self._names, self._mtimes = self._names[self._is_there], self._mtimes[self._is_there]
        self.merge()

    def add(self, files: Iterable[tuple[int, int]]) -> None:
        """Note hashed names and times; they wait from the next ``end_look`` or ``merge`` on."""
        for name, mtime_ns in files:
            self._new_names.append(name)
            self._new_mtimes.append(mtime_ns)

    def merge(self) -> None:
        """Let what was added wait; of two times of one name the later added counts."""
        if not self._new_names:
            return
        names = np.concatenate([np.array(self._new_names, np.int64)[::-1], self._names])
        mtimes = np.concatenate([np.array(self._new_mtimes, np.int64)[::-1], self._mtimes])
        self._names, first = np.unique(names, return_index=True)
        self._mtimes = mtimes[first]
        self._new_names, self._new_mtimes = array("q"), array("q")

    def take(self, places: npt.NDArray[np.intp]) -> None:
        """These wait no longer; by place in ``mtimes``."""
        self._names, self._mtimes = np.delete(self._names, places), np.delete(self._mtimes, places)
