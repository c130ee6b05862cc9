"""What a service takes, with every process that works for it: memory, descriptors, threads, processor time, from /proc.

Memory is anonymous pages and pages of files of each process (a library that two of them use counts in both), and the
blocks of anonymous files (memfd), each once: pixels cross between processes in them, and a memfd that is written with
``pwrite`` is in no process's resident set.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_MB = 2**20
_KIB = 2**10
_BLOCK = 512  # stat(2): unit of st_blocks
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at a service; ``hours`` since the beginning, ``pids`` of its processes, the service itself first."""

    hours: float
    anonymous_mb: float
    file_mb: float
    shared_mb: float
    descriptors: int
    threads: int
    cpu_s: float
    pids: tuple[int, ...]

    @property
    def rss_mb(self) -> float:
        """All of it."""
        return self.anonymous_mb + self.file_mb + self.shared_mb


def sample(pid: int, began: float) -> Sample:
    """A service now; ``began`` is monotonic seconds. A process that ends meanwhile is looked at again."""
    for _ in range(_TRIES):
        try:
            return _sample(pid, began)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise ProcessLookupError(f"process {pid} is gone, or its children come and go faster than they can be counted")


def _sample(pid: int, began: float) -> Sample:
    pids = tuple(_tree(pid))
    memfds = dict[tuple[int, int], int]()
    anonymous = file = descriptors = threads = 0
    for one in pids:
        place = Path(f"/proc/{one}")
        anonymous += _field(place / "smaps_rollup", "Anonymous")  # exact, where `status` may lag
        file += _field(place / "status", "RssFile")
        threads += len(list((place / "task").iterdir()))
        for descriptor in (place / "fd").iterdir():
            descriptors += 1
            _note_memfd(descriptor, memfds)
    return Sample(
        hours=(time.monotonic() - began) / 3600,
        anonymous_mb=anonymous * _KIB / _MB,
        file_mb=file * _KIB / _MB,
        shared_mb=sum(memfds.values()) / _MB,
        descriptors=descriptors,
        threads=threads,
        cpu_s=sum(map(_cpu_s, pids)),
        pids=pids,
    )


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _tree(int(child))
    return found


def _field(path: Path, name: str) -> int:
    """KiB under a name; 0 for a process that has ended and was not waited for."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _note_memfd(descriptor: Path, memfds: dict[tuple[int, int], int]) -> None:
    try:
        if str(descriptor.readlink()).startswith("/memfd:"):
            status = descriptor.stat()
            memfds[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    except FileNotFoundError:  # closed since it was listed
        return


def _cpu_s(pid: int) -> float:
    # utime, stime, and both of children that ended: fields 14 to 17 of proc(5); the name before them may hold spaces.
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return sum(map(int, words)) / os.sysconf("SC_CLK_TCK")
