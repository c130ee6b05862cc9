"""MLPerf LoadGen's runs in turns with other rows."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from threading import Event
from time import perf_counter

import pytest

from hffnet.runtime.benchmark.clock import SystemClock
from hffnet.runtime.benchmark.interleave import Turns, measure_interleaved
from hffnet.runtime.benchmark.loadgen_lane import LoadGenLane, LoadGenRun, loadgen_beside
from hffnet.runtime.benchmark.scenarios import ScenarioName, ScenarioSettings, Stream
from hffnet.runtime.errors import EngineError

pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen is not installed (extra loadgen)")
SETTINGS = ScenarioSettings(multi_stream_frames=4)
SECONDS, PER_FRAME_S = 0.3, 0.001


class Spinning:
    """Takes 1 ms per frame and notes who worked."""

    def __init__(self, name: str, order: list[str]) -> None:
        self._name, self._order = name, order

    def __call__(self, _turn: int, num_frames: int) -> Mapping[str, float]:
        began = perf_counter()
        while perf_counter() - began < PER_FRAME_S * num_frames:
            pass
        self._order.append(self._name)
        return {}


class Failing:
    """Refuses, after some queries."""

    def __init__(self, num_good: int) -> None:
        self._num_left = num_good

    def __call__(self, _turn: int, _num_frames: int) -> Mapping[str, float]:
        self._num_left -= 1
        if self._num_left < 0:
            raise EngineError("gone")
        return {}


def run_of(work: Spinning | Failing, folder: Path, scenario: ScenarioName = "single-stream") -> LoadGenRun:
    num_frames = SETTINGS.frames_per_query(scenario, 1)
    return LoadGenRun(work=work, scenario=scenario, batch=1, num_frames=num_frames, folder=folder)


def test_runs_take_turns_with_other_rows(tmp_path: Path) -> None:
    order, clock = list[str](), SystemClock(Event())
    runs = {
        "one": run_of(Spinning("lane", order), tmp_path / "one"),
        "two": run_of(Spinning("lane", order), tmp_path / "two", "multi-stream"),
        "all": run_of(Spinning("lane", order), tmp_path / "all", "offline"),
    }
    rows: dict[str, Turns] = {
        name: Stream(Spinning(name, order), "single-stream", settings=SETTINGS, batch=1, clock=clock) for name in "ab"
    }
    with LoadGenLane(runs, settings=SETTINGS, seconds=SECONDS, clock=clock, stop=Event()) as lane:
        began_s = clock.now()
        measured = measure_interleaved(
            {**rows, "lane": lane}, seconds=SECONDS, block_s=0.02, began_s=began_s, stop=Event()
        )
    assert set(lane.found) == {"one", "two", "all"}
    changes = sum(before != after for before, after in pairwise(order))
    assert changes > 20, "rows and runs alternate"
    one = loadgen_beside(lane.found["one"], measured["a"], began_s)
    assert one.latency.num_samples >= 64
    assert one.quickest_ms == pytest.approx(1.0, rel=0.1)
    assert one.built_in_p50_ms is not None
    assert one.built_in_p50_ms >= 0.99
    assert one.validity == "VALID"
    assert lane.found["two"].result.quickest_ms == pytest.approx(4.0, rel=0.1)
    assert lane.found["one"].ended_s <= lane.found["two"].began_s, "LoadGen allows one run at a time"
    assert (tmp_path / "two/mlperf_log_summary.txt").exists()
    rate = lane.found["all"].result.frames_per_s
    assert rate is not None
    assert 0 < rate < 1000.1, "pauses may not make it quicker than 1 ms per frame"
    # Runs of 64 queries take longer than rows of 0.3 s; they are laid over the whole and do not come behind the rows.
    assert order.index("lane") < len(order) / 3
    assert max(at for at, name in enumerate(order) if name != "lane") > len(order) / 2


@pytest.mark.parametrize(("num_good", "said"), [(0, "does not measure"), (20, "did not measure")])
def test_a_run_that_fails_leaves_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_good: int, said: str
) -> None:
    clock = SystemClock(Event())
    runs = {"bad": run_of(Failing(num_good), tmp_path / "bad"), "good": run_of(Spinning("", []), tmp_path / "good")}
    with LoadGenLane(runs, settings=SETTINGS, seconds=0.01, clock=clock, stop=Event()) as lane:
        measure_interleaved({"lane": lane}, seconds=0.01, block_s=0.01, began_s=0.0, stop=Event())
    assert set(lane.found) == {"good"}
    assert f"MLPerf LoadGen {said} bad: gone" in caplog.text


def test_a_run_that_is_stopped_leaves_no_log_of_queries_that_nobody_answered(tmp_path: Path) -> None:
    """Its turn would last for a minute."""
    stop, order = Event(), list[str]()
    clock = SystemClock(stop)

    class Stopping(Spinning):
        def __call__(self, turn: int, num_frames: int) -> Mapping[str, float]:
            if len(order) > 20:
                stop.set()
            return super().__call__(turn, num_frames)

    runs = {"long": run_of(Stopping("lane", order), tmp_path / "long")}
    with LoadGenLane(runs, settings=SETTINGS, seconds=60.0, clock=clock, stop=stop) as lane:
        measure_interleaved({"lane": lane}, seconds=60.0, block_s=60.0, began_s=0.0, stop=stop)
    assert not lane.found
    assert not (tmp_path / "long").exists()
