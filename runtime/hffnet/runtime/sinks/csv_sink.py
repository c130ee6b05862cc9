"""One CSV row per record, for spreadsheets: the same columns for every model, nested details left to JSONL."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hffnet.runtime.record import Json, Record
from hffnet.runtime.sinks.line_file import LineFile, continued_after

COLUMNS = (
    "seq",
    "created_utc",
    "kind",
    "status",
    "class_path",
    "answer",
    "confidence",
    "reason",
    "name",
    "input_path",
    "input_sha256",
    "pixel_size_um",
    "instrument",
    "acquired_at",
    "engine",
    "precision",
    "bundle_sha256",
    "timings_ms",
    "refers_to",
    "person",
    "hash",
)
"""``class_path`` and ``answer`` are joined with ``/`` (no class name holds one); ``confidence`` is that of the
answer's last node, or of the first level where the answer is "unsure"; ``timings_ms`` is the sum of the stages."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ONE_LINE = str.maketrans({"\r": " ", "\n": " ", "\x00": " "})


class CsvSink:
    """Appends to a CSV file; a file that is not there yet gets every record of the store."""

    def __init__(self, path: Path) -> None:
        self.name = f"csv:{path.absolute()}"
        self._file = LineFile(path, ",".join(COLUMNS))

    def start(self, cursor: int | None, last_seq: int) -> int:
        """A new file begins with the first record, whatever an earlier file of that name got."""
        if self._file.is_new:
            return 0
        seq = self._file.last_line().partition(",")[0]
        return continued_after(cursor, last_seq, int(seq) if seq.isdecimal() else None)

    def deliver(self, records: Sequence[Record]) -> None:
        """Append and wait for the disk."""
        self._file.append(csv_line(row_from_record(record)) for record in records)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def csv_document(records: Iterable[Record]) -> Iterator[str]:
    """Header and one line per record."""
    yield ",".join(COLUMNS)
    for record in records:
        yield csv_line(row_from_record(record))


def row_from_record(record: Record) -> tuple[Json, ...]:
    """Values of ``COLUMNS``."""
    acquisition, engine = record.acquisition or {}, record.engine or {}
    depth = max(len(record.answer), 1)
    return (
        record.seq,
        record.created_utc,
        record.kind,
        record.status,
        "/".join(record.class_path),
        "/".join(record.answer) if record.answer or not record.class_path else "unsure",
        round(record.confidence[depth - 1], 6) if record.confidence else None,
        record.reason,
        record.name,
        record.input_path,
        record.input_sha256,
        acquisition.get("pixel_size_um"),
        acquisition.get("instrument"),
        acquisition.get("acquired_at"),
        engine.get("name"),
        engine.get("precision"),
        record.bundle_sha256,
        round(sum(record.timings_ms.values()), 3),
        record.refers_to,
        record.person,
        record.hash,
    )


def csv_line(values: Sequence[Json]) -> str:
    r"""One line without its end, quoted where needed, no cell a formula, no line break inside a cell.

    >>> csv_line([1, -0.5, "=1+2", "a,b", "two\nlines", None])
    '1,-0.5,\'=1+2,"a,b",two lines,'
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([_cell(value) for value in values])
    return buffer.getvalue()


def _cell(value: Json) -> Json:
    """Text that a spreadsheet would run as a formula gets an apostrophe (OWASP, "CSV Injection"); numbers stay."""
    if not isinstance(value, str):
        return value
    escaped = f"'{value}" if value.lstrip(" ").startswith(_FORMULA) else value
    return escaped.translate(_ONE_LINE)
