"""Does the folder service grow? A long run in short time: thousands of frames through the whole pipeline, back to back.

``python -m tests.bench.growth --frames 20000`` runs one service in a process of its own on a watched folder, keeps the
folder a few hundred files ahead of it (hard links to a few real files: no disk is filled), and samples the process's
memory by the number of results. At two files a second 20,000 frames are 2.8 hours. Printed as markdown; exit code 1
where memory grows by more than ``--limit`` MB per 1,000 frames after the warm-up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import tifffile

from tests.bench.slope import Slope, theil_sen
from tests.tiny import write_tiny_bundle

ROOT = Path(__file__).parents[2]
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_STEP = 250  # results between two samples
_AHEAD = 500
_DIFFERENT = 8
_WARM_UP = 5000  # every window over the latest frames (4,096) and SQLite's page caches are full by then


@dataclass(frozen=True, slots=True)
class Sample:
    """The service, with the process that reads for it, after so many results; ``reading_mb`` is that process alone."""

    num: int
    rss_mb: float
    reading_mb: float
    descriptors: int
    threads: int


def serve(bundle: Path, folder: Path, num_frames: int, *, reads_here: bool) -> None:
    """The service: says how many results are committed, every so often, and ends after ``num_frames``."""
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.limits import ReadingSettings
    from hffnet.runtime.pipeline import run_pipeline
    from hffnet.runtime.read_worker import ReadWorker, read_here
    from hffnet.runtime.record import Record
    from hffnet.runtime.records import RecordStore
    from hffnet.runtime.sinks.csv_sink import CsvSink
    from hffnet.runtime.sources import open_source
    from hffnet.runtime.stage_times import StageTimes

    stop = Event()

    def on_record(record: Record, times: StageTimes) -> None:
        del times
        if record.seq % _STEP == 0:
            sys.stdout.write(f"{record.seq}\n")
            sys.stdout.flush()
        if record.seq >= num_frames:
            stop.set()

    with (
        Classifier.open(bundle, threads=1) as classifier,
        RecordStore.open(folder / "records.sqlite") as store,
        nullcontext(read_here) if reads_here else ReadWorker(ReadingSettings(), is_stopped=stop.is_set) as read_file,
    ):
        source = open_source(f"dir:{folder / 'in'}?poll_s=0.02&settle_s=0.01")
        sinks = [CsvSink(folder / "results.csv")]
        run_pipeline(
            source,
            classifier,
            store,
            sinks,
            settings_sha256="0" * 64,
            stop=stop,
            on_record=on_record,
            read_file=read_file,
        )


def feed(folder: Path, begin: int, end: int) -> None:
    """Hard links to the frames, under new names: new files for the service, no new bytes on the disk."""
    for num in range(begin, end):
        (folder / "in" / f"{num:08d}.tif").hardlink_to(folder / f"frame_{num % _DIFFERENT}.tif")


def watch(
    bundle: Path, folder: Path, num_frames: int, shape: tuple[int, int], dtype: str, extra: Sequence[str] = ()
) -> list[Sample]:
    """Run the service, stay ahead of it, sample it."""
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    for n in range(_DIFFERENT):
        tifffile.imwrite(folder / f"frame_{n}.tif", rng.integers(top // 10, top - top // 10, shape, dtype=dtype))
    feed(folder, 0, _AHEAD)
    command = [sys.executable, "-m", "tests.bench.growth", "--serve", str(folder), "--bundle", str(bundle)]
    samples = list[Sample]()
    with subprocess.Popen(
        [*command, "--frames", str(num_frames), *extra], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            num = int(line)
            samples.append(_sample(process.pid, num))
            feed(folder, num - _STEP + _AHEAD, min(num + _AHEAD, num_frames))
    if process.returncode:
        raise SystemExit(f"the service ended with exit code {process.returncode}")
    return samples


def _sample(pid: int, num: int) -> Sample:
    place = Path(f"/proc/{pid}")
    children = (place / "task" / str(pid) / "children").read_text().split()
    own_mb, *others_mb = (int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE_MB for one in (pid, *children))
    descriptors, threads = (len(list((place / what).iterdir())) for what in ("fd", "task"))
    return Sample(num, own_mb + sum(others_mb), sum(others_mb), descriptors, threads)


def tell(samples: list[Sample], limit: float) -> bool:
    """Print the table; whether memory stayed within the limit."""
    steady = [sample for sample in samples if sample.num >= min(_WARM_UP, samples[-1].num // 2)]
    if len(steady) < 10:
        raise SystemExit("too few samples after the warm-up; give --frames 10000 or more")
    slope: Slope = theil_sen([sample.num / 1000 for sample in steady], [sample.rss_mb for sample in steady])
    print("| results | memory MB | of the reading process | descriptors | threads |\n| --- | --- | --- | --- | --- |")
    for sample in samples[:: max(len(samples) // 16, 1)]:
        cells = (
            f"{sample.num} | {sample.rss_mb:.1f} | {sample.reading_mb:.1f} | {sample.descriptors} | {sample.threads}"
        )
        print(f"| {cells} |")
    print(
        f"\nAfter {steady[0].num} results: **{slope.median:.4f} MB per 1,000 frames** (Theil–Sen, 95 %: "
        f"{slope.low:.4f} to {slope.high:.4f}), which is {slope.median * 7.2:.2f} MB/h at 2 frames a second."
    )
    print(json.dumps({"first": vars_of(samples[0]), "last": vars_of(samples[-1])}))
    return slope.low <= limit


def vars_of(sample: Sample) -> dict[str, float]:
    """A sample as a document."""
    return {name: getattr(sample, name) for name in Sample.__slots__}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--bundle", type=Path, help="default: a tiny test network")
    parser.add_argument("--rows", type=int, default=884)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--dtype", choices=("uint8", "uint16"), default="uint8")
    parser.add_argument("--limit", type=float, default=0.14, help="MB per 1,000 frames: 1 MB/h at 2 frames a second")
    parser.add_argument("--here", action="store_true", help="read in the service's own process")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve:
        serve(told.bundle, told.serve, told.frames, reads_here=told.here)
        return
    with tempfile.TemporaryDirectory(prefix="hffnet-growth-") as name:
        folder = Path(name)
        bundle = (told.bundle or write_tiny_bundle(folder / "tiny.hffnet")).resolve()
        samples = watch(bundle, folder, told.frames, (told.rows, told.columns), told.dtype, ["--here"] * told.here)
    sys.exit(not tell(samples, told.limit))


if __name__ == "__main__":
    main()
