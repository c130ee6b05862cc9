"""A real ``hffnet run --view`` in a process of its own, and frames to feed it."""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Self

import numpy as np
import tifffile

from hffnet.runtime.records import RecordStore

ROOT = Path(__file__).parents[2]
_COMMAND = "import typer; from hffnet.runtime.run_command import run; app = typer.Typer(); app.command()(run); app()"
_ADDRESS = re.compile(r"live view at (http://\S+)")
_START_S = 60.0


class RunningView:
    """``hffnet run --view`` on a folder; a context manager, and after ``stop`` it can be started again.

    Args:
        bundle: what classifies.
        folder: where frames, records and token go.
        source: None watches the folder of frames, looking often.
        tables: further tables of a settings file, which then holds everything.
    """

    def __init__(self, bundle: Path, folder: Path, source: str | None = None, tables: str = "") -> None:
        self.frames, self.records = folder / "frames", folder / "records.sqlite"
        self.frames.mkdir(exist_ok=True)
        self._bundle, self._token_file = bundle, folder / "token"
        self._source = source or f"dir:{self.frames}?poll_s=0.02&settle_s=0.001"
        self._settings, self._tables = folder / "run.toml", tables
        self._port = 0  # a free one, which a later start takes again
        self._token_file.touch(mode=0o600)
        self._token_file.write_text("not-a-secret-in-a-test\n", encoding="ascii")
        self._process: subprocess.Popen[str] | None = None
        self._listener = Thread()
        self.url = ""

    @property
    def login_url(self) -> str:
        return f"{self.url}login?token={self._token_file.read_text(encoding='ascii').strip()}"

    def start(self) -> None:
        words = self._words_of_a_settings_file() if self._tables else self._words()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "OMP_NUM_THREADS": "1"},
        )
        self.url = self._address()
        self._port = int(self.url.rstrip("/").rpartition(":")[2])

    def _words(self) -> list[str]:
        words = [str(self._bundle), self._source, "--records", str(self.records)]
        words += ["--engine", "onnxruntime", "--threads", "1", "--view", "--port", str(self._port)]
        return [*words, "--token-file", str(self._token_file)]

    def _words_of_a_settings_file(self) -> list[str]:
        self._settings.write_text(
            f"""bundle = "{self._bundle}"
source = "{self._source}"
engine = {{ name = "onnxruntime", threads = 1 }}
records = {{ file = "{self.records}" }}
view = {{ port = {self._port}, token_file = "{self._token_file}" }}
{self._tables}""",
            encoding="utf-8",
        )
        return ["--config", str(self._settings)]

    def _address(self) -> str:
        """The address it tells, as soon as it listens; the rest of what it says is read so that it never waits."""
        process = self._process
        assert process is not None
        assert process.stderr is not None
        said, found = deque[str](maxlen=40), Queue[str]()
        stream = process.stderr

        def listen() -> None:
            for line in stream:
                said.append(line)
                if match := _ADDRESS.search(line):
                    found.put(match[1])
            found.put("")

        self._listener = Thread(target=listen, daemon=True)
        self._listener.start()
        address = found.get(timeout=_START_S)
        assert address, "".join(said)
        return address

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(_START_S)
            self._listener.join(_START_S)
            assert process.stderr is not None
            process.stderr.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def feed(self, name: str, picture: "np.ndarray") -> str:
        """A frame arrives as instruments save it: under another name first."""
        tifffile.imwrite(self.frames / ".part", picture)
        (self.frames / ".part").rename(self.frames / name)
        return name

    def result_seqs(self) -> list[int]:
        with RecordStore.open(self.records, create=False) as store:
            return [record.seq for record in store.iterate() if record.kind == "result"]


def speckled(bright: float, seed: int = 0) -> "np.ndarray":
    """A frame of which so large a share is bright: the tiny network is surer the brighter it is."""
    is_bright = np.random.default_rng(seed).random((96, 128)) < bright
    picture: np.ndarray = np.where(is_bright, 230, 20).astype(np.uint8)
    return picture


SURE, PARTLY, UNSURE = 0.95, 0.4, 0.1
"""Shares of bright pixels that the tiny bundle with ``MIN_CONFIDENCE`` answers to the leaf, to level 1, not at all."""

MIN_CONFIDENCE = 0.6
