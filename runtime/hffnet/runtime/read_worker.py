"""The pipeline's handle on the reading process: ask for a frame, wait so long and no longer, kill it and start anew."""

import json
import logging
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Protocol, Self

from hffnet.runtime.errors import FrameError, ReaderError
from hffnet.runtime.frame import Frame
from hffnet.runtime.infobar import BarSetting
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.read_process import LENGTH, frame_from_answer, request_bytes
from hffnet.runtime.sources.restarts import Restarts

_log = logging.getLogger(__name__)
_COMMAND = (sys.executable, "-m", "hffnet.runtime.read_process")
_START_S = 60.0  # Python and its libraries load, on slow boards from a slow card
_KILL_S = 2.0
_TICK_S = 0.2
_KEPT_BYTES = 64 * 2**20  # of shared memory, from frame to frame: taking it anew costs time, keeping a large one memory
_TRIES = 2  # of a file whose process somebody else killed: the kernel kills for memory that others took


class ReadFile(Protocol):
    """Makes a frame of a file."""

    def __call__(self, path: Path, bar: BarSetting | None) -> Frame:
        """Raises FrameError."""


OnHeld = Callable[[str | None], None]
"""Called with a sentence when no process can be started, and with None when one is there again."""


def read_here(
    path: Path, bar: BarSetting | None, settings: ReadingSettings | None = None, sha256: str | None = None
) -> Frame:
    """Read in this process: limits on size, none on time and memory."""
    from hffnet.runtime.read import read_frame

    limits = (settings or ReadingSettings()).limits
    return read_frame(path, limits=limits, bar=bar, follow_links=False, sha256=sha256)


class _KilledError(Exception):
    """Somebody else killed the process: the kernel, where memory ran out, or a person."""


