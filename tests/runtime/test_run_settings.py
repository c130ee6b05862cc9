"""Settings of a run: one strict file, checked before anything starts; signs of life for a supervisor."""

import configparser
import json
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import tifffile
import typer
from typer.testing import CliRunner

from hffnet.runtime.engines.tensorrt import GpuSettings
from hffnet.runtime.errors import ConfigError, HffnetError
from hffnet.runtime.records import RecordStore
from hffnet.runtime.run_command import _tell_holding, run
from hffnet.runtime.run_settings import settings_from_toml, settings_of_run
from hffnet.runtime.service import Service
from hffnet.runtime.sinks.metrics_sink import MetricsSink

APP = typer.Typer()
APP.command()(run)

WHOLE = """
bundle = "model.hffnet"
source = "dir:/data/out?pattern=*.tif"
watchdog_s = 60

[engine]
name = "onnxruntime:cpu"
threads = 1
pin = true

[engine.gpu]
slots = 3
wait = "spin"
keep_warm_s = 0.5

[records]
file = "trail/records.sqlite"
archive = "old"
keep_days = 90

[gates]
max_white = 0.2

[bar]
rows = 60

[sinks]
csv = "decisions.csv"
jsonl = "-"

[sinks.webhook]
url = "https://lab.example/hook"
secret_file = "secret"
"""


