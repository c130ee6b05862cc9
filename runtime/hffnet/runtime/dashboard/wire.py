"""Messages between the run and its live view: a JSON header, then bytes; never pickles, because one side faces the net.

A message on the socket: 4 bytes header length, 4 bytes payload length (big-endian), header, payload.
"""

import json
import socket
import struct
from asyncio import StreamReader
from dataclasses import dataclass

from hffnet.runtime.errors import HffnetError
from hffnet.runtime.record import Json

_LENGTHS = struct.Struct(">II")
_MOST_HEADER = 4 * 2**20
_MOST_PAYLOAD = 1024 * 2**20


class WireError(HffnetError):
    """The other side sent what is no message."""


@dataclass(frozen=True, slots=True)
class Message:
    """``kind`` says what ``fields`` hold."""

    kind: str
    fields: dict[str, Json]
    payload: bytes | memoryview = b""

    def int_of(self, name: str) -> int:
        """A whole number among the fields; raises WireError where there is none."""
        value = self.fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise WireError(f"a {self.kind} message has {name} = {value!r}; expected a whole number")
        return value

    def text_of(self, name: str) -> str:
        """A text among the fields; raises WireError where there is none."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise WireError(f"a {self.kind} message has {name} = {value!r}; expected a text")
        return value


def head_of(message: Message) -> bytes:
    """Everything of a message but its payload."""
    header = json.dumps({"kind": message.kind, **message.fields}).encode()
    return _LENGTHS.pack(len(header), len(message.payload)) + header


def send(link: socket.socket, message: Message) -> None:
    """Send one message whole; raises OSError (a timeout too) where the other side is gone or does not read."""
    link.sendall(head_of(message))
    if message.payload:
        link.sendall(message.payload)


def receive(link: socket.socket) -> Message | None:
    """The next message; None where the other side is gone.

    Raises:
        WireError: it is no message.
    """
    lengths = _exactly(link, _LENGTHS.size)
    if lengths is None:
        return None
    header_length, payload_length = _checked(lengths)
    header = _exactly(link, header_length)
    payload = _exactly(link, payload_length)
    return None if header is None or payload is None else _message(header, payload)


async def receive_async(reader: StreamReader) -> Message:
    """The next message; raises asyncio.IncompleteReadError where the other side is gone, WireError for no message."""
    header_length, payload_length = _checked(await reader.readexactly(_LENGTHS.size))
    header = await reader.readexactly(header_length)
    return _message(header, await reader.readexactly(payload_length))


def _checked(lengths: bytes) -> tuple[int, int]:
    header_length, payload_length = _LENGTHS.unpack(lengths)
    if header_length > _MOST_HEADER or payload_length > _MOST_PAYLOAD:
        raise WireError(f"a message of {header_length} + {payload_length} bytes was announced; that is no message")
    return header_length, payload_length


def _message(header: bytes, payload: bytes) -> Message:
    try:
        fields = json.loads(header)
        kind = fields.pop("kind")
    except (ValueError, AttributeError, KeyError) as error:
        raise WireError(f"a message of {len(header)} bytes is not JSON with a kind ({error!r})") from error
    return Message(str(kind), fields, payload)


def _exactly(link: socket.socket, num: int) -> bytes | None:
    data = bytearray(num)
    view, done = memoryview(data), 0
    while done < num:
        try:
            got = link.recv_into(view[done:])
        except OSError:
            return None
        if not got:
            return None
        done += got
    return bytes(data)
