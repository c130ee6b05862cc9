"""The run's side: how a view is asked for, refused, and what a dead or deaf one costs, which is nothing."""

import os
import re
import signal
import ssl
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from threading import Event

import httpx
import pytest
import tifffile
import typer
from typer.testing import CliRunner

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.dashboard.live_view import LiveView
from hffnet.runtime.dashboard.settings import ViewChoice, token_from_choice
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.read import frame_from_pixels
from hffnet.runtime.record import Record, RecordDraft
from hffnet.runtime.run_command import run
from hffnet.runtime.run_settings import settings_from_toml
from hffnet.runtime.stage_times import StageTimes
from tests.runtime.dashboard.stand import PATIENCE_S, Stand, events, pixels
from tests.runtime.drafts import draft

APP = typer.Typer()
APP.command()(run)
_DEAF = r"""
import socket, struct, sys, time
link = socket.socket(fileno=int(sys.argv[1]))
head = b'{"kind": "bound", "port": 1}'
link.sendall(struct.pack(">II", len(head), 0) + head)
time.sleep(600)
"""
OPENSSL = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
OPENSSL += ["-addext", "subjectAltName=IP:127.0.0.1"]
DEAF = (sys.executable, "-c", _DEAF)


def toml(folder: Path, table: str) -> Path:
    path = folder / "run.toml"
    path.write_text(f'bundle = "model.hffnet"\nsource = "frames"\n[view]\n{table}\n')
    return path


def test_the_table_says_everything_and_paths_are_beside_it(tmp_path: Path) -> None:
    view = settings_from_toml(toml(tmp_path, 'port = 0\ntoken_file = "token"\nhosts = ["lab-pc.example"]')).view
    assert view is not None
    assert (view.host, view.port, view.token_file) == ("127.0.0.1", 0, tmp_path / "token")


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ('host = "0.0.0.0"', "in the clear"),
        ('host = "::"', "in the clear"),
        ('host = "192.168.1.5"\ntls_cert = "a.pem"', "belong together"),
        ('host = "lab-pc"', "is no address"),
        ("prot = 1", "prot"),
        ("max_clients = 10000", "max_clients"),
    ],
)
def test_what_is_unsafe_or_unknown_is_refused(tmp_path: Path, table: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        settings_from_toml(toml(tmp_path, table))


@pytest.mark.parametrize("table", ['host = "0.0.0.0"\nbehind_proxy = true', 'host = "::1"', 'host = "127.0.0.2"'])
def test_what_is_safe_is_taken(tmp_path: Path, table: str) -> None:
    assert settings_from_toml(toml(tmp_path, table)).view is not None


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("short", 0o600, "at least 16"),
        ("with spaces in between", 0o600, "without spaces"),
        ("0123456789abcdef", 0o644, "chmod 600"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_token_file_that_protects_nothing_is_refused(tmp_path: Path, text: str | None, mode: int, why: str) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
        path.chmod(stat.S_IFREG | mode)
    with pytest.raises(ConfigError, match=why):
        token_from_choice(ViewChoice(token_file=path))


def test_the_token_of_a_file_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    view = LiveView(ViewChoice(token_file=path), "x")
    assert view.token == "0123456789abcdef"
    assert "0123" not in view.login_url
    made = LiveView(ViewChoice(), "x")
    assert made.login_url.endswith(f"/login?token={made.token}")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "means nothing without --view"),
        (["--view", "--host", "0.0.0.0"], "--behind-proxy"),
        (["--view", "--tls-cert", "a.pem"], "belong together"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], why: str) -> None:
    result = CliRunner().invoke(APP, ["model.hffnet", "frames", *options])
    assert isinstance(result.exception, ConfigError)
    assert why in str(result.exception)


