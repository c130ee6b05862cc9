"""Everything that is known of a model's decisions on labelled frames, in one document.

``hffnet evaluate --json`` prints it, ``--report`` draws it, a bundle carries a part of it: the same numbers everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hffnet.runtime.decode import Decision, DecodeSpec, decode
from hffnet.runtime.decodings import DECODINGS, Decoding, paths_from_logits
from hffnet.runtime.errors import DatasetError
from hffnet.runtime.intervals import Intervals, intervals_from_paths
from hffnet.runtime.manifest import Metrics
from hffnet.runtime.metrics import (
    ClassScore,
    class_scores,
    confusion_from_paths,
    hf_beta,
    metrics_from_paths,
    mistake_distance,
    num_right,
)
from hffnet.runtime.taxonomy import ClassPath, Taxonomy
from hffnet.runtime.trust import (
    ReliabilityBin,
    RiskCoverage,
    expected_calibration_error,
    reliability_bins,
    risk_coverage_at,
    risk_coverage_curve,
)

_BETAS = (0.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One labelled frame and what the model said of it.

    Attributes:
        name: for people.
        truth: complete class path.
        group: frames of one group are not independent.
        logits: (ΣC,); None where a gate refused the frame.
    """

    name: str
    truth: ClassPath
    group: str
    logits: npt.NDArray[np.float32] | None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class DecodingScore(_Strict):
    """One way of reading the logits, nothing held back."""

    decoding: Decoding
    metrics: Metrics
    mistake_distance: float | None


class LevelAssessment(_Strict):
    """One level of the tree.

    Attributes:
        confusion: frames by true class (rows) and said class (columns, the last one "held back").
        temperature: as shipped.
        ece: expected calibration error of the path's confidence at this level.
        ece_unscaled: the same with all temperatures at 1.
        reliability: what ``ece`` is the mean of.
    """

    name: str
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    scores: tuple[ClassScore, ...]
    temperature: float
    ece: float
    ece_unscaled: float
    reliability: tuple[ReliabilityBin, ...]


class Assessment(_Strict):
    """What ``assess`` found.

    Attributes:
        metrics: of the answers as shipped: cut where confidence is too low, ``()`` where a gate refused the frame.
        hf_beta: HF for other weights of recall than 1.
        mistake_distance: mean number of tree edges from a wrong answer to the truth; None where none is wrong.
        intervals: 95 % by bootstrap over groups; None where there is one group.
        num_refused: frames that a gate refused; levels, curves and decodings leave them out.
        min_confidence: least confidence of an answered node; None holds nothing back.
        operating_point: coverage and risk at ``min_confidence``.
        curve: coverage and risk at every threshold.
        decodings: four ways of reading the same logits.
    """

    metrics: Metrics
    hf_beta: dict[str, float]
    mistake_distance: float | None
    intervals: Intervals | None
    num_groups: int
    num_refused: int
    min_confidence: float | None
    operating_point: RiskCoverage
    levels: tuple[LevelAssessment, ...]
    curve: tuple[RiskCoverage, ...]
    decodings: tuple[DecodingScore, ...]


def assess(
    judged: Sequence[Judged], taxonomy: Taxonomy, spec: DecodeSpec, *, seed: int = 0
) -> tuple[Assessment, tuple[Decision | None, ...]]:
    """Decide for each frame as shipped and count everything.

    Args:
        judged: frames with logits.
        taxonomy: the class tree.
        spec: how the shipped model decides.
        seed: of the bootstrap.

    Returns:
        The assessment, and each frame's decision (None where a gate refused it).

    Raises:
        DatasetError: no frame, or none that any gate let pass.
    """
    seen = [one for one in judged if one.logits is not None]
    if not seen:
        raise DatasetError(f"none of {len(judged)} frames could be classified; expected at least one sound frame")
    logits_NC = np.stack([one.logits for one in seen if one.logits is not None])
    truths = [one.truth for one in seen]
    decided = decode(logits_NC, taxonomy, spec)
    turn = iter(decided)
    decisions = tuple(None if one.logits is None else next(turn) for one in judged)
    answers = [one.answer if one else () for one in decisions]
    all_truths, groups = [one.truth for one in judged], [one.group for one in judged]
    metrics = metrics_from_paths(all_truths, answers, taxonomy)
    confidence_ND = np.array([one.confidence for one in decided])
    right_N = num_right(truths, [one.path for one in decided])
    assessment = Assessment(
        metrics=metrics,
        hf_beta={f"{beta:g}": hf_beta(metrics.hp, metrics.hr, beta) for beta in _BETAS},
        mistake_distance=mistake_distance(all_truths, answers),
        intervals=intervals_from_paths(all_truths, answers, groups, taxonomy, seed=seed),
        num_groups=len(set(groups)),
        num_refused=len(judged) - len(seen),
        min_confidence=spec.min_confidence,
        operating_point=risk_coverage_at(confidence_ND, right_N, spec.min_confidence or 0.0),
        levels=_levels(truths, decided, decode(logits_NC, taxonomy, DecodeSpec.plain(taxonomy)), taxonomy, spec),
        curve=risk_coverage_curve(confidence_ND, right_N),
        decodings=compare_decodings(logits_NC, truths, taxonomy, spec),
    )
    return assessment, decisions


def compare_decodings(
    logits_NC: npt.NDArray[np.float32], truths: Sequence[ClassPath], taxonomy: Taxonomy, spec: DecodeSpec
) -> tuple[DecodingScore, ...]:
    """Score all four decodings on the same logits."""
    scores = list[DecodingScore]()
    for decoding in DECODINGS:
        paths = paths_from_logits(logits_NC, taxonomy, spec, decoding)
        metrics = metrics_from_paths(truths, paths, taxonomy)
        scores.append(
            DecodingScore(decoding=decoding, metrics=metrics, mistake_distance=mistake_distance(truths, paths))
        )
    return tuple(scores)


def _levels(
    truths: Sequence[ClassPath],
    decided: Sequence[Decision],
    unscaled: Sequence[Decision],
    taxonomy: Taxonomy,
    spec: DecodeSpec,
) -> tuple[LevelAssessment, ...]:
    confusions = confusion_from_paths(truths, [one.answer for one in decided], taxonomy)
    levels = list[LevelAssessment]()
    for i, (level, confusion) in enumerate(zip(taxonomy.levels, confusions, strict=True)):
        bins = _bins(truths, decided, i)
        levels.append(
            LevelAssessment(
                name=level.name,
                classes=level.classes,
                confusion=tuple(tuple(row) for row in confusion.tolist()),
                scores=class_scores(confusion, level.classes),
                temperature=spec.temperatures[i],
                ece=expected_calibration_error(bins),
                ece_unscaled=expected_calibration_error(_bins(truths, unscaled, i)),
                reliability=bins,
            )
        )
    return tuple(levels)


def _bins(truths: Sequence[ClassPath], decided: Sequence[Decision], level: int) -> tuple[ReliabilityBin, ...]:
    confidence_N = np.array([one.confidence[level] for one in decided])
    right_N = np.array([one.path[level] == truth[level] for one, truth in zip(decided, truths, strict=True)])
    return reliability_bins(confidence_N, right_N)
