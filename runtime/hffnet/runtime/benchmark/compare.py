"""Two benchmark runs against each other: ratios of medians with bootstrap intervals, and a verdict per row.

The bootstrap draws turns (blocks), not single samples: samples of one turn resemble each other, and intervals from
single samples would be far too narrow. With a reference row each figure is first divided by that row's
of the same turn of the same run, so that a slower machine, or a slower minute, cancels out.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hffnet.runtime.benchmark.report import Report, Row
from hffnet.runtime.errors import ConfigError

Verdict = Literal["faster", "slower", "not distinguishable", "too few turns"]
FEWEST_TURNS = 6
_RESAMPLES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row of A and the same row of B.

    Attributes:
        a_ms: median over the turns of each turn's median, of A in milliseconds; b_ms: of B.
        ratio: B divided by A, after division by the reference row where there is one; below 1 B is faster.
        low, high: confidence interval of ``ratio``; None where there are too few turns.
    """

    label: str
    a_ms: float
    b_ms: float
    ratio: float
    low: float | None
    high: float | None
    verdict: Verdict


def compare_reports(
    a: Report, b: Report, *, reference: str | None = None, confidence: float = 0.95
) -> tuple[Comparison, ...]:
    """Compare every row that both runs measured.

    Args:
        a: the run to compare with.
        b: the run in question.
        reference: label of the row (as in ``Row.label``) that figures are divided by; None compares milliseconds.
        confidence: of each interval.

    Raises:
        ConfigError: no common row, or the reference row is not in both.
    """
    rows_a, rows_b = _measured(a), _measured(b)
    common = [label for label in rows_a if label in rows_b and label != reference]
    if not common:
        raise ConfigError(
            f"the runs share no measured row: {', '.join(rows_a) or 'none'} against {', '.join(rows_b) or 'none'}"
        )
    for name, rows in (("first", rows_a), ("second", rows_b)):
        if reference is not None and reference not in rows:
            raise ConfigError(f"the {name} run has no measured row {reference!r}; it has {', '.join(rows)}")
    rng = np.random.default_rng(0)
    return tuple(
        _comparison(
            label,
            _turns(rows_a[label], rows_a[reference] if reference else None),
            _turns(rows_b[label], rows_b[reference] if reference else None),
            (_typical_ms(rows_a[label]), _typical_ms(rows_b[label])),
            confidence,
            rng,
        )
        for label in common
    )


def doubts(a: Report, b: Report) -> list[str]:
    """What stands against comparing these two runs, as sentences."""
    said = [
        f"the {name} run is invalid: {reason}"
        for name, report in (("first", a), ("second", b))
        for reason in report.invalid_because
    ]
    said += [f"the {name} run is partial" for name, report in (("first", a), ("second", b)) if report.partial]
    differ = [
        (what, one, other)
        for what, one, other in (
            ("bundles", a.bundle_sha256[:12], b.bundle_sha256[:12]),
            ("CPUs", a.machine.get("cpu"), b.machine.get("cpu")),
            ("frames", a.frames, b.frames),
            ("hffnet versions", a.machine.get("hffnet"), b.machine.get("hffnet")),
        )
        if one != other
    ]
    return said + [f"the runs have different {what}: {one} and {other}" for what, one, other in differ]


def _measured(report: Report) -> dict[str, Row]:
    return {row.label: row for row in report.rows if row.samples and row.samples.latency_ms.num}


def _typical_ms(row: Row) -> float:
    return float(np.exp(np.median(_log_medians(row))))


def _turns(row: Row, reference: Row | None) -> npt.NDArray[np.float64]:
    """Logarithm of the median latency of each turn, less that of the reference's same turn."""
    values = _log_medians(row)
    if reference is None:
        return values
    other = _log_medians(reference)
    num = min(len(values), len(other))
    return values[:num] - other[:num]


def _log_medians(row: Row) -> npt.NDArray[np.float64]:
    assert row.samples is not None
    latency_ms, blocks = row.samples.latency_ms.values(), row.samples.block.values()
    medians = [float(np.median(latency_ms[blocks == n])) for n in np.unique(blocks)]
    return np.log(np.maximum(medians, 1e-9))


def _comparison(
    label: str,
    a: npt.NDArray[np.float64],
    b: npt.NDArray[np.float64],
    medians_ms: tuple[float, float],
    confidence: float,
    rng: np.random.Generator,
) -> Comparison:
    ratio = float(np.exp(np.median(b) - np.median(a)))
    low, high, verdict = None, None, "too few turns"
    if min(len(a), len(b)) >= FEWEST_TURNS:
        drawn = _resampled(b, rng) - _resampled(a, rng)
        tail = 50 * (1 - confidence)
        low, high = (float(np.exp(edge)) for edge in np.percentile(drawn, (tail, 100 - tail)))
        verdict = "faster" if high < 1 else "slower" if low > 1 else "not distinguishable"
    return Comparison(
        label=label, a_ms=medians_ms[0], b_ms=medians_ms[1], ratio=ratio, low=low, high=high, verdict=verdict  # type: ignore[arg-type]
    )  # fmt: skip


def _resampled(values: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Medians of turns drawn with replacement."""
    return np.median(values[rng.integers(0, len(values), size=(_RESAMPLES, len(values)))], axis=1)
