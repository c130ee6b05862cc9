"""What the live view says in JSON: the shape of each answer, and how it is made of records.

The shapes are the OpenAPI document's; answers are built by these functions and sent as they are.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hffnet.runtime.record import Json, Record, mapping_from
from hffnet.runtime.result import record_json

SCHEMA_VERSION = 1


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True)


class ErrorSaid(_Shape):
    """What went wrong, as a sentence."""

    error: str


class ClassSaid(_Shape):
    """One class and its parent in the level above (null on the first)."""

    name: str
    parent: str | None


class LevelSaid(_Shape):
    """One level of the class tree, from the first down."""

    name: str
    classes: list[ClassSaid]


class BundleSaid(_Shape):
    """The model's file."""

    name: str
    sha256: str


class ModelSaid(_Shape):
    """What answers, and where its frames come from; does not change while the run lasts."""

    schema_version: Literal[1]
    bundle: BundleSaid
    engine: dict[str, object]
    precision: str
    levels: list[LevelSaid]
    min_confidence: float | None
    trained_um: list[float] | None
    source: str
    is_live: bool
    started_at: str
    hffnet_version: str
    records_id: str = Field(description="Tells one records file from another: cursors of one mean nothing in another.")


class SourceSaid(_Shape):
    """Where frames come from."""

    name: str
    state: str


class DeviceSaid(_Shape):
    """The engine in short."""

    name: str
    version: str
    device: str
    precision: str


class StateSaid(_Shape):
    """How the run is doing."""

    schema_version: Literal[1]
    now: str
    readiness: Literal["starting", "running", "stopping", "failed", "gone"]
    reason: str | None
    source: SourceSaid
    engine: DeviceSaid | None
    counts: dict[str, int]
    dropped: dict[str, int]
    stages_ms: dict[str, dict[str, float]]
    last_record_seq: int
    last_frame_age_s: float | None = Field(description="Seconds since the last frame was put on record.")
    uptime_s: float
    num_clients: int


class SharesOfLevel(_Shape):
    """Probability of each class."""

    name: str
    probabilities: dict[str, float]


class GateSaid(_Shape):
    """One gate's answer."""

    name: str
    passed: bool
    refuses: bool
    reason: str


class ReviewSaid(_Shape):
    """A person's decision, a row of its own."""

    seq: int
    time: str
    decision: Literal["accept", "override"]
    path: list[str]
    operator: str
    reason: str | None
    refers_to: int


class Urls(_Shape):
    """Where the rest is."""

    record: str
    frame: str | None
    evidence: str | None
    report: str


class RecordInShort(_Shape):
    """One result, as far as a list or the live page needs it."""

    seq: int
    time: str
    name: str
    status: Literal["classified", "not_classified", "failed"]
    reason: str | None
    path: list[str] = Field(description="The most probable complete path; empty where nothing was classified.")
    answer: list[str] = Field(description="The path as far as it is sure; empty is unsure.")
    answered_depth: int
    confidence: list[float]
    levels: list[SharesOfLevel]
    gates: list[GateSaid]
    is_mixed: bool
    modes: list[list[str]]
    age_ms: float | None = Field(description="From the frame being complete (live: captured) to the decision.")
    stages_ms: dict[str, float]
    pixel_size_um: float | None
    width: int | None
    height: int | None
    review: ReviewSaid | None
    urls: Urls


class RecordPage(_Shape):
    """Results, newest first."""

    schema_version: Literal[1]
    records: list[RecordInShort]
    next: int | None = Field(description="Give it as `before` for the next page; null at the end.")


class RecordWhole(_Shape):
    """Everything in a record, and everything people decided on it, oldest first."""

    schema_version: Literal[1]
    record: dict[str, object]
    summary: RecordInShort
    reviews: list[ReviewSaid]


class ReviewWritten(_Shape):
    """The decision as it stands on record now."""

    schema_version: Literal[1]
    review: ReviewSaid
    hash: str


class ShareBin(_Shape):
    """One span of time."""

    start: str
    num: int
    shares: dict[str, dict[str, float]]
    unsure: float
    not_classified: float