class ReadWorker:
    """A reading process, used from one thread; a context manager around it.

    The process is used for file after file. One that takes too long is killed; that file is refused with the reason
    and the next one gets a new process. At most five are started in a minute; then files wait. Where none can be
    started the machine is at fault and no file: it is held still and tried again, as with a full disk.

    Args:
        settings: what a frame may cost.
        is_stopped: asked while waiting; true gives up.
        hold_s: how long to wait for a process that cannot be started before giving up.
        on_held: told when that begins and ends.
        command: what is run, before its own arguments.
        clock, pause: for tests.

    Attributes:
        num_restarts: processes started after the first.
    """

    def __init__(
        self,
        settings: ReadingSettings,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        hold_s: float = float("inf"),
        on_held: OnHeld = lambda _sentence: None,
        command: Sequence[str] = _COMMAND,
        clock: Callable[[], float] = monotonic,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        self.num_restarts = 0
        self._settings, self._is_stopped, self._command = settings, is_stopped, command
        self._hold_s, self._on_held = hold_s, on_held
        self._clock, self._pause = clock, pause
        self._restarts = Restarts(random.random)
        self._memory = os.memfd_create("hffnet-read")
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._start_or_not()

    def __call__(self, path: Path, bar: BarSetting | None = None, *, sha256: str | None = None) -> Frame:
        """Read one file.

        Args:
            path: the file.
            bar: what is known of the instrument's info bar.
            sha256: what its bytes must be, compared before they are decoded; None takes any.

        Raises:
            FrameError: it cannot be read, took more than it may, or is another file by now.
            ReaderError: no process could be started for ``hold_s``.
            RuntimeError: reading ran into a defect.
        """
        request = request_bytes(path, bar, self._settings.limits, sha256)
        for left in reversed(range(_TRIES)):
            self._wait_until_ready(path)
            try:
                return frame_from_answer(self._answer_for(path, request), self._memory)
            except _KilledError as error:
                if left:
                    _log.warning("%s: %s; it is tried once more", path, error)
                    continue
                raise FrameError(
                    f"{path}: {error}, {_TRIES} times. The system does so where memory runs out: free memory or lower"
                    " [reading] memory_mb, then give the file a new time (touch) and it is read again."
                ) from error
            finally:
                self._shrink()
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """End the process."""
        self._end()
        os.close(self._memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._restarts.started(self._clock())
        self._is_ready = False
        requests, self._requests = os.pipe()
        try:
            self._answers, answers = os.pipe()
        except OSError:
            os.close(requests)
            os.close(self._requests)
            raise
        arguments = [str(number) for number in (self._memory, requests, answers, self._settings.memory_mb)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*self._command, *arguments],
                pass_fds=(self._memory, requests, answers),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            )
        except OSError:
            os.close(self._requests)
            os.close(self._answers)
            raise
        finally:
            os.close(requests)
            os.close(answers)

    def _start_or_not(self) -> str:
        """Start, now; why that did not work, or an empty text."""
        try:
            self._start()
        except OSError as error:
            return f"{type(error).__name__}: {error.strerror or error}"
        return ""

    def _wait_until_ready(self, path: Path) -> None:
        """Have a process that says it is there, however long that takes."""
        held_since: float | None = None
        while why := self._why_not_ready():
            now = self._clock()
            if self._is_stopped():
                raise FrameError(f"{path}: it was given up because the run was stopped")
            if held_since is None:
                held_since = now
                sentence = f"the process that reads files cannot be started ({why})"
                _log.error("%s; holding still and trying again", sentence)
                self._on_held(sentence)
            if now - held_since >= self._hold_s:
                raise ReaderError(
                    f"the process that reads files cannot be started ({why}); run hffnet doctor, free memory, or set"
                    " [reading] process = false"
                )
            self._wait(self._restarts.wait_s(now, worked_s=0.0))
        if held_since is not None:
            _log.warning("files are read again, after %.1f s", self._clock() - held_since)
            self._on_held(None)

    def _why_not_ready(self) -> str:
        """Start a process where there is none, and hear it say that it is there; why it did not, or an empty text."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self.num_restarts += 1
            self._wait_for_turn()
            if self._is_stopped():
                return "the run was stopped"
            if why := self._start_or_not():
                return why
        if self._is_ready:
            return ""
        try:
            self._answer(_START_S, f"it was not there after {_START_S:.0f} s")
        except (TimeoutError, EOFError) as error:
            how = self._end()
            return str(error) or f"it ended ({how}) before it had read anything"
        self._is_ready = True
        return ""

    def _wait_for_turn(self) -> None:
        wait_s = self._restarts.until_allowed_s(self._clock())
        if wait_s > 0:
            _log.warning("five processes that read were started within a minute; the next one is in %.0f s", wait_s)
        self._wait(wait_s)

    def _wait(self, seconds: float) -> None:
        until = self._clock() + seconds
        while self._clock() < until and not self._is_stopped():
            self._pause(_TICK_S)

    def _answer_for(self, path: Path, request: bytes) -> dict[str, Any]:
        try:
            return self._ask(request)
        except (TimeoutError, EOFError) as error:
            how = self._end()
            if self._restarts.until_allowed_s(self._clock()) <= 0 and not self._is_stopped():
                self.num_restarts += 1
                self._start_or_not()  # now, so that the next file need not wait for Python to load
            if isinstance(error, EOFError) and how == f"signal {signal.SIGKILL:d}":
                raise _KilledError("the process that read it was killed from outside (signal 9)") from error
            why = str(error) or f"the process that read it ended ({how})"
            raise FrameError(
                f"{path}: {why}. The file is damaged or made to do harm; if it is a real frame, save it as uncompressed"
                " TIFF or raise [reading] seconds and memory_mb."
            ) from error

    def _shrink(self) -> None:
        """Give back what a large frame took: an anonymous file keeps every page until it is cut."""
        if os.fstat(self._memory).st_size > _KEPT_BYTES:
            os.ftruncate(self._memory, 0)

    def _ask(self, request: bytes) -> dict[str, Any]:
        try:
            os.write(self._requests, request)
        except BrokenPipeError as error:
            raise EOFError from error
        seconds = self._settings.seconds
        return self._answer(seconds, f"it was not decoded in {seconds:g} s, which is the limit")

    def _answer(self, within_s: float, sentence: str) -> dict[str, Any]:
        until = self._clock() + within_s
        (size,) = LENGTH.unpack(self._read(LENGTH.size, until, sentence))
        answer: dict[str, Any] = json.loads(self._read(size, until, sentence))
        return answer

    def _read(self, size: int, until: float, sentence: str) -> bytes:
        data = b""
        while len(data) < size:
            left = until - self._clock()
            if left <= 0:
                raise TimeoutError(sentence)
            if self._is_stopped():
                raise TimeoutError("it was given up because the run was stopped")
            if not select.select([self._answers], [], [], min(left, _TICK_S))[0]:
                continue
            part = os.read(self._answers, size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def _end(self) -> str:
        """Kill the process; how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "before"
        os.close(self._requests)
        os.close(self._answers)
        process.kill()  # nothing to one that ended by itself: its own code is what counts
        try:
            code = process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            return "not yet: it hangs in the kernel"
        return f"signal {-code}" if code < 0 else f"exit code {code}"
