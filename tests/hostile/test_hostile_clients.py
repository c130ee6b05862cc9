"""Clients that mean harm or read nothing: refused with a sentence, bounded, and nobody else notices."""

import io
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Event
from time import monotonic

import httpx
import numpy as np
import pytest
import tifffile

pytest.importorskip("fastapi", reason="no fastapi: pip install 'hffnet[dashboard]'")

from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.dashboard.stream import STALL_S
from tests.runtime.dashboard.stand import PATIENCE_S, Stand, events, pixels

MIB = 2**20


@pytest.fixture(scope="module")
def stand(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    choice = ViewChoice(max_clients=4, max_upload_mb=1.0, max_classify_per_s=1000.0, hosts=("lab-pc.example",))
    with Stand(tmp_path_factory.mktemp("hostile"), bundle_path, choice) as opened:
        opened.show("first.tif", 1)
        yield opened


@pytest.fixture
def browser(stand: Stand) -> Iterator[httpx.Client]:
    """A browser that was logged in: it has the cookie and sends its origin."""
    with httpx.Client(base_url=stand.view.url, timeout=PATIENCE_S) as client:
        answer = client.get("/login", params={"token": stand.view.token})
        assert answer.status_code == 303
        assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))
        client.headers["Origin"] = stand.view.url.rstrip("/")
        yield client


