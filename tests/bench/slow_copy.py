"""Real frames of several makers copied into a watched folder a few kilobytes at a time, as a slow share does.

``python -m tests.bench.slow_copy [--frames ../shared/data/vendor_tiff]`` starts ``hffnet run`` on an empty folder,
copies every frame into it, all at once and interleaved, and prints what was recorded: no file may be classified before
it is complete, each gets one record, with its crop and its micrometres per pixel. Exit code 1 where that is not so.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hffnet.runtime.record import Record
from hffnet.runtime.records import RecordStore
from tests.tiny import write_tiny_bundle

ROOT = Path(__file__).parents[2]
FRAMES = Path(os.environ.get("HFFNET_SHARED", ROOT / "../shared")) / "data" / "vendor_tiff"
_SUFFIXES = {".tif", ".tiff", ".bmp", ".png", ".jpg"}


@dataclass(frozen=True, slots=True)
class Copied:
    """One file that was copied: its name below the folder, hash, and when its last byte was written (UTC)."""

    name: str
    sha256: str
    seconds: float
    complete_at: datetime


def frames_in(folder: Path) -> list[Path]:
    """All image files of a folder and below."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def copy_slowly(frames: Sequence[Path], origin: Path, target: Path, chunk: int, pause_s: float) -> list[Copied]:
    """Copy files in turns, a chunk each; ``pause_s`` after each round. Every second one is closed between chunks."""
    data = {path: path.read_bytes() for path in frames}
    places = {path: target / path.relative_to(origin) for path in frames}
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    open_files = {path: places[path].open("wb") for path in frames[::2]}
    copied, began, at = list[Copied](), time.monotonic(), 0
    while len(copied) < len(frames):
        for path in frames:
            part = data[path][at : at + chunk]
            if not part:
                continue
            if path in open_files:
                open_files[path].write(part)
                open_files[path].flush()
            else:
                with places[path].open("ab") as file:
                    file.write(part)
            if at + chunk >= len(data[path]):
                if path in open_files:
                    open_files[path].close()
                digest, name = hashlib.sha256(data[path]).hexdigest(), str(path.relative_to(origin))
                copied.append(Copied(name, digest, time.monotonic() - began, datetime.now(UTC)))
        at += chunk
        time.sleep(pause_s)
    return copied


def run_on_slow_copies(
    frames: Path, folder: Path, bundle: Path, *, chunk: int, pause_s: float, settings: str, idle_exit_s: float = 3.0
) -> tuple[list[Copied], list[Record]]:
    """Start the command, copy, wait for its end; what was copied and what was recorded."""
    target = folder / "in"
    target.mkdir()
    source = f"dir:{target}?recursive=1&{settings}"
    code = "import typer; from hffnet.runtime.run_command import run; typer.run(run)"
    command = [sys.executable, "-c", code, str(bundle), source]
    with subprocess.Popen(
        [*command, "--records", str(folder / "records.sqlite"), "--idle-exit", str(idle_exit_s)]
    ) as process:
        copied = copy_slowly(frames_in(frames), frames, target, chunk, pause_s)
    if process.returncode:
        raise SystemExit(f"hffnet run ended with exit code {process.returncode}")
    with RecordStore.open(folder / "records.sqlite", create=False) as store:
        if not store.verify().is_sound:
            raise SystemExit("the records are not sound")
        return copied, [record for record in store.iterate() if record.kind == "result"]


def _line(one: Copied, record: Record) -> str:
    crop, acquisition = record.crop or {}, record.acquisition or {}
    late_ms = (datetime.fromisoformat(record.created_utc) - one.complete_at).total_seconds() * 1e3
    picture = f"{crop['width']} × {crop['height']} ({crop['reason']})" if crop else "–"
    said = record.reason or "/".join(record.class_path)
    micrometres = acquisition.get("pixel_size_um")
    return (
        f"| {one.name} | {one.seconds:.1f} | {late_ms:.0f} | {picture} | {micrometres or '–'} | {record.status} |"
        f" {said.replace('|', '/')[:90]} |"
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, default=FRAMES)
    parser.add_argument("--bundle", type=Path, help="default: a tiny test network, whose answers mean nothing")
    parser.add_argument("--chunk", type=int, default=8192, help="bytes")
    parser.add_argument("--pause", type=float, default=0.06, help="seconds between rounds; the settling time is 0.08")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hffnet-slow-") as name:
        folder = Path(name)
        bundle = told.bundle or write_tiny_bundle(folder / "tiny.hffnet")
        copied, records = run_on_slow_copies(
            told.frames, folder, bundle, chunk=told.chunk, pause_s=told.pause, settings="patience_s=5"
        )
    by_name = {record.name: record for record in records}
    print("| file | copied in s | complete → record ms | picture | µm/pixel | status | said |\n|" + " --- |" * 7)
    for one in sorted(copied, key=lambda one: one.name):
        print(_line(one, by_name[one.name]))
    early = [one.name for one in copied if by_name[one.name].input_sha256 not in {one.sha256, None}]
    print(f"\n{len(copied)} files, {len(records)} records, {len(early)} read before they were complete {early or ''}")
    sys.exit(bool(early) or len(records) != len(copied))


if __name__ == "__main__":
    main()
