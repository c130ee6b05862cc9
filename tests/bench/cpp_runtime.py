"""The C++ programs beside Python: time outside the engine, process start to first decision, memory, binary sizes.

``python -m tests.bench.cpp_runtime BUNDLE [--build build/release]`` prints Markdown. All times of a table come from
turns in one run. Goals: at most 2 ms p50 outside the engine at 1024×884, first decision within 1 s, at most 40 MB of
memory beyond the engine's.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import openvino

from hffnet.runtime.benchmark.machine import machine_facts
from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.train.fei_tiff import Settings, write_fei_tiff
from hffnet.train.synthetic import draw_frame, six_class_taxonomy

_ROWS, _COLUMNS = 884, 1024
_STAGES = ("read", "gates", "preprocess", "decode")
_LIBRARIES = ("libhffnet.so",)
_PROGRAMS = ("hffnet-classify-cpp", "hffnet-run-cpp", "hffnet-capture-cpp", "hffnet-benchmark-cpp")


def write_frame(folder: Path, bits: Literal[8, 16]) -> Path:
    """A drawn fracture surface as an FEI TIFF with its info bar."""
    rng = np.random.default_rng(0)
    picture = draw_frame(six_class_taxonomy().path_of_leaf(0)[-1], rng, height=_ROWS, width=_COLUMNS)
    path = folder / f"frame{bits}.tif"
    write_fei_tiff(path, picture, Settings.draw(rng, pixel_size_um=0.1, number=1), bits)
    return path


def cpp_stages(build: Path, bundle: Path, frame: Path, seconds: float) -> dict[str, float]:
    """p50 by stage, as hffnet-benchmark-cpp prints it."""
    words: list[str | Path] = [build / "hffnet-benchmark-cpp", "--seconds", str(seconds), bundle, frame]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return {name: row["p50_ms"] for name, row in json.loads(done.stdout)["stages"].items()}


def python_stages(classifier: Classifier, frame: Path, num: int) -> dict[str, float]:
    """p50 by stage of Python's classifier on OpenVINO."""
    times = [classifier.classify(frame).timings_ms for _ in range(num)]
    stages = {stage: statistics.median(one[stage] for one in times) for stage in (*_STAGES, "infer")}
    outside = statistics.median(sum(one[stage] for stage in _STAGES) for one in times)
    return {**stages, "outside_engine": outside}


def print_stages(build: Path, bundle: Path, folder: Path, turns: int, seconds: float) -> None:
    """One table per bit depth."""
    with Classifier.open(bundle, engine="openvino") as classifier:
        depths: tuple[Literal[8], Literal[16]] = (8, 16)
        for bits in depths:
            frame = write_frame(folder, bits)
            cpp, python = [], []
            for _ in range(turns):
                cpp.append(cpp_stages(build, bundle, frame, seconds))
                python.append(python_stages(classifier, frame, max(int(seconds * 20), 3)))
            print(f"\n{_COLUMNS}x{_ROWS}, {bits} bit: median over {turns} turns of the p50 of each\n")
            print("| stage | C++ ms | Python ms | ratio |\n| --- | --- | --- | --- |")
            for stage in (*_STAGES, "infer", "outside_engine"):
                one, other = (statistics.median(row[stage] for row in rows) for rows in (cpp, python))
                print(f"| {stage} | {one:.3f} | {other:.3f} | {other / max(one, 1e-6):.1f} |")


def compiled(source: str, folder: Path, *words: str | Path) -> Path:
    """A program of this folder."""
    program = folder / Path(source).stem
    place = Path(__file__).with_name(source)
    subprocess.run(["c++", "-std=c++17", "-O1", place, "-o", program, *words], check=True)
    return program


def one_run(launcher: Path, words: Sequence[str | Path]) -> tuple[float, float]:
    """Seconds from start to end of a program, and its peak memory in MB."""
    done = subprocess.run([launcher, *words], check=True, capture_output=True, text=True)
    seconds, kilobytes = done.stdout.split()
    return float(seconds), int(kilobytes) * 1024 / 1e6


def print_start_and_memory(build: Path, bundle: Path, frame: Path, folder: Path, turns: int) -> None:
    """Process starts, and peak memory beside that of OpenVINO alone."""
    code = (
        "import sys; from hffnet.runtime.classifier import Classifier;"
        " Classifier.open(sys.argv[1], engine='openvino').classify(sys.argv[2])"
    )
    programs: dict[str, list[str | Path]] = {
        "C++": [build / "hffnet-classify-cpp", bundle, frame],
        "Python": [sys.executable, "-c", code, bundle, frame],
        "OpenVINO alone, in C++": engine_alone(bundle, folder),
    }
    launcher = compiled("one_run.cpp", folder)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for turn in range(turns + 1):
        for name, words in programs.items():
            result = one_run(launcher, words)
            if turn:  # the first of each fills the page cache
                found[name].append(result)
    print("\n| one frame, start to end of the process | p50 s | p50 peak MB |\n| --- | --- | --- |")
    peaks = {name: statistics.median(mb for _, mb in results) for name, results in found.items()}
    for name, results in found.items():
        print(f"| {name} | {statistics.median(s for s, _ in results):.3f} | {peaks[name]:.1f} |")
    beyond = peaks["C++"] - peaks["OpenVINO alone, in C++"]
    print(f"\nhffnet beyond OpenVINO alone: {beyond:.1f} MB (goal: at most 40)")


def engine_alone(bundle: Path, folder: Path) -> list[str | Path]:
    """OpenVINO alone on the graph that the C++ program takes."""
    manifest = open_bundle(bundle).manifest
    cpu = {graph.precision: graph for graph in manifest.graphs if graph.family == "cpu"}
    graph = next(cpu[name] for name in ("int8", "fp32", "fp16") if name in cpu)
    with zipfile.ZipFile(bundle) as archive:
        (folder / "graph.onnx").write_bytes(archive.read(graph.member))
    package = Path(openvino.__file__).parent
    (library,) = (package / "libs").glob("libopenvino.so.*")
    words = (f"-I{package / 'include'}", library, f"-Wl,-rpath,{package / 'libs'}")
    return [compiled("engine_alone.cpp", folder, *words), folder / "graph.onnx", str(manifest.preprocess.size)]


def print_sizes(build: Path, folder: Path) -> None:
    """Stripped sizes."""
    print("\n| file, stripped | kB |\n| --- | --- |")
    for name in (*_LIBRARIES, *_PROGRAMS):
        if (build / name).exists():
            copy = folder / name
            shutil.copy(build / name, copy)
            subprocess.run(["strip", copy], check=True)
            print(f"| {name} | {copy.stat().st_size / 1e3:.0f} |")


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--build", type=Path, default=Path("build/dev"), help="a CMake build folder")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn of a table of stages")
    options = parser.parse_args()
    build = options.build / "runtime" / "cpp"
    facts = {**machine_facts(), "OpenVINO": openvino.__version__, "load": f"{os.getloadavg()[0]:.1f}"}
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; " + "; ".join(f"{key} {value}" for key, value in facts.items()))
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as name:
        folder = Path(name)
        print_stages(build, options.bundle, folder, options.turns, options.seconds)
        print_start_and_memory(build, options.bundle, write_frame(folder, 8), folder, options.turns)
        print_sizes(build, folder)


if __name__ == "__main__":
    main()
