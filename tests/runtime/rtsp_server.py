"""A network camera for tests: RTSP (RFC 2326) over TCP with JPEG pictures in RTP (RFC 2435), on the loopback."""

import re
import select
import socket
import struct
from collections.abc import Sequence
from threading import Event, Thread
from time import monotonic
from typing import Self

import cv2
import numpy as np

HEIGHT, WIDTH = 96, 128
_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\n"
    "a=control:trackID=0\r\n"
)
_PUBLIC = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
_FRAGMENT = 1400


def picture(number: int) -> np.ndarray:
    """Frame ``number``: every pixel is 20 + 5·number, in grey."""
    return np.full((HEIGHT, WIDTH, 3), 20 + 5 * (number % 40), np.uint8)


def jpeg_of(picture_HW3: np.ndarray) -> bytes:
    """As a camera sends it: 4:2:0."""
    _, data = cv2.imencode(".jpg", picture_HW3)
    return bytes(data.tobytes())


def packets(jpeg: bytes, shape: tuple[int, int], timestamp: int, sequence: int) -> list[bytes]:
    """RTP packets of one frame."""
    tables = b"".join(match.group(1) for match in re.finditer(rb"\xff\xdb\x00\x43[\x00\x01](.{64})", jpeg, re.DOTALL))
    start = jpeg.index(b"\xff\xda")
    scan = jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") : -2]
    found = []
    for at in range(0, len(scan), _FRAGMENT):
        part, is_last = scan[at : at + _FRAGMENT], at + _FRAGMENT >= len(scan)
        stamp = timestamp % 2**32
        rtp = struct.pack(">BBHII", 0x80, 26 | (0x80 if is_last else 0), sequence % 65536, stamp, 1)
        header = struct.pack(">I4B", at, 1, 255, shape[1] // 8, shape[0] // 8)  # type 1: 4:2:0
        quantization = struct.pack(">BBH", 0, 0, len(tables)) + tables if at == 0 else b""
        found.append(rtp + header + quantization + part)
        sequence += 1
    return found


class RtspServer:
    """Serves one client at a time until closed; a context manager.

    Args:
        port: 0 takes a free one.
        pictures: (H, W, 3) uint8, shown in turn; sides are multiples of 8.
        per_s: frames a second, each due at its time whatever the one before it took.

    Attributes:
        num_sent: frames, to all clients.
    """

    def __init__(self, port: int = 0, *, pictures: Sequence[np.ndarray] = (), per_s: float = 25.0) -> None:
        shown = pictures or [picture(number) for number in range(40)]
        self._shape = (int(shown[0].shape[0]), int(shown[0].shape[1]))
        self._jpegs, self._period_s = [jpeg_of(one) for one in shown], 1 / per_s
        self.num_sent = 0
        self._stop = Event()
        self._listening = socket.create_server(("127.0.0.1", port))
        self._listening.settimeout(0.1)
        self.port = int(self._listening.getsockname()[1])
        self._thread = Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listening.accept()
            except TimeoutError:
                continue
            with client:
                try:
                    self._serve(client)
                except OSError:  # the client went away
                    continue

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(5.0)
        began, number, sequence, pending = float("inf"), 0, 0, b""
        while not self._stop.is_set():
            wait_s = min(max(began + number * self._period_s - monotonic(), 0.0), 0.1)
            if select.select([client], [], [], wait_s)[0]:
                data = client.recv(4096)
                if not data:
                    return
                pending += data
            while b"\r\n\r\n" in pending:
                request, _, pending = pending.partition(b"\r\n\r\n")
                if self._answer(client, request.decode("latin-1")):
                    began = monotonic()
            if monotonic() >= began + number * self._period_s:
                jpeg, timestamp = self._jpegs[number % len(self._jpegs)], round(number * self._period_s * 90_000)
                sent = packets(jpeg, self._shape, timestamp, sequence)
                client.sendall(b"".join(struct.pack(">cBH", b"$", 0, len(packet)) + packet for packet in sent))
                number, sequence, self.num_sent = number + 1, sequence + len(sent), self.num_sent + 1

    def _answer(self, client: socket.socket, request: str) -> bool:
        """Answer one request; whether it was PLAY."""
        method = re.findall(r"(OPTIONS|DESCRIBE|SETUP|PLAY|TEARDOWN|GET_PARAMETER) rtsp", request)[-1]
        number = re.findall(r"CSeq: (\d+)", request)[0]
        extra, body = "Session: 1", ""
        if method == "OPTIONS":
            extra = _PUBLIC
        elif method == "DESCRIBE":
            body = _SDP
            extra = f"Content-Base: rtsp://127.0.0.1:{self.port}/live/\r\nContent-Type: application/sdp\r\n"
            extra += f"Content-Length: {len(body)}"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1"
        client.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{extra}\r\n\r\n{body}".encode())
        return str(method) == "PLAY"
