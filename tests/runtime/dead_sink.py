"""A sink whose other end never answers."""

from collections.abc import Sequence
from threading import Event

from hffnet.runtime.record import Record


class DeadSink:
    """Holds each delivery until ``release`` is set, or half a minute."""

    def __init__(self, name: str) -> None:
        self.name, self.release = name, Event()

    def start(self, cursor: int | None, last_seq: int) -> int:
        del last_seq
        return cursor or 0

    def deliver(self, records: Sequence[Record]) -> None:
        del records
        self.release.wait(30)

    def close(self) -> None:
        pass
