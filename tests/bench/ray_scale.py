"""Frames a second of an archive: the plain loop against Ray with one and two workers, in turns of one run.

``python -m tests.bench.ray_scale [--bundle demo/model.hffnet] [--frames 400] [--rounds 3]`` writes frames of
1024 × 884, classifies the archive ``--rounds`` times with every arrangement, the order turning from round to round,
and prints a Markdown table. Every engine has one thread. ``working`` is from the first result to the last: what a long
archive sees; ``all`` includes starting Ray and its workers.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import monotonic

import numpy as np
import tifffile

from hffnet.runtime.archive import classify_archive, documents_in_turn
from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.ray_archive import LOCAL, WorkerPlan, cluster, documents_from_ray
from tests.tiny import write_tiny_bundle

_SETTINGS = "0" * 64


@dataclass(frozen=True, slots=True)
class Turn:
    """One archive done: seconds from the call to the first result, and to the last."""

    first_s: float
    all_s: float

    def working_per_s(self, num: int) -> float:
        """Frames a second once it runs; the first block of results comes as one."""
        return (num - 1) / max(self.all_s - self.first_s, 1e-9)


def timed(paths: Sequence[Path], out: Path, sha256: str, documents: Callable[[Sequence[Path]], object]) -> Turn:
    """Classify an archive into a new file."""
    began = monotonic()
    at = list[float]()

    def seen(left: Sequence[Path]) -> object:
        for document in documents(left):  # type: ignore[attr-defined]
            at.append(monotonic() - began)
            yield document

    classify_archive(paths, out, seen, bundle_sha256=sha256, settings_sha256=_SETTINGS)  # type: ignore[arg-type]
    return Turn(at[0], monotonic() - began)


def plain(bundle: Path, engine: str, paths: Sequence[Path], out: Path) -> Turn:
    """The loop of ``hffnet classify --out``, one engine of one thread."""
    with Classifier.open(bundle, engine=engine, threads=1) as classifier:
        return timed(paths, out, classifier.bundle.sha256, documents_in_turn(classifier, _SETTINGS))


def shared(bundle: Path, engine: str, num_workers: int, paths: Sequence[Path], out: Path) -> Turn:
    """Ray on this machine; starting it counts into the first result."""
    with Classifier.open(bundle, engine=engine, threads=1) as classifier:
        identity, sha256 = classifier.engine, classifier.bundle.sha256
    plan = WorkerPlan(
        engine=identity.name,
        precision=identity.precision,
        threads=1,
        num_workers=num_workers,
        settings_sha256=_SETTINGS,
    )

    def documents(left: Sequence[Path]) -> object:
        with cluster(LOCAL, num_workers, 1) as num_cpus:
            yield from documents_from_ray(left, bundle, plan, num_cpus)

    return timed(paths, out, sha256, documents)


def measured(bundle: Path, engine: str, num: int, rounds: int, folder: Path) -> dict[str, list[Turn]]:
    """Every arrangement in turns."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{n:05d}.tif" for n in range(num)]
    for path in paths:
        tifffile.imwrite(path, rng.integers(20, 230, (884, 1024), dtype=np.uint8))
    ways: dict[str, Callable[[Path], Turn]] = {
        "plain loop": lambda out: plain(bundle, engine, paths, out),
        "Ray, 1 worker": lambda out: shared(bundle, engine, 1, paths, out),
        "Ray, 2 workers": lambda out: shared(bundle, engine, 2, paths, out),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways)
        for name in names[number % 3 :] + names[: number % 3]:
            out = folder / f"{number}-{name}.jsonl"
            turns[name].append(ways[name](out))
            print(f"round {number + 1}: {name} {turns[name][-1].all_s:.1f} s", file=sys.stderr)
    return turns


def table(turns: dict[str, list[Turn]], num: int) -> str:
    """Medians over the rounds; ratios within each round, so that a slow minute of the machine cancels."""
    rows = ["| | frames/s, working | × plain | all, s | to the first result, s |", "| --- | --- | --- | --- | --- |"]
    base = turns["plain loop"]
    for name, of in turns.items():
        rates = [turn.working_per_s(num) for turn in of]
        ratios = [rate / one.working_per_s(num) for rate, one in zip(rates, base, strict=True)]
        rows.append(
            f"| {name} | {median(rates):.1f} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
            f" {median(turn.all_s for turn in of):.1f} | {median(turn.first_s for turn in of):.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    if find_spec("ray") is None:
        print("Not measured: Ray is not installed (pip install 'hffnet[ray]').")
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # workers find what this process found
    with tempfile.TemporaryDirectory(prefix="hffnet-ray-") as name:
        folder = Path(name)
        bundle = (told.bundle or write_tiny_bundle(folder / "tiny.hffnet")).resolve()
        load = os.getloadavg()[0]
        turns = measured(bundle, told.engine, told.frames, told.rounds, folder)
        manifest = open_bundle(bundle).manifest
    print(f"- Command: `python -m tests.bench.ray_scale {' '.join(sys.argv[1:])}`")
    loads = f"load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"- Machine: {os.cpu_count()} cores, {platform.machine()}, {loads}")
    print(f"- Versions: Python {platform.python_version()}, ray {version('ray')}, onnxruntime {version('onnxruntime')}")
    print(
        f"- Bundle: {manifest.name} ({manifest.network.name}, {manifest.network.recipe}); {datetime.now(UTC):%Y-%m-%d}"
    )
    print(f"- {told.frames} frames of 1024 × 884, {told.rounds} rounds, engines of one thread\n")
    print(table(turns, told.frames))


if __name__ == "__main__":
    main()
