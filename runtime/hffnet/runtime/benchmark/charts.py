"""Geometry of the report page's drawings: numbers only, in pixels; the template writes them as SVG.

Inline SVG rather than a plotting library: a page of 100 kB that any browser shows offline, where plotly's script alone
has 4.5 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from typing import Literal

import numpy as np
import numpy.typing as npt

from hffnet.runtime.benchmark.report import Conditions, Report, Row

WIDTH = 960.0
LEFT = 250.0
RIGHT = 20.0
LANE = 52.0
NAME_RISE = 8.0  # of a name over the height of its point
_TALLEST = LANE - 20.0  # above it stands the percentile's word
_LETTER = 6.6  # mean width in pixels, of 12-pixel type
_BINS = 120
_MOST_POINTS = 400
_STAGES = ("read", "gates", "preprocess", "copy", "infer", "decode", "record")
_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#cc79a7", "#d55e00")


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A horizontal axis, logarithmic or not."""

    low: float
    high: float
    is_log: bool

    def x(self, value: float) -> float:
        """Pixels."""
        low, high, at = (log10(v) if self.is_log else v for v in (self.low, self.high, max(value, self.low)))
        return LEFT + (at - low) / max(high - low, 1e-9) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[Tick]:
        """Round values: 1, 2, 5 of each decade, or about eight even steps."""
        if self.is_log:
            decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            values = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        else:
            step = _round_step((self.high - self.low) / 8)
            values = [step * k for k in range(ceil(self.low / step), floor(self.high / step) + 1)]
        return [Tick(self.x(v), f"{v:.6g}") for v in values if self.low <= v <= self.high]


@dataclass(frozen=True, slots=True)
class Lane:
    """One row's strip of a chart, and marks with a word each."""

    label: str
    y: float
    path: str
    marks: tuple[Tick, ...] = ()
    note: str = ""
    kind: Literal["area", "dots", "curve"] = "curve"


@dataclass(frozen=True, slots=True)
class Chart:
    """Lanes over one axis."""

    axis: Axis
    lanes: tuple[Lane, ...]
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage of one row."""

    x: float
    width: float
    colour: str
    label: str


@dataclass(frozen=True, slots=True)
class BarLane:
    """All stages of one row."""

    label: str
    y: float
    bars: tuple[Bar, ...]
    total: Tick


@dataclass(frozen=True, slots=True)
class BarChart:
    """Stages of every end-to-end row."""

    axis: Axis
    lanes: tuple[BarLane, ...]
    legend: tuple[tuple[str, str], ...]
    height: float


@dataclass(frozen=True, slots=True)
class Point:
    """One row in the trade of accuracy against latency; its name stands where no other's does."""

    x: float
    y: float
    label: str
    label_x: float
    label_y: float
    is_best: bool
    title: str


@dataclass(frozen=True, slots=True)
class Trade:
    """Accuracy over latency."""

    axis: Axis
    points: tuple[Point, ...]
    frontier: str
    y_ticks: tuple[tuple[float, str], ...]
    height: float


def distribution(report: Report) -> Chart | None:
    """Histogram of each row's latencies over one logarithmic axis, with its percentiles."""
    rows = _timed(report)
    if not rows:
        return None
    columns = [_latencies(row) for row in rows]
    axis = _log_axis(np.concatenate(columns))
    lanes = []
    for k, (row, latency_ms) in enumerate(zip(rows, columns, strict=True)):
        y = LANE * (k + 1)
        edges = np.geomspace(axis.low, axis.high, _BINS + 1)
        counts, _ = np.histogram(np.clip(latency_ms, axis.low, axis.high), edges)
        tops = y - counts / counts.max() * _TALLEST
        steps = [(axis.x(edge), top) for n, top in enumerate(tops) for edge in edges[n : n + 2]]
        path = f"M{axis.x(axis.low):.1f} {y:.1f}" + "".join(f"L{x:.1f} {top:.1f}" for x, top in steps)
        path += f"L{axis.x(axis.high):.1f} {y:.1f}Z"
        lanes.append(Lane(row.label, y, path, _percentile_marks(row, axis), kind="area"))
    return Chart(axis, tuple(lanes), LANE * len(lanes) + 34)


