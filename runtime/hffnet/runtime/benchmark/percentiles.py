"""What may be claimed from a number of samples.

A percentile p is printed only from so many samples that the chance to have seen at most one above it is at most 1 %:
64 for p90 and 662 for p99, the counts of MLPerf Inference (early stopping), 11 for p50 and 6636 for p99.9.
"""

from collections.abc import Sequence
from functools import cache
from math import comb
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Milliseconds = Annotated[float, Field(ge=0.0)]
PERCENTS = (50.0, 90.0, 99.0, 99.9)
_CHANCE = 0.01


class Percentiles(BaseModel):
    """Milliseconds; None where there are too few samples for the claim.

    Attributes:
        p50_interval_ms: 95 % confidence interval of the median, from order statistics.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    num_samples: Annotated[int, Field(ge=1)]
    mean_ms: Milliseconds
    p50_ms: Milliseconds | None
    p90_ms: Milliseconds | None
    p99_ms: Milliseconds | None
    p999_ms: Milliseconds | None
    max_ms: Milliseconds
    p50_interval_ms: tuple[Milliseconds, Milliseconds] | None


@cache
def samples_needed(percent: float) -> int:
    """How many samples a percentile takes.

    >>> [samples_needed(p) for p in (50, 90, 99, 99.9)]
    [11, 64, 662, 6636]
    """
    below, num = percent / 100, 1
    while below**num + num * (1 - below) * below ** (num - 1) > _CHANCE:
        num += 1
    return num


def percentiles_from_samples(samples_ms: Sequence[float] | npt.NDArray[np.floating]) -> Percentiles:
    """Percentiles of at least one sample, each only where the samples suffice.

    >>> found = percentiles_from_samples([1.0] * 30 + [2.0] * 35)
    >>> found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms
    (2.0, 2.0, None, 2.0)
    """
    values = np.sort(np.asarray(samples_ms, dtype=np.float64))
    p50, p90, p99, p999 = (
        float(np.percentile(values, p)) if len(values) >= samples_needed(p) else None for p in PERCENTS
    )
    return Percentiles(
        num_samples=len(values),
        mean_ms=float(values.mean()),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=float(values[-1]),
        p50_interval_ms=_median_interval(values) if p50 is not None else None,
    )


def _median_interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Order statistics between which the median lies with at least 95 %, samples taken as independent."""
    rank = _median_rank(len(values))
    return float(values[rank]), float(values[len(values) - 1 - rank])


@cache
def _median_rank(num: int) -> int:
    if num > 500:  # the normal approximation is within one rank here
        return int((num - 1.96 * num**0.5) / 2) - 1
    tail, rank = 0.0, -1
    while (tail := tail + comb(num, rank + 1) / 2**num) <= 0.025:
        rank += 1
    return max(rank, 0)
