"""A camera, a stream or the screen: always the newest frame, never an old one, and back again after any loss.

Frames that were not asked for in time are dropped and counted with the reason. The capture process is watched by the
age of its frames alone: one that hangs, dies, or gives nothing is killed and the source opened anew, by its name, in
a new process, because half-open drivers do not recover (ZoneMinder#3724).
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from threading import Event
from time import monotonic, time

from hffnet.runtime.errors import SourceAwayError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.sources import FrameItem, Item, Notice
from hffnet.runtime.sources.capture_link import Kind, Message
from hffnet.runtime.sources.capture_process import Capture
from hffnet.runtime.sources.live_options import LiveOptions
from hffnet.runtime.sources.restarts import Restarts

_log = logging.getLogger(__name__)
_TICK_S = 0.1


class LiveState(StrEnum):
    """Where a live source stands."""

    STARTING = "starting"
    RUNNING = "running"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    ERROR = "error"
    STOPPED = "stopped"


class LiveSource:
    """Follows one device; one thread drives it.

    Args:
        name: for people and records.
        start: starts a capture.
        options: timeouts.
        clock, wall_clock, chance: for tests.

    Attributes:
        state: see ``LiveState``.
        dropped: frames that were not classified, by reason, since the start.
        num_restarts: how often the capture was started anew.
    """

    is_live = True

    def __init__(
        self,
        name: str,
        start: Callable[[], Capture],
        options: LiveOptions,
        *,
        clock: Callable[[], float] = monotonic,
        wall_clock: Callable[[], float] = time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name, self.state = name, LiveState.STARTING
        self.dropped: Counter[str] = Counter()
        self.num_restarts = 0
        self._start, self._options, self._clock, self._wall_clock = start, options, clock, wall_clock
        self._restarts = Restarts(chance)
        self._capture: Capture | None = None
        self._retry_at = clock()
        self._began_at = self._frame_at = clock()
        self._was_seen = self._has_given = self._is_lost = False  # ever; by this capture; now
        self._index, self._why_not_begun = 0, ""
        self._told: Counter[str] = Counter()

    def items(self, stop: Event) -> Iterator[FrameItem | Notice]:
        """The newest frame each time one is asked for; notices where the source is lost and back.

        One that is not there at the start is waited for like one that is lost: after a power cut the camera may come
        minutes after the computer.
        """
        try:
            while not stop.is_set():
                offer = self.step(_TICK_S)
                if offer is not None:
                    yield offer
                elif self._capture is None:
                    stop.wait(min(_TICK_S, max(self._retry_at - self._clock(), 0.0)))
        except Exception:
            self.state = LiveState.ERROR
            raise
        finally:
            self._end_capture()
            if self.state is not LiveState.ERROR:
                self.state = LiveState.STOPPED

    def prove(self) -> None:
        """Wait for one frame, at most as long as opening may take, and close the device again.

        Raises:
            SourceAwayError: it gives none.
        """
        try:
            while not self._was_seen:
                offer = self.step(_TICK_S)
                if isinstance(offer, Notice):
                    raise SourceAwayError(offer.reason)
        finally:
            self._end_capture()

    def retry(self, item: Item) -> bool:
        """A live frame does not come again."""
        del item
        return False

    def step(self, wait_s: float) -> FrameItem | Notice | None:
        """Hear the capture once, start it where it is due; what there is to offer now."""
        if self._capture is None:
            if self._clock() < self._retry_at:
                return None
            self._begin()
        if self._capture is None:
            return self._lose(self._why_not_begun)
        newest: Message | None = None
        for message in self._capture.receive(wait_s):
            match message.kind:
                case Kind.FRAME:
                    self.dropped["superseded"] += newest is not None
                    newest, self._was_seen = message, True
                case Kind.NOTHING:
                    self.dropped["unreadable"] += 1
                case Kind.FAILED:
                    return self._lose(message.text)
                case Kind.ENDED:
                    return self._lose("it has no more frames")
        return self._offer(newest) if newest else self._silence()

    def _begin(self) -> None:
        now = self._clock()
        self._restarts.started(now)
        self._began_at = self._frame_at = now
        self._has_given = False
        try:
            self._capture = self._start()
        except OSError as error:  # out of processes, memory or descriptors, which passes
            self._why_not_begun = f"its capture process cannot be started ({error})"

    def _offer(self, newest: Message) -> FrameItem | Notice | None:
        assert self._capture is not None
        if self.state is not LiveState.RUNNING:
            _log.info("source %s is running", self.name)
        self._has_given = True
        self._frame_at = self._clock()
        self.state = LiveState.RUNNING
        if self._is_lost:
            self._is_lost = False
            self.dropped["superseded"] += 1  # the notice goes first; a newer frame follows
            return Notice(event="source_back", reason=f"source {self.name} is back", details=self._figures())
        if self._clock() - newest.captured_at > self._options.max_age_s:
            self.dropped["stale"] += 1
            return None
        pixels = self._capture.take(newest)
        if pixels is None:
            self.dropped["superseded"] += 1
            return None
        return self._item(newest, pixels)

    def _item(self, message: Message, pixels: GreyPixels) -> FrameItem:
        from hffnet.runtime.read import frame_from_pixels

        self._index += 1
        age_s = self._clock() - message.captured_at
        captured = datetime.fromtimestamp(self._wall_clock(), UTC) - timedelta(seconds=age_s)
        since = self.dropped - self._told
        self._told = self.dropped.copy()
        return FrameItem(
            name=f"{self.name}#{self._index}",
            read=partial(frame_from_pixels, pixels, f"{self.name}#{self._index}"),
            found_at=message.captured_at,
            settled_at=message.captured_at,
            is_live=True,
            facts={
                "index": self._index,
                "captured_utc": captured.isoformat(timespec="milliseconds"),
                "dropped": dict(since),
            },
        )

    def _silence(self) -> Notice | None:
        silent_s = self._clock() - self._frame_at
        if silent_s >= (self._options.read_timeout_s if self._has_given else self._options.open_timeout_s):
            return self._lose(f"it gave no frame for {silent_s:.1f} s")
        if self.state is LiveState.RUNNING and silent_s >= self._options.stall_s:
            self.state = LiveState.STALLED
            _log.warning("source %s gives no frame any more", self.name)
        return None

    def _lose(self, reason: str) -> Notice | None:
        self._end_capture()
        now = self._clock()
        self.state = LiveState.RECONNECTING
        self.num_restarts += 1
        wait_s = self._restarts.wait_s(now, worked_s=self._frame_at - self._began_at)
        self._retry_at = now + wait_s
        _log.log(
            logging.DEBUG if self._is_lost else logging.WARNING,
            "source %s is %s (%s); opened anew in %.1f s",
            self.name,
            "lost" if self._was_seen else "not there",
            reason,
            wait_s,
        )
        if self._is_lost:
            return None
        self._is_lost = True
        sentence = f"source {self.name}: {reason}" if self._was_seen else f"source {self.name} gave no frame: {reason}"
        return Notice(event="source_lost", reason=sentence, details=self._figures())

    def _figures(self) -> dict[str, int]:
        return {"restarts": self.num_restarts, **self.dropped}

    def _end_capture(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.close()
