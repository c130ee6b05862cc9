"""The audit trail: an SQLite file that keeps every result, in order, each row sealed with the hash of the one before.

A row is on the disk (WAL, ``synchronous=FULL``) before ``append`` returns. ``verify`` finds rows that were changed,
removed from the middle or put in. What it cannot find: rows cut off at the end by someone who also lowers SQLite's
row counter, and a chain that was recomputed from some row on; both show where ``VerifyReport.head`` is compared with
a head noted elsewhere (a laboratory journal, a signed export).
"""

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from json import loads
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import (
    DRAFT_FIELDS,
    GENESIS,
    JSON_FIELDS,
    RECORD_FIELDS,
    ROW_VERSION,
    Json,
    Record,
    RecordDraft,
    canonical_json,
    row_hash,
    text_from_name,
)
from hffnet.runtime.records_schema import APPLICATION_ID, MIGRATIONS

_log = logging.getLogger(__name__)
_PAGE = 256
_BUSY_S = 2.0  # within what a stop may take
_COLUMNS = ", ".join(RECORD_FIELDS)
_INSERT = f"INSERT INTO records ({_COLUMNS}) VALUES ({', '.join('?' * len(RECORD_FIELDS))})"  # noqa: S608
_SAME = """SELECT seq FROM records WHERE kind = 'result' AND input_path IS ? AND input_mtime_ns IS ? AND input_size IS ?
    AND bundle_sha256 IS ? AND settings_sha256 IS ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a walk along the chain found.

    Attributes:
        num_rows: how many rows were walked.
        head: hash of the last row; note it elsewhere to prove later that nothing was cut off.
        broken_seq: the first row that does not fit; None where all do.
        reason: what does not fit.
    """

    num_rows: int
    head: str
    broken_seq: int | None = None
    reason: str | None = None

    @property
    def is_sound(self) -> bool:
        """Whether every row fits."""
        return self.broken_seq is None


