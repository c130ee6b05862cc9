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
from hffnet.runtime.events import ClockWatch, draft_from_event
from hffnet.runtime.hand_over import HandOver
from hffnet.runtime.record import Record, RecordDraft
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_inputs import AlreadyArchivedError
from hffnet.runtime.service import BEAT_S
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.stage_times import StageTimes

_log = logging.getLogger(__name__)
_QUEUE = 2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0

OnRecord = Callable[[Record, StageTimes], None]
"""Called after each commit, on the recorder's thread."""

OnHold = Callable[[str | None], None]
"""Called on the recorder's thread with a sentence when records cannot be written, and with None when they can again."""


class Recorder:
    """The thread behind the engine.

    Attributes:
        counts: committed results by status.
        times: stages of the latest frames.
        num_unrecorded: results given up because of a stop.
        error: what ended the thread early, for the one who waits for it.
    """

    def __init__(
        self,
        store: RecordStore,
        deliveries: Sequence[Delivery],
        stop: Event,
        on_record: OnRecord | None,
        clock_watch: ClockWatch | None = None,
        on_hold: OnHold | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.times = StageTimes()
        self.num_unrecorded = 0
        self.error: BaseException | None = None
        self._store, self._deliveries, self._stop, self._on_record = store, deliveries, stop, on_record
        self._clock_watch, self._on_hold = clock_watch or ClockWatch(), on_hold
        self._is_unheard = False
        self._last_seq = store.last_seq()
        self._drafts = HandOver[tuple[float | None, RecordDraft]](_QUEUE)
        self._thread = Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until ``put`` would not wait, at most so long; whether it would not."""
        return self._drafts.wait_for_room(timeout_s)

    def put(self, draft: RecordDraft, settled_at: float | None = None) -> bool:
        """Hand a row over, waiting while two are uncommitted; False when the thread has ended.

        Args:
            draft: the row.
            settled_at: monotonic seconds from which the total latency of a result counts; None for events.
        """
        return self._drafts.put((settled_at, draft))

    def finish(self, beat: Callable[[], None] = lambda: None) -> None:
        """Wait until what was handed over is committed, or given up after a stop; ``beat`` is called meanwhile."""
        self._drafts.end()
        self._thread.join(BEAT_S)
        while self._thread.is_alive():
            beat()
            self._thread.join(BEAT_S)

    def _run(self) -> None:
        try:
            while (given := self._drafts.get()) is not None:
                self._record(*given)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self.error = error
        finally:
            self._drafts.refuse()

    def _record(self, settled_at: float | None, draft: RecordDraft) -> None:
        jump_s = self._clock_watch.jump_s()
        if jump_s is not None:
            sentence = f"the clock was set {'forward' if jump_s > 0 else 'back'} by {abs(jump_s):.1f} s"
            _log.warning("%s; order and durations of records are not touched", sentence)
            self._event(draft_from_event("clock_jump", sentence, details={"seconds": round(jump_s, 3)}))
        began = monotonic()
        try:
            record = self._committed(draft)
        except AlreadyArchivedError as error:
            _log.info("%s", error)
            return
        if record is None:
            self.num_unrecorded += draft.kind == "result"
            return
        if record.seq <= self._last_seq:
            _log.info("%s is record %d already", record.name, record.seq)
            return
        self._last_seq = record.seq
        if record.kind == "result" and settled_at is not None:
            ended = monotonic()
            self.counts[str(record.status)] += 1
            own = {"record": (ended - began) * 1e3, "total": (ended - settled_at) * 1e3}
            self.times.add({**draft.timings_ms, **own})
        for delivery in self._deliveries:
            delivery.notify(record.seq)
        self._show(record)

    def _show(self, record: Record) -> None:
        """What only shows results must not end them: a lost terminal, a full disk under a log file."""
        if self._on_record is None:
            return
        try:
            self._on_record(record, self.times)
        except Exception as error:  # noqa: BLE001 - whatever it is, the record is committed
            level = logging.DEBUG if self._is_unheard else logging.ERROR
            _log.log(level, "record %d is committed and cannot be shown: %r", record.seq, error)
            self._is_unheard = True
        else:
            self._is_unheard = False

    def _hold(self, sentence: str | None) -> None:
        try:
            if self._on_hold is not None:
                self._on_hold(sentence)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("that the run holds still, or goes on, could not be told")

    def _event(self, draft: RecordDraft) -> None:
        """Events are worth a row, not a standstill: one that cannot be written is told in the log alone."""
        try:
            self._store.append(draft)
        except RecordError as error:
            _log.warning("event %s is not on record: %s", draft.name, error)

    def _committed(self, draft: RecordDraft) -> Record | None:
        pause_s, began = 0.0, monotonic()
        while True:
            try:
                record = self._store.append(draft)
            except AlreadyArchivedError:
                raise
            except RecordError as error:
                if not pause_s:
                    _log.error("%s; holding still and trying again", error)
                    self._hold(f"degraded: holding still, {error}")
                if self._stop.wait(max(pause_s, _FIRST_PAUSE_S)):
                    return None
                pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            else:
                if pause_s:
                    seconds = monotonic() - began
                    sentence = f"records could not be written for {seconds:.1f} s; results waited and none was lost"
                    _log.warning("%s", sentence)
                    self._hold(None)
                    self._event(draft_from_event("degraded", sentence, details={"seconds": round(seconds, 3)}))
                return record
