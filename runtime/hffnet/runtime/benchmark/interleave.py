"""Rows take turns in short blocks, so that a slow minute of a shared machine slows all of them alike."""

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol, TypeVar

from hffnet.runtime.benchmark.scenarios import Block
from hffnet.runtime.errors import HffnetError

_WARM_UP = 3
Key = TypeVar("Key", bound=Hashable)
_log = logging.getLogger(__name__)


class Turns(Protocol):
    """What takes turns; see ``Stream``."""

    def warm_up(self, num: int = 1) -> None:
        """Queries that are not counted."""

    def get_ready(self) -> None:
        """Before each block."""

    def block(self, seconds: float) -> Block:
        """One turn."""


@dataclass(slots=True)
class Measured:
    """Everything that was timed of one row, in order.

    Attributes:
        at_s: when each query ended, seconds from the start of the run.
        block: number of the turn each query belongs to.
        stages_ms: by stage, one value per query.
        row_s: how long the row was measured, on its own time.
        energy_j: of the machine during the row's blocks; None where it cannot be read.
        failure: what ended the row early.
    """

    at_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    num_frames: int = 0
    num_blocks: int = 0
    row_s: float = 0.0
    energy_j: float | None = None
    failure: HffnetError | None = None

    def add(self, block: Block, began_s: float, energy_j: float | None) -> None:
        """Take one block in."""
        for query in block.queries:
            self.at_s.append(query.at_s - began_s)
            self.latency_ms.append(query.latency_ms)
            self.block.append(self.num_blocks)
            self.num_frames += query.num_frames
            for stage, ms in query.stages_ms.items():
                self.stages_ms.setdefault(stage, list[float]()).append(ms)
        self.num_blocks += 1
        self.row_s += block.row_s
        if energy_j is not None:
            self.energy_j = (self.energy_j or 0.0) + energy_j


def measure_interleaved(
    streams: Mapping[Key, Turns],
    *,
    seconds: float,
    block_s: float,
    began_s: float,
    stop: Event,
    energy_j: Callable[[], float | None] = lambda: None,
    on_block: Callable[[float], None] = lambda _: None,
) -> dict[Key, Measured]:
    """Measure every row for ``seconds`` of its own time, in blocks of ``block_s``, in turns.

    Args:
        streams: the rows. One that fails is left as it is and the others go on.
        seconds: of each row.
        block_s: of each turn.
        began_s: the run's zero on the streams' clock.
        stop: ends the measurement after the block in hand; what was measured stays.
        energy_j: a counter of joules that only grows; None where there is none.
        on_block: told the share done, 0 to 1.
    """
    measured = {key: Measured() for key in streams}
    for key, stream in streams.items():
        _attempt(measured[key], lambda stream=stream: stream.warm_up(_WARM_UP))  # type: ignore[misc]
    order = list(streams)
    while not stop.is_set():
        active = [key for key in order if measured[key].failure is None and measured[key].row_s < seconds]
        if not active:
            break
        for key in active:
            if not stop.is_set():
                _turn(streams[key], measured[key], min(block_s, seconds), began_s, energy_j)
                on_block(sum(min(m.row_s / seconds, 1.0) for m in measured.values()) / len(measured))
        # Turned round each time: no row always runs behind the same other one.
        order.reverse()
    return measured


def _turn(
    stream: Turns, measured: Measured, block_s: float, began_s: float, energy_j: Callable[[], float | None]
) -> None:
    def run() -> None:
        stream.get_ready()
        before = energy_j()
        block = stream.block(block_s)
        after = energy_j()
        measured.add(block, began_s, after - before if before is not None and after is not None else None)

    _attempt(measured, run)


def _attempt(measured: Measured, step: Callable[[], object]) -> None:
    try:
        step()
    except HffnetError as error:
        _log.warning("a row ends early: %s", error)
        measured.failure = error
