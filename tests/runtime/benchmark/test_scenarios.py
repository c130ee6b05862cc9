"""The timing code against engines of known latency: what is reported is what was spent, to 1 %."""

from threading import Event

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffnet.runtime.benchmark.clock import tick_of_clock
from hffnet.runtime.benchmark.interleave import Measured, measure_interleaved
from hffnet.runtime.benchmark.percentiles import percentiles_from_samples
from hffnet.runtime.benchmark.scenarios import ScenarioName, ScenarioSettings, Stream, Work
from hffnet.runtime.errors import EngineError
from tests.runtime.benchmark.fake_engine import KnownLatency, ManualClock


def measured(
    clock: ManualClock,
    work: KnownLatency,
    scenario: ScenarioName,
    *,
    seconds: float,
    block_s: float = 1.0,
    **settings: float,
) -> Measured:
    stream = Stream(work, scenario, settings=ScenarioSettings(**settings), batch=1, clock=clock)  # type: ignore[arg-type]
    found = measure_interleaved({0: stream}, seconds=seconds, block_s=block_s, began_s=clock.now(), stop=Event())
    return found[0]


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "offline"])
def test_percentiles_of_a_known_distribution(scenario: ScenarioName) -> None:
    """Log-normal latencies; 40,000 of them leave 0.3 % of sampling error on p99."""
    sigma, median_s = 0.1, 0.010
    latencies_s = median_s * np.exp(sigma * np.random.default_rng(0).normal(size=50_000))
    clock = ManualClock()
    found = measured(clock, KnownLatency(clock, latencies_s.tolist()), scenario, seconds=400.0)
    claims = percentiles_from_samples(found.latency_ms)
    assert claims.num_samples > 35_000
    for claim, normal_quantile in ((claims.p50_ms, 0.0), (claims.p90_ms, 1.28155), (claims.p99_ms, 2.32635)):
        assert claim == pytest.approx(1e3 * median_s * np.exp(sigma * normal_quantile), rel=0.01)
    assert found.row_s == pytest.approx(sum(found.latency_ms) / 1e3)


@pytest.mark.parametrize("block_s", [0.5, 7.0], ids=["short-blocks", "long-blocks"])
def test_paced_under_overload_counts_the_queue(block_s: float) -> None:
    """Service 12 ms, a frame due every 10 ms: frame k waits k·2 ms, whoever else is measured in between."""
    clock = ManualClock()
    service_s, period_s = 0.012, 0.010
    rows: dict[str, ScenarioName] = {"paced": "paced", "other": "single-stream"}
    streams = {
        name: Stream(
            KnownLatency(clock, [service_s]),
            scenario,
            settings=ScenarioSettings(period_s=period_s),
            batch=1,
            clock=clock,
        )
        for name, scenario in rows.items()
    }
    found = measure_interleaved(streams, seconds=7.0, block_s=block_s, began_s=clock.now(), stop=Event())["paced"]
    expected_ms = 1e3 * (service_s + np.arange(len(found.latency_ms)) * (service_s - period_s))
    assert len(found.latency_ms) > 500
    np.testing.assert_allclose(found.latency_ms, expected_ms, rtol=0.01)


def test_paced_sees_the_frames_behind_a_slow_one() -> None:
    """One answer in a hundred takes a second: a closed loop sees 1 % slow queries, the frames many more."""
    clock = ManualClock()
    seconds = [0.001] * 99 + [1.0]
    paced = measured(clock, KnownLatency(clock, seconds), "paced", seconds=60.0, block_s=60.0, period_s=0.02)
    closed = measured(clock, KnownLatency(clock, seconds), "single-stream", seconds=60.0, block_s=20.0)
    assert np.mean(np.array(closed.latency_ms) > 2) == pytest.approx(0.01, abs=0.003)
    # Queue recursion of Lindley: wait of the next = max(0, wait + service - period).
    waits, wait = list[float](), 0.0
    for k in range(len(paced.latency_ms)):
        service = seconds[(k + 4) % 100]  # three warm-up queries and one at the block's start
        waits.append(wait + service)
        wait = max(0.0, wait + service - 0.02)
    assert np.mean(np.array(paced.latency_ms)) == pytest.approx(1e3 * np.mean(waits), rel=0.01)
    assert np.mean(np.array(paced.latency_ms) > 2) > 0.4


def test_cold_rests_before_every_query() -> None:
    clock = ManualClock()
    work = KnownLatency(clock, [0.05])
    found = measured(clock, work, "cold", seconds=10.0, idle_s=2.0)
    assert list(found.latency_ms) == pytest.approx([50.0] * 5)
    assert work.idle_s[3:] == pytest.approx([2.0] * 5)


def test_rows_take_turns_and_one_that_fails_does_not_stop_the_others() -> None:
    clock = ManualClock()

    def broken(_turn: int, _num_frames: int) -> dict[str, float]:
        raise EngineError("gone")

    order = list[str]()

    class Noted(KnownLatency):
        def __init__(self, name: str) -> None:
            super().__init__(clock, [0.1])
            self.name = name

        def __call__(self, turn: int, num_frames: int) -> dict[str, float]:
            order.append(self.name)
            return dict(super().__call__(turn, num_frames))

    works: dict[str, Work] = {"a": Noted("a"), "broken": broken, "b": Noted("b")}
    streams = {
        name: Stream(work, "single-stream", settings=ScenarioSettings(), batch=1, clock=clock)
        for name, work in works.items()
    }
    found = measure_interleaved(streams, seconds=4.0, block_s=1.0, began_s=clock.now(), stop=Event())
    assert isinstance(found["broken"].failure, EngineError)
    assert not found["broken"].latency_ms
    assert found["a"].num_blocks == found["b"].num_blocks >= 4
    turns = [name for before, name in zip(["", *order], order, strict=False) if before != name]
    assert turns[2:8] == ["a", "b", "a", "b", "a", "b"] or turns[1:7] == ["b", "a", "b", "a", "b", "a"]


def test_a_stop_keeps_what_was_measured() -> None:
    clock, stop = ManualClock(), Event()
    clock.stops_at_s = clock.now() + 7.0
    stream = Stream(KnownLatency(clock, [0.05]), "cold", settings=ScenarioSettings(), batch=1, clock=clock)
    found = measure_interleaved(
        {0: stream}, seconds=60.0, block_s=60.0, began_s=clock.now(), stop=stop, on_block=lambda _: stop.set()
    )
    assert list(found[0].latency_ms) == pytest.approx([50.0] * 3)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=2000))
def test_percentiles_are_ordered_and_within_the_samples(samples: list[float]) -> None:
    found = percentiles_from_samples(samples)
    claims = [c for c in (found.p50_ms, found.p90_ms, found.p99_ms, found.p999_ms, found.max_ms) if c is not None]
    assert claims == sorted(claims)
    assert found.max_ms == max(samples)
    if found.p50_interval_ms and found.p50_ms is not None:
        assert found.p50_interval_ms[0] <= found.p50_ms <= found.p50_interval_ms[1]


def test_a_coarse_clock_is_seen() -> None:
    reads = iter(range(10_000_000))
    assert tick_of_clock(lambda: next(reads) // 1000 * 0.015) == pytest.approx(0.015)
    assert tick_of_clock(lambda: 1.0, most_reads=100) == float("inf")
