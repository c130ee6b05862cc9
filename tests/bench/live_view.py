"""What the live view costs and how late it is: ``python -m tests.bench.live_view [--bundle FILE] [--seconds 75]``.

Goals, on two cores: a committed record is in the browser after 150 ms (p50) and 400 ms (p99) while the nano model
classifies 10 frames/s; the view takes at most 3 % of the throughput of a run that never waits.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from threading import Event, Thread
from time import monotonic, perf_counter, process_time, time

import httpx
import numpy as np

from hffnet.runtime.benchmark.machine import machine_facts
from hffnet.runtime.benchmark.percentiles import samples_needed
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.dashboard.live_view import LiveView
from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.pipeline import run_pipeline
from hffnet.runtime.read import frame_from_bytes
from hffnet.runtime.record import Record
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import Source, open_source
from hffnet.runtime.sources.array_source import PushSource
from hffnet.runtime.stage_times import StageTimes
from hffnet.train.fei_tiff import Settings, write_fei_tiff
from hffnet.train.model import nano_config
from hffnet.train.synthetic import draw_frame, six_class_taxonomy
from tests.networks import write_network_bundle
from tests.tiny import tiny_taxonomy

_ROWS, _COLUMNS, _CLIENTS = 884, 1024, 8
_RATE = 10.0
_CHOICE = ViewChoice(port=0, max_classify_per_s=10_000.0)


@dataclass(slots=True)
class Committed:
    """When each record was on the disk: monotonic and wall-clock seconds by number."""

    at: dict[int, float] = field(default_factory=dict)
    wall: dict[int, float] = field(default_factory=dict)


PARTS = ("latency", "browser", "throughput", "classify")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a bundle of the nano model; default: one with random weights")
    parser.add_argument("--seconds", type=float, default=75.0, help="of each paced part; p99 needs 67")
    parser.add_argument("--rounds", type=int, default=7, help="of runs with and without the view")
    parser.add_argument("--frames", type=int, default=300, help="of each such run")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as name:
        folder = Path(name)
        os.environ["HFFNET_CACHE_DIR"] = f"{folder}/cache"
        bundle = options.bundle or write_network_bundle(folder / "n.hffnet", nano_config(tiny_taxonomy().num_classes))
        pictures = _pictures()
        with Classifier.open(bundle) as classifier:
            _print_conditions(classifier)
            if "latency" in options.parts:
                _measure_latency(folder, classifier, pictures, options.seconds)
            if "browser" in options.parts:
                _measure_browser(folder, classifier, pictures, options.seconds)
            if "throughput" in options.parts:
                _measure_throughput(folder, classifier, pictures, options.rounds, options.frames)
            if "classify" in options.parts:
                _measure_classify(folder, classifier, pictures, round(options.seconds * 10))


def _print_conditions(classifier: Classifier) -> None:
    engine = classifier.engine
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; `python -m tests.bench.live_view`")
    print(f"engine {engine.name} {engine.version}, {engine.precision}; frames of {_COLUMNS}×{_ROWS}, 8 bit\n")
    for name, value in machine_facts().items():
        print(f"- {name}: {value}")


def _pictures() -> list[np.ndarray]:
    """Six drawn pictures; rolled, they make as many different frames as there are rows."""
    tree, rng = six_class_taxonomy(), np.random.default_rng(0)
    return [draw_frame(tree.path_of_leaf(k)[-1], rng, height=_ROWS, width=_COLUMNS) for k in range(tree.num_leaves)]


@contextmanager
def _running(
    store: RecordStore, classifier: Classifier, source: Source, view: LiveView | None, committed: Committed
) -> Iterator[Thread]:
    """A run on a thread, with its view where there is one."""
    stop = Event()

    def on_record(record: Record, times: StageTimes) -> None:
        committed.at[record.seq], committed.wall[record.seq] = monotonic(), time()
        if view is not None:
            view.on_record(record, times)

    def run() -> None:
        attached = view.attached(classifier, store, source, None, ReadingSettings()) if view else nullcontext()
        on_frame = view.on_frame if view else None
        with attached:
            run_pipeline(
                source,
                classifier,
                store,
                [],
                settings_sha256="0" * 64,
                stop=stop,
                on_record=on_record,
                on_frame=on_frame,
            )

    thread = Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


@contextmanager
def _clients(view: LiveView, num: int, *options: str, nice: int = 0) -> Iterator[Callable[[], list[dict[int, float]]]]:
    """Clients in their own process; the value ends them and gives their arrivals."""
    command = [
        "nice",
        "-n",
        str(nice),
        sys.executable,
        "-m",
        "tests.bench.view_clients",
        view.url,
        view.token,
        str(num),
        *options,
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    Event().wait(1.0)  # their connections

    def arrivals() -> list[dict[int, float]]:
        out, _ = process.communicate()
        return [{int(seq): at for seq, at in seen.items()} for seen in json.loads(out)]

    try:
        yield arrivals
    finally:
        process.kill()
        process.wait()


def _push(source: PushSource, pictures: Sequence[np.ndarray], seconds: float) -> None:
    """Frames at the rate, by the clock and not by pauses that add up."""
    began = monotonic()
    for number in range(round(seconds * _RATE)):
        Event().wait(max(began + number / _RATE - monotonic(), 0.0))
        source.push(np.roll(pictures[number % len(pictures)], number, axis=0))


def _measure_latency(folder: Path, classifier: Classifier, pictures: list[np.ndarray], seconds: float) -> None:
    """Committed to arrived, and what the view's process takes, with 8 clients that fetch every picture."""
    print(f"\n## Record committed to client, {_RATE:g} frames/s, {seconds:g} s each\n")
    print("| clients | what each does | n | p50 ms | p90 ms | p99 ms | max ms | view CPU, % of a core | view RSS MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for num, options in ((0, ()), (1, ()), (_CLIENTS, ()), (_CLIENTS, ("--frames",))):
        committed, source = Committed(), PushSource(pixel_size_um=0.1)
        with (
            RecordStore.open(folder / f"latency-{num}-{len(options)}.sqlite") as store,
            LiveView(_CHOICE, "bench") as view,
            _running(store, classifier, source, view, committed),
            _clients(view, num, *options) as arrivals,
        ):
            cpu_s, began = _cpu_s(view.pid), monotonic()
            _push(source, pictures, seconds)
            cpu = 100 * (_cpu_s(view.pid) - cpu_s) / (monotonic() - began)
            rss = _rss_mib(view.pid)
            seen = arrivals()
        late_ms = [1e3 * (at - committed.at[seq]) for one in seen for seq, at in one.items() if seq in committed.at]
        what = "events and every picture" if options else "events"
        print(f"| {num} | {what} | {_cells(late_ms)} | {cpu:.1f} | {rss:.0f} |", flush=True)


def _measure_browser(folder: Path, classifier: Classifier, pictures: list[np.ndarray], seconds: float) -> None:
    """Committed to painted: the page's own picture has the record's number, one animation frame later."""
    print("\n## Record committed to visible in the browser\n")
    chromium = os.environ.get("HFFNET_CHROMIUM") or which("chromium") or which("chromium-browser")
    if find_spec("playwright") is None or chromium is None:
        print("Not run here: playwright or chromium is not installed.")
        return
    from playwright.sync_api import sync_playwright

    committed, source = Committed(), PushSource(pixel_size_um=0.1)
    with (
        RecordStore.open(folder / "browser.sqlite") as store,
        LiveView(_CHOICE, "bench") as view,
        _running(store, classifier, source, view, committed),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.add_init_script(_NOTE_WHAT_IS_SHOWN)
        page.goto(view.login_url)
        page.wait_for_selector("#stage", state="attached")
        pushing = Thread(target=_push, args=(source, pictures, seconds))
        pushing.start()
        while pushing.is_alive():
            page.wait_for_timeout(250)
        shown = {int(seq): at / 1e3 for seq, at in page.evaluate("window.shownAt").items()}
        browser.close()
    late_ms = [1e3 * (at - committed.wall[seq]) for seq, at in shown.items() if seq in committed.wall]
    print(
        f"Of {len(committed.at)} records {len(late_ms)} were painted; what is newer takes the place of what is older.\n"
    )
    print("| n | p50 ms | p90 ms | p99 ms | max ms |\n| --- | --- | --- | --- | --- |")
    print(f"| {_cells(late_ms)} |", flush=True)


_NOTE_WHAT_IS_SHOWN = """
window.shownAt = {};
document.addEventListener("DOMContentLoaded", () => {
  const stage = document.getElementById("stage");
  if (!stage) return;
  new MutationObserver(() => {
    const seq = stage.dataset.seq;
    requestAnimationFrame(() => { window.shownAt[seq] ??= performance.timeOrigin + performance.now(); });
  }).observe(stage, { attributes: true, attributeFilter: ["data-seq"] });
});
"""


def _measure_throughput(
    folder: Path, classifier: Classifier, pictures: list[np.ndarray], rounds: int, num_frames: int
) -> None:
    """Frames a second of a run that never waits: alone, with the view, and with 8 clients that fetch pictures.

    Browsers are other machines as a rule; here they share the cores, at nice 10 as the view itself does.
    """
    frames, rng = folder / "frames", np.random.default_rng(0)
    frames.mkdir()
    for n in range(num_frames):
        picture = np.roll(pictures[n % len(pictures)], n, axis=0)
        write_fei_tiff(frames / f"{n:04}.tif", picture, Settings.draw(rng, pixel_size_um=0.1, number=n), 8)
    rates: dict[str, list[float]] = {"without": [], "view, no client": [], f"view, {_CLIENTS} clients": []}
    cpu: dict[str, list[float]] = {name: [] for name in rates}
    for turn in range(rounds + 1):
        for name, found in rates.items():
            rate, seconds = _one_run(folder / f"t-{turn}-{len(name)}.sqlite", classifier, frames, name)
            if turn:  # the first warms caches
                found.append(rate)
                cpu[name].append(1e3 * seconds / num_frames)
    print(f"\n## Throughput, {num_frames} frames a run, {rounds} rounds in turn\n")
    print(
        "| run | frames/s, median | ratio to without, median of rounds | lowest | highest | CPU of the run, ms/frame |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, values in rates.items():
        ratios = [value / alone for value, alone in zip(values, rates["without"], strict=True)]
        figures = f"{statistics.median(ratios):.3f} | {min(ratios):.3f} | {max(ratios):.3f}"
        print(
            f"| {name} | {statistics.median(values):.1f} | {figures} | {statistics.median(cpu[name]):.2f} |", flush=True
        )


def _one_run(records: Path, classifier: Classifier, frames: Path, name: str) -> tuple[float, float]:
    """Frames a second between the first and the last commit, and CPU seconds of this process."""
    source, committed = open_source(f"glob:{frames}/*.tif"), Committed()
    with RecordStore.open(records) as store, LiveView(_CHOICE, "b") if "view" in name else nullcontext() as view:
        followed = _clients(view, _CLIENTS, "--frames", nice=10) if view and "clients" in name else nullcontext()
        with followed:
            cpu_s = process_time()
            with _running(store, classifier, source, view, committed) as thread:
                thread.join()
            cpu_s = process_time() - cpu_s
    at = sorted(committed.at.values())
    return (len(at) - 1) / (at[-1] - at[0]), cpu_s


def _measure_classify(folder: Path, classifier: Classifier, pictures: list[np.ndarray], num: int) -> None:
    """One program that sends frame after frame, against the same classifier called in this process, in turn."""
    rng = np.random.default_rng(1)
    path = folder / "one.tif"
    write_fei_tiff(path, pictures[0], Settings.draw(rng, pixel_size_um=0.1, number=0), 8)
    data, committed = path.read_bytes(), Committed()
    took_ms: dict[str, list[float]] = {"in process": [], "POST /v1/classify": []}
    with (
        RecordStore.open(folder / "classify.sqlite") as store,
        LiveView(_CHOICE, "bench") as view,
        _running(store, classifier, PushSource(), view, committed),
        httpx.Client(base_url=view.url, headers={"Authorization": f"Bearer {view.token}"}) as client,
    ):
        while client.get("/readyz").status_code == 503:
            Event().wait(0.05)
        for _ in range(num):
            start = perf_counter()
            classifier.classify_frame(frame_from_bytes(data, "x"))
            took_ms["in process"].append(1e3 * (perf_counter() - start))
            start = perf_counter()
            client.post("/v1/classify", content=data).raise_for_status()
            took_ms["POST /v1/classify"].append(1e3 * (perf_counter() - start))
    print(f"\n## A frame of {len(data)} bytes for a program, one after the other\n")
    print("| way | n | p50 ms | p90 ms | p99 ms | max ms | requests/s |\n| --- | --- | --- | --- | --- | --- | --- |")
    for way, values in took_ms.items():
        print(f"| {way} | {_cells(values)} | {1e3 * len(values) / sum(values):.1f} |")


def _cells(values_ms: Sequence[float]) -> str:
    """Number, percentiles with enough samples, and the largest, as cells."""
    num = len(values_ms)
    shown = [f"{np.percentile(values_ms, p):.1f}" if num >= samples_needed(p) and num else "–" for p in (50, 90, 99)]
    return f"{num} | {' | '.join(shown)} | {f'{max(values_ms):.1f}' if num else '–'}"


def _cpu_s(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int | None) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
