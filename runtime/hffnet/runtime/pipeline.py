"""source -> read -> classify -> record -> publish, as threads that overlap and hold each other back.

The reader thread follows the source and decodes the next frames, the preparing thread makes them ready, while the
caller's thread has the engine work on the last; the recorder thread commits, so that waiting for the disk does not hold
up the engine; every sink has its own thread behind the records. The hand-overs are bounded: a slow stage slows the
source down and nothing is dropped.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING

from hffnet.runtime.errors import EngineError, FrameError, HffnetError
from hffnet.runtime.events import draft_from_event
from hffnet.runtime.hand_over import HandOver
from hffnet.runtime.read_worker import ReadFile, read_here
from hffnet.runtime.record import Json, RecordDraft, plain
from hffnet.runtime.recorder import OnHold, OnRecord, Recorder
from hffnet.runtime.records import RecordStore
from hffnet.runtime.result import draft_from_failure, draft_from_prediction
from hffnet.runtime.service import BEAT_S
from hffnet.runtime.sinks import Sink
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.sources import FileStamp, FrameItem, IsDone, Item, Notice, Source
from hffnet.runtime.stage_times import Figure

if TYPE_CHECKING:
    from hffnet.runtime.classifier import Classifier, Prediction, Timings
    from hffnet.runtime.frame import Frame
    from hffnet.runtime.gates import FrameFingerprint
    from hffnet.runtime.in_hand import InHand
    from hffnet.runtime.infobar import BarSetting
    from hffnet.runtime.smoothing import SmoothingSettings
    from hffnet.runtime.taxonomy import Taxonomy

OnFrame = Callable[[str, "Frame", "Prediction"], None]
"""Called with an item's name, its frame and what was decided; must return at once and keep the frame as it is."""

