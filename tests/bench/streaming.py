"""The service against the clock: latency by stage, throughput against the bare engine, age of live frames.

``python -m tests.bench.streaming [--parts latency burst live] [--networks nano paper]`` prints markdown.

- ``latency``: files come into a local folder at 60 % of the bare engine's rate; "complete" is the file's rename.
- ``burst``: 200 files come at once; the rate at which they are worked off, against the bare engine before and after.
- ``live``: 30 frames a second from a capture process, an engine slower than that.

Networks have random weights (speed does not depend on them). Bundles are made in processes of their own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime import native
from hffnet.runtime.classifier import Classifier, Prediction, Timings
from hffnet.runtime.frame import Frame
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.pipeline import run_pipeline
from hffnet.runtime.read_worker import ReadWorker
from hffnet.runtime.record import Record, RecordDraft
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import Source, open_source
from hffnet.runtime.sources.capture_process import CaptureProcess
from hffnet.runtime.sources.live_options import LiveOptions
from hffnet.runtime.sources.live_source import LiveSource
from hffnet.runtime.stage_times import StageTimes

ROOT = Path(__file__).parents[2]
CAMERA = ROOT / "tests" / "runtime" / "fake_camera.py"
_SETTINGS = "0" * 64
_BURST = 200
_WORK = ("read", "gates", "preprocess", "decode", "record")
_STAGES = ("settle", "waited", "read", "queued", "gates", "preprocess", "infer", "decode", "record")
_FEWEST = {50: 1, 90: 64, 99: 662}  # MLPerf inference: samples needed before a percentile means something


@dataclass(frozen=True, slots=True)
class Kind:
    """What the microscope writes."""

    rows: int
    columns: int
    bits: Literal[8, 16]

    def __str__(self) -> str:
        """For people."""
        return f"{self.columns}×{self.rows}, {self.bits} bit"


KINDS = (Kind(884, 1024, 8), Kind(2048, 3072, 16))


class TimedStore(RecordStore):
    """Notes what each commit of a result took, and when it was there."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.commits = list[tuple[Record, float, float]]()

    def append(self, draft: RecordDraft) -> Record:
        """See ``RecordStore``."""
        began = time.monotonic()
        record = super().append(draft)
        self.commits.append((record, (time.monotonic() - began) * 1e3, time.monotonic()))
        return record


class SlowClassifier(Classifier):
    """An engine that takes ``pause_s`` longer without using the processor, as an accelerator's driver waits."""

    pause_s = 0.0

    def classify_frame(
        self, frame: Frame, timings: Timings | None = None, *, pulse: Callable[[], None] | None = None
    ) -> Prediction:
        """See ``Classifier``."""
        timings = Timings() if timings is None else timings
        with timings.stage("infer"):
            time.sleep(self.pause_s)
        return super().classify_frame(frame, timings, pulse=pulse)


def write_bundle(network: str, path: Path) -> None:
    """A bundle with random weights; in a process of its own, because it needs torch."""
    from hffnet.train.model import nano_config, paper_config
    from tests.networks import write_network_bundle
    from tests.tiny import tiny_taxonomy

    config = {"nano": nano_config, "paper": paper_config}[network]
    write_network_bundle(path, config(tiny_taxonomy().num_classes))


def write_frames(folder: Path, kind: Kind, num: int = 8) -> list[Path]:
    """Files as an instrument writes them, with vendor tag and info bar."""
    from hffnet.train.fei_tiff import Settings, write_fei_tiff
    from hffnet.train.synthetic import draw_frame, six_class_taxonomy

    folder.mkdir()
    tree, rng = six_class_taxonomy(), np.random.default_rng(0)
    paths = []
    for n in range(num):
        small = draw_frame(tree.path_of_leaf(n % tree.num_leaves)[-1], rng, height=442, width=512)
        picture = cv2.resize(small, (kind.columns, kind.rows), interpolation=cv2.INTER_CUBIC)
        noisy: npt.NDArray[np.float32] = np.clip(picture + rng.normal(0, 0.02, picture.shape), 0, 1).astype(np.float32)
        paths.append(folder / f"frame_{n}.tif")
        write_fei_tiff(paths[-1], noisy, Settings.draw(rng, pixel_size_um=0.1, number=n), kind.bits)
    return paths


def bare_ms(classifier: Classifier, seconds: float) -> list[float]:
    """The engine alone, frame after frame."""
    size = classifier.bundle.manifest.preprocess.size
    frames = np.random.default_rng(0).integers(0, 256, (16, 1, size, size), dtype=np.uint8)
    samples, until = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < until or len(samples) < 5:
        began = time.perf_counter()
        classifier._engine.infer(frames[len(samples) % 16])
        samples.append((time.perf_counter() - began) * 1e3)
    return samples


