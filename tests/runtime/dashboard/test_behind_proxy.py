"""The view behind a real nginx, configured with the very block of the how-to page."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import httpx
import pytest

from hffnet.runtime.dashboard.settings import ViewChoice
from tests.runtime.dashboard.stand import PATIENCE_S, Stand, stream

PAGE = Path(__file__).parents[3] / "docs/how-to/live-view-behind-a-proxy.md"
NAME = "lab-pc.example"
_WHOLE = """
daemon off; master_process off; worker_processes 1; pid FOLDER/pid; error_log FOLDER/error.log;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy; fastcgi_temp_path FOLDER/f;
    uwsgi_temp_path FOLDER/u; scgi_temp_path FOLDER/s;
    BLOCK
}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = monotonic() + PATIENCE_S
    while monotonic() < give_up and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError(log.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def behind(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    choice = ViewChoice(behind_proxy=True, hosts=(NAME,))
    with Stand(tmp_path_factory.mktemp("behind"), bundle_path, choice) as opened:
        yield opened


@pytest.fixture(scope="module")
def outside(behind: Stand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A browser on another machine: it sees the proxy's TLS and name alone."""
    nginx, openssl = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), shutil.which("openssl")
    if nginx is None or openssl is None:
        pytest.skip("no nginx or openssl: apt-get install nginx-light openssl")
    folder, port = tmp_path_factory.mktemp("nginx"), _free_port()
    certificate = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}")
    files = ("-addext", f"subjectAltName=DNS:{NAME}", "-keyout", folder / "key", "-out", folder / "crt")
    subprocess.run([openssl, *certificate, *files], check=True, capture_output=True)
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    block = found[1].replace("listen 443", f"listen 127.0.0.1:{port}").replace("127.0.0.1:8765", behind.host)
    block = block.replace("/etc/nginx/tls/lab-pc.crt", str(folder / "crt"))
    block = block.replace("/etc/nginx/tls/lab-pc.key", str(folder / "key"))
    configuration = folder / "nginx.conf"
    configuration.write_text(_WHOLE.replace("BLOCK", block).replace("FOLDER", str(folder)), encoding="utf-8")
    process = subprocess.Popen([nginx, "-p", folder, "-c", configuration, "-e", folder / "error.log"])
    try:
        _wait_until_listening(process, port, folder / "error.log")
        trust = ssl.create_default_context(cafile=folder / "crt")
        trust.check_hostname = False  # the name resolves nowhere; it travels in the Host header
        with httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            verify=trust,
            headers={"Host": f"{NAME}:{port}"},
            timeout=PATIENCE_S,
        ) as client:
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def origin(outside: httpx.Client) -> str:
    return f"https://{outside.headers['host']}"


def test_signing_in_gives_a_cookie_for_tls_alone(behind: Stand, outside: httpx.Client) -> None:
    assert outside.get("/v1/state").status_code == 401
    answer = outside.get("/login", params={"token": behind.view.token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    flags = answer.headers["set-cookie"].split("; ")[1:]
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= set(flags)
    assert "hffnet" in outside.get("/").raise_for_status().text
    assert outside.get("/v1/state").raise_for_status().json()["readiness"] == "running"


def test_live_events_are_not_held_back(behind: Stand, outside: httpx.Client) -> None:
    with stream(outside, headers=behind.headers) as coming:
        assert next(event for event in coming if event.name == "state")
        behind.put("live.tif", 3)
        shown = next(event for event in coming if event.name == "record")
    assert shown.data["name"] == "live.tif"
    picture = outside.get(f"/v1/frames/{shown.seq}.png", headers=behind.headers)
    assert picture.headers["content-type"] == "image/png"


def test_a_write_needs_origin_and_csrf_of_the_proxys_name(behind: Stand, outside: httpx.Client, origin: str) -> None:
    record = behind.show("reviewed.tif", 4)
    outside.get("/login", params={"token": behind.view.token})
    csrf = {"X-Hffnet-CSRF": outside.get("/v1/session").json()["csrf"]}
    asked = {"decision": "accept", "operator": "A. Reader"}
    path = f"/v1/records/{record.seq}/review"
    for wrong in ({}, {"Origin": "https://evil.example", **csrf}, {"Origin": f"http://{behind.host}", **csrf}):
        assert outside.post(path, json=asked, headers=wrong).status_code == 403
    assert outside.post(path, json=asked, headers={"Origin": origin}).status_code == 403
    assert outside.post(path, json=asked, headers={"Origin": origin, **csrf}).status_code == 201


def test_a_frame_larger_than_nginx_takes_by_itself_is_classified(behind: Stand, outside: httpx.Client) -> None:
    behind.put("large.tif", 5, (1200, 1600))
    content = (behind.frames / "large.tif").read_bytes()
    assert len(content) > 1 << 20
    answer = outside.post("/v1/classify", content=content, headers=behind.headers)
    assert answer.raise_for_status().json()["class_path"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example"])
def test_another_name_is_refused(behind: Stand, outside: httpx.Client, host: str) -> None:
    assert outside.get("/v1/state", headers={"Host": host, **behind.headers}).status_code == 421
