"""One JSON document per line and record, with everything the record holds."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hffnet.runtime.record import Record
from hffnet.runtime.result import record_json
from hffnet.runtime.sinks.line_file import LineFile, continued_after


class JsonlSink:
    """Appends to a JSONL file; a file that is not there yet gets every record of the store."""

    def __init__(self, path: Path) -> None:
        self.name = f"jsonl:{path.absolute()}"
        self._file = LineFile(path)

    def start(self, cursor: int | None, last_seq: int) -> int:
        """A new file begins with the first record, whatever an earlier file of that name got."""
        if self._file.is_new:
            return 0
        return continued_after(cursor, last_seq, _seq_in_line(self._file.last_line()))

    def deliver(self, records: Sequence[Record]) -> None:
        """Append and wait for the disk."""
        self._file.append(json_line(record) for record in records)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StdoutSink:
    """Writes the records of this run to standard output as JSON lines."""

    name = "jsonl:-"

    def start(self, cursor: int | None, last_seq: int) -> int:
        """Standard output is new in every run: only what this run adds."""
        del cursor
        return last_seq

    def deliver(self, records: Sequence[Record]) -> None:
        """Write and flush."""
        sys.stdout.write("".join(f"{json_line(record)}\n" for record in records))
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing to close."""


def json_line(record: Record) -> str:
    """The record's document on one line, ASCII only, so that no terminal or reader can take it apart."""
    return json.dumps(record_json(record), separators=(",", ":"), allow_nan=False)


def _seq_in_line(line: str) -> int | None:
    try:
        seq = json.loads(line)["seq"]
    except (ValueError, TypeError, KeyError):
        return None
    return seq if isinstance(seq, int) else None
