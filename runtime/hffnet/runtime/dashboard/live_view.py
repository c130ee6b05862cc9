"""The run's side of the live view: starts its process, hands over what it shows, never waits for it.

What is not taken in time is replaced by what is newer; a process that hangs or dies is started anew, at most five
times a minute. Whatever happens here, classification goes on.
"""

import logging
import os
import socket
import struct
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Condition, Lock, Thread
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hffnet.runtime.dashboard.settings import ViewChoice, token_from_choice
from hffnet.runtime.dashboard.wire import Message, WireError, receive, send
from hffnet.runtime.errors import ConfigError, HffnetError, MissingExtraError
from hffnet.runtime.installed import hffnet_version
from hffnet.runtime.record import Json, Record, plain, text_from_name
from hffnet.runtime.sources.restarts import Restarts
from hffnet.runtime.stage_times import StageTimes

if TYPE_CHECKING:
    from hffnet.runtime.classifier import Classifier, Prediction
    from hffnet.runtime.dashboard.uploads import UploadDecoder
    from hffnet.runtime.frame import Frame
    from hffnet.runtime.infobar import BarSetting
    from hffnet.runtime.limits import ReadingSettings
    from hffnet.runtime.records import RecordStore
    from hffnet.runtime.sources import Source

_log = logging.getLogger(__name__)
_COMMAND = (sys.executable, "-m", "hffnet.runtime.dashboard.server")
_START_S = 60.0
_SEND_S = 5.0
_END_S = 1.0
_FIGURES_S = 1.0
_WAITING_FOR_COMMIT, _WAITING_TO_BE_SENT = 4, 3
_NEEDED = ("fastapi", "uvicorn")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A frame that was decided on; references, nothing is copied on the thread that classifies."""

    frame: "Frame"
    prediction: "Prediction"


class LiveView:
    """A live view of one run; a context manager around it.

    Args:
        choice: where and for whom it listens.
        source: name of where frames come from, without secrets.
        command: what is run, before its own argument.
        previews_per_s: of so many frames a second the view gets the picture and all evidence; of the others it has what
            is in the record and the file.

    Raises:
        MissingExtraError: the extra ``dashboard`` is not installed.
        ConfigError: the token file is unfit.
    """

    def __init__(
        self, choice: ViewChoice, source: str, command: tuple[str, ...] = _COMMAND, previews_per_s: float = 15.0
    ) -> None:
        if missing := [name for name in _NEEDED if find_spec(name) is None]:
            raise MissingExtraError(f"the live view needs {', '.join(missing)}: pip install 'hffnet[dashboard]'")
        self._choice, self._source_name, self._command = choice, source, command
        self._token = token_from_choice(choice)
        self._port = choice.port
        self._restarts = Restarts(lambda: 0.5)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._changed = Condition()
        self._standing = dict[str, Message]()  # what a process that was started anew must hear again
        self._news = OrderedDict[str, Message]()  # by kind: the newest takes the place of the one before
        self._previews = deque[tuple[int, _Seen]](maxlen=_WAITING_TO_BE_SENT)
        self._answers = deque[Message]()  # bounded by the view's process, which has few questions open at a time
        self._seen = OrderedDict[tuple[str, str | None], _Seen]()
        self._preview_gap_s, self._next_preview_at = 1 / previews_per_s, 0.0
        self._figures_at = -_FIGURES_S
        self._counts, self._dropped = dict[str, int](), dict[str, int]()
        self._source: Source | None = None
        self._times: StageTimes | None = None
        self._is_over = False
        self._classifying = Lock()
        self._is_ending = False
        self._classifier: Classifier | None = None
        self._bar: BarSetting | None = None
        self._decode: UploadDecoder | None = None

    @property
    def url(self) -> str:
        """Where it is, without the token."""
        scheme = "https" if self._choice.tls_cert else "http"
        host = self._choice.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._port}/"

    @property
    def login_url(self) -> str:
        """What a person opens once; without the token where that stands in a file."""
        return self.url if self._choice.token_file else f"{self.url}login?token={self._token}"

    @property
    def token(self) -> str:
        """What programs send as ``Authorization: Bearer``."""
        return self._token

    @property
    def pid(self) -> int | None:
        """The process, where it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def __enter__(self) -> Self:
        """Start it; raises ConfigError where it cannot listen."""
        self._start()
        Thread(target=self._serve, name="view", daemon=True).start()
        self._tell("phase", {"readiness": "starting", "reason": None, "source": self._source_name})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and isinstance(error, Exception):
            self._tell("phase", {"readiness": "failed", "reason": str(error)[:1000]})
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            # What is left to be said is said by the thread; a process that does not hear it is ended all the same.
            self._changed.wait_for(lambda: not self._news or self._link is None, _END_S)
        self._end_process()

    @contextmanager
    def attached(
        self,
        classifier: "Classifier",
        store: "RecordStore",
        source: "Source",
        bar: "BarSetting | None",
        reading: "ReadingSettings",
    ) -> Iterator[None]:
        """The run has begun: show its records, and classify with its engine for others, until the block ends."""
        from hffnet.runtime.dashboard.uploads import UploadDecoder

        self._source, self._is_ending = source, False
        self._tell(
            "model",
            {
                **_model_fields(classifier, store, source, self._source_name),
                "reading": reading.model_dump_json(),
            },
        )
        self._tell("phase", {"readiness": "running", "reason": None, "source": self._source_name})
        decode = UploadDecoder(reading, lambda: self._classifier is None)
        with self._classifying:
            self._classifier, self._bar, self._decode = classifier, bar, decode
        try:
            yield
        finally:
            self._tell("phase", {"readiness": "stopping", "reason": None, "source": self._source_name})
            self._is_ending = True
            with self._classifying:
                self._classifier = self._decode = None
            decode.close()

    def on_frame(self, name: str, frame: "Frame", prediction: "Prediction") -> None:
        """A frame was decided on; called on the thread that classifies, returns at once."""
        now = monotonic()
        if now < self._next_preview_at:
            return
        self._next_preview_at = max(self._next_preview_at + self._preview_gap_s, now - self._preview_gap_s)
        with self._changed:
            self._seen[text_from_name(name), frame.sha256] = _Seen(frame, prediction)
            while len(self._seen) > _WAITING_FOR_COMMIT:
                self._seen.popitem(last=False)

    def on_hold(self, sentence: str | None) -> None:
        """Records cannot be written now, with the reason; None: they can again. Returns at once."""
        self._tell("phase", {"readiness": "running", "reason": sentence, "source": self._source_name})

    def on_record(self, record: Record, times: StageTimes) -> None:
        """A row was committed; called on the recorder's thread, returns at once."""
        self._count(record)
        self._times = times
        with self._changed:
            seen = self._seen.pop((record.name, record.input_sha256), None)
            if seen is not None:
                self._previews.append((record.seq, seen))
            self._standing["committed"] = self._news["committed"] = Message("committed", {"seq": record.seq})
            self._changed.notify_all()

    def _count(self, record: Record) -> None:
        if record.kind != "result":
            return
        status = str(record.status)
        self._counts[status] = self._counts.get(status, 0) + 1
        live = (record.details or {}).get("live")
        dropped = live.get("dropped") if isinstance(live, Mapping) else None
        for reason, num in dropped.items() if isinstance(dropped, Mapping) else ():
            self._dropped[reason] = self._dropped.get(reason, 0) + int(str(num))

    def _figures(self) -> Message | None:
        """How the run is doing, at most once a second and only where it is news; on the view's own thread.

        A source that gives nothing makes no records, so its state is asked for.
        """
        if monotonic() - self._figures_at < _FIGURES_S:
            return None
        self._figures_at = monotonic()
        state = getattr(self._source, "state", "running" if self._source else "starting")
        stages = plain(self._times.figures()) if self._times else {}
        fields: dict[str, Json] = {"counts": dict(self._counts), "dropped": dict(self._dropped), "stages_ms": stages}
        message = Message("figures", {**fields, "source_state": str(getattr(state, "value", state))})
        known = self._standing.get("figures")
        self._standing["figures"] = message
        return None if known == message else message

    def _tell(self, kind: str, fields: dict[str, Json]) -> None:
        message = Message(kind, fields)
        with self._changed:
            self._standing[kind] = self._news[kind] = message
            self._changed.notify_all()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*self._command, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            theirs.close()
        ours.settimeout(_START_S)
        hello: dict[str, Json] = {"settings": self._choice.model_dump_json(), "port": self._port, "token": self._token}
        try:
            send(ours, Message("hello", hello))
            answer = receive(ours)
        except OSError:
            answer = None
        if answer is None or answer.kind != "bound":
            ours.close()
            self._process.kill()
            self._process.wait()
            sentence = answer.text_of("sentence") if answer else "its process ended before it listened"
            raise ConfigError(f"the live view cannot start: {sentence}")
        self._port = answer.int_of("port")
        ours.settimeout(None)
        # Of sending alone: Python's own timeout would end the thread that waits for questions, too.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_SEND_S), int(_SEND_S % 1 * 1e6)))
        self._link = ours
        self._restarts.started(monotonic())
        Thread(target=self._answer, args=(ours,), name="view answers", daemon=True).start()

    def _serve(self) -> None:
        """Send what there is, and start the process anew where it is gone."""
        began = monotonic()
        while True:
            link = self._link
            if link is None:
                if self._is_over or not self._start_again(monotonic() - began):
                    return
                began = monotonic()
                continue
            try:
                while (messages := self._next_messages()) is not None:
                    for message in messages:
                        send(link, message)
            except OSError as error:
                if self._is_over:
                    return
                _log.warning("the live view does not listen any more (%s); it is started anew", error)
            else:
                return
            with self._changed:
                self._link = None
                self._answers.clear()  # the next process numbers its questions from 1 again
                self._changed.notify_all()
            link.close()
            self._end_process()

    def _start_again(self, worked_s: float) -> bool:
        wait_s = self._restarts.wait_s(monotonic(), worked_s)
        with self._changed:
            if self._changed.wait_for(lambda: self._is_over, wait_s):
                return False
        try:
            self._start()
        except HffnetError as error:
            _log.warning("%s; it is tried again", error)
            self._restarts.started(monotonic())
            return True
        with self._changed:
            self._news = OrderedDict(self._standing)
        return True

    def _next_messages(self) -> list[Message] | None:
        """Wait for what is to be sent; None where the run is over and all is said."""
        with self._changed:
            while not (self._news or self._previews or self._answers):
                if self._is_over:
                    return None
                self._changed.wait(_FIGURES_S)
                if self._link is None:
                    raise ConnectionResetError("its process ended")
                if (figures := self._figures()) is not None:
                    self._news["figures"] = figures
            messages = [*self._news.values()]
            previews, answers = list(self._previews), list(self._answers)
            self._previews.clear()
            self._answers.clear()
        # The preview goes first: who hears of the record asks for its picture.
        messages = [*answers, *(_preview(seq, seen) for seq, seen in previews), *messages]
        if "figures" not in {message.kind for message in messages} and (figures := self._figures()) is not None:
            messages.append(figures)
        with self._changed:
            for message in messages:
                if self._news.get(message.kind) is message:
                    del self._news[message.kind]
            self._changed.notify_all()
        return messages

    def _answer(self, link: socket.socket) -> None:
        """Hear what the view asks for until its process is gone."""
        try:
            while (message := receive(link)) is not None:
                if message.kind == "classify":
                    answer = self._classified(message)
                    with self._changed:
                        if self._link is link:
                            self._answers.append(answer)
                        self._changed.notify_all()
        except WireError as error:
            _log.warning("the live view's process is not understood (%s); it is ended", error)
        with self._changed:
            if self._link is link:
                self._link = None
                self._changed.notify_all()

    def _classified(self, message: Message) -> Message:
        from hffnet.runtime.classifier import GivenUpError
        from hffnet.runtime.errors import EngineError, ReaderError

        number = message.int_of("id")
        try:
            return self._answer_to(message, number)
        except GivenUpError:
            return _refused(number, 503, "the run is stopping and classifies nothing more")
        except EngineError as error:
            return _refused(number, 500, str(error))
        except ReaderError as error:
            return _refused(number, 503, str(error))
        except HffnetError as error:
            return _refused(number, 422, str(error))
        except Exception as error:  # noqa: BLE001 - a poisoned frame must not end the view
            _log.exception("classifying a frame that was sent ran into a defect")
            return _refused(number, 500, f"classifying it ran into a defect: {type(error).__name__}")

    def _answer_to(self, message: Message, number: int) -> Message:
        from hffnet.runtime.classifier import GivenUpError

        if (decode := self._decode) is None:
            raise GivenUpError
        frame = decode(bytes(message.payload), message.text_of("name"), self._bar)
        with self._classifying:
            if self._classifier is None:
                raise GivenUpError
            return _answer_of(number, frame, self._classifier, self._pulse)

    def _pulse(self) -> None:
        """Gives up a large frame of somebody else's when the run ends, which would wait for it."""
        if self._is_ending:
            from hffnet.runtime.classifier import GivenUpError

            raise GivenUpError

    def _end_process(self) -> None:
        link, process = self._link, self._process
        self._link = None
        if link is not None:
            # Its reader thread sleeps in recv; a shutdown wakes it, a close alone would not.
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        if process is None:
            return
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _preview(seq: int, seen: _Seen) -> Message:
    from hffnet.runtime.dashboard.previews import preview_message

    return preview_message(seq, seen.frame.picture, seen.prediction.evidence)


