"""The gate's curve as two plots, in places from 0 to 1 that the report's template draws."""

from collections.abc import Sequence
from dataclasses import dataclass

from hffnet.calibration.gate import GateReport, ParetoPoint

_SAME_DROP = 0.005  # points of HF1: nothing to be seen
_NEAR = 0.03  # dots nearer than that cover each other


@dataclass(frozen=True, slots=True)
class Plot:
    """The measured graphs over one measure of what int8 brings; places run from 0 to 1.

    Attributes:
        title, ticks: of the axis to the right, each tick with its place.
        dots: point, place to the right, place upwards.
        labels: how many groups were left float, place to the right and upwards; dots that cover each other share one.
    """

    title: str
    ticks: list[tuple[str, float]]
    dots: list[tuple[ParetoPoint, float, float]]
    labels: list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """What is lost, upwards, against share and milliseconds.

    Attributes:
        title, bottom, top: of the axis upwards; budget: its place there, None where it is off the axis.
    """

    title: str
    bottom: str
    top: str
    budget: float | None
    plots: list[Plot]


def curve_from_gate(gate: GateReport) -> Curve:
    """HF1 drop upwards; where no graph loses any, the error of the logits, which still tells them apart."""
    drops = [point.cost.hf1_drop for point in gate.curve]
    if max(drops, default=0.0) - min(drops, default=0.0) < _SAME_DROP:
        values = [100 * point.cost.logit_error for point in gate.curve]
        title, low, high, budget = "error of the logits, % ↑", 0.0, max(*values, 1e-9), None
    else:
        values, title = drops, "HF1 drop, points ↑"
        low, high = min(0.0, *drops), max(gate.max_drop, *drops, 0.1)
        budget = (gate.max_drop - low) / (high - low)
    heights = [(value - low) / (high - low) for value in values]
    shares = [point.quantized_share for point in gate.curve]
    most_ms = 1.1 * max(gate.float_latency_ms, *(point.latency_ms for point in gate.curve), 1e-9)
    times = [point.latency_ms / most_ms for point in gate.curve]
    return Curve(
        title=title,
        bottom=f"{low:.2g}",
        top=f"{high:.2g}",
        budget=budget,
        plots=[
            _plot("share of the work in int8", [(f"{n} %", n / 100) for n in range(0, 101, 25)], gate, shares, heights),
            _plot("ms per frame (see above)", [("0", 0.0), (f"float {gate.float_latency_ms:.1f}",
                gate.float_latency_ms / most_ms)], gate, times, heights),
        ],
    )  # fmt: skip


def _plot(
    title: str,
    ticks: list[tuple[str, float]],
    gate: GateReport,
    places: Sequence[float | None],
    heights: Sequence[float],
) -> Plot:
    known = zip(gate.curve, places, heights, strict=True)
    dots = [(point, place, height) for point, place, height in known if place is not None]
    labels = list[tuple[str, float, float]]()
    for point, place, height in dots:
        near = next(
            (k for k, (_, x, y) in enumerate(labels) if abs(x - place) < _NEAR and abs(y - height) < _NEAR), None
        )
        if near is None:
            labels.append((str(point.num_restored), place, height))
        else:
            text, x, y = labels[near]
            labels[near] = (f"{text}, {point.num_restored}", x, y)
    return Plot(title, ticks, dots, labels)
