"""What happened to the service, as rows of the audit trail: started, stopped, degraded, its clock was set."""

import time
from collections.abc import Callable, Mapping

from hffnet.runtime.record import EventName, Json, RecordDraft, text_from_name

_JUMP_S = 2.0  # more than time synchronisation slews between two commits
_DRIFT = 1e-3  # slewing moves a clock by at most 500 ppm; twice that over the time between two looks


def draft_from_event(
    event: EventName,
    reason: str,
    *,
    engine: Mapping[str, Json] | None = None,
    bundle_sha256: str | None = None,
    settings_sha256: str | None = None,
    details: Mapping[str, Json] | None = None,
) -> RecordDraft:
    """The row of an event.

    Args:
        event: what happened.
        reason: the same as a sentence.
        engine: of the run it happened to.
        bundle_sha256: of the run it happened to.
        settings_sha256: of the run it happened to.
        details: figures.
    """
    return RecordDraft(
        kind="event",
        status=None,
        name=event,
        reason=text_from_name(reason),
        engine=engine,
        bundle_sha256=bundle_sha256,
        settings_sha256=settings_sha256,
        details=details,
    )


def since_boot() -> float:
    """Seconds since the machine started, sleep included: where a laptop slept, its clock was not set.

    Python's ``monotonic`` stands still while the machine sleeps (clock_gettime(2)); systems without such a clock
    have that.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class ClockWatch:
    """Notices that the wall clock was set: boards without a battery start in 1970 and jump at the first sync.

    Args:
        clock: monotonic seconds that go on while the machine sleeps.
        wall_clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = since_boot, wall_clock: Callable[[], float] = time.time) -> None:
        self._clock, self._wall_clock = clock, wall_clock
        self._last = clock(), wall_clock()

    def jump_s(self) -> float | None:
        """How far the wall clock was set since the last call, seconds, forward positive; None where it was not."""
        now = self._clock(), self._wall_clock()
        passed, passed_wall = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        jump = passed_wall - passed
        return jump if abs(jump) > _JUMP_S + _DRIFT * passed else None