@contextmanager
def raw(stand: Stand, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection that sends whatever it wants."""
    name, _, port = stand.host.partition(":")
    with socket.socket() as link:
        if receive_buffer is not None:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        link.settimeout(PATIENCE_S)
        link.connect((name, int(port)))
        yield link


def bearer(stand: Stand) -> str:
    return f"Host: {stand.host}\r\nAuthorization: Bearer {stand.view.token}\r\n"


def resident_bytes(stand: Stand) -> int:
    pages = Path(f"/proc/{stand.view.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1", "a b"]
)
@pytest.mark.parametrize("path", ["/v1/model", "/healthz", "/login"])
def test_a_host_that_is_not_ours_is_refused(stand: Stand, host: str, path: str) -> None:
    with raw(stand) as link:
        link.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {stand.view.token}\r\n\r\n".encode()
        )
        assert link.recv(64).split()[1] in (b"421", b"400")


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST:{port}", "127.0.0.1:{port}", "lab-pc.example"])
def test_our_names_are_served(stand: Stand, host: str) -> None:
    host = host.format(port=stand.host.rpartition(":")[2])
    assert stand.client.get("/v1/model", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic abc"},
        {"Authorization": "Bearer \xff\xfe"},
        {"Cookie": "hffnet_view_{port}=wrong"},
        {"Cookie": "\x01;;;=;="},
    ],
    ids=["none", "wrong", "other kind", "not ascii", "wrong cookie", "broken cookie"],
)
@pytest.mark.parametrize(
    "path", ["/", "/v1/model", "/v1/events", "/v1/frames/2.png", "/metrics", "/openapi.json", "/x"]
)
def test_without_the_token_nothing_is_told(stand: Stand, headers: dict[str, str], path: str) -> None:
    named = {
        name: value.format(port=stand.host.rpartition(":")[2]).encode("latin-1") for name, value in headers.items()
    }
    answer = httpx.get(stand.view.url.rstrip("/") + path, headers=named)  # type: ignore[arg-type]
    assert answer.status_code in (401, 429)
    assert set(answer.json()) == {"error"}


def test_signs_of_life_need_no_token_and_say_nothing_else(stand: Stand) -> None:
    assert httpx.get(stand.view.url + "healthz").json() == {"status": "ok", "reason": None}
    assert httpx.get(stand.view.url + "readyz").json() == {"status": "running", "reason": None}


def test_guessing_tokens_is_slowed_down(bundle_path: Path, tmp_path: Path) -> None:
    with Stand(tmp_path, bundle_path) as stand:
        codes = [httpx.get(f"{stand.view.url}login?token=guess-{n}").status_code for n in range(14)]
        assert codes[:9] == [401] * 9
        assert 429 in codes
        assert stand.client.get("/v1/model").status_code == 200, "who has the token is not locked out"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://{host}.evil.example"])
def test_another_sites_page_may_not_ask(stand: Stand, browser: httpx.Client, origin: str) -> None:
    browser.headers["Origin"] = origin.format(host=stand.host)
    csrf = stand.client.get("/v1/session").json()["csrf"]
    for method, path in (("GET", "/v1/model"), ("GET", "/v1/events"), ("POST", "/v1/records/2/review")):
        answer = browser.request(method, path, headers={"X-Hffnet-CSRF": csrf}, json={})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_picture_is_not_given_to_another_sites_page(browser: httpx.Client, site: str) -> None:
    del browser.headers["Origin"]
    assert browser.get("/v1/frames/2.png", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert browser.get("/v1/frames/2.png", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("how", ["no csrf", "wrong csrf", "no origin", "cross-site"])
def test_a_cookie_alone_writes_nothing(stand: Stand, browser: httpx.Client, how: str) -> None:
    rows = stand.store.last_seq()
    headers = {"X-Hffnet-CSRF": browser.get("/v1/session").json()["csrf"]}
    match how:
        case "no csrf":
            headers = {}
        case "wrong csrf":
            headers = {"X-Hffnet-CSRF": "0" * 64}
        case "no origin":
            del browser.headers["Origin"]
        case "cross-site":
            headers["Sec-Fetch-Site"] = "cross-site"
    asked = {"decision": "accept", "operator": "Mallory"}
    for path, body in (("/v1/records/2/review", asked), ("/v1/classify", None)):
        answer = browser.post(path, json=body, headers=headers)
        assert answer.status_code == 403, answer.text
    assert stand.store.last_seq() == rows


def test_the_page_itself_may_write(browser: httpx.Client) -> None:
    headers = {"X-Hffnet-CSRF": browser.get("/v1/session").json()["csrf"]}
    asked = {"decision": "accept", "operator": "<img src=x onerror=alert(1)>"}
    answer = browser.post("/v1/records/2/review", json=asked, headers=headers)
    assert answer.status_code == 201
    assert answer.json()["review"]["operator"] == asked["operator"], "text stays text"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/v1/model", "/v1/frames/2.png", "/nothing", "/v1/records/x", "/healthz", "/login"])
def test_every_answer_carries_the_safety_headers(stand: Stand, path: str) -> None:
    headers = stand.client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'; ")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


@pytest.mark.parametrize(
    "path", ["/page/../../manifest.py", "/page/%2e%2e%2fapp.py", "/page//etc/passwd", "/v1/frames/..%2f..%2fx.png"]
)
def test_no_path_opens_a_file(stand: Stand, path: str) -> None:
    with raw(stand) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\n{bearer(stand)}Connection: close\r\n\r\n".encode())
        answer = link.makefile("rb").read()
    assert answer.split()[1] in (b"404", b"422")
    assert b"import" not in answer
    assert b"root:" not in answer


def test_a_huge_upload_is_refused_by_its_announcement(stand: Stand) -> None:
    with raw(stand) as link:
        head = f"POST /v1/classify HTTP/1.1\r\n{bearer(stand)}Content-Length: 99999999999\r\n\r\n"
        link.sendall(head.encode())
        assert link.recv(64).split()[1] == b"413", "answered before a byte of the body"


def test_an_upload_without_an_announcement_is_cut_off_at_the_limit(stand: Stand) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(256):
            yield b"\0" * MIB

    before = resident_bytes(stand)
    with suppress(httpx.TransportError):  # the answer may come while the client is still sending
        assert stand.client.post("/v1/classify", content=endless()).status_code == 413
    assert resident_bytes(stand) - before < 32 * MIB
    assert stand.client.get("/v1/model").status_code == 200


def bomb() -> bytes:
    """A small TIFF that claims to hold 4 gigapixels."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((64, 64), np.uint8), metadata=None)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        for tag in (256, 257):
            offset = opened.pages[0].tags[tag].valueoffset
            data[offset : offset + 2] = b"\xff\xff"
    return bytes(data)


def torn() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels(1))
    return file.getvalue()[:4000]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"II*\0" + b"\xff" * 64,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
        bomb(),
        torn(),
        b"<script>alert(1)</script>",
    ],
    ids=["empty", "junk", "broken tiff", "broken png", "bomb", "torn", "html"],
)
def test_a_malformed_upload_gets_a_sentence(stand: Stand, body: bytes) -> None:
    answer = stand.client.post("/v1/classify", content=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"decision":' * 5000, b"\xff\xfe", b"null"])
def test_a_malformed_decision_gets_a_sentence(stand: Stand, body: bytes) -> None:
    answer = stand.client.post("/v1/records/2/review", content=body)
    assert answer.status_code in (413, 422)
    assert answer.json()["error"]


def test_markup_and_formulas_in_a_frame_stay_text(stand: Stand) -> None:
    name = '=HYPERLINK("x")<img src=x onerror=alert(1)>.tif'
    fei = "[User]\nUserText=<script>alert(1)</script>\n[Scan]\nPixelWidth=1e-7\n[System]\nType==cmd|' /C calc'!A0\n"
    extra = [(34682, "s", 0, fei, True)]
    record = stand.show(name, 9, extratags=extra)
    for path in (f"/v1/records/{record.seq}", "/v1/records?limit=1"):
        answer = stand.client.get(path)
        assert answer.headers["content-type"] == "application/json"
        assert name in answer.text.replace('\\"', '"')
    report = stand.client.get(f"/v1/records/{record.seq}/report.pdf")
    assert report.headers["content-type"] == "application/pdf"
    assert b"/JavaScript" not in report.content
    assert b"/URI" not in report.content


def test_a_hundred_idle_clients_hold_nobody_up(stand: Stand) -> None:
    before = resident_bytes(stand)
    with ExitStack() as idle:
        for _ in range(100):
            idle.enter_context(raw(stand))
        record = stand.show("among-idle.tif", 10)
        told = events(stand.client, until=lambda e: e.seq == record.seq, params={"after": record.seq - 1})
        assert told
        assert stand.client.get(f"/v1/frames/{record.seq}.png").status_code == 200
        assert resident_bytes(stand) - before < 16 * MIB


@pytest.mark.slow
def test_who_does_not_read_is_cut_off_and_who_reads_is_not(stand: Stand) -> None:
    last = stand.store.last_seq()
    with raw(stand, receive_buffer=4096) as deaf:
        deaf.sendall(f"GET /v1/events?after=0 HTTP/1.1\r\n{bearer(stand)}\r\n".encode())
        before = resident_bytes(stand)
        # Enough to fill the buffers of the kernel on both sides; from then on it counts as not reading.
        number = 0
        while stand.client.get("/v1/state").json()["num_clients"] == 0 or number < 150:
            number += 1
            stand.show(f"deaf-{number}.tif", 1000 + number)
        began = monotonic()
        while stand.client.get("/v1/state").json()["num_clients"]:
            assert monotonic() - began < STALL_S + 10
            Event().wait(0.25)  # fewer requests a second than the view takes
        assert resident_bytes(stand) - before < 64 * MIB
    new = stand.store.last_seq()
    told = events(stand.client, until=lambda e: e.seq == new, params={"after": last})
    assert [event.seq for event in told if event.seq is not None] == list(range(last + 1, new + 1))


@pytest.mark.slow
def test_a_head_that_never_ends_is_given_up(stand: Stand) -> None:
    with raw(stand) as slow, closing(slow.makefile("rb")) as answers:
        slow.sendall(f"GET /v1/model HTTP/1.1\r\n{bearer(stand)}X-Slow: ".encode())
        slow.settimeout(PATIENCE_S)
        with suppress(ConnectionResetError):
            assert answers.read() == b"", "closed without an answer"


def test_http_that_is_none_ends_the_connection_alone(stand: Stand) -> None:
    for junk in (b"\x16\x03\x01\x02\x00" * 20, b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100_000, b"A" * 100_000):
        with raw(stand) as link:
            try:
                link.sendall(junk + b"\r\n\r\n")
                answer = link.recv(64)
            except (ConnectionResetError, BrokenPipeError):
                continue
            assert answer == b"" or answer.split()[1] in (b"400", b"421", b"505", b"401")
    assert stand.client.get("/v1/model").status_code == 200
