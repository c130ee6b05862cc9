"""The live view's process: ``python -m hffnet.runtime.dashboard.server FD``, started by the run and ended with it."""

import asyncio
import errno
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from hffnet.runtime.dashboard.access import Keys
from hffnet.runtime.dashboard.app import build_app
from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.dashboard.view import View
from hffnet.runtime.dashboard.wire import Message, head_of, receive, send

_log = logging.getLogger(__name__)
_HEAD_S = 10.0
_KEEP_S = 30
_MOST_CONNECTIONS = 256
_BACKLOG = 64
_SEND_BUFFER = 64 * 2**10  # so that a client that does not read is noticed, and not first given megabytes
_NICE = 10  # classification goes first
_STOP_S = 1


class Protocol(H11Protocol):
    """HTTP/1.1 with a limit on how long a request's head may take, and a way to cut a connection off."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Bytes came; the clock runs from the first byte of a head to its end."""
        if self._is_idle():
            self._await_head()
        super().data_received(data)
        if not self._is_idle():
            self._forget_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._forget_head()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_S, self.transport.abort)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Server(uvicorn.Server):
    """Leaves signals alone: what ends it is the end of the run."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


def serve(link: socket.socket) -> None:
    """Serve until the run ends.

    Args:
        link: the socket to the run; its first message says where to listen and holds the token.
    """
    hello = receive(link)
    if hello is None:
        return
    choice = ViewChoice.model_validate_json(hello.text_of("settings"))
    try:
        listening = _listening(choice.host, hello.int_of("port"))
        tls = _tls(choice)
    except OSError as error:
        send(link, Message("refused", {"sentence": _why(error, choice)}))
        return
    asyncio.run(_serve(link, listening, choice, hello.text_of("token"), tls))


def _why(error: OSError, choice: ViewChoice) -> str:
    if isinstance(error, ssl.SSLError) or error.errno == errno.ENOENT:
        return f"{choice.tls_cert} and {choice.tls_key} cannot be used for TLS ({error}); expected PEM files"
    return f"{choice.host} port {choice.port} cannot be listened on ({error.strerror}); give another --port or --host"


def _tls(choice: ViewChoice) -> ssl.SSLContext | None:
    if choice.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(choice.tls_cert, choice.tls_key, password=_no_password)
    return context


def _no_password() -> str:
    raise OSError(errno.ENOENT, "the key asks for a password, which a service cannot type")


def _listening(host: str, port: int) -> socket.socket:
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol unnamed asyncio leaves Nagle's delay on, and each answer waits 40 ms for an acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    listening.bind((address, port))
    listening.listen(_BACKLOG)
    return listening


def _config(app: ASGIApp, choice: ViewChoice, tls: ssl.SSLContext | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=choice.behind_proxy,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_S,
        timeout_graceful_shutdown=_STOP_S,
    )
    config.load()
    config.ssl = tls
    return config


async def _serve(
    link: socket.socket, listening: socket.socket, choice: ViewChoice, token: str, tls: ssl.SSLContext | None
) -> None:
    link.setblocking(False)  # noqa: FBT003
    reader, writer = await asyncio.open_connection(sock=link)
    view = View(reader, writer, choice.max_clients)
    server = Server(_config(build_app(view, Keys(token), choice), choice, tls))
    following = asyncio.create_task(view.follow())
    serving = asyncio.create_task(server.serve([listening]))
    writer.write(head_of(Message("bound", {"port": listening.getsockname()[1]})))
    hearing = asyncio.create_task(view.hear())
    done, _ = await asyncio.wait((hearing, following, serving), return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()  # a defect ends this process, and the run starts it anew
    server.should_exit = True
    following.cancel()
    await serving


def main() -> None:
    """Entry point of the process."""
    logging.basicConfig(level=logging.WARNING, format="hffnet: live view: %(message)s", stream=sys.stderr)
    # Ctrl-C goes to the whole group of the terminal; when to end is the run's decision.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    import cv2

    cv2.setNumThreads(1)
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve(link)


if __name__ == "__main__":
    main()
