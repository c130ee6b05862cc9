"""Records as one Parquet file for analysis: every field typed, the nested ones as structs, lists and maps.

Text stands in it as recorded: what reads Parquet knows text from formulas, so nothing is escaped as in CSV. The proof
of the chain stays with JSONL, which holds the very values that were hashed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import Json, Record, plain

SCHEMA_VERSION = 1
"""Of the columns; stands in the file's metadata as ``hffnet.schema_version``."""

_ROWS_AT_ONCE = 2048  # a row group: what is in memory at a time


class _Column(NamedTuple):
    type: pa.DataType
    says: str


def _struct(**fields: pa.DataType) -> pa.DataType:
    return pa.struct(list(fields.items()))


_TEXT, _REAL, _WHOLE, _YES = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_WORD = pa.dictionary(pa.int32(), pa.string())
_SELF_TEST = _struct(error=_REAL, tolerance=_REAL, cosine=_REAL, flips=_WHOLE, num_frames=_WHOLE)

COLUMNS: dict[str, _Column] = {
    "seq": _Column(_WHOLE, "number and order of the record"),
    "created_utc": _Column(pa.timestamp("us", tz="UTC"), "when it was committed"),
    "kind": _Column(_WORD, "result, override or event"),
    "status": _Column(_WORD, "of a result: classified, not_classified, failed"),
    "reason": _Column(_TEXT, "why nothing was classified, or what a person or the service says"),
    "name": _Column(_TEXT, "of the frame or event, for people"),
    "class_path": _Column(pa.list_(_TEXT), "most probable complete path"),
    "answer": _Column(pa.list_(_TEXT), "class_path cut where confidence is too low; of an override, the decision"),
    "confidence": _Column(pa.list_(_REAL), "of each node of class_path"),
    "probabilities": _Column(pa.map_(_TEXT, pa.map_(_TEXT, _REAL)), "level to class to probability"),
    "input_path": _Column(_TEXT, "absolute"),
    "input_size": _Column(_WHOLE, "bytes"),
    "input_mtime_ns": _Column(_WHOLE, "modification time, ns since 1970"),
    "input_sha256": _Column(_TEXT, "of the file, or of a live frame's pixels"),
    "crop": _Column(_struct(top=_WHOLE, left=_WHOLE, height=_WHOLE, width=_WHOLE, reason=_TEXT), "the picture, pixels"),
    "acquisition": _Column(
        _struct(
            vendor=_TEXT,
            instrument=_TEXT,
            pixel_size_um=_REAL,
            pixel_size_source=_TEXT,
            high_voltage_kv=_REAL,
            working_distance_mm=_REAL,
            detector=_TEXT,
            operator=_TEXT,
            acquired_at=_TEXT,
        ),
        "how the microscope took it, as found",
    ),
    "gates": _Column(
        pa.list_(_struct(name=_TEXT, passed=_YES, value=_REAL, limit=_REAL, reason=_TEXT, refuses=_YES)),
        "every gate's result",
    ),
    "engine": _Column(
        _struct(
            name=_TEXT,
            version=_TEXT,
            device=_TEXT,
            precision=_TEXT,
            arithmetic=_TEXT,
            graph_sha256=_TEXT,
            self_test=_SELF_TEST,
        ),
        "which engine answered",
    ),
    "bundle_sha256": _Column(_TEXT, "the model"),
    "settings_sha256": _Column(_TEXT, "of the settings that can change a result"),
    "timings_ms": _Column(pa.map_(_TEXT, _REAL), "milliseconds by stage"),
    "refers_to": _Column(_WHOLE, "of an override: the result's seq"),
    "person": _Column(_TEXT, "of an override: who decided"),
    "details": _Column(_TEXT, "JSON: what only some rows have, such as evidence, live facts, an event's figures"),
    "hffnet_version": _Column(_TEXT, "that wrote the record"),
    "row_version": _Column(_WHOLE, "which fields hash covers"),
    "prev_hash": _Column(_TEXT, "hash of the record before"),
    "hash": _Column(_TEXT, "sha256 of the record"),
    "other": _Column(_TEXT, "JSON: keys of nested fields that have no column here; absent in all known versions"),
}


def schema() -> pa.Schema:
    """The file's columns; each carries a sentence under ``description``."""
    return pa.schema(
        [pa.field(name, column.type, metadata={"description": column.says}) for name, column in COLUMNS.items()],
        metadata={"hffnet.schema_version": str(SCHEMA_VERSION)},
    )


def write_parquet(path: Path, records: Iterable[Record]) -> int:
    """Write records to a new file, in order, and return how many there were.

    The file's metadata says how many records it holds, the first and last number, and the last hash of the chain
    (``hffnet.num_records``, ``hffnet.first_seq``, ``hffnet.last_seq``, ``hffnet.head``).

    Raises:
        RecordError: it cannot be written, or a record holds what its field cannot hold (verify the records then); an
            older file of that name is left as it was.
    """
    num, first, last = 0, None, None
    try:
        with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema(), compression="zstd") as writer:
            for batch in _batches(records):
                writer.write_table(pa.Table.from_pylist([_row(record) for record in batch], schema()))
                num, first, last = num + len(batch), first or batch[0], batch[-1]
            facts = {"num_records": str(num)}
            if first and last:
                facts |= {"first_seq": str(first.seq), "last_seq": str(last.seq), "head": last.hash}
            writer.add_key_value_metadata({f"hffnet.{key}": value for key, value in facts.items()})
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror or error}); name another file") from error
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise RecordError(
            f"a record after {last.seq if last else 0} holds a value that is not of its field's type ({error});"
            " run `hffnet records verify`, or export to JSONL"
        ) from error
    return num


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    rest = iter(records)
    while batch := list(islice(rest, _ROWS_AT_ONCE)):
        yield batch


def _row(record: Record) -> dict[str, Any]:
    """Values as Arrow takes them; what a struct has no place for goes to ``other``."""
    row: dict[str, Any] = {name: getattr(record, name) for name in COLUMNS if name != "other"}
    row["created_utc"] = datetime.fromisoformat(record.created_utc)
    row["probabilities"] = [(level, list(shares.items())) for level, shares in record.probabilities.items()]
    row["timings_ms"] = list(record.timings_ms.items())
    row["details"] = None if record.details is None else _json(record.details)
    other = {name: rest for name in ("crop", "acquisition", "engine") if (rest := _without_place(name, row[name]))}
    row["other"] = _json(other) if other else None
    return row


def _without_place(name: str, value: Mapping[str, Json] | None) -> dict[str, Json]:
    known = {field.name for field in COLUMNS[name].type}
    return {key: item for key, item in (value or {}).items() if key not in known}


def _json(value: object) -> str:
    return json.dumps(plain(value), sort_keys=True, allow_nan=False)
