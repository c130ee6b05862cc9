"""What people see on stderr while frames are classified: a live line on a terminal, a quiet one now and then else."""

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hffnet.runtime.record import Record
from hffnet.runtime.stage_times import StageTimes
from hffnet.runtime.stderr import printable, say

if TYPE_CHECKING:
    from rich.status import Status

_QUIET_S = 10.0


class LiveLine:
    """Shows each committed record; a context manager around the run."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._began = self._shown_at = monotonic()
        self._num = 0
        self._status: Status | None = None

    def show(self, record: Record, times: StageTimes) -> None:
        """Take notice of one result."""
        self._num += 1
        now = monotonic()
        if self._status is None and self._num > 1 and now - self._shown_at < _QUIET_S:
            return
        self._shown_at = now
        line = self._line(record, times, now - self._began)
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(line))
        else:
            say(line)

    def _line(self, record: Record, times: StageTimes, seconds: float) -> str:
        decision = "/".join(record.answer) or ("unsure" if record.class_path else str(record.status))
        if record.answer:
            decision += f" {record.confidence[len(record.answer) - 1]:.3f}"
        rate = self._num / max(seconds, 1e-3)
        latency_ms = times.p50("total") or 0.0
        name = printable(record.name).encode("ascii", "backslashreplace").decode()
        return f"{self._num} frames, {rate:.1f}/s, latency p50 {latency_ms:.0f} ms; {name}: {decision}"

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.markup import escape

            self._status = Console(stderr=True).status(escape(f"waiting for frames from {self._source}"))
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
