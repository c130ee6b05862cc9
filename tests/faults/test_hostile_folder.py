"""A watched folder with everything that can lie in one: complete files are classified once, none early."""

import hashlib
import io
import os
import random
import re
import signal
from collections import Counter
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import tifffile

from hffnet.runtime.records import RecordStore
from tests.faults.service import next_result, started
from tests.hostile.test_hostile_frames import REFUSED, WHOLE

_MEMORY_MB = 256  # above what a small frame took; the largest hostile ones decode to 64 MiB and two may be in hand
_READING = f"""[reading]
memory_mb = {_MEMORY_MB}
max_decoded_mb = {_MEMORY_MB}
"""
_SLACK_MB = 32  # of what is not the decoder's: the pages of libraries that it loads as it meets new kinds of files
_PATIENCE_S = 2.0  # many times the pauses of the tests: a machine that is busy for a second changes nothing
_TIFFS = {name: data for name, data in WHOLE.items() if name.startswith("tiff")}


def hostile() -> dict[str, bytes]:
    """Files that are no frames, by name: refused kinds, truncated ones, and damaged ones that may still be read."""
    chance, files = random.Random(6), {}
    for n, data in enumerate(REFUSED.values()):
        files[f"refused-{n:02d}.tif"] = data
    for n, data in enumerate(_TIFFS.values()):
        for share in (0.1, 0.5, 0.97):
            files[f"cut-{n}-{share}.tif"] = data[: int(len(data) * share)]
    for n in range(24):
        damaged = bytearray(chance.choice(list(_TIFFS.values())))
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] ^= chance.randint(1, 255)
        files[f"damaged-{n:02d}.tif"] = bytes(damaged)
    return files


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.random.default_rng(seed).integers(20, 230, (96, 128), dtype=np.uint8))
    return file.getvalue()


def costly() -> bytes:
    """A frame whose header is within the limits, and which takes more memory than is allowed once it is decoded."""
    file = io.BytesIO()
    shape = (9000, 9000, 3)  # 243 MB in colour, and 81 MB in grey beside it
    tifffile.imwrite(file, np.zeros(shape, np.uint8), photometric="rgb", compression="zlib", rowsperstrip=64)
    return file.getvalue()


def put(folder: Path, name: str, data: bytes) -> None:
    """As a careful program does: another name until it is complete."""
    (folder / f".{name}").write_bytes(data)
    (folder / f".{name}").rename(folder / name)