def _refused(number: int, status: int, sentence: str) -> Message:
    return Message("answer", {"id": number, "status": status, "document": {"error": sentence}})


def _answer_of(number: int, frame: "Frame", classifier: "Classifier", pulse: Callable[[], None]) -> Message:
    import numpy as np

    from hffnet.runtime.result import prediction_json

    prediction = classifier.classify_frame(frame, pulse=pulse)
    bundle = classifier.bundle
    document = prediction_json(prediction, bundle.manifest.taxonomy, bundle.sha256)
    maps = prediction.evidence
    fields: dict[str, Json] = {"id": number, "status": 200, "document": document}
    if maps is None:
        return Message("answer", {**fields, "evidence": None})
    return Message("answer", {**fields, "evidence": list(maps.shape)}, np.ascontiguousarray(maps, np.float32).tobytes())


def _model_fields(
    classifier: "Classifier", store: "RecordStore", source: "Source", source_name: str
) -> dict[str, Json]:
    from datetime import UTC, datetime

    manifest, taxonomy = classifier.bundle.manifest, classifier.bundle.manifest.taxonomy
    archived = store.archived()
    levels: list[Json] = []
    for i, level in enumerate(taxonomy.levels):
        parents = [taxonomy.levels[i - 1].classes[k] for k in level.parents] if i else [None] * len(level.classes)
        classes = [{"name": name, "parent": parent} for name, parent in zip(level.classes, parents, strict=True)]
        levels.append({"name": level.name, "classes": classes})
    model: dict[str, Json] = {
        "schema_version": 1,
        "bundle": {"name": manifest.name, "sha256": classifier.bundle.sha256},
        "engine": plain(classifier.engine),
        "precision": classifier.engine.precision,
        "levels": levels,
        "min_confidence": manifest.decode.min_confidence,
        "trained_um": list(manifest.pixel_size_um) if manifest.pixel_size_um else None,
        "source": source_name,
        "is_live": source.is_live,
        "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "hffnet_version": hffnet_version(),
        "records_id": (archived.last_hash if archived.last_seq or not store.last_seq() else store.get(1).hash)[:16],
    }
    tiles = classifier.tiles
    return {
        "model": model,
        "taxonomy": taxonomy.model_dump_json(),
        "decode": manifest.decode.model_dump_json(),
        "tile_overlap": tiles.overlap if tiles else None,
        "records": str(store.path.absolute()),
        "first_seq": store.last_seq(),
    }
