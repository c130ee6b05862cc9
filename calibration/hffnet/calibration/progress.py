"""How far a step is and how long it still takes, for people: told now and then, not for every frame."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int], None]
"""Called after each batch with the number of frames done so far."""

Watch = Callable[[str, int], Progress]
"""Called when a step begins, with its name and number of frames."""

ON_TERMINAL_S, ELSEWHERE_S = 0.25, 5.0


def unwatched(_name: str, _total: int) -> Progress:
    """Tells nobody."""
    return lambda _: None


def watch_through(show: Callable[[str], None], seconds: float, clock: Callable[[], float] = time.monotonic) -> Watch:
    """Tell the beginning of each step, and how far it is at most every ``seconds``.

    Args:
        show: gets a line such as "reading: 130 of 512, 24 s left".
        seconds: between two lines.
        clock: seconds that never go back.
    """

    def begin(name: str, total: int) -> Progress:
        show(name)
        told = clock()
        first: tuple[float, int] | None = None  # the rate counts from here: what a resumed step was given took no time

        def progress(done: int) -> None:
            nonlocal told, first
            now = clock()
            if first is None:
                first = now, done
            elif now - told >= seconds and done > first[1]:
                told = now
                left = (now - first[0]) / (done - first[1]) * (total - done)
                show(f"{name}: {done} of {total}, {_duration(left)} left")

        return progress

    return begin


@contextmanager
def watch_on(console: "Console") -> Iterator[Watch]:
    """On a terminal one live line, elsewhere lines."""
    with console.status("") as status:
        if console.is_terminal:
            yield watch_through(status.update, ON_TERMINAL_S)
        else:
            yield watch_through(lambda line: console.print(line, highlight=False, soft_wrap=True), ELSEWHERE_S)


def _duration(seconds: float) -> str:
    """Rounded as people say it.

    >>> _duration(7.4), _duration(200), _duration(7300)
    ('7 s', '3 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
