"""Whether a run may be believed: reasons against it, as sentences with the figures that gave them."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hffnet.runtime.benchmark.interleave import Measured
from hffnet.runtime.benchmark.report import Conditions

MOST_OTHER_SHARE = 0.05
MOST_STEAL_SHARE = 0.01
MOST_CLOCK_DROP = 0.10
MOST_DRIFT = 0.05
MOST_TICK_SHARE = 0.01
_FEWEST_FOR_DRIFT = 12


def reasons_against(
    conditions: Conditions | None, rows: Mapping[str, Measured], clock_tick_s: float
) -> tuple[str, ...]:
    """Why a run is not to be believed; empty where nothing speaks against it.

    Args:
        conditions: None where nothing was watched.
        rows: measured rows by label.
        clock_tick_s: what the clock cannot tell apart.
    """
    reasons = [] if conditions is None else [*_of_load(conditions), *_of_clocks(conditions)]
    return (*reasons, *_of_drift(rows), *_of_tick(rows, clock_tick_s))


def _of_load(conditions: Conditions) -> list[str]:
    reasons = []
    other, steal = _mean(conditions.other_share.values()), _mean(conditions.steal_share.values())
    if other > MOST_OTHER_SHARE:
        reasons.append(
            f"other processes used {other:.0%} of the CPUs during the run (at most {MOST_OTHER_SHARE:.0%}): end them"
        )
    if steal > MOST_STEAL_SHARE:
        reasons.append(
            f"the hypervisor took {steal:.1%} of the CPUs (at most {MOST_STEAL_SHARE:.0%}): a busy host; try later"
        )
    return reasons


def _of_clocks(conditions: Conditions) -> list[str]:
    reasons, throttles = [], conditions.num_throttles.values()
    if len(throttles) > 1 and (num := float(throttles[-1] - throttles[0])) > 0:
        reasons.append(f"the CPUs were throttled {num:.0f} times by heat: cool the machine or run shorter")
    mhz = conditions.mhz.values()
    if len(mhz) >= _FEWEST_FOR_DRIFT:
        first, last = _thirds(mhz)
        if last < first * (1 - MOST_CLOCK_DROP):
            reasons.append(f"CPU clocks fell from {first:.0f} to {last:.0f} MHz during the run: power or heat limit")
    if conditions.gpu_held_back is not None and (share := _mean(conditions.gpu_held_back.values())) > 0:
        reasons.append(f"heat or a power limit held the GPU back during {share:.0%} of the run: cool it or run shorter")
    return reasons


def _of_drift(rows: Mapping[str, Measured]) -> list[str]:
    """Median latency in the last third of the run against the first, as the geometric mean over rows.

    Rows take turns, so a machine that changes moves them together; one row's noise does not. An overloaded ``paced``
    row grows by design and is not asked here: the caller leaves it out.
    """
    ratios = list[float]()
    for measured in rows.values():
        latency_ms = np.asarray(measured.latency_ms, dtype=np.float32)
        if len(latency_ms) >= _FEWEST_FOR_DRIFT and measured.num_blocks > 2:
            first, last = _thirds(latency_ms)
            ratios.append(last / max(first, 1e-9))
    if not ratios:
        return []
    drift = float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9))))) - 1
    if abs(drift) <= MOST_DRIFT:
        return []
    reason = (
        f"latencies drifted by {drift:+.0%} from the first to the last third of the run, over {len(ratios)} rows"
        f" (at most ±{MOST_DRIFT:.0%}): let the machine settle, or run longer"
    )
    return [reason]


def _of_tick(rows: Mapping[str, Measured], clock_tick_s: float) -> list[str]:
    medians = {label: float(np.median(m.latency_ms)) for label, m in rows.items() if m.latency_ms}
    if not medians:
        return []
    label = min(medians, key=medians.__getitem__)
    if clock_tick_s * 1e3 <= MOST_TICK_SHARE * medians[label]:
        return []
    tick = f"{clock_tick_s * 1e6:.3g} µs" if clock_tick_s < 1e-3 else f"{clock_tick_s * 1e3:.3g} ms"
    reason = (
        f"the clock ticks every {tick}, more than {MOST_TICK_SHARE:.0%} of {label}"
        f" ({medians[label]:.3g} ms): choose another clock source (see clock_source of the machine), or a larger batch"
    )
    return [reason]


def _mean(values: npt.NDArray[np.float32]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _thirds(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    third = len(values) // 3
    return float(np.median(values[:third])), float(np.median(values[-third:]))
