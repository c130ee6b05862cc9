"""The pipeline's handle on the reading process: ask for a frame, wait so long and no longer, kill it and start anew."""

import json
import logging
import os
import random
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Protocol, Self

from hffnet.runtime.errors import FrameError
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


class ReadFile(Protocol):
    """Makes a frame of a file."""

    def __call__(self, path: Path, bar: BarSetting | None) -> Frame:
        """Raises FrameError."""


def read_here(path: Path, bar: BarSetting | None, settings: ReadingSettings | None = None) -> Frame:
    """Read in this process: limits on size, none on time and memory."""
    from hffnet.runtime.read import read_frame

    return read_frame(path, limits=(settings or ReadingSettings()).limits, bar=bar, follow_links=False)


class ReadWorker:
    """A reading process, used from one thread; a context manager around it.

    The process is used for file after file. One that takes too long is killed; that file is refused with the reason
    and the next one gets a new process. At most five are started in a minute; then files wait.

    Args:
        settings: what a frame may cost.
        is_stopped: asked while waiting; true gives up.
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
        command: Sequence[str] = _COMMAND,
        clock: Callable[[], float] = monotonic,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        self.num_restarts = 0
        self._settings, self._is_stopped, self._command = settings, is_stopped, command
        self._clock, self._pause = clock, pause
        self._restarts = Restarts(random.random)
        self._memory = os.memfd_create("hffnet-read")
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def __call__(self, path: Path, bar: BarSetting | None = None) -> Frame:
        """Read one file.

        Raises:
            FrameError: it cannot be read, or took more than it may.
            RuntimeError: reading ran into a defect.
        """
        if self._process is None or self._process.poll() is not None:
            self._start_again()
        try:
            answer = self._ask(request_bytes(path, bar, self._settings.limits))
        except (TimeoutError, EOFError) as error:
            was_ready, how = self._is_ready, self._end()
            why = str(error) or f"the process that read it ended ({how})"
            if self._restarts.until_allowed_s(self._clock()) <= 0 and not self._is_stopped():
                self._start_again()  # now, so that the next file need not wait for Python to load
            if not was_ready:
                raise FrameError(
                    f"{path}: {why}, before it had read anything: the process that reads cannot be started here; run"
                    " hffnet doctor, or set [reading] process = false"
                ) from error
            raise FrameError(
                f"{path}: {why}. The file is damaged or made to do harm; if it is a real frame, save it as uncompressed"
                " TIFF or raise [reading] seconds and memory_mb."
            ) from error
        return frame_from_answer(answer, self._memory)

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
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        arguments = [str(number) for number in (self._memory, requests, answers, self._settings.memory_mb)]
        self._is_ready = False
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

    def _start_again(self) -> None:
        self._end()
        self.num_restarts += 1
        wait_s = self._restarts.until_allowed_s(self._clock())
        if wait_s > 0:
            _log.warning("five files in a minute ended the process that reads; the next is read in %.0f s", wait_s)
        until = self._clock() + wait_s
        while self._clock() < until and not self._is_stopped():
            self._pause(_TICK_S)
        self._start()

    def _ask(self, request: bytes) -> dict[str, Any]:
        if not self._is_ready:
            self._answer(_START_S, f"the process that reads was not there after {_START_S:.0f} s")
            self._is_ready = True
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
