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
from threading import Condition, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

from hffnet.runtime.benchmark.clock import Clock
from hffnet.runtime.benchmark.interleave import Measured
from hffnet.runtime.benchmark.loadgen import through_loadgen
from hffnet.runtime.benchmark.percentiles import percentiles_from_samples
from hffnet.runtime.benchmark.report import LoadGen
from hffnet.runtime.benchmark.scenarios import Block, ScenarioName, ScenarioSettings, Work
from hffnet.runtime.errors import HffnetError

_WARM_UP, _TIMED = 2, 5
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
    """

    def __init__(
        self, runs: Mapping[Key, LoadGenRun], *, settings: ScenarioSettings, seconds: float, clock: Clock
    ) -> None:
        self.found = dict[Key, LoadGenFound]()
        self._runs, self._settings, self._seconds, self._clock = dict(runs), settings, seconds, clock
        self._changed = Condition()
        self._is_turn, self._is_over, self._is_cut = False, not runs, False
        self._ends_at = 0.0
        self._defect: BaseException | None = None
        self._thread = Thread(target=self._run_all, name="loadgen", daemon=True)
        self._row_s = 0.0

    def warm_up(self, num: int = 1) -> None:
        """Each run warms its own engine up."""

    def get_ready(self) -> None:
        """See ``warm_up``."""

    def block(self, seconds: float) -> Block:
        """One turn for each run that there is to be; its own time ends with the last run."""
        with self._changed:
            self._ends_at = self._clock.now() + seconds * len(self._runs)
            self._is_turn = True
            if not self._thread.ident:
                self._thread.start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_turn or self._is_over)
            self._is_turn = False
        if self._defect is not None:
            raise self._defect
        # Runs count queries and not seconds: the lane is done when they are, whatever was expected.
        step = self._seconds if self._is_over else min(seconds, 0.5 * (self._seconds - self._row_s))
        self._row_s += step
        return Block((), step)

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
        began_s, expected_ms = self._clock.now(), self._expected_ms(run)
        result = through_loadgen(
            self._unless_cut(run.work),
            run.scenario,
            settings=self._settings,
            batch=run.batch,
            seconds=self._seconds,
            expected_ms=expected_ms,
            folder=run.folder,
            between_queries=lambda: self._pause(run),
        )
        if self._is_cut:
            shutil.rmtree(run.folder, ignore_errors=True)  # its log counts queries that nobody answered
        else:
            self.found[key] = LoadGenFound(result=result, began_s=began_s, ended_s=self._clock.now())

    def _expected_ms(self, run: LoadGenRun) -> float:
        taken_ms = list[float]()
        for turn in range(_WARM_UP + _TIMED):
            began = self._clock.now()
            run.work(turn, run.num_frames)
            taken_ms.append((self._clock.now() - began) * 1e3)
        return max(median(taken_ms[_WARM_UP:]), 1e-3)

    def _unless_cut(self, work: Work) -> Work:
        """LoadGen cannot be stopped; what it still issues then is not worked on."""

        def worked(turn: int, num_frames: int, /) -> Mapping[str, float]:
            return {} if self._is_cut else work(turn, num_frames)

        return worked

    def _pause(self, run: LoadGenRun) -> None:
        """The first query after other rows' turns is not counted, as in theirs."""
        if self._wait_for_turn() and not self._is_cut:
            run.work(0, run.num_frames)

    def _wait_for_turn(self) -> bool:
        """Whether it was not this lane's turn any more."""
        with self._changed:
            if self._is_turn and self._clock.now() < self._ends_at:
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
