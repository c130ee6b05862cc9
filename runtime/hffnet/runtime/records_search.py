"""Looking things up in a records file that another connection writes: newest first, filtered, bounded.

A search reads at most so many rows, whatever is asked for; where that was not enough for a page, the page says where
to go on.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, Self

from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import Record
from hffnet.runtime.records import COLUMNS, record_from_row

_MOST_SCANNED = 20_000
_BUSY_S = 2.0
_HAS_CLASS = "EXISTS (SELECT 1 FROM json_each(answer) AS node WHERE node.value = :node)"
_HAS_GATE = """EXISTS (SELECT 1 FROM json_each(gates) AS gate
    WHERE json_extract(gate.value, '$.name') = :gate AND NOT json_extract(gate.value, '$.passed'))"""
_DECISION = """(SELECT json_extract(said.details, '$.decision') FROM records AS said
    WHERE said.refers_to = records.seq AND said.kind = 'override' ORDER BY said.seq DESC LIMIT 1)"""

Reviewed = Literal["yes", "no", "accepted", "overridden"]
"""Whether a person decided on a result, and how."""
_REVIEWED: dict[Reviewed, str] = {
    "yes": f"{_DECISION} IS NOT NULL",
    "no": f"{_DECISION} IS NULL",
    "accepted": f"{_DECISION} = 'accepted'",
    "overridden": f"{_DECISION} = 'overridden'",
}


class UnreadableError(RecordError):
    """The file cannot be read now: locked, or its disk is gone."""


@dataclass(frozen=True, slots=True)
class Page:
    """Results, newest first; ``next_before`` continues below them, None at the end."""

    records: tuple[Record, ...]
    next_before: int | None


class RecordSearch:
    """A read-only connection of its own; several threads may share it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection, self._lock = connection, Lock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a records file that is there.

        Raises:
            RecordError: it cannot be opened.
        """
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                timeout=_BUSY_S,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise RecordError(f"{path} cannot be read ({error}); expected a records file of hffnet run") from error
        connection.row_factory = sqlite3.Row
        return cls(connection)

    def after(self, seq: int, limit: int) -> list[Record]:
        """Rows of every kind with a number above ``seq``, in order."""
        query = f"SELECT {COLUMNS} FROM records WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
        return [record_from_row(row) for row in self._rows(query, (seq, limit))]

    def bounds(self) -> tuple[int, int]:
        """Numbers of the first row that is still here and of the last; (1, 0) where there is none."""
        (row,) = self._rows("SELECT coalesce(min(seq), 1) AS low, coalesce(max(seq), 0) AS high FROM records", ())
        return int(row["low"]), int(row["high"])

    def page(
        self,
        *,
        before: int | None,
        limit: int,
        node: str | None = None,
        gate: str | None = None,
        reviewed: Reviewed | None = None,
    ) -> Page:
        """Results below ``before``, newest first.

        Args:
            before: a record's number; None begins with the newest.
            limit: at most so many.
            node: a class that the answer must contain, at any level.
            gate: a gate that the frame must not have passed.
            reviewed: whether and how a person decided on it.
        """
        low, high = self.bounds()
        top = min(high + 1, before) if before is not None else high + 1
        floor = max(top - _MOST_SCANNED, low)
        wanted = ["kind = 'result'", "seq < :top", "seq >= :floor"]
        wanted += [_HAS_CLASS] if node is not None else []
        wanted += [_HAS_GATE] if gate is not None else []
        wanted += [_REVIEWED[reviewed]] if reviewed is not None else []
        query = f"SELECT {COLUMNS} FROM records WHERE {' AND '.join(wanted)} ORDER BY seq DESC LIMIT :limit"  # noqa: S608
        values = {"top": top, "floor": floor, "node": node, "gate": gate, "limit": limit}
        found = tuple(record_from_row(row) for row in self._rows(query, values))
        if len(found) == limit:
            return Page(found, found[-1].seq if found[-1].seq > low else None)
        return Page(found, floor if floor > low else None)

    def overrides(self, seqs: Sequence[int]) -> dict[int, list[Record]]:
        """What people decided on these results, oldest first."""
        found = dict[int, list[Record]]()
        marks = ", ".join("?" * len(seqs))
        query = f"SELECT {COLUMNS} FROM records WHERE refers_to IN ({marks}) AND kind = 'override' ORDER BY seq"  # noqa: S608
        for row in self._rows(query, tuple(seqs)):
            record = record_from_row(row)
            found.setdefault(record.refers_to or 0, []).append(record)
        return found

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def _rows(self, query: str, values: Iterable[object] | dict[str, object]) -> list[sqlite3.Row]:
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()  # type: ignore[arg-type]
        except sqlite3.Error as error:
            raise UnreadableError(f"the records cannot be read ({error}); ask again") from error
