"""Clients of a live view, as a process of their own: ``python -m tests.bench.view_clients URL TOKEN NUM [--frames]``.

Each follows the events; with ``--frames`` it also fetches the picture of every record, as the page does. When stdin is
closed the process prints one JSON document: for every client, record number to monotonic seconds of arrival.
"""

import asyncio
import json
import sys
from time import monotonic
from urllib.parse import urlsplit

_WIDTH, _PAUSE_S = 640, 0.1


async def main() -> None:
    """Follow until stdin is closed."""
    url, token, num = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with_frames = "--frames" in sys.argv
    arrivals: list[dict[int, float]] = [{} for _ in range(num)]
    followers = [asyncio.create_task(follow(url, token, seen, with_frames=with_frames)) for seen in arrivals]
    print("following", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in followers:
        task.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    json.dump(arrivals, sys.stdout)


async def follow(url: str, token: str, seen: dict[int, float], *, with_frames: bool) -> None:
    """One client."""
    reader, writer = await connected(url)
    writer.write(request(url, token, "/v1/events"))
    pictures = Pictures(url, token) if with_frames else None
    async for line in reader:
        if line.startswith(b"id: "):
            seq = int(line[4:])
            seen[seq] = monotonic()
            if pictures is not None:
                await pictures.want(seq)


class Pictures:
    """Fetches one picture at a time on a connection of its own; who is asked meanwhile is the newest."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._newest: int | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def want(self, seq: int) -> None:
        """Fetch this picture as soon as the one before is there."""
        self._newest = seq
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        while (seq := self._newest) is not None:
            self._newest = None
            self._link = self._link or await connected(self._url)
            reader, writer = self._link
            writer.write(request(self._url, self._token, f"/v1/frames/{seq}.png?width={_WIDTH}"))
            length, status = 0, await reader.readline()
            while (line := await reader.readline()).strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            await reader.readexactly(length)
            if b" 200 " not in status:  # too many requests: the view has closed this connection
                writer.close()
                self._link = None
                await asyncio.sleep(_PAUSE_S)


async def connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the view."""
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)


def request(url: str, token: str, path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


if __name__ == "__main__":
    asyncio.run(main())
