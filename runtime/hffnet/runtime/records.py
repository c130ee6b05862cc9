"""The audit trail: an SQLite file that keeps every result, in order, each row sealed with the hash of the one before.

A row is on the disk (WAL, ``synchronous=FULL``) before ``append`` returns. ``verify`` finds rows that were changed,
removed from the middle or put in. What it cannot find: rows cut off at the end by someone who also lowers SQLite's
row counter, and a chain that was recomputed from some row on; both show where ``VerifyReport.head`` is compared with
a head noted elsewhere (a laboratory journal, a signed export).
"""

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from json import loads
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from hffnet.runtime.errors import RecordError, RecordsAwayError
from hffnet.runtime.installed import hffnet_version
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
from hffnet.runtime.records_chain import VerifyReport, why_broken
from hffnet.runtime.records_inputs import (
    ARCHIVED,
    KEEP_KEYS,
    SAME,
    SAME_CONTENT,
    AlreadyArchivedError,
    input_key,
    is_path_gone,
)
from hffnet.runtime.records_schema import APPLICATION_ID, MIGRATIONS

_log = logging.getLogger(__name__)
_PAGE = 256
_CACHE_KIB = 512  # full within minutes: SQLite's default of 2 MB looks like a leak for the first hours of a service
_BUSY_S = 2.0  # within what a stop may take
_CACHE_KB = 512  # per connection; rows are written once and read in order, so SQLite's 2 MB would only fill up slowly
COLUMNS = ", ".join(RECORD_FIELDS)
"""Of the table, in the order of a record's fields."""
_INSERT = f"INSERT INTO records ({COLUMNS}) VALUES ({', '.join('?' * len(RECORD_FIELDS))})"  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """The last row that was moved to an archive; 0 and the genesis hash where none was."""

    last_seq: int = 0
    last_hash: str = GENESIS
    file_name: str | None = None


