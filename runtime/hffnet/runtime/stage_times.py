"""Milliseconds per stage, kept for the last few thousand frames, and what may be said of them."""

from collections import deque
from typing import Literal

import numpy as np

_KEPT = 4096
_FEWEST = {50: 1, 90: 64, 99: 662}  # MLPerf inference: samples needed before a percentile means something
Figure = Literal["num", "p50", "p90", "p99", "max"]


class StageTimes:
    """A window over the latest frames: memory does not grow with uptime."""

    def __init__(self) -> None:
        self._stages: dict[str, deque[float]] = {}

    def add(self, timings_ms: dict[str, float]) -> None:
        """Add one frame's stages."""
        for stage, ms in timings_ms.items():
            self._stages.setdefault(stage, deque(maxlen=_KEPT)).append(ms)

    def p50(self, stage: str) -> float | None:
        """Median of the latest frames, None where there is none."""
        values = self._stages.get(stage)
        return float(np.median(values)) if values else None

    def figures(self) -> dict[str, dict[Figure, float]]:
        """Per stage the number of samples, percentiles with enough of them, and the largest; from any thread."""
        # Copies, each made in one step: another thread may add meanwhile.
        return {stage: _figures(list(values)) for stage, values in list(self._stages.items())}


def _figures(values: list[float]) -> dict[Figure, float]:
    figures: dict[Figure, float] = {"num": len(values)}
    names: dict[int, Figure] = {50: "p50", 90: "p90", 99: "p99"}
    for percent, fewest in _FEWEST.items():
        if len(values) >= fewest:
            figures[names[percent]] = round(float(np.percentile(values, percent)), 3)
    figures["max"] = round(max(values), 3)
    return figures
