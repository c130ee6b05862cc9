"""Milliseconds per stage, kept for the last few thousand frames, and what may be said of them."""

from typing import Literal

import numpy as np
import numpy.typing as npt

_KEPT = 4096
_FEWEST = {50: 1, 90: 64, 99: 662}  # MLPerf inference: samples needed before a percentile means something
Figure = Literal["num", "p50", "p90", "p99", "max"]


class StageTimes:
    """A window over the latest frames: its memory is taken once, and neither uptime nor filling adds to it."""

    def __init__(self) -> None:
        self._stages: dict[str, _Window] = {}

    def add(self, timings_ms: dict[str, float]) -> None:
        """Add one frame's stages."""
        for stage, ms in timings_ms.items():
            window = self._stages.get(stage) or _Window()
            window.add(ms)
            self._stages[stage] = window

    def p50(self, stage: str) -> float | None:
        """Median of the latest frames, None where there is none."""
        window = self._stages.get(stage)
        return float(np.median(window.values())) if window else None

    def figures(self) -> dict[str, dict[Figure, float]]:
        """Per stage the number of samples, percentiles with enough of them, and the largest; from any thread."""
        return {stage: _figures(window.values()) for stage, window in list(self._stages.items())}


class _Window:
    """The last values of one stage."""

    def __init__(self) -> None:
        self._ms = np.full(_KEPT, np.nan)  # written to now, so that the memory is taken now
        self._num = 0

    def add(self, ms: float) -> None:
        self._ms[self._num % _KEPT] = ms
        self._num += 1

    def values(self) -> npt.NDArray[np.float64]:
        """A copy, made in one step: another thread may add meanwhile."""
        return self._ms[: min(self._num, _KEPT)].copy()


def _figures(values: npt.NDArray[np.float64]) -> dict[Figure, float]:
    figures: dict[Figure, float] = {"num": len(values)}
    names: dict[int, Figure] = {50: "p50", 90: "p90", 99: "p99"}
    for percent, fewest in _FEWEST.items():
        if len(values) >= fewest:
            figures[names[percent]] = round(float(np.percentile(values, percent)), 3)
    figures["max"] = round(float(values.max()), 3)
    return figures
