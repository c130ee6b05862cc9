"""What the report draws of the gate's curve."""

import pytest

from hffnet.calibration.fidelity import Cost
from hffnet.calibration.gate import GateReport, ParetoPoint
from hffnet.calibration.pareto_plot import curve_from_gate


def point(num_restored: int, share: float | None, ms: float, hf1_drop: float, logit_error: float) -> ParetoPoint:
    cost = Cost(
        hf1_drop=hf1_drop,
        fpa_drop=0.0,
        level_drops=(0.0,),
        tice_rise=0.0,
        calibration_error_rise=0.0,
        num_flips=0,
        divergence=0.0,
        cosine=1.0,
        logit_error=logit_error,
    )
    return ParetoPoint(num_restored=num_restored, quantized_share=share, latency_ms=ms, cost=cost, within_budget=True)


def gate(*points: ParetoPoint) -> GateReport:
    return GateReport(
        max_drop=0.5,
        min_quantized_share=0.5,
        num_frames=8,
        float_latency_ms=10.0,
        restored=(),
        accepted=points[0],
        curve=points,
        sensitivity=(),
        num_ranking_frames=0,
        flips=(),
    )


def test_drops_stand_against_share_and_time_with_the_budget() -> None:
    curve = curve_from_gate(gate(point(0, 0.9, 2.0, 2.0, 0.1), point(1, 0.5, 5.0, 0.0, 0.01)))
    assert (curve.title, curve.bottom, curve.top, curve.budget) == ("HF1 drop, points ↑", "0", "2", 0.25)
    share, time = curve.plots
    assert [dot[1:] for dot in share.dots] == [(0.9, 1.0), (0.5, 0.0)]
    assert [dot[1] for dot in time.dots] == pytest.approx([2 / 11, 5 / 11])


def test_where_nothing_drops_the_logits_tell_the_graphs_apart() -> None:
    points = [point(0, 0.9, 2.0, 0.0, 0.02), point(1, 0.5, 5.0, 0.0, 0.01), point(2, 0.49, 5.1, 0.0, 0.01)]
    curve = curve_from_gate(gate(*points, point(3, None, 9.0, 0.0, 0.0)))
    assert (curve.title, curve.budget) == ("error of the logits, % ↑", None)
    share, time = curve.plots
    assert [label[0] for label in share.labels] == ["0", "1, 2"]  # they cover each other
    assert [len(plot.dots) for plot in (share, time)] == [3, 4]  # one graph does not state its shapes