def toml(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_a_file_says_everything_and_paths_are_beside_it(tmp_path: Path) -> None:
    settings = settings_from_toml(toml(tmp_path, WHOLE))
    assert settings.bundle == tmp_path / "model.hffnet"
    assert settings.records.file == tmp_path / "trail" / "records.sqlite"
    assert str(settings.sinks.jsonl) == "-"
    assert settings.sinks.webhook is not None
    assert settings.sinks.webhook.secret_file == tmp_path / "secret"
    assert settings.gates.max_white == 0.2
    assert (settings.engine.name, settings.engine.pin) == ("onnxruntime:cpu", True)
    assert settings.engine.gpu.settings() == GpuSettings(num_slots=3, wait="spin", keep_warm_seconds=0.5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("bundle = ", "is not TOML", id="no TOML"),
        pytest.param('bundle = "m"', "source: Field required", id="source missing"),
        pytest.param('bundle = "m"\nsource = "d"\nsorce = 1', "sorce: Extra inputs", id="typing error"),
        pytest.param('bundle = "m"\nsource = "d"\n[engine]\nthreads = "2"', "engine.threads", id="wrong type"),
        pytest.param(
            'bundle = "m"\nsource = "d"\n[engine]\nname = "openvino:tpu"', "openvino:gpu", id="no such device"
        ),
        pytest.param('bundle = "m"\nsource = "d"\n[engine.gpu]\nslots = 9', "engine.gpu.slots", id="too many slots"),
        pytest.param('bundle = "m"\nsource = "d"\n[records]\nmax_mb = 5', "need archive", id="no archive"),
        pytest.param('bundle = "m"\nsource = "d"\n[gates]\nmax_white = 2.0', "gates.max_white", id="out of range"),
        pytest.param('bundle = "m"\nsource = "d"\n[sinks.webhook]\nurl="ftp://a"', "sinks.webhook.url", id="scheme"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        settings_from_toml(toml(tmp_path, text))


def test_only_what_changes_a_result_changes_the_hash(tmp_path: Path) -> None:
    plain = 'bundle = "m"\nsource = "d"\n'
    one = settings_from_toml(toml(tmp_path, plain)).sha256()
    assert one == settings_of_run("auto", "auto")
    assert settings_from_toml(toml(tmp_path, plain + '[sinks]\ncsv = "a.csv"\n')).sha256() == one
    same = ("[reading]\nseconds = 30.0\n", '[gates]\npixel_size = "flag"\nmax_resample = 2.0\n')
    for text in same:
        assert settings_from_toml(toml(tmp_path, plain + text)).sha256() == one
    others = ("[bar]\nrows = 9\n", "[reading]\nseconds = 5.0\n", "[smoothing]\n", '[gates]\npixel_size = "resample"\n')
    assert len({settings_from_toml(toml(tmp_path, plain + text)).sha256() for text in others} | {one}) == 5
    # Where this changes, every file that lies in a watched folder is classified again by the next version.
    assert one == "75985564c60022687508dc57dfa36c82bd6f988a4dccba06a6b540087d5e5b7e"


def test_a_password_in_the_source_stays_out_of_what_is_shown(tmp_path: Path) -> None:
    settings = settings_from_toml(toml(tmp_path, 'bundle = "m"\nsource = "rtsp://me:secret@cam/live"\n'))
    assert "secret" not in settings.public().model_dump_json()


def small(folder: Path, bundle: Path) -> Path:
    (folder / "in").mkdir()
    text = f'bundle = "{bundle}"\nsource = "{folder / "in"}"\n[engine]\nname = "onnxruntime"\nthreads = 1\n'
    return toml(folder, text + '[sinks]\nmetrics = "hffnet.prom"\n')


def test_check_starts_and_writes_nothing(tmp_path: Path, bundle_path: Path) -> None:
    config = small(tmp_path, bundle_path)
    before = {*tmp_path.rglob("*")}
    said = CliRunner().invoke(APP, ["--config", str(config), "--check", "--json"], catch_exceptions=False)
    document = json.loads(said.stdout)
    assert document["engine"]["name"] == "onnxruntime"
    assert {*tmp_path.rglob("*")} == before


def code_of(config: Path, *options: str) -> int:
    with pytest.raises(HffnetError) as caught:
        CliRunner().invoke(APP, ["--config", str(config), *options], catch_exceptions=False)
    return caught.value.exit_code


@pytest.mark.parametrize("options", [("--check",), ("--once",)], ids=["check", "run"])
def test_what_passes_is_told_from_what_does_not(tmp_path: Path, bundle_path: Path, options: tuple[str, ...]) -> None:
    """systemd starts the unit again after 4, a device or share that may come, and not after 3."""
    config, records = small(tmp_path, bundle_path), tmp_path / "records.sqlite"
    records.write_bytes(b"not a database, but long enough to be looked at" * 99)
    assert code_of(config, *options) == 3
    records.unlink()
    records.mkdir()  # what cannot be opened: no folder, no right, no space
    assert code_of(config, *options) == 4
    records.rmdir()
    (tmp_path / "in").rmdir()
    assert code_of(config, *options) == 4


def test_a_locked_records_file_passes(tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hffnet.runtime.records._BUSY_S", 0.01)
    config, records = small(tmp_path, bundle_path), tmp_path / "records.sqlite"
    RecordStore.open(records).close()
    with closing(sqlite3.connect(records, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert code_of(config, "--once") == 4


def test_check_tells_of_a_camera_that_is_off(tmp_path: Path, bundle_path: Path) -> None:
    config = small(tmp_path, bundle_path)
    off = config.read_text().replace(f'"{tmp_path / "in"}"', '"v4l2:/dev/v4l/by-id/absent?open_timeout_s=10"')
    config.write_text(off)
    assert code_of(config, "--check") == 4


def test_the_unit_is_started_again_for_what_passes_and_never_meets_its_limit() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(Path(__file__).parents[2] / "deploy" / "hffnet.service")
    assert {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()} == {2, 3}
    most, within_s = int(unit["Unit"]["StartLimitBurst"]), float(unit["Unit"]["StartLimitIntervalSec"])
    assert float(unit["Service"]["RestartSec"]) * most > within_s


def test_while_records_cannot_be_written_who_can_hear_it_is_told(tmp_path: Path) -> None:
    sink, path = MetricsSink(tmp_path / "hffnet.prom"), tmp_path / "hffnet.prom"
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        service = Service(environment={"NOTIFY_SOCKET": address})
        service.ready("classifying /data")
        _tell_holding(service, None, [sink], "degraded: the disk\nis full")
        while not path.exists() or "hffnet_holding 1" not in path.read_text():
            Event().wait(0.01)
        _tell_holding(service, None, [sink], None)
        while "hffnet_holding 0" not in path.read_text():
            Event().wait(0.01)
        systemd.settimeout(0.0)
        heard = [systemd.recv(200).decode() for _ in range(3)]
    assert heard[1:] == ["STATUS=degraded: the disk\\nis full", "STATUS=classifying /data"]


def test_a_run_by_file_records_its_settings_and_writes_metrics(tmp_path: Path, bundle_path: Path) -> None:
    config = small(tmp_path, bundle_path)
    tifffile.imwrite(tmp_path / "in" / "a.tif", np.random.default_rng(0).integers(20, 230, (96, 128), dtype=np.uint8))
    done = CliRunner().invoke(APP, ["--config", str(config), "--once", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["counts"] == {"classified": 1}
    with RecordStore.open(tmp_path / "records.sqlite") as store:
        start, result, stop = store.iterate()
    assert (start.name, stop.name) == ("start", "stop")
    assert start.settings_sha256 == result.settings_sha256
    assert stop.details is not None
    assert stop.details["counts"] == {"classified": 1}
    assert 'hffnet_frames_total{status="classified"} 1' in (tmp_path / "hffnet.prom").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param([], "nothing to run", id="nothing"),
        pytest.param(["--config", "{}", "--csv", "a.csv"], "--csv cannot stand beside", id="option twice"),
        pytest.param(["m", "d", "--config", "{}"], "BUNDLE, SOURCE cannot", id="argument twice"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    config = toml(tmp_path, WHOLE)
    with pytest.raises(ConfigError, match=sentence):
        CliRunner().invoke(APP, [a.format(config) for a in arguments], catch_exceptions=False)


def test_systemd_hears_ready_life_and_stopping(tmp_path: Path) -> None:
    address, now = str(tmp_path / "notify"), [0.0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"}
        with Service(environment=environment, clock=lambda: now[0]) as service:
            service.ready("classifying /data")
            for now[0] in (0.0, 1.0, 9.0, 10.5):
                service.beat()
        systemd.settimeout(0.0)
        heard = [systemd.recv(200).decode() for _ in range(4)]
    assert heard == ["READY=1\nSTATUS=classifying /data", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_another_process_watchdog_is_not_ours(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "absent"), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    Service(environment=environment).beat()  # would try to tell, and complain


def test_a_hanging_engine_ends_the_process_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hffnet.runtime.service.BEAT_S", 0.001)
    now, codes = [0.0], list[int]()
    service = Service(5.0, environment={}, clock=lambda: now[0], end=codes.append)
    service.ready("")
    now[0] = 4.0
    assert not service.is_hanging()
    now[0] = 6.0
    service._watcher.join(10)
    assert codes == [4]
    assert "has not answered for 5 s" in capsys.readouterr().err
