"""The pipeline's handle on a capture process: start it, hear it, take frames from it, kill it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Protocol

from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.sources.capture_link import (
    DEFAULT_SLOT_BYTES,
    READ,
    SKIP,
    Inbox,
    Kind,
    Message,
    Slots,
    memory_for_slots,
)

_COMMAND = (sys.executable, "-m", "hffnet.runtime.sources.capture")
_KILL_S = 2.0  # SIGKILL waits for a driver call that cannot be interrupted; nothing waits for it longer than this


class Capture(Protocol):
    """A running capture."""

    def receive(self, timeout_s: float) -> list[Message]:
        """Messages that came, waiting for the first at most ``timeout_s``; a dead process says ``FAILED``."""

    def take(self, message: Message) -> GreyPixels | None:
        """The frame that a message told of; None where a newer one took its place."""

    def close(self) -> None:
        """End it, whatever it is doing."""


class CaptureProcess:
    """A child process.

    Args:
        uri: what it opens.
        on_demand: it reads a frame only when asked (``request``), so that none is lost.
        slot_bytes: largest frame.
        command: what is run, before its own arguments.
    """

    def __init__(
        self,
        uri: str,
        *,
        on_demand: bool = False,
        slot_bytes: int = DEFAULT_SLOT_BYTES,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self._memory = memory_for_slots(slot_bytes)
        self._slots = Slots(self._memory, slot_bytes)
        self._reading, writing = os.pipe()
        self._inbox = Inbox(self._reading)
        requests, self._requests = os.pipe() if on_demand else (-1, -1)
        theirs = (self._memory, writing, *((requests,) if on_demand else ()))
        arguments = [str(self._memory), str(writing), str(requests), str(slot_bytes), uri]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, *arguments],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            for descriptor in theirs[1:]:
                os.close(descriptor)

    def request(self, *, skip: bool = False) -> None:
        """Ask for one frame, or to pass over it (``on_demand``); a process that is gone says so in ``receive``."""
        try:
            os.write(self._requests, SKIP if skip else READ)
        except BrokenPipeError:
            return

    def receive(self, timeout_s: float) -> list[Message]:
        """See ``Capture``."""
        messages = self._inbox.receive(timeout_s)
        if not messages and self._inbox.is_closed:
            return [Message(kind=Kind.FAILED, text=f"the capture process ended ({self._ended()})")]
        return messages

    def take(self, message: Message) -> GreyPixels | None:
        """See ``Capture``."""
        return self._slots.take(message)

    def close(self) -> None:
        """Kill it and give everything back."""
        self._process.kill()
        self._ended()
        self._slots.close()
        for descriptor in (self._memory, self._reading, self._requests):
            if descriptor >= 0:
                os.close(descriptor)

    def _ended(self) -> str:
        try:
            code = self._process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            return "not yet: it hangs in its driver"
        return f"signal {-code}" if code < 0 else f"exit code {code}"
