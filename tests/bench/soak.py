"""``make soak``: the service for minutes or a day, watched for growth.

``python -m tests.bench.soak --minutes 20 [--bundle model.hffnet] [--page docs/results/DATE-soak.md]`` runs two
services at once: a live source at 30 frames a second in its own capture process, and a watched folder that gets 2 files
a second. Memory, descriptors, threads and processor time are sampled from /proc; the first 10 %, at least 150 s, are
warm-up. stdout is a JSON report; ``--page`` also writes it as Markdown, with a plot beside it. Exit code 1 where a
limit of growth is passed; latencies are told and decide nothing, because they hang on what else the machine does.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import tifffile

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.pipeline import run_pipeline
from hffnet.runtime.records import RecordStore
from hffnet.runtime.signals import stop_on_signals
from hffnet.runtime.sinks.csv_sink import CsvSink
from hffnet.runtime.sources import Source, open_source
from hffnet.runtime.sources.capture_process import CaptureProcess
from hffnet.runtime.sources.live_options import LiveOptions
from hffnet.runtime.sources.live_source import LiveSource
from tests.bench.slope import Slope, theil_sen
from tests.tiny import write_tiny_bundle

ROOT = Path(__file__).parents[2]
CAMERA = ROOT / "tests" / "runtime" / "fake_camera.py"
_SETTINGS = "0" * 64
_WARM_UP_H = 150 / 3600  # at 30 frames a second every window over the latest frames (4096) is full by then
_FILES_PER_S = 2
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process."""

    hours: float
    rss_mb: float
    descriptors: int
    threads: int
    cpu_s: float


def serve(role: str, bundle: Path, folder: Path) -> None:
    """One service, until SIGTERM; in a process of its own."""
    stop = Event()
    source: Source
    if role == "live":
        command = (sys.executable, str(CAMERA))
        source = LiveSource("camera", lambda: CaptureProcess("fake:30fps", command=command), LiveOptions())
    else:
        source = open_source(f"dir:{folder / 'in'}")
    with (
        stop_on_signals(stop),
        Classifier.open(bundle, threads=1) as classifier,
        RecordStore.open(folder / f"{role}.sqlite") as store,
    ):
        sinks = [CsvSink(folder / f"{role}.csv")]
        summary = run_pipeline(source, classifier, store, sinks, settings_sha256=_SETTINGS, stop=stop)
    sys.stdout.write(json.dumps({"counts": summary.counts, "dropped": summary.dropped}))


def sample(pid: int, began: float) -> Sample:
    """What /proc says of a process now."""
    place = Path(f"/proc/{pid}")
    rss_mb = int((place / "statm").read_text().split()[1]) * _PAGE_MB
    descriptors = sum(1 for _ in (place / "fd").iterdir())
    threads = sum(1 for _ in (place / "task").iterdir())
    # utime and stime, fields 14 and 15 of proc(5); the name before them may hold spaces.
    ticks = sum(int(word) for word in (place / "stat").read_text().rpartition(")")[2].split()[11:13])
    return Sample((time.monotonic() - began) / 3600, rss_mb, descriptors, threads, ticks / os.sysconf("SC_CLK_TCK"))


def soak(minutes: float, bundle: Path, folder: Path, every_s: float) -> tuple[dict[str, Any], dict[str, list[Sample]]]:
    """Run both services, feed the folder, sample; the report and every sample."""
    (folder / "in").mkdir()
    roles = ("live", "folder")
    command = [sys.executable, "-m", "tests.bench.soak", "--bundle", str(bundle), "--folder", str(folder), "--role"]
    running = {role: subprocess.Popen([*command, role], stdout=subprocess.PIPE, text=True, cwd=ROOT) for role in roles}
    began = time.monotonic()
    samples: dict[str, list[Sample]] = {role: [] for role in roles}
    rng, num, next_sample = np.random.default_rng(0), 0, began
    while time.monotonic() - began < minutes * 60:
        pixels = rng.integers(20, 230, (884, 1024), dtype=np.uint8)
        tifffile.imwrite(folder / "in" / f".{num}.part", pixels)
        (folder / "in" / f".{num}.part").rename(folder / "in" / f"{num:07d}.tif")
        num += 1
        if time.monotonic() >= next_sample:
            next_sample += every_s
            for role, process in running.items():
                samples[role].append(sample(process.pid, began))
        time.sleep(max(began + num / _FILES_PER_S - time.monotonic(), 0.0))
    report: dict[str, Any] = {"minutes": minutes, "bundle": open_bundle(bundle).manifest.name, "files_written": num}
    for role, process in running.items():
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
        report[role] = {**json.loads(said), "exit_code": process.returncode, **figures(role, samples[role], folder)}
    return report, samples