class SharesSaid(_Shape):
    """Fractions of answers over time, oldest first."""

    schema_version: Literal[1]
    bin_s: int
    bins: list[ShareBin]


class TileSaid(_Shape):
    """One tile, as fractions of the crop, and what its own evidence says where that is still at hand."""

    left: float
    top: float
    width: float
    height: float
    path: list[str] | None
    confidence: list[float] | None


class TilesSaid(_Shape):
    """How a large frame was cut, and what share of it shows what."""

    schema_version: Literal[1]
    tile_px: int
    num_tiles: int
    num_classified: int
    shares: dict[str, dict[str, float]]
    modes: list[list[str]]
    is_mixed: bool
    tiles: list[TileSaid]


class PredictionSaid(BaseModel):
    """The document of ``hffnet classify --json``; ``evidence`` where it was asked for."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: Literal[1]
    kind: Literal["result"]
    name: str
    status: Literal["classified", "not_classified"]
    reason: str | None
    class_path: list[str]
    answer: list[str]
    confidence: list[float]
    probabilities: dict[str, dict[str, float]]
    gates: list[dict[str, object]]
    engine: dict[str, object]
    timings_ms: dict[str, float]


class SessionSaid(_Shape):
    """What the page needs to write."""

    schema_version: Literal[1]
    csrf: str
    limits: dict[str, float]


class HealthSaid(_Shape):
    """Whether this process answers, and whether the run is ready."""

    status: str
    reason: str | None = None


def review_json(row: Record) -> dict[str, Json]:
    """A person's decision."""
    said = (row.details or {}).get("decision")
    return {
        "seq": row.seq,
        "time": row.created_utc,
        "decision": "accept" if said == "accepted" else "override",
        "path": list(row.answer),
        "operator": row.person or "",
        "reason": row.reason,
        "refers_to": row.refers_to or 0,
    }


def short_json(record: Record, overrides: Sequence[Record] = ()) -> dict[str, Json]:
    """A result in short; the last override counts."""
    crop, details = record.crop or {}, record.details or {}
    area = mapping_from(details.get("area"))
    live = mapping_from(details.get("live"))
    age_ms = live.get("age_ms", sum(record.timings_ms.values()) if record.timings_ms else None)
    own = f"/v1/records/{record.seq}"
    frame = f"/v1/frames/{record.seq}"
    of = f"?of={record.hash[:16]}"  # another file's record of the same number has another address, for caches
    return {
        "seq": record.seq,
        "time": record.created_utc,
        "name": record.name,
        "status": record.status,
        "reason": record.reason,
        "path": list(record.class_path),
        "answer": list(record.answer),
        "answered_depth": len(record.answer),
        "confidence": list(record.confidence),
        "levels": [{"name": name, "probabilities": dict(shares)} for name, shares in record.probabilities.items()],
        "gates": [
            {
                "name": gate["name"],
                "passed": gate["passed"],
                "refuses": gate.get("refuses", True),
                "reason": gate["reason"],
            }
            for gate in record.gates
        ],
        "is_mixed": bool(area.get("is_mixed", False)),
        "modes": area.get("modes", []),
        "age_ms": age_ms,
        "stages_ms": dict(record.timings_ms),
        "pixel_size_um": (record.acquisition or {}).get("pixel_size_um"),
        "width": crop.get("width"),
        "height": crop.get("height"),
        "review": review_json(overrides[-1]) if overrides else None,
        "urls": {
            "record": own,
            "frame": f"{frame}.png{of}" if record.crop else None,
            "evidence": f"{frame}/evidence.png{of}" if record.status == "classified" else None,
            "report": f"{own}/report.pdf",
        },
    }


def whole_json(record: Record, overrides: Sequence[Record]) -> dict[str, Json]:
    """Everything about a result."""
    return {
        "schema_version": SCHEMA_VERSION,
        "record": record_json(record),
        "summary": short_json(record, overrides),
        "reviews": [review_json(row) for row in overrides],
    }
