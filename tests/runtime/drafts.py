"""Records for tests that need rows, not frames."""

from hffnet.runtime.record import RecordDraft


def draft(number: int, **changes: object) -> RecordDraft:
    """A classified frame; another number is another file."""
    values: dict[str, object] = {
        "status": "classified",
        "name": f"{number}.tif",
        "input_path": f"/data/{number}.tif",
        "input_size": 905_472,
        "input_mtime_ns": 1_700_000_000_000_000_000 + number,
        "input_sha256": f"{number:064x}",
        "class_path": ("mechanical", "fatigue"),
        "answer": ("mechanical",),
        "confidence": (0.9, 0.4),
        "probabilities": {"level1": {"mechanical": 0.9, "thermal": 0.1}},
        "engine": {"name": "onnxruntime", "precision": "int8"},
        "bundle_sha256": "b" * 64,
        "settings_sha256": "c" * 64,
        "timings_ms": {"read": 2.0, "infer": 60.5},
    }
    return RecordDraft(**{**values, **changes})  # type: ignore[arg-type]
