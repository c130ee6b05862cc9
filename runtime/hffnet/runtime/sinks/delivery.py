"""Brings records to one sink, in a thread of its own, so that a slow or dead sink never stops classification.

The store is the queue: nothing is held in memory, and what a sink missed is still there after a restart.
"""

import logging
from threading import Condition, Thread
from time import monotonic

from hffnet.runtime.errors import HffnetError, RecordError
from hffnet.runtime.record import Record
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sinks import Sink

_log = logging.getLogger(__name__)
_BATCH = 256
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class Delivery:
    """Follows the store with one sink until closed.

    Args:
        sink: ``start`` is called here, on the caller's thread, so that an unusable sink is told at once.
        store: where records and cursors are.

    Raises:
        HffnetError: the sink cannot continue what it found.
    """

    def __init__(self, sink: Sink, store: RecordStore) -> None:
        self._sink, self._store = sink, store
        last_seq = store.last_seq()
        known = store.cursors().get(sink.name)
        self._cursor = sink.start(known, last_seq)
        if known is None:
            self._keep_first_cursor()
        self._wanted = last_seq
        self._changed = Condition()
        self._deadline: float | None = None  # set on closing: when to give up
        # A daemon: a sink that hangs for ever in a system call must not keep the process alive.
        self._thread = Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def _keep_first_cursor(self) -> None:
        """From here on the sink misses nothing: not in a run that is killed before its first delivery, nor to archives.

        A full disk is no reason to refuse the run: the first delivery writes the cursor as well.
        """
        try:
            self._store.set_cursor(self._sink.name, self._cursor)
        except RecordError as error:
            _log.warning("%s", error)

    def notify(self, seq: int) -> None:
        """There are records up to ``seq``; returns at once."""
        with self._changed:
            self._wanted = max(self._wanted, seq)
            self._changed.notify()

    def end_in(self, timeout_s: float) -> None:
        """Deliver what is left and give up after ``timeout_s``; returns at once, ``close`` waits for it."""
        with self._changed:
            self._deadline = monotonic() + timeout_s
            self._changed.notify()

    def close(self, timeout_s: float) -> int:
        """Deliver what is left, give up after ``timeout_s``; returns how many records were not delivered."""
        self.end_in(timeout_s)
        self._thread.join(timeout_s)
        missing = max(self._wanted - self._cursor, 0)
        if missing:
            _log.warning("sink %s has %d records left; it gets them in the next run", self._sink.name, missing)
        return missing

    def _run(self) -> None:
        pause_s = 0.0
        while self._wait_for_work(pause_s):
            try:
                self._deliver()
                if pause_s:
                    _log.warning("sink %s works again", self._sink.name)
                pause_s = 0.0
            except (OSError, HffnetError) as error:
                if not pause_s:
                    _log.warning("sink %s failed (%s); it is tried again", self._sink.name, error)
                pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            except Exception:  # noqa: BLE001 - a defect in one sink must not reach the others
                _log.exception("sink %s has a defect; it gets no more records in this run", self._sink.name)
                break
        self._sink.close()

    def _wait_for_work(self, pause_s: float) -> bool:
        """True when there is something to deliver; False when closed and nothing is left or time is up."""
        with self._changed:
            if pause_s:
                self._changed.wait_for(lambda: self._deadline is not None, pause_s)
                return self._deadline is None
            self._changed.wait_for(lambda: self._cursor < self._wanted or self._deadline is not None)
            return self._cursor < self._wanted and (self._deadline is None or monotonic() < self._deadline)

    def _deliver(self) -> None:
        batch: list[Record] = list(self._store.iterate(after=self._cursor, limit=_BATCH))
        if not batch:
            self._cursor = self._wanted
            return
        results = [record for record in batch if record.kind != "event"]  # what happened to the service stays at home
        if results:
            self._sink.deliver(results)
        self._cursor = batch[-1].seq
        self._store.set_cursor(self._sink.name, self._cursor)
