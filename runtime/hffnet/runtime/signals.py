"""SIGINT and SIGTERM as an event: the first asks to finish, the second ends the process at once.

Python runs signal handlers between two bytecodes of the main thread, which an engine's call can hold back for long.
The kernel-side half of the handler writes a byte to a pipe at once; a thread reads it.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread, main_thread

from hffnet.runtime.errors import ExitCode

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(stop: Event) -> Iterator[None]:
    """Set ``stop`` on the first SIGINT or SIGTERM, exit with code 5 on the second.

    Outside the main thread, where Python allows no signal handlers, signals stay as they are.
    """
    if current_thread() is not main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    writing.settimeout(0.0)  # a wake-up descriptor must not block
    watcher = Thread(target=_watch, args=(reading, stop), name="signals", daemon=True)
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


def _watch(reading: socket.socket, stop: Event) -> None:
    while numbers := reading.recv(16):
        for number in numbers:
            if number not in _SIGNALS:
                continue
            if stop.is_set():
                sys.stderr.write("hffnet: second signal, ending at once; the frame in hand will be redone\n")
                sys.stderr.flush()
                os._exit(ExitCode.INTERRUPTED)
            stop.set()
