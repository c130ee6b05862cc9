"""How far a confidence can be believed, and where to hold back so that a target is met.

Numbers only: confidences and what turned out right. Which path a confidence belongs to is ``decode``'s business.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import ConfigError, DatasetError, GateError

NUM_BINS = 15

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Answers whose confidence lies in ``[low, high)`` (the last includes 1); means are None in an empty bin."""

    low: float
    high: float
    num_frames: int
    confidence: float | None
    accuracy: float | None


def reliability_bins(confidence_N: Floats, right_N: npt.NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Confidence against accuracy in ``NUM_BINS`` bins of equal width.

    Raises:
        DatasetError: no answer, or lists of different length.
    """
    if not len(confidence_N) or len(confidence_N) != len(right_N):
        raise DatasetError(f"{len(confidence_N)} confidences, {len(right_N)} answers; expected equally many, not none")
    place_N = np.minimum((np.clip(confidence_N, 0, 1) * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins = list[ReliabilityBin]()
    for k in range(NUM_BINS):
        inside = place_N == k
        num = int(inside.sum())
        bins.append(
            ReliabilityBin(
                low=k / NUM_BINS,
                high=(k + 1) / NUM_BINS,
                num_frames=num,
                confidence=float(confidence_N[inside].mean()) if num else None,
                accuracy=float(right_N[inside].mean()) if num else None,
            )
        )
    return tuple(bins)


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean distance of confidence and accuracy over the frames (Guo et al., arXiv:1706.04599, equation 3)."""
    total = sum(one.num_frames for one in bins)
    return sum(
        one.num_frames / total * abs(one.confidence - one.accuracy)
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """What holding back at ``threshold`` gives.

    Attributes:
        threshold: least confidence of an answered node; 0 answers every frame down to the leaf.
        coverage: mean share of the levels that are answered.
        answered: share of frames answered at all; complete: share answered down to the leaf.
        risk: share of all frames whose answer is wrong somewhere; a frame not answered is not wrong.
    """

    threshold: float
    coverage: float
    answered: float
    complete: float
    risk: float

    @property
    def selective_risk(self) -> float | None:
        """Share wrong among the frames that are answered at all; None where none is."""
        return self.risk / self.answered if self.answered else None


def risk_coverage_at(confidence_ND: Floats, num_right_N: npt.NDArray[np.int64], threshold: float) -> RiskCoverage:
    """Coverage and risk when each frame is answered down to the deepest node that reaches ``threshold``.

    Args:
        confidence_ND: probability of each node of the path, (N, depth), never rising with depth.
        num_right_N: how many levels of the path are right before it leaves the true one.
        threshold: as ``DecodeSpec.min_confidence``; 0 holds nothing back.
    """
    said_N = (confidence_ND >= threshold).sum(axis=1)
    depth = confidence_ND.shape[1]
    return RiskCoverage(
        threshold=threshold,
        coverage=float(said_N.mean() / depth),
        answered=float((said_N > 0).mean()),
        complete=float((said_N == depth).mean()),
        risk=float((said_N > num_right_N).mean()),
    )


def risk_coverage_curve(
    confidence_ND: Floats, num_right_N: npt.NDArray[np.int64], num_points: int = 101
) -> tuple[RiskCoverage, ...]:
    """The curve over thresholds at equal shares of the confidences that occur, from 0 on."""
    thresholds = np.unique([0.0, *np.quantile(confidence_ND, np.linspace(0, 1, num_points), method="lower")])
    return tuple(risk_coverage_at(confidence_ND, num_right_N, float(t)) for t in thresholds)


def threshold_for_target(confidence_ND: Floats, num_right_N: npt.NDArray[np.int64], target: float) -> float | None:
    """The least confidence that keeps the share of frames with a wrong answer at ``1 - target`` or below.

    Hierarchical selective classification (Goren et al., arXiv:2405.11533, section 4): an answer that is cut short is
    wrong only if a node it names is. A frame's answer is right at every threshold above the confidence of its first
    wrong node; the (n + 1)·target-th smallest of these holds for a new frame with probability ``target`` or more, as
    long as it comes from where these frames come from (conformal prediction). Frames that fitted the temperatures may
    be used again: two numbers are fitted on them, so the promise is slightly less strict.

    Args:
        confidence_ND: (N, depth) of held-out frames, calibrated.
        num_right_N: (N,) levels right before the path leaves the true one.
        target: wanted share of frames whose answer is right as far as it goes, 0 to 1.

    Returns:
        The threshold for ``DecodeSpec.min_confidence``, or None where the target is met without holding back.

    Raises:
        ConfigError: the target is no share.
        DatasetError: there are too few frames to promise the target.
        GateError: the wrong answers are as sure as can be, so no threshold parts them.

    >>> confidence = np.array([[0.9, 0.8], [0.9, 0.6], [0.95, 0.7], [0.7, 0.5]])
    >>> round(threshold_for_target(confidence, np.array([2, 1, 2, 0]), 0.6), 3)
    0.6
    """
    if not 0 < target < 1:
        raise ConfigError(f"the target accuracy is {target}; expected a share between 0 and 1, like 0.95")
    num, depth = confidence_ND.shape
    rank = math.ceil((num + 1) * target - 1e-9)
    if rank > num:
        raise DatasetError(
            f"{num} held-out frames cannot promise a target accuracy of {target}; at least"
            f" {math.ceil(target / (1 - target) - 1e-9)} are needed: hold out more frames or lower the target"
        )
    wrong_N = num_right_N < depth
    first_wrong_N = confidence_ND[np.arange(num), np.minimum(num_right_N, depth - 1)]
    least = float(np.sort(np.where(wrong_N, first_wrong_N, 0.0))[rank - 1])
    if least == 0.0:
        return None
    threshold = math.nextafter(least, 1.0)
    if threshold >= 1.0:
        raise GateError(
            f"a target accuracy of {target} cannot be met: more than {num - rank} of {num} held-out answers are wrong"
            " at full confidence. Fit the temperatures (hffnet train does) or train further"
        )
    return threshold