class RecordStore:
    """An open records file; safe to use from several threads and processes.

    Two connections: one writes records and waits for the disk; the other reads, and keeps the sinks' cursors, which
    may lose their last step in a power cut because delivery is at-least-once anyway.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self.path = path
        self._writer, self._reader = writer, reader
        self._write_lock, self._read_lock = Lock(), Lock()
        self._version = hffnet_version()

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Self:
        """Open a records file, bring it to this version's schema, and create it if it is absent.

        Raises:
            RecordError: it is not a records file, or was written by a newer version; RecordsAwayError: it is locked,
                the disk is full, or its folder is not there.
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
            raise _not_opened(path, error) from error
        return cls(path, writer, reader)

    @staticmethod
    def check(path: Path) -> None:
        """Look at a records file without touching it.

        Raises:
            RecordError: it is not one, or a newer version wrote it.
        """
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
            try:
                _schema_version(connection, path)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise _not_opened(path, error) from error

    def append(self, draft: RecordDraft) -> Record:
        """Commit a row and return it; a result that is there already is returned, not written again.

        The same result: the same file version (path, size, modification time, sha256) under the same bundle and
        settings. Where the same bytes stand in an earlier row under another name or time, the row says so in
        ``details``: ``same_as`` is the number of the last such row, ``renamed_from`` its file where that is gone.

        Raises:
            AlreadyArchivedError: that row was moved to an archive.
            RecordError: the disk is full or the file is locked; nothing was written.
        """
        try:
            details = self._with_earlier(draft)
            with self._write_lock, _transaction(self._writer):
                same = self._same(draft)
                return same or self._insert(draft if details is None else replace(draft, details=details))
        except sqlite3.Error as error:
            raise RecordError(f"a result cannot be written to {self.path} ({error}); free space or close it") from error

    def is_done(self, path: Path, size: int, mtime_ns: int, *, bundle_sha256: str, settings_sha256: str) -> bool:
        """Whether this version of a file has a result, of whatever status, under this bundle and these settings."""
        key = (text_from_name(str(path)), mtime_ns, size, bundle_sha256, settings_sha256)
        return bool(self._rows(SAME, key) or self._rows(ARCHIVED, (input_key(*key),)))

    def iterate(self, after: int = 0, limit: int | None = None) -> Iterator[Record]:
        """Records with ``seq`` above ``after``, in order; rows that are added meanwhile are included."""
        while limit is None or limit > 0:
            page = self._page(after, _PAGE if limit is None else min(limit, _PAGE))
            if not page:
                return
            for row in page:
                yield record_from_row(row)
            after = int(page[-1]["seq"])
            limit = None if limit is None else limit - len(page)

    def get(self, seq: int) -> Record:
        """One record; raises RecordError where there is none with this number."""
        for record in self.iterate(after=seq - 1, limit=1):
            if record.seq == seq:
                return record
        if 0 < seq <= (archived := self.archived()).last_seq:
            raise RecordError(f"record {seq} was moved to an archive ({archived.file_name} or one before it)")
        raise RecordError(f"{self.path} has no record {seq}; its last is {self.last_seq()}")

    def last_seq(self) -> int:
        """Number of the last record; 0 where there is none."""
        return int(self._rows("SELECT coalesce(max(seq), 0) FROM records")[0][0])

    def overrides(self, seq: int) -> list[Record]:
        """What people decided on a result, oldest first; the last one counts."""
        query = f"SELECT {COLUMNS} FROM records WHERE refers_to = ? AND kind = 'override' ORDER BY seq"  # noqa: S608
        return [record_from_row(row) for row in self._rows(query, (seq,))]

    def last_seq_before(self, created_utc: str) -> int:
        """Number of the last row of an unbroken run from the first that were all created before a time."""
        first_kept = self._rows("SELECT min(seq) FROM records WHERE created_utc >= ?", (created_utc,))[0][0]
        return self.last_seq() if first_kept is None else int(first_kept) - 1

    def used_bytes(self) -> int:
        """What rows and indices take in the file; pages freed by archiving are used again before it grows."""
        pages, free, size = (
            int(self._rows(f"PRAGMA {name}")[0][0]) for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def archived(self) -> Archived:
        """The last row that is in an archive."""
        query = "SELECT last_seq, last_hash, file_name FROM archives ORDER BY last_seq DESC LIMIT 1"
        rows = self._rows(query)
        return Archived(**dict(rows[0])) if rows else Archived()

    def drop_archived(self, last_seq: int, last_hash: str, file_name: str, file_sha256: str) -> Record:
        """Remove rows that stand in an archive, note where the chain goes on, and append the event that says so.

        Raises:
            RecordError: ``last_hash`` is not that row's, or the file cannot be written; nothing was removed.
        """
        archive: dict[str, Json] = {"last_seq": last_seq, "last_hash": last_hash}
        archive |= {"file_name": file_name, "file_sha256": file_sha256}
        reason = f"records up to {last_seq} were moved to {file_name}"
        event = RecordDraft(kind="event", status=None, name="archived", reason=reason, details=archive)
        try:
            with self._write_lock, _transaction(self._writer):
                self._writer.create_function("input_key", -1, input_key, deterministic=True)
                row = self._writer.execute("SELECT hash FROM records WHERE seq = ?", (last_seq,)).fetchone()
                if row is None or row["hash"] != last_hash:
                    raise RecordError(
                        f"{file_name} does not end with record {last_seq} of {self.path}; nothing was removed"
                    )
                for keep in KEEP_KEYS:
                    self._writer.execute(keep, (last_seq,))
                self._writer.execute("DELETE FROM records WHERE seq <= ?", (last_seq,))
                self._writer.execute(
                    "INSERT INTO archives (last_seq, last_hash, file_name, file_sha256) VALUES (?, ?, ?, ?)",
                    tuple(archive.values()),
                )
                return self._insert(event)
        except sqlite3.Error as error:
            raise RecordError(f"{self.path} cannot be written ({error}); nothing was removed") from error

    def cursors(self) -> dict[str, int]:
        """Every sink that ever followed these records and what it has delivered."""
        return {str(sink): int(seq) for sink, seq in self._rows("SELECT sink, seq FROM cursors")}

    def forget_cursor(self, sink: str) -> bool:
        """Forget a sink that is gone for good, so that it holds no rows back; False where it was not known."""
        try:
            with self._read_lock:
                return self._reader.execute("DELETE FROM cursors WHERE sink = ?", (sink,)).rowcount > 0
        except sqlite3.Error as error:
            raise RecordError(f"the cursor of {sink} cannot be removed from {self.path} ({error})") from error

    def cursor(self, sink: str) -> int:
        """Number of the last record that a sink has delivered; 0 for a new sink."""
        rows = self._rows("SELECT seq FROM cursors WHERE sink = ?", (sink,))
        return int(rows[0][0]) if rows else 0

    def set_cursor(self, sink: str, seq: int) -> None:
        """Note that a sink has delivered everything up to ``seq``; raises RecordError where that cannot be written."""
        try:
            # SQLite has one writer, and whoever waits for it asks again now and then, without a queue: at full speed a
            # cursor would not get its turn between two records for seconds.
            with self._write_lock, self._read_lock:
                self._reader.execute("INSERT OR REPLACE INTO cursors (sink, seq) VALUES (?, ?)", (sink, seq))
        except sqlite3.Error as error:
            raise RecordError(f"the cursor of {sink} cannot be written to {self.path} ({error})") from error

    def count_end(self, key: bytes) -> None:
        """Count that the service ended while the engine had a frame; raises RecordError where it cannot be written."""
        statement = "INSERT INTO ends (key, num) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET num = num + 1"
        try:
            with self._write_lock:
                self._writer.execute(statement, (key,))
        except sqlite3.Error as error:
            raise RecordError(f"an end of the service cannot be counted in {self.path} ({error})") from error

    def ends(self) -> dict[bytes, int]:
        """How often the service ended by key (`input_key`) of the frame that the engine had."""
        with self._read_lock:
            return {bytes(key): int(num) for key, num in self._reader.execute("SELECT key, num FROM ends")}

    def verify(self) -> VerifyReport:
        """Walk the chain and name the first row that does not fit; archived rows are proven in their archives."""
        archived = self.archived()
        num_rows, head, seq = 0, archived.last_hash, archived.last_seq
        is_told = archived.last_seq == 0
        while page := self._page(seq, _PAGE):
            for row in page:
                reason = why_broken(dict(row), seq + 1, head)
                if reason:
                    return VerifyReport(num_rows=num_rows, head=head, broken_seq=seq + 1, reason=reason)
                is_told = is_told or _tells_of(row, archived)
                num_rows, head, seq = num_rows + 1, str(row["hash"]), seq + 1
        counter = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'records'")
        reason = None
        if counter and counter[0][0] > seq:
            reason = f"records {seq + 1} to {counter[0][0]} were written and are gone"
        elif not is_told:
            reason = f"no record tells of the archive {archived.file_name}"
        broken = seq + 1 if reason else None
        return VerifyReport(num_rows=num_rows, head=head, broken_seq=broken, reason=reason)

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
            f"SELECT {COLUMNS} FROM records WHERE seq IN ({SAME} AND input_sha256 IS ?)",  # noqa: S608
            (*key, draft.input_sha256),
        ).fetchone()
        if row is None:
            self._refuse_archived(*key, draft.input_sha256)
        return record_from_row(row) if row else None

    def _refuse_archived(self, *key_and_content: Json) -> None:
        archived = self._writer.execute(ARCHIVED, (input_key(*key_and_content[:-1]),)).fetchone()
        if archived is None:
            return
        # Keys of an earlier schema tell the version alone: what is_done says of it has to do.
        whole = self._writer.execute(ARCHIVED, (input_key(*key_and_content),)).fetchone()
        if whole is not None or archived["seq"] is None:
            raise AlreadyArchivedError(
                f"{key_and_content[0]} has a record in this version already, which was moved to an archive"
            )

    def _with_earlier(self, draft: RecordDraft) -> dict[str, Json] | None:
        """The draft's details, with the earlier row of the same bytes; None where there is none."""
        if draft.kind != "result" or draft.input_sha256 is None:
            return None
        content = (draft.input_sha256, draft.bundle_sha256, draft.settings_sha256)
        if rows := self._rows(SAME_CONTENT, content):
            seq, path = int(rows[0]["seq"]), rows[0]["input_path"]
            is_gone = path is not None and path != draft.input_path and is_path_gone(path)
            renamed: dict[str, Json] = {"renamed_from": path} if is_gone else {}
        elif rows := self._rows(ARCHIVED, (input_key(*content),)):
            seq, renamed = int(rows[0]["seq"]), {}
        else:
            return None
        return {**(draft.details or {}), "same_as": seq, **renamed}

    def _insert(self, draft: RecordDraft) -> Record:
        last = self._writer.execute("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        counter = self._writer.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
        if last is None:  # a new file, or one whose rows were all archived
            last = self._writer.execute(
                "SELECT last_hash AS hash FROM archives ORDER BY last_seq DESC LIMIT 1"
            ).fetchone()
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
        return record_from_row(row)

    def _rows(self, query: str, values: Sequence[Json] = ()) -> list[sqlite3.Row]:
        try:
            with self._read_lock:
                return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise RecordError(f"{self.path} cannot be read ({error}); close what holds it, or try again") from error

    def _page(self, after: int, limit: int) -> list[sqlite3.Row]:
        query = f"SELECT {COLUMNS} FROM records WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
        try:
            with self._read_lock:
                return self._reader.execute(query, (after, limit)).fetchall()
        except sqlite3.Error as error:
            raise RecordError(f"{self.path} cannot be read after record {after} ({error})") from error


def _not_opened(path: Path, error: sqlite3.Error) -> RecordError:
    """What SQLite calls operational passes: a lock, a full disk, a folder that is not mounted."""
    if isinstance(error, sqlite3.OperationalError):
        return RecordsAwayError(
            f"{path} cannot be opened as a records file now ({error}); look at its folder, rights, free space and who"
            " else uses it"
        )
    return RecordError(f"{path} cannot be opened as a records file ({error}); name another file")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
    return connection


def _use_log(connection: sqlite3.Connection, path: Path, synchronous: str) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        _log.warning("%s: this file system has no write-ahead log (journal mode %s); commits are slower", path, mode)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")


def _schema_version(connection: sqlite3.Connection, path: Path) -> int:
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if owner != APPLICATION_ID and not is_empty:
        raise RecordError(f"{path} is an SQLite file of another program; name another file for the records")
    if found > len(MIGRATIONS):
        raise RecordError(
            f"{path} has schema version {found}, this hffnet knows up to {len(MIGRATIONS)}: use a newer hffnet"
        )
    return found


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    with _transaction(connection):
        found = _schema_version(connection, path)
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


def record_from_row(row: sqlite3.Row | Mapping[str, Json]) -> Record:
    """The record in a row of the table; raises RecordError where a nested field is not JSON."""
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


def _tells_of(row: sqlite3.Row, archived: Archived) -> bool:
    if row["kind"] != "event" or row["name"] != "archived":
        return False
    details = loads(row["details"])
    return bool(details["last_seq"] == archived.last_seq and details["last_hash"] == archived.last_hash)
