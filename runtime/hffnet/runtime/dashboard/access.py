"""Who may ask what: checked before any route, so that no route can forget it.

Loopback is no protection by itself: a page of the net can make the browser ask 127.0.0.1 (DNS rebinding, cross-site
requests). So ``Host`` must be a name this view knows, ``Origin`` must be itself, everything but the signs of life
needs the token, and a write that rides on the cookie needs a second secret that another site cannot read.
"""

import hashlib
import hmac
import ipaddress
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie
from time import monotonic
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OPEN = frozenset({"/healthz", "/readyz", "/login"})
_READS = frozenset({"GET", "HEAD"})
_PEERS = 1024
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_CSP = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_SAFETY = (
    (b"content-security-policy", _CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
CSRF_HEADER = "x-hffnet-csrf"


class Refusal(Exception):  # noqa: N818 - not an error of ours
    """An answer instead of the one asked for."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Keys:
    """The token, and the two secrets that are made of it: what the cookie holds and what a page must show to write."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self.cookie = self._derived("cookie")
        self.csrf = self._derived("csrf")

    def is_token(self, given: str) -> bool:
        """Whether it is the token, compared in constant time."""
        return hmac.compare_digest(given.encode(), self._token)

    def is_cookie(self, given: str) -> bool:
        """Whether a cookie was made from the token."""
        return hmac.compare_digest(given.encode(), self.cookie.encode())

    def is_csrf(self, given: str) -> bool:
        """Whether a page has read its secret here."""
        return hmac.compare_digest(given.encode(), self.csrf.encode())

    def _derived(self, use: str) -> str:
        return hmac.new(self._token, f"hffnet view {use}".encode(), hashlib.sha256).hexdigest()


class Rate:
    """A bucket of requests that fills steadily.

    Args:
        per_s: how fast it fills.
        most: how much it holds.
        clock: monotonic seconds.
    """

    __slots__ = ("_at", "_clock", "_left", "_most", "_per_s")

    def __init__(self, per_s: float, most: float, clock: Callable[[], float] = monotonic) -> None:
        self._per_s, self._most, self._clock = per_s, most, clock
        self._left, self._at = most, clock()

    def takes(self) -> bool:
        """Take one; False where none is left."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self._per_s, self._most)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Access:
    """The guard around the application.

    Args:
        app: what it guards.
        keys: the token's secrets.
        hosts: names this view is reached by, without port.
        is_secure: whether cookies may travel over TLS alone.
    """

    def __init__(self, app: ASGIApp, keys: Keys, hosts: Sequence[str], *, is_secure: bool) -> None:
        self._app, self._keys, self._is_secure = app, keys, is_secure
        self._hosts = frozenset(host.lower().strip("[]") for host in (*_LOCAL_NAMES, *hosts))
        self._rates = OrderedDict[str, Rate]()
        self._wrong_tokens = Rate(0.5, 10)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message["headers"]}
                extra = [(b"cache-control", b"no-store")] if b"cache-control" not in named else []
                message = {**message, "headers": [*message["headers"], *_SAFETY, *extra]}
            await send(message)

        try:
            self._check(scope)
        except Refusal as refusal:
            await _answer(send_safely, refusal.status, refusal.sentence)
            return
        if scope["path"] == "/login":
            await self._login(scope, send_safely)
            return
        await self._app(scope, receive, send_safely)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_rate(scope)
        host = self._checked_host(scope, headers)
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host:
            raise Refusal(403, "this page of another site may not ask the live view")
        # Another port of this machine is the same site: its pages' pictures and frames would bring the cookie along.
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and scope["path"] not in {"/", "/login"}:
            raise Refusal(403, "another site may not ask the live view")
        if scope["path"] in _OPEN:
            return
        way = self._way_in(scope, headers)
        if scope["method"] in _READS or way == "token":
            return
        if origin is None:
            raise Refusal(403, "a write from a browser needs its Origin header")
        if not self._keys.is_csrf(headers.get(CSRF_HEADER, "")):
            raise Refusal(403, f"a write needs the header {CSRF_HEADER} with the csrf of /v1/session")

    def _check_rate(self, scope: Scope) -> None:
        peer = str((scope.get("client") or ("?",))[0])
        rate = self._rates.pop(peer, None) or Rate(400, 800)
        self._rates[peer] = rate
        while len(self._rates) > _PEERS:
            self._rates.popitem(last=False)
        if not rate.takes():
            raise Refusal(429, "too many requests; wait a second")

    def _checked_host(self, scope: Scope, headers: Headers) -> str:
        given = headers.getlist("host")
        host = given[0].lower() if len(given) == 1 else ""
        name = _name_of(host)
        # An address is no name that could be rebound; the one this connection came in on is ours.
        own = str((scope.get("server") or ("",))[0])
        if name not in self._hosts and not (name and name == own and _is_address(name)):
            raise Refusal(421, "this view is not known by that Host; name it with hosts in [view] or --allow-host")
        return host

    def _way_in(self, scope: Scope, headers: Headers) -> str:
        given = headers.get("authorization", "")
        if given:
            kind, _, token = given.partition(" ")
            if kind.lower() == "bearer" and self._keys.is_token(token.strip()):
                return "token"
            self._count_wrong_token()
            raise Refusal(401, "the token is wrong; it is the one that was shown when the run started")
        if self._keys.is_cookie(_cookies(headers).get(cookie_name(scope), "")):
            return "cookie"
        raise Refusal(401, "open the address that was shown when the run started, or send Authorization: Bearer TOKEN")

    def _count_wrong_token(self) -> None:
        if not self._wrong_tokens.takes():
            raise Refusal(429, "too many wrong tokens; wait some seconds")

    async def _login(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in _READS:
            await _answer(send, 405, "open /login?token=TOKEN in the browser")
            return
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        if not self._keys.is_token(given):
            is_patient = self._wrong_tokens.takes()
            sentence = "the token is wrong; it is the one that was shown when the run started"
            await _answer(send, 401 if is_patient else 429, sentence if is_patient else "too many wrong tokens; wait")
            return
        cookie = f"{cookie_name(scope)}={self._keys.cookie}; HttpOnly; SameSite=Strict; Path=/"
        cookie += "; Secure" if self._is_secure else ""
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def cookie_name(scope: Scope) -> str:
    """Cookies know no ports: two views on one machine must not overwrite each other's."""
    return f"hffnet_view_{(scope.get('server') or ('', 0))[1]}"


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    # What is still being sent is not read: the connection ends with this answer.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(host: str) -> str:
    """A Host header without its port; empty where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return ""
    is_plain = has_port and parts.netloc == host and not parts.username
    return parts.hostname or "" if is_plain else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
