"""What is said to people: a lost terminal, a full disk under a log, and file names that are commands end nothing."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
import typer

from hffnet.runtime import cli
from hffnet.runtime.errors import HffnetError
from hffnet.runtime.live_line import LiveLine
from hffnet.runtime.record import Record
from hffnet.runtime.recorder import Recorder
from hffnet.runtime.records import RecordStore
from hffnet.runtime.stage_times import StageTimes
from tests.runtime.drafts import draft

ROOT = Path(__file__).parents[2]
HOSTILE = "a\x1b[2J\r\nhffnet: all is well\u202e.tif"


class Full(io.StringIO):
    """A log on a disk that is full."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


def test_a_full_disk_under_the_log_ends_nothing(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Full())
    with LiveLine("x") as line:
        recorder = Recorder(store, [], Event(), line.show)
        for n in range(3):
            assert recorder.put(draft(n))
        recorder.finish()
    assert recorder.error is None
    assert store.last_seq() == 3


def test_whatever_fails_to_show_a_record_does_not_end_the_run(
    store: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    def show(record: Record, _times: StageTimes) -> None:
        if record.seq < 3:
            raise BrokenPipeError(32, "Broken pipe")

    recorder = Recorder(store, [], Event(), show)
    for n in range(3):
        assert recorder.put(draft(n))
    recorder.finish()
    assert recorder.error is None
    assert store.last_seq() == 3
    assert caplog.text.count("is committed and cannot be shown") == 1


def test_a_file_name_neither_commands_the_terminal_nor_makes_up_a_line(
    store: RecordStore, capsys: pytest.CaptureFixture[str]
) -> None:
    record = store.append(draft(1, name=HOSTILE))
    with LiveLine("x") as line:
        line.show(record, StageTimes())
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()


_COMMAND = """
import logging, sys
import typer
from hffnet.runtime import cli

def command():
    logging.getLogger("hffnet.x").warning("%s is not classified", {name!r})
    {do}

app = typer.Typer()
app.callback()(cli._global_options)
app.command("x")(command)
cli.build_app = lambda: app
cli.main(["x"])
"""


def ended(do: str, *, stdout: int, stderr: int) -> int:
    code = _COMMAND.format(name=HOSTILE, do=do)
    return subprocess.run(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=stderr,
        check=False,
        timeout=20,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    ).returncode


@pytest.fixture
def gone() -> Iterator[int]:
    """A pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


_RAISE = "raise BrokenPipeError(32, 'Broken pipe')"


@pytest.mark.parametrize(
    ("do", "gone_one", "code"),
    [
        pytest.param(_RAISE, "stdout", 0, id="head read enough"),
        pytest.param(_RAISE, "stderr", 70, id="stderr broke"),
        pytest.param(_RAISE, "", 70, id="another pipe broke"),
        pytest.param("pass", "stderr", 0, id="a good end without a terminal"),
    ],
)
def test_only_a_broken_stdout_is_a_good_end(gone: int, do: str, gone_one: str, code: int) -> None:
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if gone_one:
        streams[gone_one] = gone
    assert ended(do, **streams) == code


def test_log_lines_keep_to_their_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert ended("pass", stdout=subprocess.DEVNULL, stderr=log.fileno()) == 0
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(r"hffnet: a\x1b[2J\r\nhffnet: all is well")
    assert line.isprintable()


def test_errors_of_several_lines_stay_readable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise HffnetError("two things:\n  one\x1b[0m\n  two")

    monkeypatch.setattr(cli, "build_app", lambda: app)
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 3
    assert capsys.readouterr().err == "hffnet: two things:\n  one\\x1b[0m\n  two\n"
