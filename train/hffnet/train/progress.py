"""How a training is going, for people, on stderr: a live bar on a terminal, one line per epoch elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hffnet.train.checkpoint import EpochRecord


class Watcher(Protocol):
    """Who is told how far the work is."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """A new stage begins; ``total`` and ``done`` count its frames or steps."""
        ...

    def advance(self, done: int, note: str = "") -> None:
        """The stage has come to ``done``."""
        ...

    def epoch(self, number: int, of: int, record: EpochRecord) -> None:
        """An epoch has ended; ``number`` from 1."""
        ...


class Silence:
    """Tells nobody."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """See `Watcher`."""

    def advance(self, done: int, note: str = "") -> None:
        """See `Watcher`."""

    def epoch(self, number: int, of: int, record: EpochRecord) -> None:
        """See `Watcher`."""


class _Bars:
    def __init__(self, console: Console, bars: Progress) -> None:
        self._console = console
        self._bars = bars
        self._task = bars.add_task("", total=None, note="", visible=False)

    def stage(self, name: str, total: int, done: int = 0) -> None:
        self._bars.reset(self._task, description=name, total=total, completed=done, note="", visible=True)
        if not self._console.is_terminal:
            self._console.print(f"{name}: {total}", highlight=False)

    def advance(self, done: int, note: str = "") -> None:
        self._bars.update(self._task, completed=done, note=note)

    def epoch(self, number: int, of: int, record: EpochRecord) -> None:
        self._console.print(
            f"epoch {number}/{of}  loss {record.loss:.4f}  val loss {record.val_loss:.4f}  "
            f"val HF1 {record.val_hf1:.4f}  {record.frames_per_second:.0f} frames/s",
            highlight=False,
        )


@contextmanager
def progress_on(console: Console) -> Iterator[Watcher]:
    """A watcher that shows the work on a console until the block ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Bars(console, bars)
