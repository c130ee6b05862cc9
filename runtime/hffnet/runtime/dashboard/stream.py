"""Live updates: server-sent events whose ids are record numbers, so that a client that comes back misses nothing.

No client has a queue that could grow: it has a cursor. What is new is encoded once into a ring that all share; who
fell behind the ring is served from the records file, page by page, as fast as it reads. A client that does not take
what was sent within ``STALL_S`` is cut off; it comes back with its cursor, or not.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hffnet.runtime.dashboard.documents import review_json, short_json
from hffnet.runtime.record import Json, Record
from hffnet.runtime.records_search import RecordSearch

STALL_S = 8.0
"""A client may leave what was sent unread for so long."""
ALIVE_S = 5.0
"""Something is sent at least this often."""

_RING = 1024
_PAGE = 128
_log = logging.getLogger(__name__)
Encoded = tuple[int, bytes]


def event_bytes(name: str, data: Json, seq: int | None = None) -> bytes:
    r"""One event.

    >>> event_bytes("record", {"a": 1}, 7)
    b'id: 7\nevent: record\ndata: {"a":1}\n\n'
    """
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"{f'id: {seq}' + chr(10) if seq is not None else ''}event: {name}\ndata: {text}\n\n".encode()


def encoded(records: Sequence[Record], overrides: dict[int, list[Record]]) -> list[Encoded]:
    """Each row as its event: results, people's decisions, and what happened to the service."""
    found = list[Encoded]()
    for record in records:
        match record.kind:
            case "result":
                body = event_bytes("record", short_json(record, overrides.get(record.seq, ())), record.seq)
            case "override":
                body = event_bytes("review", review_json(record), record.seq)
            case _:
                said: Json = {"seq": record.seq, "time": record.created_utc, "name": record.name}
                body = event_bytes("service", {**said, "reason": record.reason}, record.seq)  # type: ignore[dict-item]
        found.append((record.seq, body))
    return found


class Broadcast:
    """What is new, for all who follow; used on the event loop's thread."""

    def __init__(self, max_clients: int) -> None:
        self.num_clients = 0
        self.last_seq = 0
        self._max_clients = max_clients
        self._ring = deque[Encoded](maxlen=_RING)
        self._state, self._state_version = b"", 0
        self._changed = asyncio.Condition()
        self._is_over = False
        self._search: RecordSearch | None = None

    @property
    def is_full(self) -> bool:
        """Whether no further client is taken."""
        return self.num_clients >= self._max_clients

    def begin(self, search: RecordSearch, last_seq: int) -> None:
        """Follow a records file from a row on."""
        self._search, self.last_seq = search, last_seq

    @property
    def has_begun(self) -> bool:
        """Whether there is a records file to follow."""
        return self._search is not None

    async def add(self, events: Sequence[Encoded]) -> None:
        """New rows, in order."""
        async with self._changed:
            self._ring.extend(events)
            self.last_seq = events[-1][0]
            self._changed.notify_all()

    def pass_over(self, seq: int) -> None:
        """Rows up to this one while nobody follows: who comes later gets them from the records file."""
        self._ring.clear()
        self.last_seq = max(self.last_seq, seq)

    async def tell_state(self, state: dict[str, Json]) -> None:
        """A new state takes the place of the one before, told or not."""
        async with self._changed:
            self._state, self._state_version = event_bytes("state", state), self._state_version + 1
            self._changed.notify_all()

    async def end(self) -> None:
        """Let every client go."""
        async with self._changed:
            self._is_over = True
            self._changed.notify_all()

    async def follow(self, after: int | None) -> AsyncIterator[bytes]:
        """Everything after a row, for ever; None begins with what comes next."""
        told = 0
        yield b"retry: 1000\n\n"
        while not self.has_begun and not self._is_over:
            yield b": the run is starting\n\n"
            await self._wait(lambda: self.has_begun)
        cursor = self.last_seq if after is None else after
        if cursor > self.last_seq:
            yield event_bytes("reset", {"last_seq": self.last_seq})
            cursor = self.last_seq
        while not self._is_over:
            chunk = b""
            if told != self._state_version:
                chunk, told = self._state, self._state_version
            if cursor < self.last_seq:
                cursor, rows = await self._since(cursor)
                chunk += rows
            yield chunk or b": alive\n\n"
            await self._wait(lambda cursor=cursor, told=told: cursor < self.last_seq or told != self._state_version)  # type: ignore[misc]

    async def _wait(self, is_news: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(ALIVE_S), self._changed:
                await self._changed.wait_for(lambda: is_news() or self._is_over)
        except TimeoutError:
            return

    async def _since(self, cursor: int) -> tuple[int, bytes]:
        """Some rows after a cursor, and the cursor after them."""
        if self._ring and cursor >= self._ring[0][0] - 1:
            new = [(seq, body) for seq, body in self._ring if seq > cursor]
            return (new[-1][0], b"".join(body for _, body in new)) if new else (self.last_seq, b"")
        search = self._search
        assert search is not None
        found = await asyncio.to_thread(page_of_events, search, cursor, _PAGE)
        rows = [(seq, body) for seq, body in found if seq <= self.last_seq]  # later ones are told when their turn comes
        if not rows:
            return self.last_seq, b""
        gap = b""
        if rows[0][0] > cursor + 1:  # archived meanwhile: they cannot be shown, and that is said
            gap = event_bytes("gap", {"after": cursor, "first": rows[0][0]})
        return rows[-1][0], gap + b"".join(body for _, body in rows)


def page_of_events(search: RecordSearch, after: int, limit: int) -> list[Encoded]:
    """Rows after a cursor, as events."""
    records = search.after(after, limit)
    results = [record.seq for record in records if record.kind == "result"]
    return encoded(records, search.overrides(results) if results else {})


class EventStream(Response):
    """Sends events until the client goes, is cut off, or the view ends.

    Args:
        events: what to send.
        on_end: called once, whatever ended it.
    """

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._events, self._on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client."""
        sending = asyncio.ensure_future(self._send_all(scope, send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            self._on_end()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await _within(send, start)
            async for chunk in self._events:
                await _within(send, {"type": "http.response.body", "body": chunk, "more_body": True})
            await _within(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            _log.warning("a client that did not read for %.0f s was cut off", STALL_S)
            # Closing politely would wait for the very client that does not read.
            abort: Callable[[], None] | None = scope.get("state", {}).get("abort")
            if abort is not None:
                abort()


async def _within(send: Send, message: dict[str, Any]) -> None:
    async with asyncio.timeout(STALL_S):
        await send(message)


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
