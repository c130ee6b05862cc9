"""source -> read -> classify -> record -> publish, as threads that overlap and hold each other back.

The reader thread follows the source and decodes the next frames while the caller's thread classifies; the recorder
thread commits, so that waiting for the disk does not hold up the engine; every sink has its own thread behind the
records. The hand-overs are bounded: a slow stage slows the source down and nothing is dropped.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING

from hffnet.runtime.errors import EngineError, HffnetError
from hffnet.runtime.hand_over import HandOver
from hffnet.runtime.record import RecordDraft
from hffnet.runtime.recorder import OnRecord, Recorder
from hffnet.runtime.records import RecordStore
from hffnet.runtime.result import draft_from_failure, draft_from_prediction
from hffnet.runtime.sinks import Sink
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.sources import FileStamp, IsDone, Item, Source
from hffnet.runtime.stage_times import Figure

if TYPE_CHECKING:
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.frame import Frame

_log = logging.getLogger(__name__)
_QUEUE = 2
# What threads get at the end: with the frame in hand, all of it stays within five seconds.
_READER_S, _SINKS_S = 1.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a run did.

    Attributes:
        counts: results by status.
        seconds: from the start of the pipeline to its end.
        stages_ms: milliseconds by stage over the latest frames: ``waited`` (settled to read), ``read``, ``queued``,
            ``gates``, ``preprocess``, ``infer``, ``decode``, ``record`` (the commit) and ``total`` (settled to
            committed).
        was_stopped: whether ``stop`` was set from outside, rather than the source ending.
        num_unrecorded: results that could not be committed before the end; their inputs are redone by the next run.
        undelivered: by sink, records that it gets in the next run.
    """

    counts: dict[str, int]
    seconds: float
    stages_ms: dict[str, dict[Figure, float]]
    was_stopped: bool
    num_unrecorded: int
    undelivered: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """An item that was read, or could not be."""

    item: Item
    frame: "Frame | None"
    reason: str
    timings_ms: dict[str, float]
    at: float


def done_in(store: RecordStore, *, bundle_sha256: str, settings_sha256: str) -> IsDone:
    """What a source asks so that a restarted run goes on where the last one stopped."""

    def is_done(path: Path, stamp: FileStamp) -> bool:
        return store.is_done(
            path, stamp.size, stamp.mtime_ns, bundle_sha256=bundle_sha256, settings_sha256=settings_sha256
        )

    return is_done


def run_pipeline(
    source: Source,
    classifier: "Classifier",
    store: RecordStore,
    sinks: Sequence[Sink],
    *,
    settings_sha256: str,
    stop: Event,
    on_record: OnRecord | None = None,
) -> RunSummary:
    """Classify everything the source offers until it ends or ``stop`` is set; then finish the frame in hand.

    A frame that cannot be read or processed is recorded as failed, with its reason, and the run goes on. While records
    cannot be written (disk full) the run holds still and tries again; nothing is lost, the source waits.

    Args:
        source: drawn from on the reader's thread.
        classifier: used on the caller's thread only.
        store: committed to before any sink sees a result.
        sinks: each served by a thread of its own; closed at the end.
        settings_sha256: of the settings that can change a result.
        stop: ends any waiting at once; is set when the run ends for any reason.
        on_record: called after each commit.

    Raises:
        EngineError: the engine failed; what was in hand is not recorded and will be redone.
        HffnetError: a sink cannot continue what it found; told before the first frame.
    """
    began = monotonic()
    deliveries = {sink.name: Delivery(sink, store) for sink in sinks}
    recorder = Recorder(store, list(deliveries.values()), stop, on_record)
    reader = _Reader(source, stop)
    try:
        while (arrival := reader.arrivals.get()) is not None and not stop.is_set():
            if not recorder.put(_draft(arrival, classifier, settings_sha256), arrival.item.settled_at):
                break
        was_stopped = stop.is_set()
        if not was_stopped:
            recorder.finish()
    finally:
        stop.set()
        reader.close()
        recorder.finish()
        undelivered = {name: delivery.close(_SINKS_S) for name, delivery in deliveries.items()}
    for error in (reader.error, recorder.error):
        if error is not None:
            raise error
    return RunSummary(
        counts=dict(recorder.counts),
        seconds=monotonic() - began,
        stages_ms=recorder.times.figures(),
        was_stopped=was_stopped,
        num_unrecorded=recorder.num_unrecorded,
        undelivered={name: num for name, num in undelivered.items() if num},
    )


class _Reader:
    """The thread that follows the source and decodes ahead."""

    def __init__(self, source: Source, stop: Event) -> None:
        self.arrivals = HandOver[_Arrival](_QUEUE)
        self.error: BaseException | None = None
        self._source, self._stop = source, stop
        # A daemon: a read that hangs on a dead network share must not keep the process alive.
        self._thread = Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Drop what was read ahead; ``stop`` is set already."""
        self.arrivals.refuse()
        self._thread.join(_READER_S)

    def _run(self) -> None:
        try:
            for item in self._source.items(self._stop):
                arrival = self._read(item)
                if arrival is not None and not self.arrivals.put(arrival):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for arrivals
            self.error = error
        finally:
            self.arrivals.end()

    def _read(self, item: Item) -> _Arrival | None:
        """Decode one file; None where the source will offer it again."""
        from hffnet.runtime.read import read_frame

        began = monotonic()
        frame, reason = None, item.problem or ""
        if item.problem is None:
            try:
                frame = read_frame(item.path, follow_links=False)
                if not item.is_unchanged():
                    frame, reason = None, f"{item.path} was written to while it was read"
            except HffnetError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - a poisoned file must not end the service
                _log.exception("%s: reading it ran into a defect", item.path)
                reason = f"reading it ran into a defect: {type(error).__name__}: {error}"
        if frame is None and self._source.retry(item):
            return None
        ended = monotonic()
        timings_ms = {"waited": (began - item.settled_at) * 1e3, "read": (ended - began) * 1e3}
        return _Arrival(item=item, frame=frame, reason=reason, timings_ms=timings_ms, at=ended)


def _draft(arrival: _Arrival, classifier: "Classifier", settings_sha256: str) -> RecordDraft:
    """What is to be recorded of an arrival; an EngineError is nobody's result and goes up."""
    from hffnet.runtime.classifier import Timings

    bundle_sha256, reason = classifier.bundle.sha256, arrival.reason
    timings = Timings(arrival.timings_ms)
    timings["queued"] = (monotonic() - arrival.at) * 1e3
    if arrival.frame is not None:
        try:
            return draft_from_prediction(
                classifier.classify_frame(arrival.frame, timings),
                classifier.bundle.manifest.taxonomy,
                item=arrival.item,
                bundle_sha256=bundle_sha256,
                settings_sha256=settings_sha256,
            )
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 - a poisoned frame must not end the service
            _log.exception("%s: classifying it ran into a defect", arrival.item.path)
            reason = f"classifying it ran into a defect: {type(error).__name__}: {error}"
    _log.warning("%s is not classified: %s", arrival.item.path, reason)
    return draft_from_failure(
        arrival.item, reason, timings_ms=timings, bundle_sha256=bundle_sha256, settings_sha256=settings_sha256
    )
