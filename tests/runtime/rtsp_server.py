"""A network camera for tests: RTSP (RFC 2326) over TCP with JPEG pictures in RTP (RFC 2435), on the loopback."""

import re
import socket
import struct
from threading import Event, Thread
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


def packets(number: int, sequence: int) -> list[bytes]:
    """RTP packets of one frame."""
    _, data = cv2.imencode(".jpg", picture(number))
    jpeg = data.tobytes()
    tables = b"".join(match.group(1) for match in re.finditer(rb"\xff\xdb\x00\x43[\x00\x01](.{64})", jpeg, re.DOTALL))
    start = jpeg.index(b"\xff\xda")
    scan = jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") : -2]
    found = []
    for at in range(0, len(scan), _FRAGMENT):
        part, is_last = scan[at : at + _FRAGMENT], at + _FRAGMENT >= len(scan)
        rtp = struct.pack(">BBHII", 0x80, 26 | (0x80 if is_last else 0), sequence % 65536, number * 3600, 1)
        header = struct.pack(">I4B", at, 1, 255, WIDTH // 8, HEIGHT // 8)  # type 1: 4:2:0
        quantization = struct.pack(">BBH", 0, 0, len(tables)) + tables if at == 0 else b""
        found.append(rtp + header + quantization + part)
        sequence += 1
    return found


class RtspServer:
    """Serves one client at a time, 25 frames a second, until closed; a context manager."""

    def __init__(self, port: int = 0) -> None:
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
        client.settimeout(0.02)
        is_playing, number, sequence, pending = False, 0, 0, b""
        while not self._stop.wait(0.04 if is_playing else 0.0):
            try:
                data = client.recv(4096)
                if not data:
                    return
                pending += data
            except TimeoutError:
                pass
            while b"\r\n\r\n" in pending:
                request, _, pending = pending.partition(b"\r\n\r\n")
                is_playing = self._answer(client, request.decode("latin-1")) or is_playing
            if is_playing:
                for packet in packets(number, sequence):
                    client.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                    sequence += 1
                number += 1

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