def timeline(report: Report) -> Chart | None:
    """Each row's latencies over the run, each lane from zero to that row's largest; then what the machine did."""
    rows = _timed(report)
    if not rows:
        return None
    ends = [float(row.samples.at_s.values().max()) for row in rows if row.samples]
    if report.conditions:
        ends += report.conditions.at_s.values().tolist()
    axis = Axis(0.0, max([*ends, 1e-3]), is_log=False)
    lanes = list[Lane]()
    for row in rows:
        assert row.samples is not None
        y = LANE * (len(lanes) + 1)
        at_s, ms = _thinned(row.samples.at_s.values(), _latencies(row))
        path = "".join(
            f"M{axis.x(t):.1f} {y - v / ms.max() * (LANE - 8):.1f}h2.5" for t, v in zip(at_s, ms, strict=True)
        )
        lanes.append(Lane(row.label, y, path, note=f"max {ms.max():.3g} ms", kind="dots"))
    if report.conditions:
        lanes += _condition_lanes(report.conditions, axis, len(lanes))
    return Chart(axis, tuple(lanes), LANE * len(lanes) + 34)


def stage_bars(report: Report) -> BarChart | None:
    """Mean milliseconds of each stage, end to end."""
    rows = [row for row in report.rows if row.stages]
    if not rows:
        return None
    colours = dict(zip(_STAGES, _COLOURS, strict=True))
    totals = [sum(found.mean_ms for found in row.stages.values()) for row in rows]
    axis = Axis(0.0, max(totals) * 1.08, is_log=False)
    lanes = []
    for k, (row, total) in enumerate(zip(rows, totals, strict=True)):
        at, bars = 0.0, []
        for stage in sorted(row.stages, key=lambda name: _STAGES.index(name) if name in _STAGES else 99):
            ms = row.stages[stage].mean_ms
            text = f"{stage}: {ms:.2f} ms ({ms / total:.0%})"
            bars.append(Bar(axis.x(at), axis.x(at + ms) - axis.x(at), colours.get(stage, "#999999"), text))
            at += ms
        lanes.append(BarLane(row.label, 32.0 * (k + 1), tuple(bars), Tick(axis.x(total) + 4, f"{total:.1f}")))
    used = {stage for row in rows for stage in row.stages}
    return BarChart(axis, tuple(lanes), tuple((s, c) for s, c in colours.items() if s in used), 32.0 * len(lanes) + 40)


