"""What is said on stderr, which may be gone, stuck on a full disk, or read by a terminal that obeys what it reads.

Nothing that cannot be said there ends a run, and no file name moves a cursor or makes up a line of the log.
"""

import logging
import os
import sys


def printable(text: str) -> str:
    r"""The text with everything that is not printable written as an escape: control characters, line ends, overrides.

    >>> printable("a\x1b[2J\nµ.tif")
    'a\\x1b[2J\\nµ.tif'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def say(sentence: str) -> None:
    """Write ``hffnet: sentence`` as one line; where stderr cannot be written to, nothing happens."""
    say_line(f"hffnet: {sentence}")


def say_line(line: str) -> None:
    """Write one line; where stderr cannot be written to, nothing happens."""
    try:
        sys.stderr.write(f"{printable(line)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # ValueError: it was closed
        return


def settle_stderr() -> None:
    """At the end of a program: drop what stderr does not take, which else would change the exit code to 120."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


class OneLineFormatter(logging.Formatter):
    """Messages that keep to their line; tracebacks stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line of a record."""
        record.message = printable(record.message)
        return super().formatMessage(record)
