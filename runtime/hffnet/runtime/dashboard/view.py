"""The view's own loop: hears the run, follows the records file, and tells all clients."""

import asyncio
import logging
from asyncio import StreamReader, StreamWriter
from itertools import count
from time import monotonic

from hffnet.runtime.dashboard.previews import preview_from_message
from hffnet.runtime.dashboard.session import Opened, Session
from hffnet.runtime.dashboard.shares import Shares
from hffnet.runtime.dashboard.stream import Broadcast, encoded
from hffnet.runtime.dashboard.wire import Message, WireError, head_of, receive_async
from hffnet.runtime.errors import HffnetError, RecordError
from hffnet.runtime.record import Json, Record
from hffnet.runtime.sinks.metrics_sink import Metrics

_log = logging.getLogger(__name__)
_LOOK_S = 1.0  # other programs write decisions into the records too; nobody tells of those
_COALESCE_S = 0.02
_STATE_S = 1.0
_HELD_S = 10.0  # a result waits so long for the run's word, which brings its picture; other programs' results have none
_PAGE = 256
_MOST_WAITING = 4
_ANSWER_S = 60.0


class BusyError(HffnetError):
    """More was asked of the run than it takes beside its own frames."""


class View:
    """Everything the routes ask; lives on one event loop.

    Args:
        reader, writer: the socket to the run.
        max_clients: of the live events.
    """

    def __init__(self, reader: StreamReader, writer: StreamWriter, max_clients: int) -> None:
        self.session = Session()
        self.broadcast = Broadcast(max_clients)
        self.metrics, self.shares = Metrics(), Shares()
        self._reader, self._writer = reader, writer
        self._news = asyncio.Event()
        self._held = (0, 0.0)  # the result that waits for the run's word, and since when
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._ids = count(1)

    @property
    def opened(self) -> Opened:
        """What the run has opened.

        Raises:
            NotReadyError: nothing yet.
        """
        if self.session.opened is None:
            raise NotReadyError("the run is still starting: the engine is opened and proves itself; ask again soon")
        return self.session.opened

    async def hear(self) -> None:
        """Take in what the run says until it ends."""
        try:
            while True:
                self._take(await receive_async(self._reader))
        except (asyncio.IncompleteReadError, OSError):
            if self.session.readiness != "failed":
                self.session.readiness, self.session.reason = "gone", "the run has ended"
        except WireError:
            _log.exception("the run sent what cannot be understood; the view ends")
        for future in self._asked.values():
            if not future.done():
                future.set_exception(BusyError("the run has ended"))
        await self._tell_state()
        await self.broadcast.end()

    async def follow(self) -> None:
        """Bring new rows of the records file to all clients, as they are committed."""
        state_at = 0.0
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self._bring()
            except RecordError as error:
                _log.warning("the live view waits: %s", error)
            if monotonic() - state_at >= _STATE_S:
                state_at = monotonic()
                await self._tell_state()
            await asyncio.sleep(_COALESCE_S)

    async def classify(self, data: bytes, name: str) -> Message:
        """Have the run classify a frame's bytes.

        Raises:
            NotReadyError: the run does not classify now.
            BusyError: too many wait already, or the run does not answer.
        """
        if self.session.readiness != "running":
            raise NotReadyError(f"the run is {self.session.readiness} and classifies nothing for others now")
        if len(self._asked) >= _MOST_WAITING:
            raise BusyError(f"{_MOST_WAITING} frames wait to be classified already; ask again when one is answered")
        number = next(self._ids)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            async with asyncio.timeout(_ANSWER_S):
                self._writer.write(head_of(Message("classify", {"id": number, "name": name}, data)))
                self._writer.write(data)
                await self._writer.drain()
                return await future
        except (TimeoutError, OSError) as error:
            raise BusyError("the run did not answer in time; it may be stopping") from error
        finally:
            del self._asked[number]

    def wake(self) -> None:
        """There may be new rows."""
        self._news.set()

    def _take(self, message: Message) -> None:
        session, fields = self.session, message.fields
        match message.kind:
            case "model":
                session.opened = Opened.from_fields(fields)
                # A view that was started anew counts the run's rows again, but clients know them already.
                session.last_seq = session.opened.first_seq
                self.broadcast.begin(session.opened.follower, session.opened.follower.bounds()[1])
            case "phase":
                session.readiness = fields["readiness"]  # type: ignore[assignment]
                session.source = str(fields.get("source", ""))
                session.reason = str(fields["reason"]) if fields.get("reason") else None
                self.metrics.is_holding = session.readiness == "running" and session.reason is not None
            case "figures":
                for name in ("counts", "dropped", "stages_ms"):
                    value = fields.get(name)
                    setattr(session, name, value if isinstance(value, dict) else {})
                session.source_state = str(fields.get("source_state"))
            case "preview" if session.opened:
                session.opened.previews.add(message.int_of("seq"), preview_from_message(message))
            case "committed":
                session.told_seq = max(session.told_seq, message.int_of("seq"))
            case "answer":
                future = self._asked.get(message.int_of("id"))
                if future is not None and not future.done():
                    future.set_result(message)
        self._news.set()

    async def _bring(self) -> None:
        opened = self.session.opened
        if opened is None:
            return
        while rows := self._told(await asyncio.to_thread(opened.follower.after, self.session.last_seq, _PAGE)):
            for record in rows:
                self._count(record)
            # An override of a result that is new itself comes as its own event right after it.
            if not self.broadcast.num_clients:
                self.broadcast.pass_over(rows[-1].seq)
            elif new := [row for row in rows if row.seq > self.broadcast.last_seq]:
                await self.broadcast.add(encoded(new, {}))
            self.session.last_seq = rows[-1].seq

    def _told(self, rows: list[Record]) -> list[Record]:
        """The rows before the first result that the run has not told of: who hears of one asks for its picture.

        Of events alone: ``/v1/records`` answers with what is committed.
        """
        untold = (i for i, row in enumerate(rows) if row.kind == "result" and row.seq > self.session.told_seq)
        first = next(untold, None)
        if first is None:
            return rows
        now = monotonic()
        if self._held[0] != rows[first].seq:
            self._held = rows[first].seq, now
        if now - self._held[1] < _HELD_S:
            return rows[:first]
        self.session.told_seq = self.opened.follower.bounds()[1]  # another program's: none of them is held longer
        return rows

    def _count(self, record: Record) -> None:
        if record.kind == "event":
            return
        self.metrics.add(record)
        if record.kind == "result":
            self.session.last_result_at = monotonic()
            self.shares.add(record)

    async def _tell_state(self) -> None:
        await self.broadcast.tell_state(self.state_json())

    def state_json(self) -> dict[str, Json]:
        """How the run is doing."""
        return self.session.state_json(self.broadcast.num_clients)


class NotReadyError(HffnetError):
    """The run has no model yet, or none any more."""
