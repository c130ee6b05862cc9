"""How far the shipped decisions can be believed: the threshold for a target accuracy, and what it really gives.

The threshold is chosen on the checkpoint's val frames, which fitted no weight, and measured on the held-out ones, which
fitted nothing. It is the same for every precision of the bundle; what it gives is measured for each.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hffnet.runtime.assessment import DecodingScore, Judged, assess
from hffnet.runtime.dataset import Dataset
from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.errors import DatasetError
from hffnet.runtime.manifest import Precision
from hffnet.runtime.metrics import num_right
from hffnet.runtime.trust import RiskCoverage, threshold_for_target
from hffnet.train.checkpoint import Checkpoint
from hffnet.train.evaluate import logits_from_checkpoint

TRUST = "trust.json"
"""Member of the bundle."""

_log = logging.getLogger(__name__)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class PrecisionTrust(_Strict):
    """One precision on the held-out frames.

    Attributes:
        realised: coverage and risk at the bundle's threshold.
        ece: expected calibration error per level, with the bundle's temperatures.
        ece_unscaled: the same with all temperatures at 1.
        decodings: four ways of reading the same logits, nothing held back.
    """

    realised: RiskCoverage
    ece: tuple[float, ...]
    ece_unscaled: tuple[float, ...]
    decodings: tuple[DecodingScore, ...]


class TrustReport(_Strict):
    """``trust.json``: what was promised and what was measured."""

    schema_version: int = 1
    target_accuracy: float | None
    min_confidence: float | None
    temperatures: tuple[float, ...]
    num_frames: int
    precisions: dict[Precision, PrecisionTrust]


def with_target(checkpoint: Checkpoint, data: Dataset, held_out: Dataset, target: float) -> Checkpoint:
    """The checkpoint with the threshold that meets a target accuracy on its val frames in ``config.decode``.

    ``held_out`` are the frames that the promise will be measured on; a warning tells where they are the same.

    Raises:
        ConfigError: the target is no share between 0 and 1.
        DatasetError: ``data`` holds none of the val frames, or too few to promise the target.
        GateError: no threshold meets the target.
    """
    val = {frame.sha256 for frame in checkpoint.config.frames if frame.split == "val"}
    frames = tuple(frame for frame in data.frames if frame.sha256 in val)
    if not frames:
        raise DatasetError(
            f"none of the {len(data.frames)} frames of {data.root} stands in the val split of {checkpoint.folder},"
            " so no threshold can be chosen for the target accuracy; name the data it was trained with"
        )
    if len(frames) < len(val):
        _log.warning(
            "only %d of %d val frames are in %s: the threshold rests on these", len(frames), len(val), data.root
        )
    if same := sum(frame.sha256 in val for frame in held_out.frames):
        _log.warning(
            "%d of %d held-out frames are val frames: what the threshold gives is measured where it was chosen",
            same, len(held_out.frames),
        )  # fmt: skip
    logits_NC = logits_from_checkpoint(checkpoint, replace(data, frames=frames))
    decided = decode(logits_NC, checkpoint.taxonomy, checkpoint.config.decode)
    right_N = num_right([frame.classes for frame in frames], [one.path for one in decided])
    threshold = threshold_for_target(np.array([one.confidence for one in decided]), right_N, target)
    spec = checkpoint.config.decode.model_copy(update={"min_confidence": threshold})
    return replace(checkpoint, config=checkpoint.config.model_copy(update={"decode": spec}))


def trust_from_logits(
    logits: Mapping[Precision, npt.NDArray[np.float32]], held_out: Dataset, spec: DecodeSpec, target: float | None
) -> TrustReport:
    """Measure every precision on the same held-out frames; ``logits`` (N, ΣC) in their order."""
    precisions = dict[Precision, PrecisionTrust]()
    for precision, logits_NC in logits.items():
        judged = [
            Judged(name=held_out.relative(frame), truth=frame.classes, group=frame.group, logits=logits_C)
            for frame, logits_C in zip(held_out.frames, logits_NC, strict=True)
        ]
        found, _ = assess(judged, held_out.taxonomy, spec)
        precisions[precision] = PrecisionTrust(
            realised=found.operating_point,
            ece=tuple(level.ece for level in found.levels),
            ece_unscaled=tuple(level.ece_unscaled for level in found.levels),
            decodings=found.decodings,
        )
    return TrustReport(
        target_accuracy=target,
        min_confidence=spec.min_confidence,
        temperatures=spec.temperatures,
        num_frames=len(held_out.frames),
        precisions=precisions,
    )


def card_section(report: TrustReport) -> str:
    """The model card's section on confidence, Markdown."""
    if report.min_confidence is None:
        rule = "Every frame is answered down to the leaf."
        if report.target_accuracy is not None:
            rule = f"The val frames meet the target accuracy of {report.target_accuracy} without holding back. {rule}"
    else:
        aim = "" if report.target_accuracy is None else f", chosen on val frames for {report.target_accuracy} right"
        rule = f"The answer is the deepest node with a confidence of {report.min_confidence:.4f} or more{aim}."
    rows = "\n".join(
        f"| {precision} | {1 - p.realised.risk:.4f} | {p.realised.coverage:.4f} | {p.realised.answered:.4f} |"
        f" {p.realised.complete:.4f} | {_spaced(p.ece_unscaled)} | {_spaced(p.ece)} |"
        for precision, p in report.precisions.items()
    )
    return f"""
## Confidence

{rule} Temperatures per level: {_spaced(report.temperatures)}. Measured on {report.num_frames} held-out frames:

| precision | not wrong | levels answered | frames answered | down to the leaf | ECE at temperature 1 | ECE as shipped |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


def _spaced(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
