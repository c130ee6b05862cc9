"""``make soak``: the shipped service for minutes or a day, watched for growth.

``python -m tests.bench.soak --minutes 20 [--bundle model.hffnet] [--page docs/results/DATE-soak.md]`` starts
``hffnet run --config`` twice: on a network camera (RTSP on the loopback, 30 frames a second, each due at its time) and
on a watched folder that gets 2 files a second. Both deliver to CSV and metrics, the folder also to JSONL and annotated
pictures, and both move old rows to archives. Memory, descriptors, threads and processor time are those of each service
and of every process that works for it (``process_tree``); latencies are the records' own. The first 10 %, at least
150 s and at most half of the run, are warm-up. Files and pictures older than five minutes are removed, as a laboratory
would move them.

stdout is a JSON report; ``--page`` also writes it as Markdown, with a plot beside it. Exit code 1 where a limit of
growth is passed; latencies are told and decide nothing, because they hang on what else the machine does. A day takes
about 20 GB of disk for the records' archives.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.errors import RecordError
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_archive import verify_archive
from tests.bench.process_tree import Sample, sample
from tests.bench.slope import Slope, theil_sen
from tests.runtime.rtsp_server import RtspServer
from tests.tiny import write_tiny_bundle

ROOT = Path(__file__).parents[2]
ROLES = ("live", "folder")
_WARM_UP_H = 150 / 3600  # at 30 frames a second every window over the latest frames (4096) is full by then
_FILES_PER_S, _FRAMES_PER_S = 2, 30
_KEPT = 600  # files and pictures that stay
_START_S, _END_S = 120, 30
_ENOUGH = 662  # MLPerf: fewer samples say nothing of a p99
_MOST_SLOPE_MB_PER_H = 20.0
_INSTALLED = "from hffnet.runtime.cli import main; main()"
_CHECKOUT = """import logging, typer
from hffnet.runtime.run_command import run
logging.basicConfig(format="hffnet: %(message)s")
app = typer.Typer()
app.callback()(lambda: None)
app.command("run")(run)
app()"""
_SETTINGS = """bundle = "{bundle}"
source = "{source}"
watchdog_s = 120
[engine]
threads = 1
[records]
file = "records.sqlite"
archive = "archive"
max_mb = 4
[sinks]
csv = "results.csv"
metrics = "hffnet.prom"
"""
_MORE_SINKS = """jsonl = "results.jsonl"
[sinks.annotated]
folder = "annotated"
"""


def service(role: str, bundle: Path, folder: Path, source: str) -> "subprocess.Popen[str]":
    """``hffnet run`` as it ships, its files under ``folder/role``."""
    place = folder / role
    place.mkdir()
    said = _SETTINGS.format(bundle=bundle, source=source) + (_MORE_SINKS if role == "folder" else "")
    (place / "service.toml").write_text(said)
    program = _INSTALLED if entry_points(group="hffnet.commands", name="run") else _CHECKOUT
    command = [sys.executable, "-c", program, "run", "--config", str(place / "service.toml"), "--json"]
    paths = [*(str(ROOT / name) for name in ("runtime", "calibration", "train", "export")), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with (place / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)


def soak(minutes: float, bundle: Path, folder: Path, every_s: float) -> tuple[dict[str, Any], dict[str, list[Sample]]]:
    """Run both services, feed the folder, sample; the report and every sample."""
    files, samples = folder / "in", {role: list[Sample]() for role in ROLES}
    files.mkdir()
    with RtspServer(pictures=pictures(), per_s=_FRAMES_PER_S) as camera:
        sources = {"live": f"rtsp://127.0.0.1:{camera.port}/live#open_timeout_s=60", "folder": f"dir:{files}"}
        running = {role: service(role, bundle, folder, source) for role, source in sources.items()}
        try:
            wait_until_ready(running, folder)
            began, sent_before = time.monotonic(), camera.num_sent
            num = feed_and_sample(minutes, folder, running, samples, every_s, began)
            seconds, sent = time.monotonic() - began, camera.num_sent - sent_before
            said = {role: ended(process) for role, process in running.items()}
        finally:
            for process in running.values():
                process.kill()
    report: dict[str, Any] = {"minutes": minutes, "bundle": open_bundle(bundle).manifest.name, "files_written": num}
    report |= {"frames_sent": sent, "frames_sent_per_s": round(sent / seconds, 2)}
    for role, (code, document) in said.items():
        report[role] = {"exit_code": code, **document, **figures(samples[role], folder / role)}
    return report, samples


def pictures() -> list[np.ndarray]:
    """What the camera sees: 30 pictures of 640 × 480, each unlike the one before."""
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 256, (480, 640), dtype=np.uint8) for _ in range(_FRAMES_PER_S))
    smooth = (np.asarray(cv2.GaussianBlur(one, (0, 0), 2), np.float32) for one in noise)
    grey = ((10 + 230 * (one - one.min()) / np.ptp(one)).astype(np.uint8) for one in smooth)
    return [np.repeat(one[:, :, None], 3, axis=2) for one in grey]


def wait_until_ready(running: "Mapping[str, subprocess.Popen[str]]", folder: Path) -> None:
    """Until both have made their record files, which is when their engines have proved themselves."""
    until = time.monotonic() + _START_S
    while not all((folder / role / "records.sqlite").exists() for role in running):
        for role, process in running.items():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the {role} service did not start:\n{(folder / role / 'log').read_text()}")
        time.sleep(0.1)


def feed_and_sample(
    minutes: float,
    folder: Path,
    running: "Mapping[str, subprocess.Popen[str]]",
    samples: Mapping[str, list[Sample]],
    every_s: float,
    began: float,
) -> int:
    """Two files a second, each at its time, and a look at both services now and then; how many files."""
    rng, num, next_sample = np.random.default_rng(0), 0, began
    while time.monotonic() - began < minutes * 60:
        write_file(folder / "in", num, rng)
        num += 1
        if time.monotonic() >= next_sample:
            next_sample += every_s
            for role, process in running.items():
                if process.poll() is not None:
                    raise SystemExit(f"the {role} service ended:\n{(folder / role / 'log').read_text()[-4000:]}")
                samples[role].append(sample(process.pid, began))
            remove_old(folder, num)
        time.sleep(max(began + num / _FILES_PER_S - time.monotonic(), 0.0))
    return num


def write_file(files: Path, num: int, rng: np.random.Generator) -> None:
    """A frame under a hidden name, renamed when it is whole."""
    part = files / f".{num}.part"
    tifffile.imwrite(part, rng.integers(20, 230, (884, 1024), dtype=np.uint8))
    part.rename(files / f"{num:07d}.tif")


def remove_old(folder: Path, num: int) -> None:
    """Files and pictures that nobody needs any more; a name holds the number of its file."""
    for path in (*(folder / "in").glob("*.tif"), *(folder / "folder" / "annotated").glob("*.tif.png")):
        if int(path.name.partition(".tif")[0].rpartition("-")[2]) < num - _KEPT:
            path.unlink()


def ended(process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any]]:
    """Stop a service as its supervisor would: its exit code, and what it says it did."""
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=_END_S)
    document = json.loads(told) if told else {}
    names = ("counts", "dropped", "undelivered", "num_unrecorded", "seconds")
    return process.returncode, {name: document.get(name) for name in names}


def steady_part(samples: Sequence[Sample]) -> list[Sample]:
    """Samples after the warm-up."""
    whole_h = samples[-1].hours
    warm_up_h = min(max(_WARM_UP_H, 0.1 * whole_h), whole_h / 2)
    return [one for one in samples if one.hours >= warm_up_h]


def figures(samples: Sequence[Sample], place: Path) -> dict[str, object]:
    """Growth after the warm-up, and whether results come as fast at the end as at the beginning."""
    steady = steady_part(samples)
    if len(steady) < 10:
        raise SystemExit("too few samples after the warm-up; give more --minutes, or --every fewer seconds")
    slope = theil_sen([one.hours for one in steady], [one.rss_mb for one in steady])
    fifth = max(len(steady) // 5, 1)
    first, last = steady[:fifth], steady[-fifth:]
    totals_ms = np.array(list(latencies_ms(place)))
    hours = steady[-1].hours - steady[0].hours
    seen = {pid for one in samples for pid in one.pids}
    added = {
        # A file or a thread may be open for a moment in any sample; what a leak leaves is open in every one.
        f"{what}_added": min(getattr(one, what) for one in last) - min(getattr(one, what) for one in first)
        for what in ("descriptors", "threads")
    }
    return {
        "rss_mb": round(steady[-1].rss_mb, 1),
        "of_it_mb": {k: round(getattr(steady[-1], f"{k}_mb"), 1) for k in ("anonymous", "file", "shared")},
        "rss_slope_mb_per_h": asdict(slope),
        **added,
        "processes": len(samples[-1].pids),
        "processes_replaced": len(seen) - len(samples[-1].pids),
        "cpu_share": round((steady[-1].cpu_s - steady[0].cpu_s) / 3600 / hours, 3),
        "num_results": len(totals_ms),
        **latency_figures(totals_ms),
        "is_sound": is_sound(place),
        "warnings": warnings_in(place / "log"),
        "faults": faults(slope, added),
    }


def latency_figures(totals_ms: np.ndarray) -> dict[str, object]:
    """Median, and the p99 of both ends where there are results enough for one."""
    fifth = len(totals_ms) // 5
    told: dict[str, object] = {"p50_ms": round(float(np.median(totals_ms)), 3) if len(totals_ms) else None}
    for name, part in (("first", totals_ms[:fifth]), ("last", totals_ms[len(totals_ms) - fifth :])):
        told[f"p99_ms_{name}_fifth"] = round(float(np.percentile(part, 99)), 3) if fifth >= _ENOUGH else None
    return told


def archives(place: Path) -> list[Path]:
    """What was moved out of the records, oldest first."""
    return sorted((place / "archive").glob("*.jsonl"))


def latencies_ms(place: Path) -> Iterator[float]:
    """From complete, or captured, to decided, for every result in order: the sum of the stages on record."""
    for path in archives(place):
        with path.open(encoding="utf-8") as file:
            yield from (sum(row["timings_ms"].values()) for row in map(json.loads, file) if row["kind"] == "result")
    with RecordStore.open(place / "records.sqlite", create=False) as store:
        yield from (sum(row.timings_ms.values()) for row in store.iterate() if row.kind == "result")


def is_sound(place: Path) -> bool:
    """Whether the chain holds through every archive and the records that follow them."""
    head = None
    for path in archives(place):
        report = verify_archive(path, prev_hash=head)
        if not report.is_sound:
            return False
        head = report.head
    with RecordStore.open(place / "records.sqlite", create=False) as store:
        follows = head is None or store.archived().last_hash == head
        try:
            return follows and store.verify().is_sound
        except RecordError:
            return False


def warnings_in(log: Path) -> dict[str, object]:
    """What the service said beside its line of progress: how many lines, and the first few."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if " frames, " not in line]
    return {"num": len(lines), "first": lines[:5]}