class RecordStore:
    """An open records file; safe to use from several threads and processes.

    Two connections: one writes records and waits for the disk; the other reads, and keeps the sinks' cursors, which
    may lose their last step in a power cut because delivery is at-least-once anyway.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self.path = path
        self._writer, self._reader = writer, reader
        self._write_lock, self._read_lock = Lock(), Lock()
        self._version = _hffnet_version()

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Self:
        """Open a records file, bring it to this version's schema, and create it if it is absent.

        Raises:
            RecordError: it is not a records file, was written by a newer version, or cannot be opened.
        """
        if not create and not path.is_file():
            raise RecordError(f"{path} does not exist; expected a records file written by `hffnet run`")
        try:
            writer = _connect(path)
            try:
                _migrate(writer, path)
                _use_log(writer, path, "FULL")
                reader = _connect(path)
                _use_log(reader, path, "NORMAL")
            except BaseException:
                writer.close()
                raise
        except sqlite3.Error as error:
            raise RecordError(f"{path} cannot be opened as a records file ({error}); name another file") from error
        return cls(path, writer, reader)

    def append(self, draft: RecordDraft) -> Record:
        """Commit a row and return it; a result that is there already is returned, not written again.

        The same result: the same file version (path, size, modification time, sha256) under the same bundle and
        settings.

        Raises:
            RecordError: the disk is full or the file is locked; nothing was written.
        """
        try:
            with self._write_lock, _transaction(self._writer):
                same = self._same(draft)
                return same or self._insert(draft)
        except sqlite3.Error as error:
            raise RecordError(f"a result cannot be written to {self.path} ({error}); free space or close it") from error

    def is_done(self, path: Path, size: int, mtime_ns: int, *, bundle_sha256: str, settings_sha256: str) -> bool:
        """Whether this version of a file has a result, of whatever status, under this bundle and these settings."""
        key = (text_from_name(str(path)), mtime_ns, size, bundle_sha256, settings_sha256)
        with self._read_lock:
            return self._reader.execute(_SAME, key).fetchone() is not None

    def iterate(self, after: int = 0, limit: int | None = None) -> Iterator[Record]:
        """Records with ``seq`` above ``after``, in order; rows that are added meanwhile are included."""
        while limit is None or limit > 0:
            page = self._page(after, _PAGE if limit is None else min(limit, _PAGE))
            if not page:
                return
            for row in page:
                yield _record_from_row(row)
            after = int(page[-1]["seq"])
            limit = None if limit is None else limit - len(page)

    def get(self, seq: int) -> Record:
        """One record; raises RecordError where there is none with this number."""
        for record in self.iterate(after=seq - 1, limit=1):
            if record.seq == seq:
                return record
        raise RecordError(f"{self.path} has no record {seq}; its last is {self.last_seq()}")

    def last_seq(self) -> int:
        """Number of the last record; 0 where there is none."""
        with self._read_lock:
            return int(self._reader.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0])

    def cursor(self, sink: str) -> int:
        """Number of the last record that a sink has delivered; 0 for a new sink."""
        with self._read_lock:
            row = self._reader.execute("SELECT seq FROM cursors WHERE sink = ?", (sink,)).fetchone()
        return int(row[0]) if row else 0

    def set_cursor(self, sink: str, seq: int) -> None:
        """Note that a sink has delivered everything up to ``seq``; raises RecordError where that cannot be written."""
        try:
            with self._read_lock:
                self._reader.execute("INSERT OR REPLACE INTO cursors (sink, seq) VALUES (?, ?)", (sink, seq))
        except sqlite3.Error as error:
            raise RecordError(f"the cursor of {sink} cannot be written to {self.path} ({error})") from error

    def verify(self) -> VerifyReport:
        """Walk the chain and name the first row that does not fit."""
        num_rows, head, after = 0, GENESIS, 0
        while page := self._page(after, _PAGE):
            for row in page:
                reason = _why_broken(row, num_rows + 1, head)
                if reason:
                    return VerifyReport(num_rows=num_rows, head=head, broken_seq=num_rows + 1, reason=reason)
                num_rows, head = num_rows + 1, str(row["hash"])
            after = int(page[-1]["seq"])
        with self._read_lock:
            counter = self._reader.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
        if counter and counter[0] > num_rows:
            reason = f"records {num_rows + 1} to {counter[0]} were written and are gone"
            return VerifyReport(num_rows=num_rows, head=head, broken_seq=num_rows + 1, reason=reason)
        return VerifyReport(num_rows=num_rows, head=head)

    def close(self) -> None:
        """Close the file; committed rows stay, of course."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _same(self, draft: RecordDraft) -> Record | None:
        if draft.kind != "result" or draft.input_path is None:
            return None
        key = (draft.input_path, draft.input_mtime_ns, draft.input_size, draft.bundle_sha256, draft.settings_sha256)
        row = self._writer.execute(
            f"SELECT {_COLUMNS} FROM records WHERE seq IN ({_SAME} AND input_sha256 IS ?)",  # noqa: S608
            (*key, draft.input_sha256),
        ).fetchone()
        return _record_from_row(row) if row else None

    def _insert(self, draft: RecordDraft) -> Record:
        last = self._writer.execute("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        counter = self._writer.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
        row: dict[str, Json] = {name: _stored(name, getattr(draft, name)) for name in DRAFT_FIELDS}
        row |= {
            "seq": (counter["seq"] if counter else 0) + 1,
            "created_utc": datetime.now(UTC).isoformat(timespec="microseconds"),
            "hffnet_version": self._version,
            "row_version": ROW_VERSION,
            "prev_hash": last["hash"] if last else GENESIS,
        }
        row["hash"] = row_hash(row, ROW_VERSION)
        self._writer.execute(_INSERT, [row[name] for name in RECORD_FIELDS])
        return _record_from_row(row)

    def _page(self, after: int, limit: int) -> list[sqlite3.Row]:
        query = f"SELECT {_COLUMNS} FROM records WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
        try:
            with self._read_lock:
                return self._reader.execute(query, (after, limit)).fetchall()
        except sqlite3.Error as error:
            raise RecordError(f"{self.path} cannot be read after record {after} ({error})") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _use_log(connection: sqlite3.Connection, path: Path, synchronous: str) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        _log.warning("%s: this file system has no write-ahead log (journal mode %s); commits are slower", path, mode)
    connection.execute(f"PRAGMA synchronous = {synchronous}")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    with _transaction(connection):
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
        is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if owner != APPLICATION_ID and not is_empty:
            raise RecordError(f"{path} is an SQLite file of another program; name another file for the records")
        if found > len(MIGRATIONS):
            raise RecordError(
                f"{path} has schema version {found}, this hffnet knows up to {len(MIGRATIONS)}: use a newer hffnet"
            )
        for migration in MIGRATIONS[found:]:
            for statement in migration:
                connection.execute(statement)
        if found < len(MIGRATIONS):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _stored(name: str, value: Json) -> Json:
    return canonical_json(value) if name in JSON_FIELDS and value is not None else value


def _record_from_row(row: sqlite3.Row | Mapping[str, Json]) -> Record:
    values: dict[str, Any] = {name: row[name] for name in RECORD_FIELDS}
    try:
        for name in JSON_FIELDS:
            if values[name] is not None:
                values[name] = loads(values[name])
    except (ValueError, TypeError) as error:
        raise RecordError(
            f"record {values['seq']} holds a {name} that is not JSON ({error}); run `hffnet records verify`"
        ) from error
    return Record(**values)


def _why_broken(row: sqlite3.Row, expected_seq: int, prev_hash: str) -> str | None:
    if row["seq"] != expected_seq:
        return f"record {expected_seq} is missing"
    if row["prev_hash"] != prev_hash:
        return "it does not follow the record before it: one of the two was replaced"
    try:
        computed = row_hash(dict(row), int(row["row_version"]))
    except (KeyError, ValueError, TypeError) as error:
        return f"its hash cannot be computed ({error!r}): a field was changed, or a newer hffnet wrote it"
    return None if computed == row["hash"] else "its content does not match its hash: a field was changed"


def _hffnet_version() -> str:
    try:
        return version("hffnet")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"
