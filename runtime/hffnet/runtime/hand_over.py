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

    def put(self, thing: Thing) -> bool:
        """Give a thing; False when the taker refuses any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._things) < self._size or self._is_refused)
            if not self._is_refused:
                self._things.append(thing)
                self._changed.notify_all()
            return not self._is_refused

    def get(self) -> Thing | None:
        """Take the next thing; None when the giver has ended and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._things or self._is_ended)
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
