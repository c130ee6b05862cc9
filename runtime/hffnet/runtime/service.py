"""What a supervisor hears of a run: systemd's notifications, and an end with a sentence where the engine hangs.

The signs of life come from the loop that classifies and from nowhere else: a helper thread would go on telling that
all is well while the engine hangs. systemd's protocol is one datagram (sd_notify(3)).
"""

import os
import socket
from collections.abc import Callable, Mapping
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Self

from hffnet.runtime.errors import ExitCode
from hffnet.runtime.stderr import printable, say

BEAT_S = 1.0
"""The loop gives a sign of life at least this often while it waits."""


class Service:
    """Signs of life of one run; a context manager around it.

    Args:
        watchdog_s: without a sign of life for so long the process ends; None never ends it.
        environment: where systemd says what it wants to hear.
        clock: monotonic seconds.
        end: ends the process at once, for tests.
    """

    def __init__(
        self,
        watchdog_s: float | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = monotonic,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        wanted_us = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._ping_s = int(wanted_us) / 1e6 / 3 if wanted_us.isdecimal() and is_ours else None
        self._watchdog_s, self._clock, self._end = watchdog_s, clock, end
        self._beat_at, self._pinged_at = clock(), -float("inf")
        self._status = ""
        self._closed = Event()
        self._watcher = Thread(target=self._watch, name="watchdog", daemon=True)

    def ready(self, status: str) -> None:
        """The run has begun: everything was opened and proved sound."""
        self._beat_at = self._clock()
        self._status = status
        self._tell(f"READY=1\nSTATUS={printable(status)}")
        if self._watchdog_s is not None:
            self._watcher.start()

    def holding(self, sentence: str | None) -> None:
        """The run holds still, with the reason; None when it goes on."""
        self._tell(f"STATUS={printable(sentence or self._status)}")

    def beat(self) -> None:
        """The loop that classifies is alive; cheap."""
        now = self._beat_at = self._clock()
        if self._ping_s is not None and now - self._pinged_at >= self._ping_s:
            self._pinged_at = now
            self._tell("WATCHDOG=1")

    def is_hanging(self) -> bool:
        """Whether the last sign of life is older than the watchdog allows."""
        return self._watchdog_s is not None and self._clock() - self._beat_at > self._watchdog_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        self._tell("STOPPING=1")

    def _watch(self) -> None:
        while not self._closed.wait(BEAT_S):
            if self.is_hanging():
                say(
                    f"the engine has not answered for {self._watchdog_s:.0f} s; ending, so that a supervisor starts"
                    " anew; the frame in hand will be redone"
                )
                self._end(ExitCode.MISSING)
                return

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(state.encode(), address)
        except OSError as error:  # a supervisor that is gone must not end the run
            say(f"systemd cannot be told ({error})")