def faults(slope: Slope, added: Mapping[str, int]) -> list[str]:
    """Limits that were passed; memory at the upper 95 % bound, which takes 20 minutes to narrow down."""
    found = []
    if slope.high > _MOST_SLOPE_MB_PER_H:
        found.append(f"memory may grow by {slope.high:.1f} MB/h, at most {_MOST_SLOPE_MB_PER_H:.0f} are allowed")
    return found + [f"{what.removesuffix('_added')} were added: {num}" for what, num in added.items() if num > 0]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="28 give the folder's p99 its 662 files a fifth")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--page", type=Path, help="Markdown file to write; the plot goes beside it as .svg")
    told = parser.parse_args()
    if told.page:
        told.page.parent.mkdir(parents=True, exist_ok=True)  # now, not after a day
    with tempfile.TemporaryDirectory(prefix="hffnet-soak-") as name:
        folder = Path(name)
        bundle = (told.bundle or write_tiny_bundle(folder / "tiny.hffnet")).resolve()
        load = os.getloadavg()[0]
        report, samples = soak(told.minutes, bundle, folder, told.every)
    print(json.dumps(report, indent=1))
    if told.page:
        from tests.bench.soak_page import write_page

        steady_from_h = {role: steady_part(of)[0].hours for role, of in samples.items()}
        write_page(told.page, report, samples, steady_from_h, loads=(load, os.getloadavg()[0]))
    services = [report[role] for role in ROLES]
    sys.exit(any(entry["faults"] or entry["exit_code"] or not entry["is_sound"] for entry in services))


if __name__ == "__main__":
    main()
