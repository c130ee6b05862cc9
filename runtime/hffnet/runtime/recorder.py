"""Commits results in order, in a thread of its own, and wakes the sinks.

While records cannot be written (disk full, locked) it holds still and tries again, which holds the whole pipeline
back; only a stop makes it give up, and then the inputs concerned are not "done" and the next run redoes them.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Event, Thread
from time import monotonic

from hffnet.runtime.errors import RecordError
from hffnet.runtime.hand_over import HandOver
from hffnet.runtime.record import Record, RecordDraft
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.sources import Item
from hffnet.runtime.stage_times import StageTimes

_log = logging.getLogger(__name__)
_QUEUE = 2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0

OnRecord = Callable[[Record, StageTimes], None]
"""Called after each commit, on the recorder's thread."""


class Recorder:
    """The thread behind the engine.

    Attributes:
        counts: committed results by status.
        times: stages of the latest frames.
        num_unrecorded: results given up because of a stop.
        error: what ended the thread early, for the one who waits for it.
    """

    def __init__(
        self, store: RecordStore, deliveries: Sequence[Delivery], stop: Event, on_record: OnRecord | None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.times = StageTimes()
        self.num_unrecorded = 0
        self.error: BaseException | None = None
        self._store, self._deliveries, self._stop, self._on_record = store, deliveries, stop, on_record
        self._drafts = HandOver[tuple[Item, RecordDraft]](_QUEUE)
        self._thread = Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def put(self, item: Item, draft: RecordDraft) -> bool:
        """Hand a result over, waiting while two are uncommitted; False when the thread has ended."""
        return self._drafts.put((item, draft))

    def finish(self) -> None:
        """Wait until what was handed over is committed, or given up after a stop."""
        self._drafts.end()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (given := self._drafts.get()) is not None:
                self._record(*given)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self.error = error
        finally:
            self._drafts.refuse()

    def _record(self, item: Item, draft: RecordDraft) -> None:
        began = monotonic()
        record = self._committed(draft)
        if record is None:
            self.num_unrecorded += 1
            return
        ended = monotonic()
        self.counts[record.status or record.kind] += 1
        own = {"record": (ended - began) * 1e3, "total": (ended - item.settled_at) * 1e3}
        self.times.add({**draft.timings_ms, **own})
        for delivery in self._deliveries:
            delivery.notify(record.seq)
        if self._on_record:
            self._on_record(record, self.times)

    def _committed(self, draft: RecordDraft) -> Record | None:
        pause_s = 0.0
        while True:
            try:
                record = self._store.append(draft)
            except RecordError as error:
                if not pause_s:
                    _log.error("%s; holding still and trying again", error)
                if self._stop.wait(max(pause_s, _FIRST_PAUSE_S)):
                    return None
                pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            else:
                if pause_s:
                    _log.warning("results can be written again")
                return record
