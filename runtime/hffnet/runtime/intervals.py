"""How far a score can be believed: bootstrap intervals over groups, not over frames.

Frames of one specimen are not independent; drawing frames one by one makes intervals that are far too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import ConfigError, DatasetError
from hffnet.runtime.metrics import hf_beta
from hffnet.runtime.taxonomy import ClassPath, Taxonomy

_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a score lies with the stated confidence, by the percentile bootstrap (Efron and Tibshirani, 1993, 13.3)."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """One interval for each score of ``Metrics`` that is a mean, or made of means."""

    num_groups: int
    hp: Interval
    hr: Interval
    hf1: Interval
    fpa: Interval
    level_accuracy: tuple[Interval, ...]


def intervals_from_paths(
    truths: Sequence[ClassPath],
    answers: Sequence[ClassPath],
    groups: Sequence[str],
    taxonomy: Taxonomy,
    *,
    seed: int = 0,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Intervals | None:
    """Intervals of HP, HR, HF1, FPA and of each level's accuracy.

    Whole groups are drawn with replacement, as many as there are. A score of a draw is that of all its frames.

    Args:
        truths: complete class path of each frame.
        answers: predicted path of each frame, as for ``metrics_from_paths``.
        groups: each frame's group.
        taxonomy: the class tree.
        seed: the same seed gives the same intervals.
        num_resamples: how many draws.
        confidence: share of draws inside the interval.

    Returns:
        None where all frames are of one group: nothing is known of another.

    Raises:
        ConfigError: the confidence is no share, or there is no draw.
        DatasetError: no frame, or lists of different length.
    """
    if not 0 < confidence < 1 or num_resamples < 1:
        raise ConfigError(f"{num_resamples} draws at a confidence of {confidence}; expected draws, and 0 to 1")
    if not truths or not len(truths) == len(answers) == len(groups):
        raise DatasetError(f"{len(truths)} truths, {len(answers)} answers, {len(groups)} groups; expected equally many")
    names, of_group = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        return None
    counts_NK = _counts(truths, answers, taxonomy)
    sums_GK = np.zeros((len(names), counts_NK.shape[1]))
    np.add.at(sums_GK, of_group, counts_NK)
    generator = np.random.default_rng(seed)
    shares = np.full(len(names), 1 / len(names))
    drawn_RK = np.concatenate(
        [
            generator.multinomial(len(names), shares, size=min(_BATCH, num_resamples - start)) @ sums_GK
            for start in range(0, num_resamples, _BATCH)
        ]
    )
    hp, hr, fpa, *levels = (drawn_RK[:, 1:] / drawn_RK[:, :1]).T
    hf1 = np.array([hf_beta(p, r) for p, r in zip(hp.tolist(), hr.tolist(), strict=True)])
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)

    def interval(values_R: npt.NDArray[np.float64]) -> Interval:
        low, high = np.quantile(values_R, ends).tolist()
        return Interval(low=low, high=high)

    return Intervals(
        num_groups=len(names),
        hp=interval(hp),
        hr=interval(hr),
        hf1=interval(hf1),
        fpa=interval(fpa),
        level_accuracy=tuple(interval(level) for level in levels),
    )


def _counts(truths: Sequence[ClassPath], answers: Sequence[ClassPath], taxonomy: Taxonomy) -> npt.NDArray[np.float64]:
    """Per frame: 1, then what HP, HR, FPA and each level's accuracy are the mean of."""
    depth = taxonomy.depth
    rows = np.zeros((len(truths), 4 + depth))
    for row, truth, answer in zip(rows, truths, answers, strict=True):
        right = [level < len(answer) and answer[level] == truth[level] for level in range(depth)]
        hits = sum(right)
        row[:] = (1, hits / len(answer) if answer else 0, hits / depth, hits == depth, *right)
    return rows