def test_check_looks_at_the_token_and_listens_nowhere(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short")
    (tmp_path / "token").chmod(0o600)
    options = ["--check", "--view", "--token-file", str(tmp_path / "token"), "--records", str(tmp_path / "r.sqlite")]
    result = CliRunner().invoke(APP, [str(bundle_path), str(tmp_path), *options, "--engine", "onnxruntime"])
    assert isinstance(result.exception, ConfigError)
    assert "at least 16" in str(result.exception)


def test_a_port_in_use_and_a_broken_certificate_are_told(tmp_path: Path) -> None:
    with LiveView(ViewChoice(port=0), "x") as view:
        port = int(view.url.rpartition(":")[2].rstrip("/"))
        with (
            pytest.raises(ConfigError, match=f"port {port} cannot be listened on"),
            LiveView(ViewChoice(port=port), "y"),
        ):
            pass
    (tmp_path / "broken.pem").write_text("no certificate")
    broken = ViewChoice(port=0, tls_cert=tmp_path / "broken.pem", tls_key=tmp_path / "broken.pem")
    with pytest.raises(ConfigError, match="cannot be used for TLS"), LiveView(broken, "z"):
        pass


def test_before_the_engine_is_there_it_says_starting() -> None:
    with LiveView(ViewChoice(port=0), "x") as view:
        headers = {"Authorization": f"Bearer {view.token}"}
        assert httpx.get(view.url + "healthz").status_code == 200
        assert httpx.get(view.url + "readyz").status_code == 503
        for path in ("v1/model", "v1/records", "v1/frames/1.png"):
            answer = httpx.get(view.url + path, headers=headers)
            assert answer.status_code == 503
            assert "still starting" in answer.json()["error"]
        assert httpx.post(view.url + "v1/classify", headers=headers, content=b"x").status_code == 503


def test_tls_is_spoken_where_it_is_asked_for(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        [*OPENSSL, "-keyout", key, "-out", cert],
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("no openssl to make a certificate with")
    with LiveView(ViewChoice(port=0, tls_cert=cert, tls_key=key), "x") as view:
        trusted = ssl.create_default_context(cafile=cert)
        assert httpx.get(view.url + "healthz", verify=trusted).status_code == 200
        login = httpx.get(view.url + "login", params={"token": view.token}, verify=trusted)
        assert "Secure" in login.headers["set-cookie"]


@pytest.mark.parametrize("fate", ["killed", "stopped"])
def test_a_view_that_is_gone_or_deaf_stops_nothing(bundle_path: Path, tmp_path: Path, fate: str) -> None:
    with Stand(tmp_path, bundle_path) as stand:
        pid = stand.view.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL if fate == "killed" else signal.SIGSTOP)
        records = [stand.show(f"{number}.tif", number, (512, 512)) for number in range(12)]
        assert [record.status for record in records] == ["classified"] * 12
        stand.end()
    assert not Path(f"/proc/{pid}").exists()


def test_a_view_that_nobody_asks_is_left_alone(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffnet.runtime.dashboard.live_view._SEND_S", 0.05)
    with Stand(tmp_path, bundle_path) as stand:
        pid = stand.view.pid
        for number in range(3):
            stand.show(f"{number}.tif", number)
            events(stand.client, until=lambda e: e.name == "state")
        assert stand.view.pid == pid


def test_what_a_deaf_view_leaves_is_bounded(bundle_path: Path) -> None:
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as classifier:
        frame = frame_from_pixels(pixels(1), "x")
        prediction = classifier.classify_frame(frame)
    view = LiveView(ViewChoice(port=0), "x", DEAF)
    with view:
        for number in range(200):
            view._next_preview_at = 0.0
            view.on_frame(f"{number}.tif", frame, prediction)
            view.on_record(record_of(draft(number), number), StageTimes())
        assert len(view._seen) <= 4
        assert len(view._previews) <= 3
        assert len(view._news) <= 4


def record_of(row: RecordDraft, seq: int) -> Record:
    made = {"created_utc": "2026-01-01T00:00:00+00:00", "hffnet_version": "x", "row_version": 2}
    return Record(**asdict(row), **made, seq=seq + 1, prev_hash="0" * 64, hash="0" * 64)  # type: ignore[arg-type]


def test_the_command_shows_one_address_and_serves_it(bundle_path: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    tifffile.imwrite(frames / "a.tif", pixels(1))
    code = "import typer; from hffnet.runtime.run_command import run; typer.run(run)"
    options = ["--records", str(tmp_path / "r.sqlite"), "--view", "--port", "0", "--engine", "onnxruntime"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(bundle_path), str(frames), *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stderr is not None
        line = next(text for text in process.stderr if "live view" in text)
        address = re.search(r"http://\S+", line)
        assert address is not None
        with httpx.Client(follow_redirects=False, timeout=PATIENCE_S) as browser:
            assert browser.get(address[0]).status_code == 303
            root = address[0].partition("login")[0]
            while browser.get(root + "readyz").status_code == 503:
                Event().wait(0.05)
            while not (found := browser.get(root + "v1/records").raise_for_status().json()["records"]):
                Event().wait(0.05)
            assert found[0]["name"] == "a.tif"
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(PATIENCE_S) == 0, rest
        assert "Traceback" not in rest
        with pytest.raises(httpx.ConnectError):
            httpx.get(root + "healthz")
    finally:
        process.kill()
        process.communicate()
