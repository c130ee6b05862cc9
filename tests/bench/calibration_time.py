"""What calibration costs beside the bare forward passes of the same frames in the same engine, in one process.

    python -m tests.bench.calibration_time FLOAT.onnx FRAMES.npy

Both files stand in the folder of a subject that ``tests.bench.calibration_peers`` has made (``--work DIR``:
``DIR/MODEL/float.onnx`` and ``calibration.npy``). Turns are interleaved, and ratios are taken within a turn, so that
what else the machine does falls on both. Three kinds of forward pass:

- one by one: a session as ONNX Runtime opens it, frame after frame; what the goal of 1.3 is about
- side by side: as many runs at a time as calibration makes, each on a core of its own
- CPU seconds of either: what a loaded machine shows less wrongly than the clock; threads that wait by spinning count
"""

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from hffnet.calibration.int8 import calibration_from_frames

_Seconds = tuple[float, float]
_GOAL = 1.3


def main() -> None:
    """Print one Markdown table: a row for each turn, then the medians."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--num-frames", type=int, default=512, help="the file's frames, repeated where it has fewer")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    kept = np.load(options.frames)
    frames_NHW = np.resize(kept, (options.num_frames, *kept.shape[1:]))
    print(f"{options.model}, {len(frames_NHW)} frames ({min(len(kept), len(frames_NHW))} different)\n")
    print("| turn | one by one, s | side by side, s | calibration, s | times one by one | times side by side | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    turns = []
    for number in range(1, options.turns + 1):
        one = _timed(lambda: _forward(options.model, frames_NHW, 1))
        two = _timed(lambda: _forward(options.model, frames_NHW, 2))
        own = _timed(lambda: calibration_from_frames(options.model, frames_NHW, activations="uint8"))
        seconds = [one[0], two[0], own[0], own[0] / one[0], own[0] / two[0]]
        turns.append(seconds)
        cpu = " / ".join(f"{entry[1]:.1f}" for entry in (one, two, own))
        print(f"| {number} | {' | '.join(f'{value:.2f}' for value in seconds)} | {cpu} |", flush=True)
    print(f"| median | {' | '.join(f'{value:.2f}' for value in np.median(turns, axis=0))} | |")
    median = float(np.median([turn[3] for turn in turns]))
    verdict = "met" if median <= _GOAL else "missed"
    print(f"\nGoal: at most {_GOAL:.2f} times the forward passes, one by one: {verdict} ({median:.2f})")
    print(f"load average {', '.join(f'{value:.1f}' for value in os.getloadavg())}; onnxruntime {ort.__version__}")


def _timed(work: Callable[[], object]) -> _Seconds:
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def _forward(model: Path, frames_NHW: np.ndarray, num_runs: int) -> None:
    """Opening the graph included, as calibration opens it too."""
    options = ort.SessionOptions()
    if num_runs > 1:
        options.intra_op_num_threads = max(1, len(os.sched_getaffinity(0)) - num_runs + 1)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    if num_runs == 1:
        for frame in frames_NHW:
            session.run(None, {"frames": frame[None]})
        return
    with ThreadPoolExecutor(num_runs) as runners:
        for _ in runners.map(lambda frame: session.run(None, {"frames": frame[None]}), frames_NHW):
            pass


if __name__ == "__main__":
    main()
