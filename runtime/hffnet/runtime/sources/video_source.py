"""A video file, frame after frame, each exactly once: decoding waits for the classifier and drops nothing.

A run that goes on passes over what is done. It does not jump: where a jump lands depends on the file's index, and a
frame that is off by one would be another frame. What is passed over is decoded, not converted, copied or classified.
"""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from time import monotonic

from hffnet.runtime.errors import SourceAwayError, SourceError
from hffnet.runtime.read import frame_from_pixels
from hffnet.runtime.sources import FileStamp, FrameItem, IsDone, Item, Notice
from hffnet.runtime.sources.capture_link import Kind, Message
from hffnet.runtime.sources.capture_process import CaptureProcess
from hffnet.runtime.sources.live_options import LiveAddress

_log = logging.getLogger(__name__)
_TICK_S = 0.1


class VideoSource:
    """Frames of one file, decoded in a process of their own, because video decoders fall over damaged files.

    Raises:
        SourceError: there is no such file.
    """

    is_live = False

    def __init__(self, address: LiveAddress, uri: str, *, is_done: IsDone | None = None) -> None:
        self._path = Path(address.target).absolute()
        if not self._path.is_file():
            raise SourceAwayError(f"source {address.name}: there is no file {self._path}")
        self._stamp = FileStamp.from_stat(self._path.stat())
        self._uri, self._options, self._is_done = uri, address.options, is_done

    def items(self, stop: Event) -> Iterator[FrameItem | Notice]:
        """Every frame, or every ``every``-th, in order; a notice where there are fewer than the file announces.

        Raises:
            SourceError: the file cannot be decoded, or its decoder hangs.
        """
        capture = CaptureProcess(self._uri, on_demand=True)
        try:
            for index in count():
                path = self._path.with_name(f"{self._path.name}#{index}")
                is_wanted = index % self._options.every == 0 and not (
                    self._is_done and self._is_done(path, self._stamp)
                )
                message = self._next(capture, stop, skip=not is_wanted)
                if message is None:
                    return
                if message.kind is Kind.ENDED:
                    if message.text:
                        yield self._notice(message.text, index)
                    return
                if not is_wanted:
                    continue
                pixels = capture.take(message)
                assert pixels is not None  # nothing is written before the next request
                now = monotonic()
                yield FrameItem(
                    name=path.name,
                    path=path,
                    stamp=self._stamp,
                    read=partial(frame_from_pixels, pixels, path.name),
                    found_at=now,
                    settled_at=now,
                )
        finally:
            capture.close()

    def retry(self, item: Item) -> bool:
        """What could not be read stays so."""
        del item
        return False

    def _notice(self, text: str, num_read: int) -> Notice:
        """The end of a file that announces more; decoders step over damage, so this may be all that tells of it."""
        sentence = f"video {self._path} {text}"
        _log.warning("%s", sentence)
        return Notice(event="source_lost", reason=sentence, details={"frames": num_read})

    def _next(self, capture: CaptureProcess, stop: Event, *, skip: bool) -> Message | None:
        capture.request(skip=skip)
        asked_at = monotonic()
        while not stop.is_set():
            for message in capture.receive(_TICK_S):
                match message.kind:
                    case Kind.FRAME | Kind.SKIPPED | Kind.ENDED:
                        return message
                    case Kind.FAILED:
                        raise SourceError(f"video {self._path}: {message.text}")
            if monotonic() - asked_at > self._options.open_timeout_s:
                raise SourceError(f"video {self._path}: its decoder gave no frame for {self._options.open_timeout_s} s")
        return None
