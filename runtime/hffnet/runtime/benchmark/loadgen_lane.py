"""MLPerf LoadGen's runs as one more row that takes turns.

LoadGen keeps its state in the process, so its runs follow each other. Together they are a lane: its turns are as many
times longer as it has runs, and each run is laid over a stretch of the interleaved run, in which its row is measured by
the built-in loop too. A run waits for its turn between two queries, where LoadGen does not count.
"""

import logging
import shutil
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

from hffnet.runtime.benchmark.clock import Clock
from hffnet.runtime.benchmark.interleave import Measured
from hffnet.runtime.benchmark.loadgen import num_queries, through_loadgen
from hffnet.runtime.benchmark.percentiles import percentiles_from_samples
from hffnet.runtime.benchmark.report import LoadGen
from hffnet.runtime.benchmark.scenarios import Block, ScenarioName, ScenarioSettings, Work
from hffnet.runtime.errors import HffnetError

_TIMED = 5
Key = TypeVar("Key", bound=Hashable)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGenRun:
    """One row for LoadGen.

    Attributes:
        num_frames: of one query; ``batch`` of them are one sample in ``single-stream``.
        folder: for its logs.
    """

    work: Work
    scenario: ScenarioName
    batch: int
    num_frames: int
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGenFound:
    """What one run found, and when it ran on the run's clock."""

    result: LoadGen
    began_s: float
    ended_s: float


class LoadGenLane(Generic[Key]):
    """Runs in turns; a context manager, since a thread waits for them.

    Args:
        runs: by row, in the order they are to come.
        settings: of the scenarios.
        seconds: of each run.
        clock: of the interleaved run.
        stop: ends a turn after the query in hand; a run that is not done then is dropped.
    """

    def __init__(
        self, runs: Mapping[Key, LoadGenRun], *, settings: ScenarioSettings, seconds: float, clock: Clock, stop: Event
    ) -> None:
        self.found = dict[Key, LoadGenFound]()
        self._stop = stop
        self._runs, self._settings, self._seconds, self._clock = dict(runs), settings, seconds, clock
        self._changed = Condition()
        self._is_turn, self._is_over, self._is_cut = False, not runs, False
        self._ends_at = 0.0
        self._expected_ms = dict[Key, float]()
        self._num_turns_each, self._done_s = 1.0, 0.0
        self._defect: BaseException | None = None
        self._thread = Thread(target=self._run_all, name="loadgen", daemon=True)
        self._row_s = 0.0

    def warm_up(self, num: int = 1) -> None:
        """Warm each engine up and see how long a query takes, from which the length of the lane's turns comes."""
        for key, run in list(self._runs.items()):
            try:
                self._expected_ms[key] = self._typical_ms(run, num)
            except HffnetError as error:
                _log.warning("MLPerf LoadGen does not measure %s: %s", run.folder.name, error)
                del self._runs[key]
        whole_s = sum(self._expected_s(key) for key in self._runs)
        self._num_turns_each = max(whole_s / self._seconds, 1.0)

    def get_ready(self) -> None:
        """Each run does so itself, when its turn comes."""

    def block(self, seconds: float) -> Block:
        """So long a turn that all runs end when other rows do; its own time ends with the last run."""
        with self._changed:
            self._ends_at = self._clock.now() + seconds * self._num_turns_each
            self._is_turn = True
            if not self._thread.ident:
                self._thread.start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_turn or self._is_over)
            self._is_turn = False
        if self._defect is not None:
            raise self._defect
        # Runs count queries and not seconds: the lane is done when they are, whatever was expected.
        so_far = self._seconds if self._is_over else min(self._done_s / self._num_turns_each, 0.99 * self._seconds)
        step, self._row_s = max(so_far - self._row_s, 0.0), max(so_far, self._row_s)
        return Block((), 2 * self._seconds if self._is_over else step)

    def _run_all(self) -> None:
        try:
            for key, run in self._runs.items():
                self._wait_for_turn()
                if self._is_cut:
                    break
                try:
                    self._run(key, run)
                except HffnetError as error:
                    _log.warning("MLPerf LoadGen did not measure %s: %s", run.folder.name, error)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for the turn's end
            self._defect = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _run(self, key: Key, run: LoadGenRun) -> None:
        began_s = self._clock.now()
        result = through_loadgen(
            self._unless_cut(run.work),
            run.scenario,
            settings=self._settings,
            batch=run.batch,
            seconds=self._seconds,
            expected_ms=self._expected_ms[key],
            folder=run.folder,
            between_queries=lambda: self._pause(key, run),
        )
        if self._is_cut:
            shutil.rmtree(run.folder, ignore_errors=True)  # its log counts queries that nobody answered
        else:
            self.found[key] = LoadGenFound(result=result, began_s=began_s, ended_s=self._clock.now())

    def _expected_s(self, key: Key) -> float:
        if self._runs[key].scenario == "offline":
            return self._seconds
        expected_ms = self._expected_ms[key]
        return num_queries(self._seconds, expected_ms) * expected_ms / 1e3

    def _typical_ms(self, run: LoadGenRun, num_warm_up: int) -> float:
        taken_ms = list[float]()
        if run.scenario == "offline":  # a query of many frames tells by itself
            num_warm_up, num_timed = 1, 1
        else:
            num_timed = _TIMED
        for turn in range(num_warm_up + num_timed):
            began = self._clock.now()
            run.work(turn, run.num_frames)
            taken_ms.append((self._clock.now() - began) * 1e3)
        return max(median(taken_ms[num_warm_up:]), 1e-3)

    def _unless_cut(self, work: Work) -> Work:
        """LoadGen cannot be stopped; what it still issues then is not worked on."""

        def worked(turn: int, num_frames: int, /) -> Mapping[str, float]:
            return {} if self._is_cut else work(turn, num_frames)

        return worked

    def _pause(self, key: Key, run: LoadGenRun) -> None:
        """The first query after other rows' turns is not counted, as in theirs."""
        self._done_s += self._expected_s(key) if run.scenario == "offline" else self._expected_ms[key] / 1e3
        if self._wait_for_turn() and not self._is_cut:
            run.work(0, run.num_frames)

    def _wait_for_turn(self) -> bool:
        """Whether it was not this lane's turn any more."""
        with self._changed:
            if self._is_turn and self._clock.now() < self._ends_at and not self._stop.is_set():
                return False
            self._is_turn = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_turn or self._is_cut)
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_cut = True
            self._changed.notify_all()
        if self._thread.ident:
            self._thread.join()


def loadgen_beside(found: LoadGenFound, built_in: Measured, zero_s: float) -> LoadGen:
    """A result with the built-in loop's median over the same stretch of the run.

    Args:
        found: by LoadGen.
        built_in: the same row in the built-in loop.
        zero_s: of the run, on its clock.
    """
    began_s, ended_s = found.began_s - zero_s, found.ended_s - zero_s
    beside = [ms for at_s, ms in zip(built_in.at_s, built_in.latency_ms, strict=True) if began_s <= at_s <= ended_s]
    median_ms = percentiles_from_samples(beside).p50_ms if beside else None
    return found.result.model_copy(update={"built_in_p50_ms": median_ms})