def run(
    source: Source, classifier: Classifier, store: TimedStore, stop: Event, enough: int
) -> list[tuple[Record, float, float]]:
    """Run the service until so many results are recorded."""
    num = 0

    def on_record(record: Record, times: StageTimes) -> None:
        nonlocal num
        del times
        num += record.kind == "result"
        if num >= enough:
            stop.set()

    with ReadWorker(ReadingSettings(), is_stopped=stop.is_set) as worker:
        run_pipeline(
            source,
            classifier,
            store,
            [],
            settings_sha256=_SETTINGS,
            stop=stop,
            on_record=on_record,
            read_file=worker,
        )
    return [commit for commit in store.commits if commit[0].kind == "result"]


def give(frames: Sequence[Path], folder: Path, num: int, period_s: float, complete_at: dict[str, float]) -> None:
    """Let files come into a folder, complete at once, each at its time; a copy, so that reading is from the file."""
    began = time.monotonic()
    for n in range(num):
        time.sleep(max(began + n * period_s - time.monotonic(), 0.0))
        name = f"{n:05d}.tif"
        (folder / f".{name}.part").hardlink_to(frames[n % len(frames)])
        complete_at[name] = time.monotonic()
        (folder / f".{name}.part").rename(folder / name)


def served(
    classifier: Classifier, frames: Sequence[Path], root: Path, num: int, period_s: float
) -> tuple[list[tuple[Record, float, float]], dict[str, float]]:
    """Results of a run on files that come, and when each file was complete."""
    stop, complete_at = Event(), dict[str, float]()
    with tempfile.TemporaryDirectory(dir=root) as name, TimedStore.open(Path(name) / "records.sqlite") as store:
        folder = Path(name) / "in"
        folder.mkdir()
        giver = Timer(1.0, give, args=(frames, folder, num, period_s, complete_at))
        giver.start()
        commits = run(open_source(f"dir:{folder}"), classifier, store, stop, num)
        giver.join()
    return commits, complete_at


def stages_of(commits: list[tuple[Record, float, float]], complete_at: dict[str, float]) -> dict[str, list[float]]:
    """Milliseconds by stage, and the sums that the goals speak of, frame by frame."""
    stages: dict[str, list[float]] = {stage: [] for stage in (*_STAGES, "overhead", "total")}
    for record, commit_ms, there_at in commits:
        own = {**record.timings_ms, "record": commit_ms}
        total_ms = (there_at - complete_at[record.name]) * 1e3
        own["settle"] = total_ms - sum(own.values())  # until it was offered; waiting for the recorder is in here too
        own["overhead"], own["total"] = sum(own.get(stage, 0.0) for stage in _WORK), total_ms
        for stage, values in stages.items():
            values.append(own.get(stage, 0.0))
    return stages


def latency(networks: Sequence[str], root: Path, num: int, most_s: float, threads: int | None) -> None:
    """Table by stage."""
    print("## Frame complete → record committed, ms\n")
    for network in networks:
        with Classifier.open(root / f"{network}.hffnet", precision="int8", threads=threads) as classifier:
            engine_ms = float(np.median(bare_ms(classifier, 3.0)))
            for kind in KINDS:
                frames = sorted((root / str(kind.bits)).glob("*.tif"))
                period_s = max(engine_ms / 1e3 / 0.6, 0.03 * kind.bits / 8)
                wanted = min(num, int(most_s / period_s))
                commits, complete_at = served(classifier, frames, root, wanted, period_s)
                _print_stages(f"{network} int8 ({classifier.engine.name}), {kind}, every {period_s * 1e3:.0f} ms",
                              stages_of(commits, complete_at))  # fmt: skip


def _print_stages(title: str, stages: dict[str, list[float]]) -> None:
    num = len(stages["total"])
    print(f"### {title}, {num} frames\n\n| stage | p50 | p90 | p99 | max |\n| --- | --- | --- | --- | --- |")
    for stage, values in stages.items():
        cells = [f"{np.percentile(values, p):.2f}" if num >= fewest else "–" for p, fewest in _FEWEST.items()]
        name = {"overhead": f"**{' + '.join(_WORK)}**", "total": "**complete → committed**"}.get(stage, stage)
        print(f"| {name} | {' | '.join(cells)} | {max(values):.2f} |")
    print()


def burst(networks: Sequence[str], root: Path, threads: int | None) -> None:
    """Table of rates."""
    print(f"## {_BURST} files at once, frames/s\n\n| case | bare engine | service | share | last record after s |")
    print("| --- | --- | --- | --- | --- |")
    for network in networks:
        with Classifier.open(root / f"{network}.hffnet", precision="int8", threads=threads) as classifier:
            for kind in KINDS:
                frames = sorted((root / str(kind.bits)).glob("*.tif"))
                before = bare_ms(classifier, 4.0)
                commits, complete_at = served(classifier, frames, root, _BURST, 0.0)
                bare = 1e3 / float(np.median(before + bare_ms(classifier, 4.0)))
                last_s = commits[-1][2] - min(complete_at.values())
                # The rate once it flows: the first frame's settling is latency, not work.
                rate = (len(commits) - 1) / (commits[-1][2] - commits[0][2])
                print(f"| {network} int8, {kind} | {bare:.1f} | {rate:.1f} | {rate / bare:.1%} | {last_s:.1f} |")
    print()


