"""Two runs on one records file would deliver everything twice: the second is refused; other commands are not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hffnet.runtime.errors import ConfigError, RecordError
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_lock import sole_run
from tests.faults.service import ROOT, classified, rest_of, started, write_frames

_CLI = """
import sys, typer
from hffnet.runtime.errors import HffnetError
from hffnet.runtime.records_command import records
from hffnet.runtime.run_command import run
app = typer.Typer()
app.command("run")(run)
app.add_typer(records, name="records")
try:
    app()
except HffnetError as error:
    sys.stderr.write(str(error))
    sys.exit(error.exit_code)
"""


def hffnet(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )


def test_a_second_run_is_refused_and_everything_else_goes_on(tmp_path: Path, bundle_path: Path) -> None:
    out = tmp_path / "out"
    names = write_frames(tmp_path / "in", 2)
    process = started(bundle_path, tmp_path / "in", out)
    try:
        assert classified(process, 2) == set(names)
        second = hffnet("run", "--config", out / "service.toml", "--once")
        assert second.returncode == 2
        assert f"another hffnet run (process {process.pid}) writes to" in second.stderr
        assert "stop it, or name another records file" in second.stderr
        records = out / "records.sqlite"
        assert hffnet("run", "--config", out / "service.toml", "--check").returncode == 0
        listed = json.loads(hffnet("records", "list", records, "--json").stdout)
        seq = next(record["seq"] for record in listed["records"] if record["kind"] == "result")
        decided = hffnet("records", "override", records, seq, "--person", "P", "--decision", "accept")
        assert decided.returncode in {0, 3}, decided.stderr  # 3: it answered unsure, and there is nothing to accept
        assert "process" not in decided.stderr
        assert hffnet("records", "archive", records, tmp_path / "old", "--keep-days", 1).returncode == 0
        assert hffnet("records", "export", records, "--csv", tmp_path / "all.csv").returncode == 0
        assert hffnet("records", "verify", records).returncode == 0
        names += write_frames(tmp_path / "in", 1, first=2)
        classified(process, 1)
    finally:
        process.send_signal(signal.SIGTERM)
        rest_of(process)
    assert process.returncode == 0
    rows = (out / "out.csv").read_text().splitlines()[1:]
    assert len(rows) == len({row.partition(",")[0] for row in rows})
    with RecordStore.open(out / "records.sqlite") as store:
        assert [row.name for row in store.iterate() if row.kind == "result"] == names


def test_a_killed_run_leaves_no_lock_and_a_link_is_the_same_file(tmp_path: Path) -> None:
    records = tmp_path / "records.sqlite"
    hold = "import sys, pathlib, hffnet.runtime.records_lock as l\n"
    hold += "with l.sole_run(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(records)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        (tmp_path / "link.sqlite").symlink_to(records)
        with pytest.raises(ConfigError, match=rf"process {process.pid}"), sole_run(tmp_path / "link.sqlite"):
            pass
        process.kill()
    with sole_run(records):
        assert (tmp_path / "records.sqlite.lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RecordError, match="need a folder that can be written to"),
        sole_run(tmp_path / "no" / "a.sqlite"),
    ):
        pass
