"""One run per records file: a second one would deliver everything twice and cut into the first one's lines.

Only ``hffnet run`` takes the lock. Whoever reads records, adds a person's decision or archives old rows shares the file
with it, which SQLite orders.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from hffnet.runtime.errors import ConfigError, RecordError, RecordsAwayError

_log = logging.getLogger(__name__)
_WAIT_S, _TICK_S = 1.0, 0.05  # for a run that is just ending
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def sole_run(records: Path) -> Iterator[None]:
    """Hold the lock beside a records file; the system takes it back when the process ends, however it ends.

    Raises:
        ConfigError: another run holds it.
        RecordError: no file can be made there.
    """
    place = records.resolve()
    place = place.with_name(f"{place.name}.lock")
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise RecordsAwayError(
            f"{place} cannot be opened ({error.strerror}); records need a folder that can be written to"
        ) from error
    try:
        _lock(descriptor, records)
        yield
    finally:
        os.close(descriptor)  # the file stays: removed, it could be locked by two


def _lock(descriptor: int, records: Path) -> None:
    until = monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if monotonic() > until:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise ConfigError(
                    f"another hffnet run (process {holder}) writes to {records}; stop it, or name another records file"
                ) from error
            sleep(_TICK_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise RecordError(f"{records} cannot be locked ({error.strerror})") from error
            _log.warning("this file system has no locks: nothing keeps a second run from writing to %s", records)
            return
    try:  # for people only: a full disk is no reason to refuse the run
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        _log.info("the lock of %s does not say who holds it (%s)", records, error)
