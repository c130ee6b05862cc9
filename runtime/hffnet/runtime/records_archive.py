"""Keeps the records file small: its oldest rows move to JSONL archives, whole, proven and chained to what stays.

A row leaves the file only after the archive that holds it is on the disk and was read back with every hash right, and
after every sink has delivered it. The chain goes on behind the archive: the file keeps the archive's last hash, and an
``archived`` event row in the chain says the same.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import GENESIS, JSON_FIELDS, RECORD_FIELDS, Json, canonical_json
from hffnet.runtime.records import Archived, RecordStore
from hffnet.runtime.records_chain import VerifyReport, why_broken
from hffnet.runtime.sinks.jsonl_sink import json_line
from hffnet.runtime.sinks.line_file import write_lines

_log = logging.getLogger(__name__)
_Thing = TypeVar("_Thing")
_KEPT_SHARE = 0.8  # of the size cap, so that archives are few and large


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What stays in the records file.

    Attributes:
        archive: folder for the archives.
        keep_days: rows older than this move; None keeps any age.
        max_mb: the oldest rows move when the rows take more than this, MiB; None keeps any size.
    """

    archive: Path
    keep_days: float | None = None
    max_mb: float | None = None


class _GivenUpError(Exception):
    """Whoever tidies up is to end; nothing was removed."""


def tidy(
    store: RecordStore,
    retention: Retention,
    *,
    now: datetime | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Move what retention asks for and sinks do not need any more; returns the archive, None where nothing moved.

    Args:
        store: whose rows move.
        retention: which of them, and where to.
        now: instead of the clock.
        is_stopped: asked row by row; where it says so, nothing moves and the next run does it.

    Raises:
        RecordError: the archive cannot be written or does not prove whole; every row is still in the records file.
    """
    wanted = _wanted_seq(store, retention, now or datetime.now(UTC))
    if wanted <= store.archived().last_seq:
        return None
    behind = {sink: seq for sink, seq in store.cursors().items() if seq < wanted}
    if behind:
        sink, seq = min(behind.items(), key=lambda item: item[1])
        _log.warning("records after %d stay: sink %s has not delivered them; forget it if it is gone", seq, sink)
        wanted = seq
    if wanted <= store.archived().last_seq:
        return None
    try:
        return archive_through(store, retention.archive, wanted, is_stopped)
    except _GivenUpError:
        _log.info("old records stay where they are until the next run")
        return None


def archive_through(
    store: RecordStore, folder: Path, last_seq: int, is_stopped: Callable[[], bool] = lambda: False
) -> Path:
    """Move every row up to ``last_seq`` to a new archive in ``folder``.

    Raises:
        RecordError: as ``tidy``.
    """
    before = store.archived()
    path = folder / f"records-{before.last_seq + 1:09d}-{last_seq:09d}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{folder} cannot be made ({error.strerror}); name another folder for archives") from error
    _refuse_foreign(path, store, before, last_seq)
    records = store.iterate(after=before.last_seq, limit=last_seq - before.last_seq)
    write_lines(path, map(json_line, _until(is_stopped, records)))
    try:
        report = _report(_until(is_stopped, _rows(path)), path, before.last_hash)
    except _GivenUpError:
        path.unlink()  # its rows are still in the records file, and the next archive may end elsewhere
        raise
    if not report.is_sound or report.num_rows != last_seq - before.last_seq:
        raise RecordError(
            f"{path} does not hold records {before.last_seq + 1} to {last_seq} whole"
            f" ({report.reason or 'rows are missing'}); nothing was removed: run `hffnet records verify`"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    store.drop_archived(last_seq, report.head, path.name, sha256)
    return path


def _refuse_foreign(path: Path, store: RecordStore, before: Archived, last_seq: int) -> None:
    """An archive of that name may be what a run left that ended before it removed the rows, and nothing else."""
    if path.exists() and verify_archive(path, prev_hash=before.last_hash).head != store.get(last_seq).hash:
        raise RecordError(
            f"{path} exists and is an archive of other records; nothing was removed: name another folder for archives"
        )


def verify_archive(path: Path, *, prev_hash: str | None = None) -> VerifyReport:
    """Recompute every hash in an archive.

    Args:
        path: JSONL, as ``archive_through`` or ``hffnet records export --jsonl`` writes it.
        prev_hash: what its first row must follow; None takes the row's own word (the archive before it has it).

    Raises:
        RecordError: the file cannot be read.
    """
    return _report(_rows(path), path, prev_hash)


def _until(is_stopped: Callable[[], bool], things: Iterable[_Thing]) -> Iterator[_Thing]:
    for thing in things:
        if is_stopped():
            raise _GivenUpError
        yield thing


def _report(rows: Iterable[dict[str, Json]], path: Path, prev_hash: str | None) -> VerifyReport:
    num_rows, head, expected = 0, prev_hash, 0
    try:
        for row in rows:
            if num_rows == 0:
                expected, head = int(str(row["seq"])), head or (str(row["prev_hash"]))
                if expected == 1:
                    head = GENESIS
            reason = why_broken(row, expected, str(head))
            if reason:
                return VerifyReport(num_rows=num_rows, head=str(head), broken_seq=expected, reason=reason)
            num_rows, head, expected = num_rows + 1, str(row["hash"]), expected + 1
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}); expected an archive of records") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"its line is not a record ({error!r})"
        return VerifyReport(num_rows=num_rows, head=str(head or GENESIS), broken_seq=expected, reason=reason)
    return VerifyReport(num_rows=num_rows, head=head or GENESIS)


def _rows(path: Path) -> Iterator[dict[str, Json]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            document = json.loads(line)
            row = {name: document[name] for name in RECORD_FIELDS}
            yield {
                name: canonical_json(value) if name in JSON_FIELDS and value is not None else value
                for name, value in row.items()
            }


def _wanted_seq(store: RecordStore, retention: Retention, now: datetime) -> int:
    wanted = 0
    if retention.keep_days is not None:
        cutoff = now - timedelta(days=retention.keep_days)
        wanted = store.last_seq_before(cutoff.isoformat(timespec="microseconds"))
    if retention.max_mb is not None:
        used, allowed = store.used_bytes(), retention.max_mb * 2**20
        if used > allowed:
            first, last = store.archived().last_seq, store.last_seq()
            wanted = max(wanted, first + round((last - first) * (1 - _KEPT_SHARE * allowed / used)))
    return wanted
