"""A bounded hand-over between two threads that both sides can end."""

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class HandOver(Generic[Thing]):
    """Holds at most ``size`` things; the giver waits while it is full, the taker while it is empty."""

    def __init__(self, size: int) -> None:
        self._things: deque[Thing] = deque()
        self._size = size
        self._changed = Condition()
        self._is_ended = self._is_refused = False
        self._num_waiting = 0

    def put(self, thing: Thing) -> bool:
        """Give a thing; False when the taker refuses any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._things) < self._size or self._is_refused)
            if not self._is_refused:
                self._things.append(thing)
                self._changed.notify_all()
            return not self._is_refused

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until ``put`` would not wait (for the only giver), at most so long; whether it would not."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._things) < self._size or self._is_refused, timeout_s)

    def wait_until_wanted(self) -> bool:
        """Wait until the taker waits for a thing, so that none gets old in here; False when it refuses any more."""
        with self._changed:
            self._changed.wait_for(lambda: (self._num_waiting and not self._things) or self._is_refused)
            return not self._is_refused

    @property
    def is_over(self) -> bool:
        """Whether the giver has ended and nothing is left."""
        with self._changed:
            return self._is_ended and not self._things

    def get(self, timeout_s: float | None = None) -> Thing | None:
        """Take the next thing; None when the giver has ended and nothing is left, or when the time is up."""
        with self._changed:
            self._num_waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._things or self._is_ended, timeout_s)
            self._num_waiting -= 1
            if not self._things:
                return None
            thing = self._things.popleft()
            self._changed.notify_all()
            return thing

    def end(self) -> None:
        """The giver has no more; what is held can still be taken."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def refuse(self) -> None:
        """The taker wants no more; what is held is dropped."""
        with self._changed:
            self._is_refused = True
            self._things.clear()
            self._changed.notify_all()
