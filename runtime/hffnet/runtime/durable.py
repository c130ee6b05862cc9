"""Files and folders that are there whole or not at all: temporary name, fsync, rename."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "lock"
_log = logging.getLogger(__name__)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well, and is removed when not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def whole_folder(path: Path, staging: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path``, which must not exist, when the block ends well.

    It lies in ``staging``, on the same file system, so that what a kill leaves behind is where the caller cleans up.
    """
    temporary = staging / f"{path.name}.{os.getpid()}.part"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


@contextmanager
def working_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder in ``parent`` for the time of the block; those that killed programs left there are removed.

    A lock tells the living from the dead: process numbers mean nothing in another container or on another host.
    """
    import fcntl  # only what works with files for minutes needs it, and none of that runs where there is none

    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError), (left / _LOCK).open("r+b") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _log.info("removing %s, which an interrupted command left", left)
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as name:
        folder = Path(name)
        with (folder / _LOCK).open("wb") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            yield folder


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
