"""The real service in a process of its own, for tests that do to it what happens at a microscope."""

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import numpy as np
import tifffile

ROOT = Path(__file__).parents[2]
_COMMAND = "import typer; from hffnet.runtime.run_command import run; app = typer.Typer(); app.command()(run); app()"


def write_frames(folder: Path, num: int, first: int = 0) -> list[str]:
    folder.mkdir(exist_ok=True)
    names = [f"{n:05d}.tif" for n in range(first, first + num)]
    for n, name in enumerate(names, start=first):
        pixels = np.random.default_rng(n).integers(20, 230, (96, 128), dtype=np.uint8)
        tifffile.imwrite(folder / f".{name}", pixels)
        (folder / f".{name}").rename(folder / name)
    return names


def started(
    bundle: Path, folder: Path, out: Path, *more: str, sinks: str = "", patience_s: float = 0.3
) -> "subprocess.Popen[str]":
    """``hffnet run`` with results on stdout and its log in ``out/log``; ``sinks`` is more TOML."""
    out.mkdir(exist_ok=True)
    settings = out / "service.toml"
    settings.write_text(
        f"""bundle = "{bundle}"
source = "dir:{folder}?poll_s=0.01&settle_s=0.001&patience_s={patience_s}"
engine = {{ name = "onnxruntime", threads = 1 }}
records = {{ file = "records.sqlite" }}
[sinks]
csv = "out.csv"
jsonl = "-"
{sinks}
"""
    )
    with (out / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "--config", str(settings), *more],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
        )


def next_result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The next result that it writes; waits for it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the service ended"
    document: dict[str, Any] = json.loads(line)
    return document


def rest_of(process: "subprocess.Popen[str]") -> list[str]:
    """Names in the lines that a process that ended, or is about to, still wrote whole."""
    assert process.stdout is not None
    with process.stdout:
        lines = process.stdout.read().splitlines(keepends=True)
    process.wait()
    return [json.loads(line)["name"] for line in lines if line.endswith("\n")]


def classified(process: "subprocess.Popen[str]", num: int) -> set[str]:
    """Names of the next results, so many; waits for them."""
    return {next_result(process)["name"] for _ in range(num)}


def wait_for_log(out: Path, words: str, timeout_s: float = 20.0) -> None:
    """Until the service's log says it."""
    end = monotonic() + timeout_s
    while words not in (out / "log").read_text(errors="replace"):
        assert monotonic() < end, f"the log never said {words!r}"
        Event().wait(0.02)
