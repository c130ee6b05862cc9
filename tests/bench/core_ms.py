"""Where the processor's time goes: core-milliseconds per frame of the service, by thread, against what must be spent.

``python -m tests.bench.core_ms [--networks nano]`` lets 200 files come at once, as ``tests.bench.streaming`` does, and
prints markdown: processor time per frame by thread and process (from /proc: waiting does not count), the bare engine's,
and the floor: what reading, hashing and handing over so many bytes costs with nothing else.

On a machine whose engine uses all cores, what everything else takes is taken from the engine: the share of the bare
engine's rate that can be reached at all is engine / (engine + everything else).
"""

import argparse
import hashlib
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

import numpy as np

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.record import Record, RecordDraft
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import open_source
from tests.bench.streaming import KINDS, Kind, TimedStore, bare_ms, give, how, make_inputs, run

_TICKS = os.sysconf("SC_CLK_TCK")
_NUM = 200


def cpu_s(stat: Path) -> float:
    """User and system seconds, fields 14 and 15 of proc(5)."""
    return sum(int(word) for word in stat.read_text().rpartition(")")[2].split()[11:13]) / _TICKS


def by_thread() -> dict[str, float]:
    """Processor seconds so far of this process by thread, and of the process that reads."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    names[os.getpid()] = "caller: engine, decode"
    found = defaultdict[str, float](float)
    for task in Path("/proc/self/task").iterdir():
        name = names.get(int(task.name), "threads of the engine's and OpenCV's pools")
        found[name] += cpu_s(task / "stat")
        for child in (task / "children").read_text().split():
            found["reading process"] += cpu_s(Path(f"/proc/{child}/stat"))
    return found


class CountingStore(TimedStore):
    """Looks at the clocks when the first and the last result are there."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.clocks = dict[int, dict[str, float]]()

    def append(self, draft: RecordDraft) -> Record:
        """See ``RecordStore``."""
        record = super().append(draft)
        if len(self.commits) in {_NUM // 10, _NUM}:
            self.clocks[len(self.commits)] = by_thread()
        return record


def service_ms(classifier: Classifier, frames: Sequence[Path], root: Path) -> tuple[dict[str, float], float]:
    """Core-milliseconds per frame by thread, and frames per second by the clock on the wall."""
    with tempfile.TemporaryDirectory(dir=root) as name, CountingStore.open(Path(name) / "records.sqlite") as store:
        folder = Path(name) / "in"
        folder.mkdir()
        give(frames, folder, _NUM, 0.0, {})
        commits = run(open_source(f"dir:{folder}"), classifier, store, Event(), _NUM)
        first, last = store.clocks[_NUM // 10], store.clocks[_NUM]
    num = _NUM - _NUM // 10
    rate = num / (commits[_NUM - 1][2] - commits[_NUM // 10 - 1][2])
    spent = {name: (last[name] - first.get(name, 0.0)) * 1e3 / num for name in last}
    return dict(sorted(spent.items(), key=lambda part: -part[1])), rate


def median_ms(step: Callable[[], object], num: int = 30) -> float:
    """Processor time of one step in this process."""
    samples = list[float]()
    for _ in range(num):
        began = time.process_time_ns()
        step()
        samples.append((time.process_time_ns() - began) / 1e6)
    return float(np.median(samples))


def floor_ms(path: Path, kind: Kind, root: Path) -> dict[str, float]:
    """What no reader can do without: every byte comes in, is hashed, and goes to the one who decides."""
    data, buffer = path.read_bytes(), bytearray(path.stat().st_size)
    memory = os.memfd_create("floor")
    os.pwrite(memory, data, 0)
    pixels = np.frombuffer(data, f"u{kind.bits // 8}", kind.rows * kind.columns)

    def come_in() -> None:
        with path.open("rb", buffering=0) as file:
            file.readinto(buffer)

    steps: dict[str, Callable[[], object]] = {
        "file's bytes out of the page cache": come_in,
        "sha256 of the file": lambda: hashlib.sha256(data).digest(),
        "pixels into shared memory": lambda: os.pwrite(memory, data, 0),
        "pixels out of it": lambda: os.preadv(memory, [buffer], 0),
        "every pixel looked at once (sum)": lambda: pixels.sum(dtype=np.uint64),
    }
    spent = {what: median_ms(step) for what, step in steps.items()}
    os.close(memory)
    with RecordStore.open(root / "floor.sqlite") as store:
        spent["one commit"] = median_ms(lambda: store.append(RecordDraft(kind="event", status=None, name="start")))
    (root / "floor.sqlite").unlink()
    return spent


def engine_core_ms(classifier: Classifier, seconds: float = 3.0) -> tuple[float, float]:
    """Core-milliseconds and milliseconds of the bare engine per frame."""
    bare_ms(classifier, 0.5)
    began, num = time.process_time(), 0
    samples = bare_ms(classifier, seconds)
    num = len(samples)
    return (time.process_time() - began) * 1e3 / num, float(np.median(samples))


def tell(network: str, kind: Kind, root: Path, threads: int | None) -> None:
    """Both tables of one case."""
    frames = sorted((root / str(kind.bits)).glob("*.tif"))
    with Classifier.open(root / f"{network}.hffnet", precision="int8", threads=threads) as classifier:
        core_ms, wall_ms = engine_core_ms(classifier)
        spent, rate = service_ms(classifier, frames, root)
    floor = floor_ms(frames[0], kind, root)
    total, least, cores = sum(spent.values()), sum(floor.values()), len(os.sched_getaffinity(0))
    print(f"### {network} int8, {kind}\n\n| thread or process | core-ms per frame |\n| --- | --- |")
    for name, ms in spent.items():
        print(f"| {name} | {ms:.2f} |")
    print(f"| **all** ({rate:.1f} frames/s; at most {cores * 1e3 / total:.1f} on {cores} cores) | **{total:.2f}** |")
    print(f"\nBare engine: {core_ms:.2f} core-ms, {wall_ms:.2f} ms a frame.\n\n| floor | core-ms |\n| --- | --- |")
    for name, ms in floor.items():
        print(f"| {name} | {ms:.2f} |")
    print(f"| **all** | **{least:.2f}** |\n")
    print(
        f"Everything but the engine: {total - core_ms:.2f} core-ms, {(total - core_ms) / least:.1f} times the floor."
        f" Share of the bare engine's rate: at most {min(cores * wall_ms / total, 1.0):.1%} with this,"
        f" {min(cores * wall_ms / (core_ms + least), 1.0):.1%} with the floor.\n"
    )


def main() -> None:
    """See the module."""
    from tests.bench.run import heading

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=("nano", "paper"), default=["nano"])
    parser.add_argument("--threads", type=int, help="of the engine; default: all cores")
    parser.add_argument("--folder", type=Path, help="where bundles and frames are kept for the next time")
    told = parser.parse_args()
    print(heading("tests.bench.core_ms"))
    print(how(told.threads))
    with tempfile.TemporaryDirectory(prefix="hffnet-core-ms-") as name:
        root = told.folder or Path(name)
        make_inputs(root, told.networks)
        for kind in KINDS:
            for network in told.networks:
                tell(network, kind, root, told.threads)


if __name__ == "__main__":
    main()
