"""An engine of known latency on a clock that only moves when something takes time: no waiting, no noise."""

from collections.abc import Mapping, Sequence


class ManualClock:
    """Time as a number."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.stops_at_s = float("inf")

    def now(self) -> float:
        return self.time_s

    def sleep_until(self, at: float) -> bool:
        self.time_s = max(self.time_s, min(at, self.stops_at_s))
        return at <= self.stops_at_s


class KnownLatency:
    """Takes the given seconds per query, over and over."""

    def __init__(self, clock: ManualClock, seconds: Sequence[float], *, per_frame: bool = False) -> None:
        self._clock, self._seconds, self._per_frame = clock, seconds, per_frame
        self.num_calls = 0
        self.idle_s = list[float]()
        self._ended_s = clock.now()

    def __call__(self, turn: int, num_frames: int) -> Mapping[str, float]:
        del turn
        self.idle_s.append(self._clock.now() - self._ended_s)
        self._clock.time_s += self._seconds[self.num_calls % len(self._seconds)] * (
            num_frames if self._per_frame else 1
        )
        self._ended_s = self._clock.now()
        self.num_calls += 1
        return {}