class Peaks(Thread):
    """The most memory that each process below one ever had, asked for again and again; kernels keep the peak."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.decoders = pid, dict[int, float]()
        self.done = Event()

    def run(self) -> None:
        while not self.done.wait(0.02):
            self.look()

    def end(self) -> None:
        self.done.set()
        self.join()
        self.look()

    def look(self) -> None:
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes()
                parent = re.search(r"PPid:\s+(\d+)", (place / "status").read_text())
            except OSError:
                continue
            if parent and int(parent[1]) == self.pid and b"read_process" in command:
                peak = peak_mb(int(place.name))
                self.decoders[int(place.name)] = max(self.decoders.get(int(place.name), 0.0), peak)


def peak_mb(pid: int) -> float:
    """Most memory the process ever had; 0 where it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Watched:
    """The service on a folder, and what it said of each file."""

    def __init__(self, bundle: Path, folder: Path, out: Path) -> None:
        folder.mkdir()
        self.folder, self.said = folder, dict[str, list[dict[str, Any]]]()
        self.process = started(bundle, folder, out, sinks=_READING, patience_s=_PATIENCE_S)

    def wait_for(self, names: set[str], status: str | None = None) -> None:
        """Until each was told of, with this status if one is given."""
        while not names <= {
            name for name, results in self.said.items() if status is None or any(r["status"] == status for r in results)
        }:
            result = next_result(self.process)
            self.said.setdefault(result["name"], []).append(result)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        with self.process.stdout:
            self.process.stdout.read()
        assert self.process.wait() == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_everything_that_can_lie_in_a_folder(tmp_path: Path, bundle_path: Path) -> None:
    spoilt = {**hostile(), "costly.tif": costly()}
    assert len(spoilt) >= 50
    watched = Watched(bundle_path, tmp_path / "in", tmp_path / "out")
    folder, whole = watched.folder, {f"whole-{n}.tif": picture(n) for n in range(8)}
    put(folder, "whole-0.tif", whole["whole-0.tif"])
    watched.wait_for({"whole-0.tif"})
    before_mb = peak_mb(watched.process.pid)
    peaks = Peaks(watched.process.pid)
    peaks.look()
    (decoder_mb,) = peaks.decoders.values()
    peaks.start()
    (folder / "folder.tif").mkdir()
    (folder / "link.tif").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe.tif")
    for name, data in spoilt.items():
        put(folder, name, data)
    arrive_badly(watched, whole)
    put(folder, "whole-7.tif", whole["whole-7.tif"])
    watched.wait_for({*spoilt, "whole-7.tif"})
    taken_mb = peak_mb(watched.process.pid) - before_mb
    peaks.end()
    watched.end()
    check(tmp_path / "out" / "records.sqlite", whole, spoilt)
    (costly_one,) = watched.said["costly.tif"]
    assert f"more than {_MEMORY_MB} MB of memory" in costly_one["reason"]
    assert taken_mb < _MEMORY_MB
    assert max(peaks.decoders.values()) - decoder_mb < _MEMORY_MB + _SLACK_MB
    assert max(peaks.decoders.values()) - decoder_mb > _MEMORY_MB / 4  # the corpus does press against the bound


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_vendor_frames_and_their_torn_halves(tmp_path: Path, bundle_path: Path, shared: Path) -> None:
    """Real frames of five makers among truncated copies of them: each file once, no half of one classified."""
    frames = {
        path.name: path.read_bytes()
        for path in sorted((shared / "data/vendor_tiff").glob("*/*"))
        if path.suffix in {".tif", ".bmp"}
    }
    halves = {f"half-{name}": data[: len(data) // 2] for name, data in frames.items()}
    watched = Watched(bundle_path, tmp_path / "in", tmp_path / "out")
    peaks = Peaks(watched.process.pid)
    peaks.start()
    for name, data in (halves | frames).items():
        put(watched.folder, name, data)
    watched.wait_for({*frames, *halves})
    peaks.end()
    watched.end()
    said = {name: results[-1]["status"] for name, results in watched.said.items()}
    assert all(len(results) == 1 for results in watched.said.values())
    assert said.pop("undecodable_strip.tif") == "failed"
    assert {said[name] for name in said if name in halves} <= {"failed", "not_classified"}
    assert "failed" not in {said[name] for name in said if name in frames}
    assert max(peaks.decoders.values()) < 2 * _MEMORY_MB  # with all that the process takes anyway


def arrive_badly(watched: Watched, whole: dict[str, bytes]) -> None:
    """The ways in which a complete file comes to be, and one that is renamed afterwards."""
    folder, pause = watched.folder, Event().wait
    with (folder / "whole-1.tif").open("wb", buffering=0) as held, (folder / "whole-2.tif").open("wb") as preallocated:
        preallocated.write(whole["whole-2.tif"][:4000])
        preallocated.truncate(len(whole["whole-2.tif"]))  # all its bytes, the last of them zeros
        preallocated.close()
        held.write(whole["whole-1.tif"][:5000])
        pause(0.15)  # several looks long, while its writer has it open
        held.write(whole["whole-1.tif"][5000:])
    for at in range(0, len(whole["whole-3.tif"]), 3000):  # a slow copy that opens and closes, as over a network
        with (folder / "whole-3.tif").open("ab") as copied:
            copied.write(whole["whole-3.tif"][at : at + 3000])
        pause(0.05)
    half = len(whole["whole-4.tif"]) // 2
    (folder / "whole-4.tif").write_bytes(whole["whole-4.tif"][:half])  # a copy that was broken off
    watched.wait_for({"whole-2.tif", "whole-4.tif"})
    assert {watched.said[name][-1]["status"] for name in ("whole-2.tif", "whole-4.tif")} <= {"failed", "not_classified"}
    for name in ("whole-2.tif", "whole-4.tif"):  # and taken up again
        (folder / name).write_bytes(whole[name])
    (folder / "whole-5.tif.part").write_bytes(whole["whole-5.tif"])
    pause(0.1)
    (folder / "whole-5.tif.part").rename(folder / "whole-5.tif")
    put(folder, "whole-6.tif", whole["whole-6.tif"])
    watched.wait_for({f"whole-{n}.tif" for n in range(1, 7)}, "classified")
    (folder / "whole-6.tif").rename(folder / "renamed.tif")


def check(records: Path, whole: dict[str, bytes], spoilt: dict[str, bytes]) -> None:
    """Every complete file once, nothing but complete or readable files classified, and a reason for the rest."""
    with RecordStore.open(records) as store:
        rows = [row for row in store.iterate() if row.kind == "result"]
        assert store.verify().is_sound
    classified = Counter(row.input_sha256 for row in rows if row.status == "classified")
    may_be_read = {sha256(data) for name, data in spoilt.items() if name.startswith("damaged")}
    assert {sha: num for sha, num in classified.items() if sha not in may_be_read} == {
        sha256(data): 1 for data in whole.values()
    }
    told = Counter(row.name for row in rows)
    assert all(told[name] == 1 for name in spoilt)
    assert told["whole-1.tif"] == told["whole-5.tif"] == told["whole-6.tif"] == 1
    assert not {"folder.tif", "link.tif", "pipe.tif", "renamed.tif"} & set(told)
    assert all(row.reason for row in rows if row.status != "classified")
    assert not [row.reason for row in rows if row.reason and "defect" in row.reason]
