"""Files that are there now: a finite list in sorted order, each offered once."""

import glob
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from time import monotonic

from hffnet.runtime.errors import SourceAwayError, SourceError
from hffnet.runtime.sources import FileStamp, IsDone, Item

_log = logging.getLogger(__name__)


class GlobSource:
    """The regular files that match a pattern (``**`` crosses folders), hidden ones and symbolic links left out."""

    is_live = False

    def __init__(self, pattern: str, *, is_done: IsDone | None = None) -> None:
        self._paths = [Path(path).absolute() for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
        self._paths = [path for path in self._paths if path.is_file() and not path.is_symlink()]
        self._is_done = is_done
        if not self._paths:
            raise SourceAwayError(f"no file matches {pattern!r}; quote the pattern so that the shell leaves it alone")

    def items(self, stop: Event) -> Iterator[Item]:
        """Every file once, in sorted order."""
        for path in self._paths:
            if stop.is_set():
                return
            item = _item(path)
            if item is None:
                _log.warning("%s was there when the run began and is gone or no longer a file", path)
            elif self._is_done is None or not self._is_done(path, item.stamp):
                yield item

    def retry(self, item: Item) -> bool:
        """The list is what was there: nothing is offered twice."""
        del item
        return False


def open_file(path: Path, *, is_done: IsDone | None = None) -> GlobSource:
    """A source of one file.

    Raises:
        SourceError: it does not exist or is not a regular file.
    """
    if path.is_symlink():
        raise SourceError(f"source {path} is a symbolic link, which hffnet does not follow; name the file itself")
    if not path.is_file():
        raise SourceAwayError(f"source {path} is neither a folder nor a file; expected one: mount it, or correct it")
    return GlobSource(glob.escape(str(path)), is_done=is_done)


def _item(path: Path) -> Item | None:
    now = monotonic()
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Item(path=path, name=str(path), stamp=FileStamp.from_stat(status), found_at=now, settled_at=now)
