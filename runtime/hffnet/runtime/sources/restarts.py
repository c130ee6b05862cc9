"""When to try again: back-off with jitter, and never more than a few restarts a minute. Pure arithmetic on a clock."""

from collections import deque
from collections.abc import Callable

_FIRST_S, _LONGEST_S = 1.0, 30.0
_MOST, _WITHIN_S = 5, 60.0  # Frigate's supervisor: at most 5 restarts in 60 s
_STEADY_S = 10.0


class Restarts:
    """Decides how long to wait before the next start.

    Args:
        chance: uniform in [0, 1), for the jitter that keeps many clients from coming back at once.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._num_failed = 0
        self._started: deque[float] = deque(maxlen=_MOST)

    def started(self, now: float) -> None:
        """Note a start."""
        self._started.append(now)

    def wait_s(self, now: float, worked_s: float) -> float:
        """Seconds to wait after a failure.

        Args:
            now: monotonic seconds.
            worked_s: how long it had worked; a steady one begins again with the shortest wait.
        """
        self._num_failed = 1 if worked_s >= _STEADY_S else self._num_failed + 1
        longest = min(_FIRST_S * 2.0 ** min(self._num_failed - 1, 10), _LONGEST_S)
        return max(_FIRST_S, longest * (0.5 + 0.5 * self._chance()), self.until_allowed_s(now))

    def until_allowed_s(self, now: float) -> float:
        """Seconds until one more start keeps within five a minute; 0 where it may be now."""
        return max(self._started[0] + _WITHIN_S - now, 0.0) if len(self._started) == _MOST else 0.0