def trade(report: Report) -> Trade | None:
    """HF1 against median latency per frame; the best ones are those no other is both quicker and better than."""
    rows = [r for r in report.rows if r.accuracy and r.latency and r.scenario == "single-stream"]
    if not rows:
        return None
    spots = [(float(np.median(_latencies(row))) / row.batch, row.accuracy.metrics.hf1) for row in rows if row.accuracy]
    scores = [hf1 for _, hf1 in spots]
    axis = _log_axis(np.array([ms for ms, _ in spots]))
    margin = max(0.15 * (max(scores) - min(scores)), 0.002)
    low, high, height = max(min(scores) - margin, 0.0), min(max(scores) + margin, 1.0), 320.0

    def y(hf1: float) -> float:
        return 70 + (high - hf1) / (high - low) * (height - 118)

    best = [not any(a <= ms and b >= hf1 and (a, b) != (ms, hf1) for a, b in spots) for ms, hf1 in spots]
    names = [row.label.removeprefix("single-stream ") for row in rows]
    places = _name_places([(axis.x(ms), y(hf1)) for ms, hf1 in spots], names)
    points = tuple(
        Point(axis.x(ms), y(hf1), name, *place, is_best, f"{ms:.2f} ms, HF1 {hf1:.4f}")
        for name, place, (ms, hf1), is_best in zip(names, places, spots, best, strict=True)
    )
    line = sorted((p.x, p.y) for p in points if p.is_best)
    steps = [(line[0][0], line[0][1])] + [s for a, b in pairwise(line) for s in ((b[0], a[1]), b)]
    marks = tuple((y(low + k * (high - low) / 4), f"{low + k * (high - low) / 4:.4f}") for k in range(5))
    return Trade(axis, points, "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in steps), marks, height)


def _name_places(spots: Sequence[tuple[float, float]], names: Sequence[str]) -> list[tuple[float, float]]:
    """Where each name begins: beside its point, and stepwise away from it where another name or point is in the way."""
    taken = [(x - 6, x + 6, y + 4) for x, y in spots]
    places = dict[int, tuple[float, float]]()
    for n in sorted(range(len(spots)), key=lambda n: spots[n]):
        (x, y), width = spots[n], len(names[n]) * _LETTER
        left = min(x + 9, WIDTH - width)

        def is_free(base: float, left: float = left, right: float = left + width) -> bool:
            return base > 12 and all(abs(base - b) >= 12 or right < a or r < left for a, r, b in taken)

        steps = (y - NAME_RISE, *(y - NAME_RISE + sign * 13.0 * k for k in range(1, 20) for sign in (-1, 1)))
        base = next(filter(is_free, steps), y - NAME_RISE)
        places[n] = (left, base)
        taken.append((left, left + width, base))
    return [places[n] for n in range(len(spots))]


def _condition_lanes(conditions: Conditions, axis: Axis, num_above: int) -> list[Lane]:
    at_s, lanes = conditions.at_s.values(), list[Lane]()
    shares = (("this process", conditions.own_share), ("other processes", conditions.other_share))
    readings = [(f"CPUs: {name}", column.values(), 1.0, "{:.0%}") for name, column in shares]
    readings.append(("CPUs: taken by the hypervisor", conditions.steal_share.values(), 1.0, "{:.1%}"))
    readings.append(("clock", conditions.mhz.values(), 0.0, "{:.0f} MHz"))
    readings.append(("temperature", conditions.celsius.values(), 0.0, "{:.0f} °C"))
    if conditions.gpu_mhz is not None:
        readings.append(("GPU clock", conditions.gpu_mhz.values(), 0.0, "{:.0f} MHz"))
    if conditions.gpu_celsius is not None:
        readings.append(("GPU temperature", conditions.gpu_celsius.values(), 0.0, "{:.0f} °C"))
    for label, values, top, form in readings:
        known = np.isfinite(values)
        if not known.any():
            continue
        y, highest = LANE * (num_above + len(lanes) + 1), float(values[known].max())
        scale = max(top or highest, highest, 1e-9)
        spots = zip(at_s[known], values[known], strict=True)
        path = "M" + "L".join(f"{axis.x(t):.1f} {y - v / scale * (LANE - 10):.1f}" for t, v in spots)
        lanes.append(Lane(label, y, path, note=f"mean {form.format(float(values[known].mean()))}"))
    return lanes


def _timed(report: Report) -> list[Row]:
    return [row for row in report.rows if row.samples and row.samples.latency_ms.num]


def _latencies(row: Row) -> npt.NDArray[np.float32]:
    assert row.samples is not None
    return row.samples.latency_ms.values()


def _log_axis(values: npt.NDArray[np.floating]) -> Axis:
    low, high = max(float(values.min()), 1e-4), max(float(values.max()), 1e-4)
    return Axis(low / 1.1, high * 1.1, is_log=True)


def _percentile_marks(row: Row, axis: Axis) -> tuple[Tick, ...]:
    found = row.latency
    named = () if found is None else (("p50", found.p50_ms), ("p90", found.p90_ms), ("p99", found.p99_ms))
    return tuple(Tick(axis.x(ms), f"{name} {ms:.3g}") for name, ms in named if ms is not None)


def _thinned(
    at_s: npt.NDArray[np.float32], ms: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """At most 400 points; of those that fall together the slowest is kept, since that is what one looks for."""
    if len(ms) <= _MOST_POINTS:
        return at_s, ms
    parts = np.array_split(np.arange(len(ms)), _MOST_POINTS)
    kept = np.array([part[ms[part].argmax()] for part in parts])
    return at_s[kept], ms[kept]


def _round_step(step: float) -> float:
    decade = 10.0 ** floor(log10(max(step, 1e-9)))
    return next(m * decade for m in (1, 2, 5, 10) if m * decade >= step * 0.999)
