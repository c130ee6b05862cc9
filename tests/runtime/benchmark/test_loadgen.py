"""MLPerf LoadGen and the built-in loop on an engine of known latency."""

from collections.abc import Mapping
from pathlib import Path
from threading import Event
from time import perf_counter, sleep

import pytest

from hffnet.runtime.benchmark.clock import SystemClock
from hffnet.runtime.benchmark.interleave import measure_interleaved
from hffnet.runtime.benchmark.loadgen import through_loadgen
from hffnet.runtime.benchmark.scenarios import ScenarioName, ScenarioSettings, Stream

SETTINGS = ScenarioSettings(multi_stream_frames=4)
SECONDS, PER_FRAME_S = 0.7, 0.005


class Spinning:
    """Takes 5 ms per frame by its own clock, and longer only where the machine holds it up."""

    num_calls = 0

    def __call__(self, _turn: int, num_frames: int) -> Mapping[str, float]:
        began = perf_counter()
        while perf_counter() - began < PER_FRAME_S * num_frames:
            pass
        self.num_calls += 1
        return {}


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream"])
def test_both_loops_agree_within_two_per_cent(scenario: ScenarioName, tmp_path: Path) -> None:
    """The quickest of at least 64 queries, in one of three attempts: what a busy machine adds is no disagreement."""
    pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen is not installed (extra loadgen)")
    known_ms = 1e3 * PER_FRAME_S * (SETTINGS.multi_stream_frames if scenario == "multi-stream" else 1)
    for _ in range(3):
        work = Spinning()
        stream = Stream(work, scenario, settings=SETTINGS, batch=1, clock=SystemClock(Event()))
        built_in = measure_interleaved({0: stream}, seconds=SECONDS, block_s=SECONDS, began_s=0.0, stop=Event())[0]
        work.num_calls = 0
        found = through_loadgen(
            work, scenario, settings=SETTINGS, batch=1, seconds=SECONDS, expected_ms=known_ms, folder=tmp_path / "log"
        )
        assert found.latency.num_samples == work.num_calls >= 64
        if found.quickest_ms < 1.02 * known_ms:
            break
    assert min(built_in.latency_ms) == pytest.approx(known_ms, rel=0.01)
    assert found.quickest_ms == pytest.approx(min(built_in.latency_ms), rel=0.02)
    assert (tmp_path / "log/mlperf_log_summary.txt").exists()


def test_what_passes_between_queries_is_in_no_latency(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen is not installed (extra loadgen)")
    work = Spinning()
    found = through_loadgen(
        work,
        "single-stream",
        settings=SETTINGS,
        batch=1,
        seconds=0.01,
        expected_ms=5.0,
        folder=tmp_path,
        between_queries=lambda: sleep(0.02),
    )
    assert found.latency.num_samples == work.num_calls == 64
    assert found.latency.p50_ms is not None
    assert found.latency.p50_ms < 20


def test_an_engine_that_fails_under_loadgen_is_not_hidden(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen is not installed (extra loadgen)")

    def broken(_turn: int, _num_frames: int) -> Mapping[str, float]:
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        through_loadgen(
            broken, "single-stream", settings=SETTINGS, batch=1, seconds=0.01, expected_ms=1.0, folder=tmp_path
        )
