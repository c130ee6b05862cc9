"""How queries follow each other, and from when their latency counts.

==============  ====================================================================================================
single-stream   the next query when the last is answered; one batch per query
multi-stream    the same with 8 frames per query, answered when all of them are
offline         64 frames per query, in batches: throughput
paced           frames are due on a clock; latency counts from the due time, so a slow answer also delays those behind
                it (no coordinated omission)
cold            each query after a pause: idle clocks, cold caches and sleeping threads show
end-to-end      file complete -> committed record, every stage; one file per query
==============  ====================================================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from hffnet.runtime.benchmark.clock import Clock

ScenarioName = Literal["single-stream", "multi-stream", "offline", "paced", "cold", "end-to-end"]
_MIN_QUERIES_PER_BLOCK = 4


class Work(Protocol):
    """What one row does for a query."""

    def __call__(self, turn: int, num_frames: int, /) -> Mapping[str, float]:
        """Answer ``num_frames`` frames; ``turn`` picks which.

        Returns:
            Milliseconds by stage, where stages are told apart.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSettings:
    """What the scenarios leave open.

    Attributes:
        multi_stream_frames: per query.
        offline_frames: per query.
        period_s: between due times of ``paced``.
        idle_s: before each query of ``cold``.
    """

    multi_stream_frames: int = 8
    offline_frames: int = 64
    period_s: float = 0.1
    idle_s: float = 2.0

    def frames_per_query(self, scenario: ScenarioName, batch: int) -> int:
        """Frames in one query of a scenario."""
        match scenario:
            case "multi-stream":
                return self.multi_stream_frames
            case "offline":
                return self.offline_frames
            case "end-to-end":
                return 1
            case _:
                return batch


@dataclass(frozen=True, slots=True)
class Query:
    """One timed query.

    Attributes:
        at_s: when it ended, on the run's clock.
        latency_ms: from its start or, where it was due on a clock, from then.
    """

    at_s: float
    latency_ms: float
    num_frames: int
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Block:
    """The queries of one row between two other rows' turns.

    Attributes:
        row_s: how far the row's own time went on.
    """

    queries: tuple[Query, ...]
    row_s: float


class Stream:
    """One row under one scenario. Its own time stands still while other rows are measured.

    Args:
        batch: frames per query in ``single-stream``, ``paced`` and ``cold``.
    """

    def __init__(
        self, work: Work, scenario: ScenarioName, *, settings: ScenarioSettings, batch: int, clock: Clock
    ) -> None:
        self.scenario: ScenarioName = scenario
        self._work, self._settings, self._clock = work, settings, clock
        self._turn = 0
        self._row_s = 0.0
        self._num_due = 0
        self._num_frames = settings.frames_per_query(scenario, batch)

    def warm_up(self, num: int = 1) -> None:
        """Queries that are not counted."""
        for _ in range(num):
            self._work(self._turn, self._num_frames)
            self._turn += 1

    def get_ready(self) -> None:
        """Before each block: the first query after another row's turn finds that row's data in the caches.

        It is not counted; ``cold`` does without, since that is what it asks for.
        """
        if self.scenario != "cold":
            self.warm_up()

    def block(self, seconds: float) -> Block:
        """Queries for about ``seconds``, at least four (one where each follows a pause)."""
        match self.scenario:
            case "paced":
                block = self._paced(max(seconds, 2 * self._settings.period_s))
            case "cold":
                block = self._closed_loop(seconds, least=1, idle_s=self._settings.idle_s)
            case _:
                block = self._closed_loop(seconds, least=_MIN_QUERIES_PER_BLOCK, idle_s=0.0)
        self._row_s += block.row_s
        return block

    def _closed_loop(self, seconds: float, *, least: int, idle_s: float) -> Block:
        clock, queries = self._clock, list[Query]()
        began = clock.now()
        while len(queries) < least or clock.now() - began < seconds:
            if idle_s and not clock.sleep_until(clock.now() + idle_s):
                break
            queries.append(self._timed(since=clock.now()))
        return Block(tuple(queries), clock.now() - began)

    def _paced(self, seconds: float) -> Block:
        clock, period_s, queries = self._clock, self._settings.period_s, list[Query]()
        zero = clock.now() - self._row_s
        end = clock.now() + seconds
        # How many queries were due before this block is told by what was answered, so a backlog is carried over.
        while clock.now() < end and (due := zero + self._num_due * period_s) < end:
            if not clock.sleep_until(due):
                break
            self._num_due += 1
            queries.append(self._timed(since=due))
        return Block(tuple(queries), max(clock.now(), end) - zero - self._row_s)

    def _timed(self, *, since: float) -> Query:
        stages_ms = self._work(self._turn, self._num_frames)
        ended = self._clock.now()
        self._turn += 1
        return Query(ended, (ended - since) * 1e3, self._num_frames, stages_ms)