def steady_part(samples: list[Sample]) -> list[Sample]:
    """Samples after the warm-up."""
    return [s for s in samples if s.hours >= max(_WARM_UP_H, 0.1 * samples[-1].hours)]


def figures(role: str, samples: list[Sample], folder: Path) -> dict[str, object]:
    """Growth after the warm-up, and whether results come as fast at the end as at the beginning."""
    steady = steady_part(samples)
    if len(steady) < 10:
        raise SystemExit("too few samples after the warm-up; give --minutes 5 or more")
    slope = theil_sen([s.hours for s in steady], [s.rss_mb for s in steady])
    with RecordStore.open(folder / f"{role}.sqlite", create=False) as store:
        totals_ms = [sum(r.timings_ms.values()) for r in store.iterate() if r.kind == "result"]
        is_sound = store.verify().is_sound
    fifth = max(len(totals_ms) // 5, 1)
    enough = fifth >= 662  # MLPerf: fewer samples say nothing of a p99
    return {
        "rss_mb": round(steady[-1].rss_mb, 1),
        "rss_slope_mb_per_h": asdict(slope),
        "descriptors_added": steady[-1].descriptors - steady[0].descriptors,
        "threads_added": steady[-1].threads - steady[0].threads,
        "cpu_share": round((steady[-1].cpu_s - steady[0].cpu_s) / 3600 / (steady[-1].hours - steady[0].hours), 3),
        "num_results": len(totals_ms),
        "p50_ms": round(float(np.median(totals_ms)), 3),
        "p99_ms_first_fifth": round(float(np.percentile(totals_ms[:fifth], 99)), 3) if enough else None,
        "p99_ms_last_fifth": round(float(np.percentile(totals_ms[-fifth:], 99)), 3) if enough else None,
        "is_sound": is_sound,
        "faults": faults(slope, steady),
    }


def faults(slope: Slope, steady: list[Sample]) -> list[str]:
    """Limits that were passed; memory at the upper 95 % bound, which takes 20 minutes to narrow down."""
    found = []
    if slope.high > 20.0:
        found.append(f"memory may grow by {slope.high:.1f} MB/h, at most 20 are allowed")
    if steady[-1].descriptors > steady[0].descriptors:
        found.append("descriptors were added")
    if steady[-1].threads > steady[0].threads:
        found.append("threads were added")
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--page", type=Path, help="Markdown file to write; the plot goes beside it as .svg")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=("live", "folder"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.role:
        serve(told.role, told.bundle, told.folder)
        return
    with tempfile.TemporaryDirectory(prefix="hffnet-soak-") as name:
        folder = Path(name)
        bundle = (told.bundle or write_tiny_bundle(folder / "tiny.hffnet")).resolve()
        load = os.getloadavg()[0]
        report, samples = soak(told.minutes, bundle, folder, told.every)
    if told.page:
        from tests.bench.soak_page import write_page

        steady_from_h = {role: steady_part(of)[0].hours for role, of in samples.items()}
        write_page(told.page, report, samples, steady_from_h, loads=(load, os.getloadavg()[0]))
    print(json.dumps(report, indent=1))
    services = [entry for entry in report.values() if isinstance(entry, dict)]
    sys.exit(any(entry["faults"] or entry["exit_code"] or not entry["is_sound"] for entry in services))


if __name__ == "__main__":
    main()
