"""`hffnet train` from the outside."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hffnet.runtime.errors import ConfigError
from hffnet.train.cli import train

app = typer.Typer()
app.command()(train)


def test_one_json_document_on_stdout(pictures: Path, tmp_path: Path) -> None:
    arguments = [str(pictures), "-o", str(tmp_path / "out"), "--epochs", "1", "--json", "--threads", "1"]
    result = CliRunner().invoke(app, [*arguments, "--val-fraction", "0.2", "--test-fraction", "0.2"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    assert document["checkpoint"] == str(tmp_path / "out")
    assert 0 <= document["test"]["hf1"] <= 1
    assert "epoch 1/1" in result.stderr


def test_without_a_test_share_there_is_no_test_score(pictures: Path, tmp_path: Path) -> None:
    arguments = [str(pictures), "-o", str(tmp_path / "out"), "--epochs", "1", "--test-fraction", "0", "--threads", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("val ")
    assert "test " not in result.stdout


def test_wrong_options_reach_the_caller_as_errors(pictures: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(pictures), "-o", str(tmp_path / "out"), "--recipe", "huge"])
    assert isinstance(result.exception, ConfigError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("heavy", ["torch", "kornia", "cv2", "rich.console"])
def test_the_command_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys, hffnet.train.cli; sys.exit({heavy!r} in sys.modules and {heavy != 'rich.console'})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
