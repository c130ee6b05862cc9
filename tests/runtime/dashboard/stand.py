"""A real run with its live view: real engine, real records, the view's own process on a free loopback port."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import httpx
import numpy as np
import tifffile

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.dashboard.live_view import LiveView
from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.events import draft_from_event
from hffnet.runtime.field_of_view import TileSettings
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.pipeline import done_in, run_pipeline
from hffnet.runtime.record import Record
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import open_source
from hffnet.runtime.stage_times import StageTimes

PATIENCE_S = 30.0
SETTINGS = "5" * 64


def pixels(seed: int, shape: tuple[int, int] = (96, 128)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A frame that passes the gates."""
    return np.random.default_rng(seed).integers(20, 230, shape, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One server-sent event."""

    name: str
    seq: int | None
    data: Any


class Stand:
    """What a test holds: the view's client, and ``show`` to have a frame classified.

    Args:
        folder: a new one for frames and records.
        bundle: the model.
        choice: of the view; the port is always a free one.
        tiles: how large frames are cut.
        previews_per_s: see ``LiveView``; as good as every frame, because a test's come faster than any camera's.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        choice: ViewChoice | None = None,
        tiles: TileSettings | None = None,
        previews_per_s: float = 1e6,
    ) -> None:
        self.frames, self.records_path = folder / "frames", folder / "records.sqlite"
        self.frames.mkdir(parents=True, exist_ok=True)
        chosen = (choice or ViewChoice()).model_copy(update={"port": 0})
        self.view = LiveView(chosen, "frames of the test", previews_per_s=previews_per_s)
        self.classifier = Classifier.open(bundle, engine="onnxruntime", threads=1, tiles=tiles)
        self.store = RecordStore.open(self.records_path)
        self.committed = dict[str, Record]()
        self._may_tell = Event()
        self._may_tell.set()
        self._news, self._stop = Event(), Event()
        self._running = Thread(target=self._run)

    @property
    def headers(self) -> dict[str, str]:
        """Of a program that knows the token."""
        return {"Authorization": f"Bearer {self.view.token}"}

    @property
    def host(self) -> str:
        """Address and port, as in a Host header."""
        return self.view.url.removeprefix("http://").rstrip("/")

    def show(self, name: str, seed: int = 1, shape: tuple[int, int] = (96, 128), **options: Any) -> Record:
        """Put a frame where the run finds it, and wait until it is on record."""
        self.put(name, seed, shape, **options)
        return self.wait_for(name)

    def put(self, name: str, seed: int = 1, shape: tuple[int, int] = (96, 128), **options: Any) -> None:
        """Put a frame where the run finds it."""
        part = self.frames / f".{name}.part"
        tifffile.imwrite(part, pixels(seed, shape), **options)
        part.rename(self.frames / name)

    def wait_for(self, name: str) -> Record:
        """The record of a frame that was put into the folder."""
        while name not in self.committed:
            assert self._news.wait(PATIENCE_S), f"{name} was not recorded"
            self._news.clear()
        return self.committed[name]

    def heard_of(self, record: Record) -> None:
        """Wait until the view has heard of a record; its picture and evidence came before."""
        while self.client.get("/v1/state").json()["last_record_seq"] < record.seq:
            Event().wait(0.02)

    @contextmanager
    def telling_nothing(self) -> Iterator[None]:
        """Rows are committed, but the run does not get round to telling the view."""
        self._may_tell.clear()
        try:
            yield
        finally:
            self._may_tell.set()

    def end(self) -> None:
        """End the run, as a signal would."""
        self._stop.set()
        self._running.join(PATIENCE_S)

    def __enter__(self) -> Self:
        self.view.__enter__()
        self.store.append(draft_from_event("start", "started by a test"))
        self._running.start()
        self.client = httpx.Client(base_url=self.view.url, headers=self.headers, timeout=PATIENCE_S)
        for event in events(self.client, until=lambda e: e.name == "state" and e.data["readiness"] == "running"):
            del event
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.end()
        self.view.__exit__(None, None, None)
        self.classifier.close()
        self.store.close()

    def _run(self) -> None:
        is_done = done_in(self.store, bundle_sha256=self.classifier.bundle.sha256, settings_sha256=SETTINGS)
        source = open_source(f"dir:{self.frames}?poll_s=0.01&settle_s=0&patience_s=0.05", is_done=is_done)
        with self.view.attached(self.classifier, self.store, source, None, ReadingSettings()):
            run_pipeline(
                source,
                self.classifier,
                self.store,
                [],
                settings_sha256=SETTINGS,
                stop=self._stop,
                on_record=self._on_record,
                on_frame=self.view.on_frame,
            )

    def _on_record(self, record: Record, times: StageTimes) -> None:
        self._may_tell.wait(PATIENCE_S)
        self.view.on_record(record, times)
        self.committed[record.name] = record
        self._news.set()


@contextmanager
def stream(client: httpx.Client, **options: Any) -> Iterator[Iterator[SseEvent]]:
    """Follow the live events; closed at the end of the block."""
    with client.stream("GET", "/v1/events", **options) as answer:
        assert answer.status_code == 200, answer.read()
        yield parsed(answer.iter_lines())


def events(client: httpx.Client, *, until: Any, **options: Any) -> list[SseEvent]:
    """Live events up to the first that ``until`` is true for, that one included."""
    found = list[SseEvent]()
    with stream(client, **options) as coming:
        for event in coming:
            found.append(event)
            if until(event):
                return found
    raise AssertionError(f"the stream ended after {found}")


def parsed(lines: Iterator[str]) -> Iterator[SseEvent]:
    """Events of a stream's lines."""
    fields = dict[str, str]()
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "event" in fields:
            yield SseEvent(fields["event"], int(fields["id"]) if "id" in fields else None, json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}
