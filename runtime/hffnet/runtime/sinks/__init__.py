"""Where results go after they are on record: one protocol, one module per kind of sink.

Sinks are cursors over the record store. A sink that fails, hangs or was not running gets everything it missed later,
in order and at least once; readers recognise a repeated row by its ``seq``.
"""

from collections.abc import Sequence
from typing import Protocol

from hffnet.runtime.record import Record


class Sink(Protocol):
    """Delivers committed results and people's decisions on them; used by one thread."""

    @property
    def name(self) -> str:
        """Stable across runs: the key of its cursor."""

    def start(self, cursor: int | None, last_seq: int) -> int:
        """Get ready, repair what a crash left behind, and say after which ``seq`` to go on.

        Args:
            cursor: last ``seq`` this sink is known to have delivered; None where it is new to this store.
            last_seq: last ``seq`` in the store when the run began.

        Raises:
            HffnetError: what was found cannot be continued (another program's file): told before the run starts.
        """

    def deliver(self, records: Sequence[Record]) -> None:
        """Deliver in order; on return they are safe.

        Raises:
            OSError, HffnetError: not now; the same records will come again.
        """

    def close(self) -> None:
        """Give resources back."""