_log = logging.getLogger(__name__)
_QUEUE = 1  # of each hand-over: a 12 MB frame that waits is 12 MB
# What the frame in hand and threads get at the end: all of it stays within five seconds.
_FRAME_S, _READER_S, _SINKS_S = 1.5, 1.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a run did.

    Attributes:
        counts: results by status.
        seconds: from the start of the pipeline to its end.
        stages_ms: milliseconds by stage over the latest frames: ``waited`` (settled to read), ``read``, ``gates``,
            ``preprocess``, ``queued``, ``infer``, ``copy`` (to a GPU and back, where it tells), ``decode``, ``record``
            (the commit) and ``total`` (settled to committed).
        was_stopped: whether ``stop`` was set from outside, rather than the source ending.
        num_unrecorded: results that could not be committed before the end; their inputs are redone by the next run.
        undelivered: by sink, records that it gets in the next run.
        dropped: frames of a live source that were not classified, by reason.
    """

    counts: dict[str, int]
    seconds: float
    stages_ms: dict[str, dict[Figure, float]]
    was_stopped: bool
    num_unrecorded: int
    undelivered: dict[str, int]
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """An item that was read, or could not be."""

    item: Item | FrameItem
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
    bar: "BarSetting | None" = None,
    read_file: ReadFile = read_here,
    smoothing: "SmoothingSettings | None" = None,
    beat: Callable[[], None] = lambda: None,
    on_frame: "OnFrame | None" = None,
    on_hold: OnHold | None = None,
) -> RunSummary:
    """Classify everything the source offers until it ends or ``stop`` is set; then finish the frame in hand.

    A frame of so many tiles that it would outlast the stop is given up, unrecorded, and redone by the next run. One
    that ended the process three times, by a crash or a watchdog, is recorded as failed and not tried again.

    A frame that cannot be read or processed is recorded as failed, with its reason, and the run goes on. While records
    cannot be written (disk full) the run holds still and tries again; nothing is lost, the source waits.

    Args:
        source: drawn from on the reader's thread.
        classifier: its engine is used on the caller's thread; frames are prepared on another.
        store: committed to before any sink sees a result.
        sinks: each served by a thread of its own; closed at the end.
        settings_sha256: of the settings that can change a result.
        stop: ends any waiting at once; is set when the run ends for any reason.
        on_record: called after each commit.
        bar: what is known of the instrument's info bar.
        read_file: decodes files, on the reader's thread; ``ReadWorker`` does so in a process that can be killed.
        smoothing: also decide on live frames of one field of view together; None does not.
        beat: called by the loop that classifies, at least once a second while it waits and between two batches of
            tiles: the sign of life.
        on_frame: called with each frame that was decided on, before it is recorded, on the caller's thread.
        on_hold: called when records cannot be written, at once, and when they can again.

    Raises:
        EngineError: the engine failed; what was in hand is not recorded and will be redone.
        HffnetError: a sink cannot continue what it found; told before the first frame.
    """
    from hffnet.runtime.classifier import GivenUpError
    from hffnet.runtime.in_hand import InHand

    began = monotonic()
    deliveries = {sink.name: Delivery(sink, store) for sink in sinks}
    recorder = Recorder(store, list(deliveries.values()), stop, on_record, on_hold=on_hold)
    in_hand = InHand(store, bundle_sha256=classifier.bundle.sha256, settings_sha256=settings_sha256)
    reader = _Reader(source, stop, bar, read_file, classifier)
    desk = _Desk(classifier, settings_sha256, smoothing, on_frame, _Pulse(stop, beat), in_hand)
    try:
        for arrival in reader.arrivals_until(stop, beat):
            match arrival:
                case Notice():
                    draft = draft_from_event(arrival.event, arrival.reason, details=arrival.details)
                    settled_at = None
                case _Arrival():
                    draft, settled_at = desk.draft(arrival), arrival.item.settled_at
            while not recorder.wait_for_room(BEAT_S):
                beat()
            if not recorder.put(draft, settled_at):
                break
        was_stopped = stop.is_set()
        if not was_stopped:
            recorder.finish(beat)
    except GivenUpError:
        was_stopped = True
    finally:
        stop.set()
        in_hand.close()
        reader.close()
        recorder.finish(beat)
        undelivered = _closed(deliveries)
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
        dropped=dict(desk.dropped),
    )


def _closed(deliveries: Mapping[str, Delivery]) -> dict[str, int]:
    """Close the sinks, which have one time together; records that each gets in the next run."""
    until = monotonic() + _SINKS_S
    for delivery in deliveries.values():
        delivery.end_in(_SINKS_S)
    return {name: delivery.close(max(until - monotonic(), 0.0)) for name, delivery in deliveries.items()}


class _Pulse:
    """What happens between two batches of a frame's tiles: a sign of life, and the end of a frame that takes too long.

    Raises:
        GivenUpError: the run was to stop ``_FRAME_S`` ago.
    """

    def __init__(self, stop: Event, beat: Callable[[], None]) -> None:
        self._stop, self._beat = stop, beat
        self._until: float | None = None

    def __call__(self) -> None:
        from hffnet.runtime.classifier import GivenUpError

        self._beat()
        if not self._stop.is_set():
            return
        if self._until is None:
            self._until = monotonic() + _FRAME_S
        if monotonic() >= self._until:
            raise GivenUpError


class _Reader:
    """Two threads: one follows the source and decodes ahead, the other prepares; it remembers the last live frame.

    So that the process that decodes works on the next file while this one looks at the last. A live frame is decoded
    and prepared only when it can be classified at once: waiting between the two would make it old.
    """

    def __init__(
        self,
        source: Source,
        stop: Event,
        bar: "BarSetting | None",
        read_file: ReadFile,
        classifier: "Classifier",
    ) -> None:
        self.arrivals = HandOver[_Arrival | Notice](_QUEUE)
        self._decoded = HandOver[_Arrival | Notice](_QUEUE)
        self.error: BaseException | None = None
        self._source, self._stop, self._bar, self._read_file = source, stop, bar, read_file
        self._classifier = classifier
        self._previous: FrameFingerprint | None = None
        # A daemon: a read that hangs on a dead network share must not keep the process alive.
        self._threads = [
            Thread(target=self._run, name="reader", daemon=True),
            Thread(target=self._prepare, name="preparer", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def arrivals_until(self, stop: Event, beat: Callable[[], None]) -> Iterator[_Arrival | Notice]:
        """What was read, until the source ends or ``stop`` is set."""
        while not stop.is_set():
            beat()
            arrival = self.arrivals.get(BEAT_S)
            if arrival is not None and not stop.is_set():
                yield arrival
            elif self.arrivals.is_over:
                return

    def close(self) -> None:
        """Drop what was read ahead; ``stop`` is set already."""
        self.arrivals.refuse()
        self._decoded.refuse()
        until = monotonic() + _READER_S
        for thread in self._threads:
            thread.join(max(until - monotonic(), 0.0))

    def _run(self) -> None:
        try:
            items = self._source.items(self._stop)
            # A live source is asked when its frame can be classified at once: read ahead, it would get old.
            while not self._source.is_live or self.arrivals.wait_until_wanted():
                item = next(items, None)
                if item is None:
                    return
                arrival = item if isinstance(item, Notice) else self._read(item)
                if arrival is not None and not self._pass_on(arrival):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for arrivals
            self.error = self.error or error
        finally:
            self._decoded.end()

    def _pass_on(self, arrival: _Arrival | Notice) -> bool:
        if not self._source.is_live:
            return self._decoded.put(arrival)
        # Here and now: while another thread prepared it, the next live frame would be drawn, and get old.
        return self.arrivals.put(self._prepared(arrival))

    def _prepare(self) -> None:
        try:
            while (arrival := self._decoded.get()) is not None:
                if not self.arrivals.put(self._prepared(arrival)):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for arrivals
            self.error = self.error or error
        finally:
            self._decoded.refuse()
            self.arrivals.end()

    def _read(self, item: Item | FrameItem) -> _Arrival | None:
        """Decode one item; None where the source will offer it again."""
        began = monotonic()
        frame, reason = None, (item.problem or "") if isinstance(item, Item) else ""
        if not reason:
            try:
                frame = self._frame(item)
            except HffnetError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - a poisoned file must not end the service
                _log.exception("%s: reading it ran into a defect", item.name)
                reason = f"reading it ran into a defect: {type(error).__name__}: {error}"
        if frame is None and isinstance(item, Item) and self._source.retry(item):
            return None
        timings_ms = {"waited": (began - item.settled_at) * 1e3, "read": (monotonic() - began) * 1e3}
        return _Arrival(item=item, frame=frame, reason=reason, timings_ms=timings_ms, at=monotonic())

    def _prepared(self, arrival: _Arrival | Notice) -> _Arrival | Notice:
        """Gates and network input, so that the engine need not wait for them; live frames must not repeat the last."""
        if isinstance(arrival, Notice) or arrival.frame is None:
            return arrival
        from hffnet.runtime.classifier import Timings
        from hffnet.runtime.gates import fingerprint_from_frame

        queued_ms = (monotonic() - arrival.at) * 1e3
        item, frame = arrival.item, arrival.frame
        timings = Timings(arrival.timings_ms)
        try:
            frame = self._classifier.prepared(frame, timings, previous=self._previous)
        except Exception as error:  # noqa: BLE001 - comes again where the frame is classified, and is told there
            _log.debug("%s cannot be prepared: %s", item.name, error)
            return arrival
        timings["queued"] = queued_ms
        if isinstance(item, FrameItem) and item.is_live:
            self._previous = fingerprint_from_frame(frame)
        return replace(arrival, frame=frame, timings_ms=dict(timings), at=monotonic())

    def _frame(self, item: Item | FrameItem) -> "Frame":
        if isinstance(item, FrameItem):
            return item.read(bar=self._bar)
        frame = self._read_file(item.path, self._bar)
        if not item.is_unchanged():
            raise FrameError(f"{item.path} was written to while it was read")
        return frame


class _Desk:
    """Turns arrivals into what is to be recorded."""

    def __init__(
        self,
        classifier: "Classifier",
        settings_sha256: str,
        smoothing: "SmoothingSettings | None",
        on_frame: "OnFrame | None",
        pulse: _Pulse,
        in_hand: "InHand",
    ) -> None:
        from hffnet.runtime.smoothing import Smoother

        manifest = classifier.bundle.manifest
        self._smoother = Smoother(smoothing, manifest.taxonomy, manifest.decode) if smoothing else None
        self.dropped = Counter[str]()
        self._on_frame, self._pulse, self._in_hand = on_frame, pulse, in_hand
        self._classifier, self._settings_sha256 = classifier, settings_sha256

    def draft(self, arrival: _Arrival) -> RecordDraft:
        """The row of an arrival; an EngineError is nobody's result and goes up, as does a frame that is given up."""
        from hffnet.runtime.classifier import GivenUpError, Timings

        reason = arrival.reason or self._why_not_again(arrival.item)
        timings = Timings(arrival.timings_ms)
        timings["queued"] = timings.get("queued", 0.0) + (monotonic() - arrival.at) * 1e3
        if arrival.frame is not None and not reason:
            try:
                with self._in_hand.holding(arrival.item):
                    return self._classified(arrival, arrival.frame, timings)
            except (EngineError, GivenUpError):
                raise
            except HffnetError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - a poisoned frame must not end the service
                _log.exception("%s: classifying it ran into a defect", arrival.item.name)
                reason = f"classifying it ran into a defect: {type(error).__name__}: {error}"
        _log.warning("%s is not classified: %s", arrival.item.path or arrival.item.name, reason)
        return draft_from_failure(
            arrival.item,
            reason,
            timings_ms=timings,
            bundle_sha256=self._classifier.bundle.sha256,
            settings_sha256=self._settings_sha256,
            details=self._facts(arrival.item),
        )

    def _why_not_again(self, item: Item | FrameItem) -> str:
        from hffnet.runtime.in_hand import MOST_ENDS

        num = self._in_hand.num_ends(item)
        if num < MOST_ENDS:
            return ""
        return f"ended the service {num} times while the engine had it; it is not tried again under these settings"

    def _classified(self, arrival: _Arrival, frame: "Frame", timings: "Timings") -> RecordDraft:
        prediction = self._classifier.classify_frame(frame, timings, pulse=self._pulse)
        if self._on_frame is not None:
            self._on_frame(arrival.item.name, frame, prediction)
        taxonomy = self._classifier.bundle.manifest.taxonomy
        smoothed = self._smoothed(arrival.item, frame, prediction)
        details = {**_evidence(prediction, taxonomy), **smoothed, **(self._facts(arrival.item) or {})}
        return draft_from_prediction(
            prediction,
            taxonomy,
            item=arrival.item,
            bundle_sha256=self._classifier.bundle.sha256,
            settings_sha256=self._settings_sha256,
            details=details or None,
        )

    def _smoothed(self, item: Item | FrameItem, frame: "Frame", prediction: "Prediction") -> "Mapping[str, Json]":
        from hffnet.runtime.smoothing import smoothed_details

        is_live = isinstance(item, FrameItem) and item.is_live
        if self._smoother is None or not is_live or prediction.decision is None:
            return {}
        decision, num_frames = self._smoother.add(frame, prediction.decision)
        return smoothed_details(decision, num_frames, self._classifier.bundle.manifest.taxonomy)

    def _facts(self, item: Item | FrameItem) -> dict[str, Json] | None:
        """What a live source says of the frame, with its age now that it is decided on."""
        if isinstance(item, Item) or item.facts is None:
            return None
        dropped = item.facts.get("dropped")
        if isinstance(dropped, dict):
            self.dropped.update(dropped)
        return {"live": {**item.facts, "age_ms": round((monotonic() - item.settled_at) * 1e3, 3)}}


def _evidence(prediction: "Prediction", taxonomy: "Taxonomy") -> dict[str, Json]:
    """Where in the picture the answer comes from: the map whose mean is the logit of the answer's last class."""
    from hffnet.runtime.evidence_map import evidence_of_answer
    from hffnet.runtime.field_of_view import map_for_record

    found = evidence_of_answer(prediction, taxonomy)
    if found is None:
        return {}
    name, grid = found
    coarse = map_for_record(grid)
    details: dict[str, Json] = {
        "evidence": {"class": name, "map": [[round(float(value), 3) for value in row] for row in coarse]}
    }
    return details | ({"area": plain(prediction.area)} if prediction.area else {})
