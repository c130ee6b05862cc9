"""One row of the audit trail: what it says, how it is written down, and what its hash covers.

Knows nothing of SQLite (``records``) and nothing of classifiers (``result``).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

import numpy as np

Kind = Literal["result", "override", "event"]
"""``result``: a frame's outcome. ``override``: a person's decision on an earlier row (``refers_to``). ``event``: what
happened to the service; ``name`` is one of ``EventName``."""

EventName = Literal["start", "stop", "degraded", "recovered", "clock_jump", "source_lost", "source_back", "archived"]
"""``degraded``: records could not be written for a while (the row comes when they can again), or files cannot be read,
until ``recovered``. ``archived``: rows were moved to an archive file."""

Status = Literal["classified", "not_classified", "failed"]
"""``not_classified``: a gate refused the frame. ``failed``: it could not be read or processed."""

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

ROW_VERSION = 2
"""Which fields a row's hash covers (``hashed_fields``); grows with the table, old rows keep theirs."""

GENESIS = "0" * 64
"""``prev_hash`` of the first row."""

MOST_SEQ = 2**63 - 1
"""The largest number that SQLite gives a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDraft:
    """What is to be recorded, before it has a place in the chain.

    Attributes:
        status: None for rows that are not results.
        reason: a sentence; why nothing was classified, or what a person or the service says.
        name: path or source name, for people.
        input_path, input_size, input_mtime_ns: the version of the file; the path is absolute.
        input_sha256: None where the input could not be read.
        class_path: most probable complete path; empty where nothing was classified.
        answer: ``class_path`` cut where confidence is too low; empty is "unsure".
        confidence: of each node of ``class_path``.
        probabilities: level name to class name to probability.
        crop, acquisition, gates, engine: as ``Prediction`` has them.
        timings_ms: by stage; ``waited`` is from settled to the start of reading and queues included. The commit itself
            cannot stand in its own row.
        refers_to, person: of an override.
        details: what only some rows have: capture facts of a live frame, evidence of the answer, an event's figures.
    """

    kind: Kind = "result"
    status: Status | None
    reason: str | None = None
    name: str
    input_path: str | None = None
    input_size: int | None = None
    input_mtime_ns: int | None = None
    input_sha256: str | None = None
    class_path: Sequence[str] = ()
    answer: Sequence[str] = ()
    confidence: Sequence[float] = ()
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    crop: Mapping[str, Json] | None = None
    acquisition: Mapping[str, Json] | None = None
    gates: Sequence[Mapping[str, Json]] = ()
    engine: Mapping[str, Json] | None = None
    bundle_sha256: str | None = None
    settings_sha256: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    refers_to: int | None = None
    person: str | None = None
    details: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(RecordDraft):
    """A committed row.

    Attributes:
        seq: 1, 2, 3, …; the order of the records, whatever the clock did.
        created_utc: ISO 8601, when it was committed.
        hffnet_version: of the program that wrote it.
        row_version: which fields ``hash`` covers.
        prev_hash: ``hash`` of the row before.
        hash: sha256 over the canonical JSON of all other fields.
    """

    seq: int
    created_utc: str
    hffnet_version: str
    row_version: int
    prev_hash: str
    hash: str


DRAFT_FIELDS = tuple(f.name for f in fields(RecordDraft))
RECORD_FIELDS = tuple(f.name for f in fields(Record))
JSON_FIELDS = frozenset(
    (
        "class_path",
        "answer",
        "confidence",
        "probabilities",
        "crop",
        "acquisition",
        "gates",
        "engine",
        "timings_ms",
        "details",
    )
)
_HASHED_FIELDS = {
    1: tuple(name for name in RECORD_FIELDS if name not in {"hash", "details"}),
    2: tuple(name for name in RECORD_FIELDS if name != "hash"),
}


def canonical_json(value: Json) -> str:
    """One text for one value: keys sorted, no spaces, no NaN.

    >>> canonical_json({"b": 1.0, "a": ["é", None]})
    '{"a":["é",null],"b":1.0}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def settings_sha256(settings: Mapping[str, Json]) -> str:
    """Hash of the settings that can change a result; part of what makes an input "done"."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()


def mapping_from(value: Json) -> Mapping[str, Json]:
    """What ``details`` and the like hold under a name; empty where that is no object."""
    return value if isinstance(value, Mapping) else {}


def hashed_fields(row_version: int) -> tuple[str, ...]:
    """Fields that the hash of such a row covers; raises KeyError for a version this program does not know."""
    return _HASHED_FIELDS[row_version]


def row_hash(row: Mapping[str, Json], row_version: int) -> str:
    """Sha256 over the canonical JSON of a row as stored: nested fields are the very text in the table."""
    covered = {name: row[name] for name in hashed_fields(row_version)}
    return hashlib.sha256(canonical_json(covered).encode()).hexdigest()


def plain(value: object) -> Json:
    """Dataclasses, tuples and numpy numbers as JSON values; what is not finite becomes null.

    >>> plain((np.float32(0.5), float("nan"), "ok"))
    [0.5, None, 'ok']
    """
    match value:
        case np.generic():
            return plain(value.item())
        case None | bool() | int() | float() | str():
            return _plain_scalar(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _plain_scalar(value: float | str | None) -> float | str | None:
    if isinstance(value, str):
        return text_from_name(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text_from_name(name: str) -> str:
    r"""A file name as text that UTF-8 can hold; bytes that are not UTF-8 become ``\xNN``.

    >>> text_from_name("a\udcff.tif")
    'a\\xff.tif'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