def live(networks: Sequence[str], root: Path, seconds: float) -> None:
    """Table of ages."""
    print("## A camera with 30 frames/s and an engine slower than that\n")
    columns = ("case", "results", "dropped", "engine p50 ms", "age p50 ms", "age p99 ms", "age / engine", "memory MB")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for network in networks:
        for pause_s in (0.1, 0.3) if network == "nano" else (0.0,):
            _print_live(network, pause_s, root, seconds)
    print()


def _print_live(network: str, pause_s: float, root: Path, seconds: float) -> None:
    stop, memory = Event(), list[float]()
    source = LiveSource(
        "camera", lambda: CaptureProcess("fake:30fps", command=(sys.executable, str(CAMERA))), LiveOptions()
    )
    with (
        tempfile.TemporaryDirectory(dir=root) as name,
        TimedStore.open(Path(name) / "records.sqlite") as store,
        SlowClassifier.open(root / f"{network}.hffnet", precision="int8") as classifier,
    ):
        classifier.pause_s = pause_s

        def watch() -> None:
            while not stop.wait(1.0):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
                if len(memory) >= seconds:
                    stop.set()

        Thread(target=watch, daemon=True).start()
        commits = run(source, classifier, store, stop, 10**9)
    ages, engine_ms = list[float](), list[float]()
    for record, _, _ in commits[3:]:
        facts = (record.details or {})["live"]
        assert isinstance(facts, dict)
        ages.append(float(facts["age_ms"]))
        engine_ms.append(record.timings_ms["infer"])
    p50, p99 = np.percentile(ages, (50, 99))
    median = float(np.median(engine_ms))
    fifth = max(len(memory) // 5, 1)
    print(
        f"| {network} int8, {'+' if pause_s else ''}{pause_s * 1e3:.0f} ms | {len(commits)} |"
        f" {sum(source.dropped.values())} | {median:.1f} | {p50:.1f} | {p99:.1f} | {p50 / median:.2f} |"
        f" {np.median(memory[fifth : 2 * fifth]):.1f} → {np.median(memory[-fifth:]):.1f} |"
    )


def make_inputs(root: Path, networks: Sequence[str]) -> None:
    """Bundles (a process each) and frames in ``root``, where they are not there yet."""
    for network in networks:
        bundle = root / f"{network}.hffnet"
        command = [sys.executable, "-m", "tests.bench.streaming", "--write-bundle", network, str(bundle)]
        if not bundle.exists():
            subprocess.run(command, check=True, cwd=ROOT)
    for kind in KINDS:
        if not (root / str(kind.bits)).exists():
            write_frames(root / str(kind.bits), kind)


def how(threads: int | None) -> str:
    """What the figures depend on beside the machine."""
    compiled = f"in Python ({native.REASON})" if native.MODULE is None else "compiled"
    return f"Preprocess and decode: {compiled}. Threads of the engine: {threads or 'all cores'}.\n"


def main() -> None:
    """See the module."""
    from tests.bench.run import heading

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=("latency", "burst", "live"), default=["latency", "burst", "live"]
    )
    parser.add_argument("--networks", nargs="+", choices=("nano", "paper"), default=["nano", "paper"])
    parser.add_argument("--frames", type=int, default=800, help="per latency table; 662 are needed for a p99")
    parser.add_argument("--most-seconds", type=float, default=120.0, help="of one latency table")
    parser.add_argument("--threads", type=int, help="of the engine, in latency and burst; default: all cores")
    parser.add_argument("--live-seconds", type=float, default=40.0)
    parser.add_argument("--folder", type=Path, help="where bundles and frames are kept for the next time")
    parser.add_argument("--write-bundle", nargs=2, metavar=("NETWORK", "PATH"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.write_bundle:
        write_bundle(told.write_bundle[0], Path(told.write_bundle[1]))
        return
    print(heading("tests.bench.streaming"))
    print(how(told.threads))
    with tempfile.TemporaryDirectory(prefix="hffnet-streaming-") as name:
        root = told.folder or Path(name)
        os.environ["HFFNET_CACHE_DIR"] = f"{root}/cache"
        make_inputs(root, told.networks)
        if "latency" in told.parts:
            latency(told.networks, root, told.frames, told.most_seconds, told.threads)
        if "burst" in told.parts:
            burst(told.networks, root, told.threads)
        if "live" in told.parts:
            live(told.networks, root, told.live_seconds)


if __name__ == "__main__":
    main()
