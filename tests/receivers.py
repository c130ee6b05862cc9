"""Who gets results: a web server and an MQTT broker with a subscriber, real ones on this machine."""

import json
import shutil
import socket
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Condition, Event, Thread
from time import monotonic
from typing import Any

import pytest

SECRET = b"a secret of some length"


class Receiver:
    """A web server that answers as told and keeps what it got; on a port of its own, or on one that was free."""

    def __init__(self, port: int = 0) -> None:
        self.codes = list[int]()
        self.got = list[tuple[str, str, bytes]]()
        self.has_all = Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    return  # the sender was killed in mid-request
                code = receiver.codes.pop(0) if receiver.codes else 204
                if code == 204:
                    receiver.got.append((self.headers["X-Hffnet-Timestamp"], self.headers["X-Hffnet-Signature"], body))
                    receiver.has_all.set()
                self.send_response(code)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = Thread(target=self.server.serve_forever)
        self.thread.start()

    def seqs(self) -> list[int]:
        return [record["seq"] for _, _, body in self.got for record in json.loads(body)["records"]]

    def wait_for(self, seqs: set[int], timeout_s: float) -> None:
        """Until every one came at least once."""
        end = monotonic() + timeout_s
        while not seqs <= set(self.seqs()):
            assert monotonic() < end, seqs - set(self.seqs())
            self.has_all.clear()
            self.has_all.wait(0.2)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """Debian's mosquitto, and a subscriber that keeps the session while the broker is away."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.file = folder / "mosquitto.conf"
        # What waits for a subscriber that keeps its session survives a stop.
        keep = f"persistence true\npersistence_location {folder}/\nuser root\n"
        self.file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n{keep}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["mosquitto", "-c", str(self.file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = monotonic() + 10
        while monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            Event().wait(0.01)
        pytest.fail("mosquitto does not answer")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


def subscribed(broker: Broker, num: int, got: list[int]) -> tuple[Event, object]:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    ready, done = Event(), Event()
    client = Client(CallbackAPIVersion.VERSION2)

    def on_message(_client: object, _data: object, message: object) -> None:
        got.append(json.loads(message.payload)["seq"])  # type: ignore[attr-defined]
        if len(set(got)) >= num:
            done.set()

    client.on_message = on_message
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", broker.port)
    client.subscribe("hffnet/results", qos=1)
    client.loop_start()
    assert ready.wait(10)
    return done, client


class Watcher:
    """A subscriber with a session that the broker keeps: misses nothing while either of them is away."""

    def __init__(self, broker: Broker) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.names = list[str]()
        self._changed, ready = Condition(), Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="watcher", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.subscribe("hffnet/results", qos=1)
        self._client.loop_start()
        assert ready.wait(10)

    def _take(self, _client: object, _data: object, message: Any) -> None:
        with self._changed:
            self.names.append(json.loads(message.payload)["name"])
            self._changed.notify()

    def wait_for(self, names: set[str], timeout_s: float) -> None:
        """Until every one came at least once."""
        with self._changed:
            assert self._changed.wait_for(lambda: names <= set(self.names), timeout_s), names - set(self.names)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def need_broker() -> None:
    """Skip where there is no broker or no client."""
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed: apt install mosquitto")
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'hffnet[mqtt]'")
