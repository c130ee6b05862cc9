"""What is said of one frame, in one place: the record of a prediction, and the flat JSON that every output shares.

``hffnet classify --json``, the JSONL sink and ``hffnet records`` print the same fields with the same names.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hffnet.runtime.record import Json, Record, RecordDraft, Status, plain, text_from_name
from hffnet.runtime.sources import FrameItem, Item

if TYPE_CHECKING:
    from hffnet.runtime.classifier import Prediction
    from hffnet.runtime.taxonomy import Taxonomy

SCHEMA_VERSION = 1
"""Of the documents that ``record_json`` and ``prediction_json`` return."""


def draft_from_prediction(
    prediction: "Prediction",
    taxonomy: "Taxonomy",
    *,
    item: Item | FrameItem | None = None,
    bundle_sha256: str | None = None,
    settings_sha256: str | None = None,
    details: Mapping[str, Json] | None = None,
) -> RecordDraft:
    """The record of a frame that was read, whether a gate refused it or it was classified."""
    decision = prediction.decision
    status: Status = "classified" if decision else "not_classified"
    probabilities = dict[str, dict[str, float]]()
    if decision:
        for level, shares in zip(taxonomy.levels, decision.probabilities, strict=True):
            probabilities[level.name] = dict(zip(level.classes, shares.tolist(), strict=True))
    return RecordDraft(
        status=status,
        reason=prediction.not_classified,
        name=text_from_name(item.name if item else prediction.name),
        input_path=text_from_name(str(item.path)) if item and item.path else None,
        input_size=item.stamp.size if item and item.stamp else None,
        input_mtime_ns=item.stamp.mtime_ns if item and item.stamp else None,
        input_sha256=prediction.sha256,
        class_path=decision.path if decision else (),
        answer=decision.answer if decision else (),
        confidence=decision.confidence if decision else (),
        probabilities=probabilities,
        crop=_mapping(prediction.crop),
        acquisition=_mapping(prediction.acquisition),
        gates=[_mapping(gate) for gate in prediction.gates],
        engine=_mapping(prediction.engine),
        bundle_sha256=bundle_sha256,
        settings_sha256=settings_sha256,
        timings_ms=prediction.timings_ms,
        details=details,
    )


def draft_from_failure(
    item: Item | FrameItem,
    reason: str,
    *,
    timings_ms: dict[str, float],
    bundle_sha256: str,
    settings_sha256: str,
    details: Mapping[str, Json] | None = None,
) -> RecordDraft:
    """The record of an item that could not be read or processed."""
    return RecordDraft(
        status="failed",
        reason=text_from_name(reason),
        name=text_from_name(item.name),
        input_path=text_from_name(str(item.path)) if item.path else None,
        input_size=item.stamp.size if item.stamp else None,
        input_mtime_ns=item.stamp.mtime_ns if item.stamp else None,
        bundle_sha256=bundle_sha256,
        settings_sha256=settings_sha256,
        timings_ms=timings_ms,
        details=details,
    )


def record_json(record: RecordDraft) -> dict[str, Json]:
    """One flat document: what was decided first, what it was decided on after that.

    Fields that only a committed record has (``seq``, ``created_utc``, ``hash``, …) are absent from a draft's.
    """
    document: dict[str, Json] = {"schema_version": SCHEMA_VERSION}
    if isinstance(record, Record):
        document |= {"seq": record.seq, "created_utc": record.created_utc}
    document |= {
        "kind": record.kind,
        "name": record.name,
        "status": record.status,
        "reason": record.reason,
        "class_path": list(record.class_path),
        "answer": list(record.answer),
        "confidence": list(record.confidence),
        "probabilities": plain(record.probabilities),
        "input_path": record.input_path,
        "input_size": record.input_size,
        "input_mtime_ns": record.input_mtime_ns,
        "input_sha256": record.input_sha256,
        "crop": record.crop,
        "acquisition": record.acquisition,
        "gates": record.gates,
        "engine": record.engine,
        "bundle_sha256": record.bundle_sha256,
        "settings_sha256": record.settings_sha256,
        "timings_ms": plain(record.timings_ms),
        "refers_to": record.refers_to,
        "person": record.person,
        "details": plain(record.details),
    }
    if isinstance(record, Record):
        document |= {
            "hffnet_version": record.hffnet_version,
            "row_version": record.row_version,
            "prev_hash": record.prev_hash,
            "hash": record.hash,
        }
    return document


def prediction_json(
    prediction: "Prediction", taxonomy: "Taxonomy", bundle_sha256: str | None = None
) -> dict[str, Json]:
    """The same document for a prediction that is not recorded."""
    details = {"area": plain(prediction.area)} if prediction.area else None
    return record_json(draft_from_prediction(prediction, taxonomy, bundle_sha256=bundle_sha256, details=details))


def _mapping(value: object) -> dict[str, Json]:
    mapping = plain(value)
    if not isinstance(mapping, dict):
        raise TypeError(f"{type(value).__name__} is not a dataclass")
    return mapping
