"""The time that measurements are counted in; injected, so that tests need no waiting."""

import statistics
from collections.abc import Callable
from threading import Event
from time import perf_counter
from typing import Protocol

_SPIN_S = 1e-3


class Clock(Protocol):
    """A monotonic clock that can be waited for."""

    def now(self) -> float:
        """Seconds from an arbitrary zero."""

    def sleep_until(self, at: float) -> bool:
        """Return at ``at``, at once where that is past; False, and early, where the run was asked to stop."""


class SystemClock:
    """``perf_counter``; the last millisecond before a due time is spun, because sleeping wakes up late."""

    def __init__(self, stop: Event) -> None:
        self._stop = stop

    def now(self) -> float:
        """See ``Clock.now``."""
        return perf_counter()

    def sleep_until(self, at: float) -> bool:
        """See ``Clock.sleep_until``."""
        while (left := at - perf_counter()) > 0:
            if left > _SPIN_S and self._stop.wait(left - _SPIN_S / 2):
                return False
        return True


def tick_of_clock(
    now: Callable[[], float] = perf_counter, *, num_ticks: int = 25, most_reads: int = 1_000_000
) -> float:
    """Seconds between two different readings of a clock (median); what it cannot tell apart.

    A clock that never moved within ``most_reads`` readings has a tick of infinity.
    """
    ticks, before = list[float](), now()
    for _ in range(most_reads):
        if (here := now()) != before:
            ticks.append(here - before)
            before = here
            if len(ticks) == num_ticks:
                break
    return statistics.median(ticks) if ticks else float("inf")
