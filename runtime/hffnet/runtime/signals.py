"""SIGINT and SIGTERM as an event: the first asks to finish, the second ends the process at once.

Python runs signal handlers between two bytecodes of the main thread, which an engine's call can hold back for long.
The kernel-side half of the handler writes a byte to a pipe at once; a thread reads it.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread, main_thread

from hffnet.runtime.errors import ExitCode
from hffnet.runtime.stderr import say

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(stop: Event, begun: Event | None = None) -> Iterator[None]:
    """Set ``stop`` on the first SIGINT or SIGTERM, exit with code 5 on the second.

    Until ``begun`` is set nothing is in hand that could be finished, and engines take minutes to be built: the first
    signal then ends the process at once, with code 0 as any stop that was asked for. None: it has begun.

    Outside the main thread, where Python allows no signal handlers, signals stay as they are.
    """
    if current_thread() is not main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    writing.settimeout(0.0)  # a wake-up descriptor must not block
    watcher = Thread(target=_watch, args=(reading, stop, begun), name="signals", daemon=True)
    before = {number: signal.signal(number, _only_wake) for number in _SIGNALS}
    wakeup_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        writing.close()
        watcher.join()
        reading.close()


def _only_wake(number: int, frame: object) -> None:
    """The byte in the pipe is what counts."""


def _watch(reading: socket.socket, stop: Event, begun: Event | None) -> None:
    """Count signals, not ``stop``: a run that is ending by itself has set that already."""
    is_first = True
    while numbers := reading.recv(16):
        for number in numbers:
            if number not in _SIGNALS:
                continue
            if begun is not None and not begun.is_set():
                say("stopped before the run began; nothing was in hand")
                os._exit(ExitCode.DONE)
            if not is_first:
                say("second signal, ending at once; the frame in hand will be redone")
                os._exit(ExitCode.INTERRUPTED)
            is_first = False
            stop.set()
