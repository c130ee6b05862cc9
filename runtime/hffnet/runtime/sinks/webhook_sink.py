"""Results as signed HTTP requests: whoever shares the secret can tell that they are ours, unchanged and recent.

``X-Hffnet-Signature: sha256=<hex>`` is the HMAC-SHA256 of ``<X-Hffnet-Timestamp>.<body>``. A request that was not
answered with 2xx is sent again, so receivers recognise repeated records by their ``seq``.
"""

import hashlib
import hmac
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from hffnet.runtime.errors import ConfigError
from hffnet.runtime.record import Record
from hffnet.runtime.result import record_json

_SHORTEST_SECRET = 16
_BATCH = 64


class WebhookSink:
    """POSTs documents ``{"schema_version": 1, "records": [...]}`` to one address, in order.

    Args:
        url: http or https; redirects are not followed.
        secret: shared with the receiver.
        timeout_s: for connecting and for each read.
    """

    def __init__(self, url: str, secret: bytes, timeout_s: float = 5.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"webhook {url!r} is no http or https address")
        if len(secret) < _SHORTEST_SECRET:
            raise ConfigError(f"the webhook's secret has {len(secret)} bytes, at least {_SHORTEST_SECRET} are needed")
        self.name = f"webhook:{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path}"
        self._url, self._secret, self._timeout_s = url, secret, timeout_s
        self._opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))

    def start(self, cursor: int | None, last_seq: int) -> int:
        """A receiver that is new gets what comes from now on; one that is known gets what it missed."""
        return last_seq if cursor is None else cursor

    def deliver(self, records: Sequence[Record]) -> None:
        """Send; raises OSError where the receiver does not answer 2xx."""
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            self._post(json.dumps({"schema_version": 1, "records": [record_json(r) for r in batch]}).encode())

    def close(self) -> None:
        """Nothing stays open."""

    def _post(self, body: bytes) -> None:
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-Hffnet-Timestamp": timestamp,
            "X-Hffnet-Signature": signature_of(self._secret, timestamp, body),
        }
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - the scheme was checked
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                answer.read(1024)
        except http.client.HTTPException as error:
            raise OSError(f"{self.name} answered with something that is not HTTP ({error!r})") from error
        except urllib.error.HTTPError as error:
            error.close()
            raise OSError(f"{self.name} answered {error.code}") from error


def signature_of(secret: bytes, timestamp: str, body: bytes) -> str:
    """What ``X-Hffnet-Signature`` holds; receivers compare with ``hmac.compare_digest``."""
    return f"sha256={hmac.new(secret, timestamp.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


def secret_from_file(path: Path) -> bytes:
    """The secret, without the line's end.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"the secret in {path} cannot be read ({error.strerror})") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send signed results to an address nobody configured."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow none."""
        del req, fp, code, msg, headers, newurl
