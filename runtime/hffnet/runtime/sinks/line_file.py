"""A text file that records are appended to, one line each, and that survives being cut off in mid-line."""

import os
from collections.abc import Iterable
from pathlib import Path

from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import RecordError

_BLOCK = 1 << 16


class LineFile:
    """Appends whole lines; what a crash left of a torn last line is removed when the file is opened.

    Args:
        path: created if absent, with its folder.
        header: first line of the file, without its end; None for formats that have none.

    Raises:
        RecordError: the file cannot be opened, or begins with another header.
    """

    def __init__(self, path: Path, header: str | None = None) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: after a failed write there is nothing left that a later one would repeat.
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RecordError(f"{path} cannot be opened for writing ({error.strerror}); name another file") from error
        try:
            self._size = self._cut_torn_line()
            self.is_new = self._size == 0
            if header is not None:
                self._check_header(header)
        except OSError as error:
            self.close()
            raise RecordError(f"{path} cannot be continued ({error.strerror}); name another file") from error
        except RecordError:
            self.close()
            raise

    def append(self, lines: Iterable[str]) -> None:
        """Write lines (without their ends) and wait for the disk; on an OSError the file is as it was before."""
        data = memoryview("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def last_line(self) -> str:
        """The last line without its end; empty where there is none or it is longer than 64 KiB."""
        start = max(0, self._size - _BLOCK)
        tail = os.pread(self._descriptor, self._size - start, start).removesuffix(b"\n")
        before, newline, line = tail.rpartition(b"\n")
        return line.decode("utf-8", "replace") if newline or (start == 0 and not before) else ""

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _cut_torn_line(self) -> int:
        size = end = os.fstat(self._descriptor).st_size
        while end > 0:
            start = max(0, end - _BLOCK)
            newline = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._descriptor, end)
        return end

    def _check_header(self, header: str) -> None:
        if self.is_new:
            self.append([header])
            return
        first = os.pread(self._descriptor, len(header.encode()) + 1, 0).decode("utf-8", "replace")
        if first != f"{header}\n":
            raise RecordError(
                f"{self.path} begins with {first[:60]!r}; expected {header[:60]!r}…: it was written by another"
                " program or version; name another file"
            )


def continued_after(cursor: int | None, last_seq: int, seq_in_file: int | None) -> int:
    """Where a file goes on: a crash may have come after a line was written and before the cursor moved.

    A file that has no cursor yet may come from other records, so nothing is concluded from it.
    """
    if cursor is not None and seq_in_file is not None and cursor < seq_in_file <= last_seq:
        return seq_in_file
    return cursor or 0


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a whole new file, under a temporary name until it is complete.

    Raises:
        RecordError: it cannot be written; an older file of that name is left as it was.
    """
    try:
        with (
            whole_file(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror}); free space or name another file") from error
